"""The command: ``python -m benchmarks [transactions|memory|certify] [--json FILE]``.

Owns: options and order.  Without a part's name it runs all three.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks import certification, idle_memory, transactions
from benchmarks.load import SMTP_SOURCE
from benchmarks.table import Measurement, document, machine

PARTS = ("transactions", "memory", "certify")


def main() -> int:
    """Run the parts that were asked for; 0 when all could be measured."""
    options = _parser().parse_args()
    about = {**machine(), "sender": options.load}
    print("\n".join(f"{key + ':':13} {value}" for key, value in about.items()), flush=True)
    parts: dict[str, Callable[[Path], Iterable[Measurement]]] = {
        "transactions": lambda folder: transactions.measure(
            folder, options.load, sessions=options.sessions, seconds=options.seconds,
            repetitions=options.repetitions, tell=_tell,
        ),
        "memory": lambda folder: idle_memory.measure(
            folder, connections=options.connections, repetitions=options.repetitions, tell=_tell
        ),
        "certify": lambda _: certification.measure(
            options.target or ["reference"], repetitions=options.repetitions, tell=_tell
        ),
    }
    found: list[Measurement] = []
    # Where the mail goes decides what is measured: a disk in RAM syncs for nothing.
    with tempfile.TemporaryDirectory(prefix="listenspec-bench-", dir=options.folder) as folder:
        for part in options.parts or PARTS:
            for measurement in parts[part](Path(folder)):
                print("\n" + "\n".join(measurement.lines()), flush=True)
                found.append(measurement)
    if options.json is not None:
        options.json.write_text(json.dumps(document(about, found), indent=2) + "\n", "utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART",
                        help=f"{', '.join(PARTS)}; all without any")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results for programs as well")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="where mail is stored (the current folder)")
    parser.add_argument("--repetitions", type=int, default=5, metavar="N", help="runs of each; the median counts (5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long one run of transactions takes (2)")
    parser.add_argument("--sessions", type=int, default=16, metavar="N", help="clients at once (16)")
    parser.add_argument("--connections", type=int, default=8000, metavar="N", help="idle connections (8000)")
    parser.add_argument("--target", action="append", metavar="NAME", help="what to certify (reference); repeatable")
    parser.add_argument("--load", choices=("smtp-source", "own"), default="smtp-source" if SMTP_SOURCE else "own",
                        help="who sends: Postfix's smtp-source, if it is there, or our own sender")
    return parser


def _tell(what: str) -> None:
    print(f"... {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
