"""Wall time of a whole certification.

Owns: running ``listenspec certify`` and looking at the clock.  What it found is none of this module's business.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.table import Measurement, Row


def measure(targets: Sequence[str], *, repetitions: int, tell: Callable[[str], None]) -> list[Measurement]:
    """Each target so many times, in turn."""
    found: list[list[float]] = [[] for _ in targets]
    for _ in range(repetitions):
        for target, times in zip(targets, found, strict=True):
            tell(f"certification of {target}")
            before = time.perf_counter()
            outcome = subprocess.run(
                [sys.executable, "-m", "conformance", "certify", target],
                capture_output=True, text=True, check=False, timeout=600,
            )
            times.append(time.perf_counter() - before)
            # 0 conformant, 1 not: both are complete runs.
            if outcome.returncode not in (0, 1):
                raise RuntimeError(f"certify {target} ended with {outcome.returncode}: {outcome.stderr.strip()}")
    rows = tuple(Row(target, statistics.median(each), tuple(each)) for target, each in zip(targets, found, strict=True))
    return [Measurement("Wall time of a certification", "s", rows, higher_is_better=False)]
