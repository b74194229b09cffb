"""SMTP transactions a second, ours beside aiosmtpd.

Owns: who is compared with whom, and in which order the runs come: each repetition goes round all of them, so that what
else the machine does meets every one of them alike.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.contestants import HOST, Contestant, Running, has_uvloop, running
from benchmarks.load import Load
from benchmarks.table import Measurement, Row

WARM_UP = 200
"""Messages before the first measurement, by which the number for the others is chosen."""


def contestants(*, stores: bool) -> list[Contestant]:
    """aiosmtpd first: the others are compared with it."""
    handler = "Mailbox, not synced" if stores else "Sink"
    ours = "ours, synced" if stores else "ours, discard"
    found = [Contestant(f"aiosmtpd {handler}", ours=False, stores=stores), Contestant(ours, ours=True, stores=stores)]
    if has_uvloop():
        found += [
            Contestant(f"aiosmtpd {handler}, uvloop", ours=False, stores=stores, uvloop=True),
            Contestant(f"{ours}, uvloop", ours=True, stores=stores, uvloop=True),
        ]
    return found


def measure(
    folder: Path, program: str, *, sessions: int, seconds: float, repetitions: int, tell: Callable[[str], None]
) -> Iterator[Measurement]:
    """With and without storage, one message a connection and on kept connections."""
    for stores in (False, True):
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(running(each, folder)) for each in contestants(stores=stores)]
            for kept in (False, True):
                load = Load(program, sessions, kept)
                storage = "with storage" if stores else "without storage"
                way = "kept connections" if kept else "one message a connection"
                tell(f"transactions {storage}, {way}")
                rates = _rates(servers, load, seconds, repetitions)
                rows = tuple(
                    Row(server.contestant.name, statistics.median(each), tuple(each))
                    for server, each in zip(servers, rates, strict=True)
                )
                yield Measurement(f"SMTP transactions, {storage}, {way}", "1/s", rows, higher_is_better=True)


def _rates(servers: Sequence[Running], load: Load, seconds: float, repetitions: int) -> list[list[float]]:
    counts = []
    for server in servers:
        load.send(WARM_UP, HOST, server.port, server.contestant.recipient)
        took = load.send(WARM_UP, HOST, server.port, server.contestant.recipient)
        counts.append(max(WARM_UP, round(WARM_UP / took * seconds)))
    rates: list[list[float]] = [[] for _ in servers]
    for _ in range(repetitions):
        for server, count, found in zip(servers, counts, rates, strict=True):
            # Mail of earlier runs stays: a file system that has just deleted thousands of files is slow for a while.
            before = server.stored()
            took = load.send(count, HOST, server.port, server.contestant.recipient)
            if server.contestant.stores and server.stored() - before != count:
                raise RuntimeError(f"{server.contestant.name} lost some of {count} messages")
            found.append(count / took)
    return rates
