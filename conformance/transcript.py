"""What was said on every connection of one check, as evidence.

Owns: the record of bytes and events with their times, its bounds, and the hiding of secrets.  Knows nothing of
sockets: :mod:`conformance.wire` writes into it, reports read it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

#: More than this of one message is cut in the record (octets); the connection itself saw all of it.
LONGEST_ENTRY = 600
#: More entries than this and the middle of the record is left out; beginnings and ends tell the story.
MOST_ENTRIES = 400

CLIENT = "client"
SERVER = "server"
NOTE = "note"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened.  ``at`` is in seconds since the check began; ``source`` is ``client``, ``server`` or
    ``note`` (an event such as a connect, a handshake, an ending)."""

    at: float
    connection: int
    source: str
    data: bytes
    tls: bool


@dataclass(slots=True)
class Transcript:
    """The record of one check.  Safe to write from several threads."""

    secrets: tuple[bytes, ...] = ()
    started: float = field(default_factory=time.monotonic)
    _entries: list[Entry] = field(default_factory=list)
    _left_out: int = 0
    _connections: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def new_connection(self) -> int:
        """The number of the next connection, from 1."""
        with self._lock:
            self._connections += 1
            return self._connections

    def record(self, connection: int, source: str, data: bytes, *, tls: bool) -> None:
        """Note ``data``; secrets are replaced before anything is kept."""
        at = time.monotonic() - self.started
        for secret in self.secrets:
            data = data.replace(secret, b"<secret>")
        if len(data) > LONGEST_ENTRY:
            data = data[:LONGEST_ENTRY] + b"... (%d octets in all)" % len(data)
        with self._lock:
            self._entries.append(Entry(at, connection, source, data, tls))
            if len(self._entries) > MOST_ENTRIES:
                del self._entries[MOST_ENTRIES // 2]
                self._left_out += 1

    def note(self, connection: int, text: str, *, tls: bool = False) -> None:
        """An event that is not bytes."""
        self.record(connection, NOTE, text.encode(), tls=tls)

    def entries(self) -> tuple[Entry, ...]:
        """Everything so far, in order."""
        with self._lock:
            entries = list(self._entries)
            if self._left_out:
                middle = MOST_ENTRIES // 2
                gap = f"({self._left_out} entries left out here)".encode()
                entries.insert(middle, Entry(entries[middle].at, 0, NOTE, gap, False))
            return tuple(entries)

    def take(self, entries: Iterable[Entry], started: float) -> None:
        """Add the record of an observation that was begun elsewhere, at ``started`` on the monotonic clock."""
        with self._lock:
            first = self._connections
            for entry in entries:
                self._connections = max(self._connections, first + entry.connection)
                number = first + entry.connection if entry.connection else 0
                at = entry.at + started - self.started
                self._entries.append(Entry(at, number, entry.source, entry.data, entry.tls))
            self._entries.sort(key=lambda entry: entry.at)
