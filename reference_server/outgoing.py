"""What is on its way to a client: saved up for a moment, handed to the kernel, or waiting until the kernel takes more.

Owns: the order of the octets, when they are sent, and how much may wait.  Deliberately knows neither sessions nor TLS
nor what the octets mean; what the ends of a connection mean for them is :mod:`reference_server.connection`'s.

While clients are being heard that were ready together, what they are told is saved up until all have been heard.
Clients that wait for their answers are then not woken up one by one, each while we still listen to the next; and what a
client has asked for in several commands at once leaves in one piece.
"""

from __future__ import annotations

import logging
import socket
import struct
from typing import Final, Protocol

from reference_server.readiness import Readiness

log = logging.getLogger(__name__)

#: With more than this waiting (octets), nothing more is read from a client and no work is begun for it, so that it
#: cannot ask for ever more.
HIGH_WATER: Final = 1 << 18
#: With no more than this waiting (octets) both go on: the kernel should not run dry meanwhile.
LOW_WATER: Final = 1 << 16
#: So much is saved up at most until everybody who is ready has been heard (octets).
SAVED_AT_MOST: Final = 1 << 16

_RESET: Final = struct.pack("ii", 1, 0)


class Sender(Protocol):
    """Who sends, and is told what becomes of it."""

    def has_said_it(self) -> None:
        """Everything that was saved up is on its way."""

    def has_sent(self) -> None:
        """Some of what was waiting is on its way."""

    def sends_too_much(self) -> None:
        """More is waiting than the client should be able to ask for."""

    def cannot_send(self) -> None:
        """The client is gone."""


class Outgoing:
    """The octets for one client, in order."""

    __slots__ = ("_fd", "_ready", "_saved", "_sender", "_sock", "_waiting")

    def __init__(self, sock: socket.socket, ready: Readiness, sender: Sender) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self._ready = ready
        self._sender = sender
        self._saved = b""
        self._waiting: bytearray | None = None

    def put(self, octets: bytes) -> None:
        """Send this behind everything else: now, at the end of the turn, or when the kernel takes it."""
        if self._waiting is not None:
            self._waiting += octets
            if len(self._waiting) > HIGH_WATER:
                self._sender.sends_too_much()
        elif self._saved:
            self._saved += octets
            if len(self._saved) > SAVED_AT_MOST:
                self.flush()
        elif self._ready.at_turns_end(self._turn_has_ended):
            self._saved = octets
        else:
            self._transmit(octets)

    def flush(self) -> None:
        """Hand to the kernel what was saved up."""
        saved, self._saved = self._saved, b""
        if saved:
            self._transmit(saved)

    @property
    def empty(self) -> bool:
        """Whether the kernel has everything."""
        return self._waiting is None and not self._saved

    @property
    def stalled(self) -> bool:
        """Whether the kernel did not take everything that it was given."""
        return self._waiting is not None

    @property
    def is_high(self) -> bool:
        """Whether more is waiting than the client should be able to ask for."""
        return self._waiting is not None and len(self._waiting) > HIGH_WATER

    @property
    def is_low(self) -> bool:
        """Whether so little is waiting that the client may ask for more."""
        return self._waiting is None or len(self._waiting) <= LOW_WATER

    def give_up(self) -> None:
        """What is waiting will never be sent, and the client is to know: its connection ends with a reset."""
        if self._waiting is not None:
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            except OSError:
                log.debug("a client is gone already")

    def forget(self) -> None:
        """The connection is over."""
        self._saved = b""
        self._waiting = None

    def _turn_has_ended(self) -> None:
        if self._saved:  # not so when it had to leave before, or the connection is over
            self.flush()
            if self._waiting is None:
                self._sender.has_said_it()

    def _transmit(self, octets: bytes) -> None:
        try:
            sent = self._sock.send(octets)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._sender.cannot_send()
            return
        if sent == len(octets):
            return
        self._waiting = bytearray(octets[sent:])
        self._ready.add_writer(self._fd, self._writable)
        if len(self._waiting) > HIGH_WATER:
            self._sender.sends_too_much()

    def _writable(self) -> None:
        assert self._waiting is not None
        try:
            with memoryview(self._waiting) as view:
                sent = self._sock.send(view)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._sender.cannot_send()
            return
        del self._waiting[:sent]
        if not self._waiting:
            self._waiting = None
            self._ready.remove_writer(self._fd)
        self._sender.has_sent()
