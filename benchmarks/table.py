"""What was measured, as tables and as JSON.

Owns: the shape of results, and the machine they belong to.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant: the median, and every value in the order of the runs."""

    name: str
    median: float
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Measurement:
    """A table; the ratios are to its first row."""

    title: str
    unit: str
    rows: tuple[Row, ...]
    higher_is_better: bool

    def lines(self) -> list[str]:
        """The table as text."""
        width = max(len(row.name) for row in self.rows)
        first = self.rows[0].median
        found = [self.title, ""]
        found.append(f"  {'':{width}}  {'median ' + self.unit:>12}  {'ratio':>6}  lowest to highest")
        for row in self.rows:
            ratio = row.median / first if first else 0.0
            extent = f"{_number(min(row.values))} to {_number(max(row.values))}"
            found.append(f"  {row.name:{width}}  {_number(row.median):>12}  {ratio:>6.2f}  {extent}")
        return found


def machine() -> dict[str, str]:
    """What the numbers depend on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    processor = platform.processor() or platform.machine()
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": f"{len(os.sched_getaffinity(0))} x {processor}",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
        "aiosmtpd": _version("aiosmtpd"),
        "uvloop": _version("uvloop"),
        "load before": " ".join(f"{value:.1f}" for value in os.getloadavg()),
    }


def document(about: dict[str, str], measurements: list[Measurement]) -> dict[str, Any]:
    """All of it for programs."""
    return {"about": about, "measurements": [asdict(measurement) for measurement in measurements]}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
