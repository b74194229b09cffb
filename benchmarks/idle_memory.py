"""Memory of an idle connection, ours beside aiosmtpd.

Owns: many clients that connect, read the greeting and then say nothing.  What a server needs for them is the growth of
its own memory from the start to there; the kernel's part is the same for every server and not counted.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks.contestants import HOST, Contestant, has_uvloop, running
from benchmarks.table import Measurement, Row

AN_ADDRESS = 2000
"""Connections from one address of the loopback."""


def contestants() -> list[Contestant]:
    """aiosmtpd first: the others are compared with it."""
    found = [Contestant("aiosmtpd", ours=False, stores=False), Contestant("ours", ours=True, stores=False)]
    if has_uvloop():
        found += [
            Contestant("aiosmtpd, uvloop", ours=False, stores=False, uvloop=True),
            Contestant("ours, uvloop", ours=True, stores=False, uvloop=True),
        ]
    return found


def measure(folder: Path, *, connections: int, repetitions: int, tell: Callable[[str], None]) -> list[Measurement]:
    """Each server is started anew for each repetition: memory that was used once is not given back."""
    _allow_files(connections + 200)
    tell(f"memory of {connections} idle connections")
    entered = contestants()
    found: list[list[float]] = [[] for _ in entered]
    for _ in range(repetitions):
        for contestant, sizes in zip(entered, found, strict=True):
            sizes.append(_octets_each(contestant, folder, connections))
    rows = tuple(
        Row(contestant.name, statistics.median(each), tuple(each))
        for contestant, each in zip(entered, found, strict=True)
    )
    return [Measurement(f"Memory of an idle connection, {connections} of them", "KiB", rows, higher_is_better=False)]


def _octets_each(contestant: Contestant, folder: Path, connections: int) -> float:
    with running(contestant, folder) as server, contextlib.ExitStack() as clients:
        # The first connections make a server load and allocate what it needs once.
        for number in range(50):
            clients.enter_context(_greeted(server.port, number))
        before = server.memory()
        for number in range(connections):
            clients.enter_context(_greeted(server.port, number))
        return (server.memory() - before) / connections / 1024


def _greeted(port: int, number: int) -> socket.socket:
    source = f"127.0.{1 + number // AN_ADDRESS // 250}.{1 + number // AN_ADDRESS % 250}"
    client = socket.create_connection((HOST, port), timeout=30, source_address=(source, 0))
    if not client.recv(512).startswith(b"220"):
        raise RuntimeError("a client was not greeted")
    return client


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise RuntimeError(f"{count} open files are needed, {hard} are allowed; measure fewer --connections")
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))  # the servers inherit it
