"""What Linux tells about processes and listening sockets in /proc, without touching any of them.

Owns: reading /proc, so that nobody has to connect to a server to learn whether it listens, and nothing that
a driver started goes unnoticed.  Knows nothing of drivers, scenarios or protocols.  Where there is no /proc
the answers are empty, and `AVAILABLE` says so.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address

#: Ports that the suite keeps for the servers of its scenarios: below the kernel's ephemeral range, above what services
#: customarily use.
SUITE_PORTS = range(20000, 32000)
PROC = Path("/proc")
AVAILABLE = (PROC / "self/stat").exists() and (PROC / "net/tcp").exists()

_ESTABLISHED, _LISTEN = "01", "0A"  # the kernel's include/net/tcp_states.h


@dataclass(frozen=True, slots=True)
class Process:
    """One process; its start time (clock ticks since boot) tells it from a later one with the same id."""

    pid: int
    parent: int
    group: int
    session: int
    started: int
    state: str
    name: str

    @property
    def runs(self) -> bool:
        """False for a zombie: it has ended, only its parent has not looked yet."""
        return self.state not in {"Z", "X", "x"}


def process(pid: int) -> Process | None:
    """What /proc/PID/stat says, or None when there is no such process."""
    try:
        text = (PROC / str(pid) / "stat").read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    # proc(5): the name stands in parentheses and may itself hold any of ") (".
    name, rest = text[text.index("(") + 1 :].rsplit(")", 1)
    fields = rest.split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        started=int(fields[19]),
        state=fields[0],
        name=name,
    )


def processes() -> Iterator[Process]:
    """Every process that can be seen."""
    if not AVAILABLE:
        return
    for entry in os.listdir(PROC):
        if entry.isdecimal() and (found := process(int(entry))):
            yield found


def environment(pid: int) -> frozenset[bytes]:
    """The ``NAME=value`` entries a process was started with; empty when they may not be read."""
    try:
        return frozenset((PROC / str(pid) / "environ").read_bytes().split(b"\0"))
    except OSError:
        return frozenset()


def children(pid: int) -> list[Process]:
    """Every running descendant of a process."""
    by_parent: dict[int, list[Process]] = {}
    for found in processes():
        by_parent.setdefault(found.parent, []).append(found)
    descendants: list[Process] = []
    waiting = [pid]
    while waiting:
        for child in by_parent.get(waiting.pop(), ()):
            descendants.append(child)
            waiting.append(child.pid)
    return [child for child in descendants if child.runs]


def listening() -> frozenset[tuple[IPAddress, int]]:
    """Every local address and port on which somebody in this network namespace listens.

    Wildcards are reported as they are (``0.0.0.0`` and ``::``).
    """
    # Thousands of connections may have ended lately, and are told as well.
    mark = f" {_LISTEN} "
    return frozenset((address, port) for address, port, _ in _sockets(line for line in _socket_lines() if mark in line))


def clients(pid: int) -> int:
    """How many TCP connections a process holds; 0 when it has gone or may not be looked at."""
    established = {line.split()[9] for line in _socket_lines() if line.split()[3] == _ESTABLISHED}
    held = 0
    try:
        for entry in os.scandir(PROC / str(pid) / "fd"):
            kind, _, inode = os.readlink(entry.path).partition(":")
            held += kind == "socket" and inode.strip("[]") in established
    except OSError:
        return 0
    return held


def kept_waiting(pids: Iterable[int]) -> float:
    """Seconds since their start for which one of these processes could have run, and the machine did not let it.

    The longest of them, all its threads together: one that must wait may hold what the others wait for.  0 where the
    kernel does not count it (schedstat, its second number, nanoseconds).
    """
    longest = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            threads = (PROC / str(pid) / "task").iterdir()
            longest = max(longest, sum(int((each / "schedstat").read_text().split()[1]) for each in threads))
    return longest / 1e9


def has_ipv6() -> bool:
    """Whether the kernel speaks IPv6."""
    return (PROC / "net/if_inet6").exists()


def ephemeral_ports() -> range:
    """The ports that the kernel gives to outgoing connections, unasked and at any moment."""
    try:
        low, high = (PROC / "sys/net/ipv4/ip_local_port_range").read_text().split()
    except (OSError, ValueError):
        return range(32768, 61000)
    return range(int(low), int(high) + 1)


def free_ports(count: int, *, without: Iterable[int] = ()) -> list[int]:
    """Ports that no socket uses now, outside the ephemeral range, where no connection will take them.

    Drawn at random, so that two runs on one machine rarely meet.  Not among those that a suite keeps for its servers:
    some of these may be promised to a server that is just being started.
    """
    kept, taken = (ephemeral_ports(), SUITE_PORTS), {port for _, port, _ in _sockets(_socket_lines())} | set(without)
    free = [port for port in range(10_000, 65_536) if not any(port in each for each in kept) and port not in taken]
    return random.sample(free, count)


def _sockets(lines: Iterable[str]) -> Iterator[tuple[IPAddress, int, str]]:
    for line in lines:
        _, local, _, state, *_ = line.split()
        host, port = local.split(":")
        yield _address(host), int(port, 16), state


def _socket_lines() -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            yield from (PROC / "net" / table).read_text().splitlines()[1:]


def _address(text: str) -> IPAddress:
    # The kernel prints each 32-bit word in its own byte order.
    words = [bytes.fromhex(text[at : at + 8]) for at in range(0, len(text), 8)]
    if sys.byteorder == "little":
        words = [word[::-1] for word in words]
    packed = b"".join(words)
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
