"""Which sockets are ready, asked of the kernel and not of the event loop.

Owns: one epoll set for all sockets of the server, which the event loop sees as a single descriptor.  That costs less
for each socket than the loop's own bookkeeping, and it hears of a reset that uvloop's ``add_reader`` keeps to itself
when it comes together with data (docs/adr/0001-readiness-callbacks.md).  Where there is no epoll, the loop's own
methods serve.  Knows nothing of what is read or written.
"""

from __future__ import annotations

import logging
import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger(__name__)

Callback = Callable[[], None]

#: So many sockets are served in one turn, and so many turns taken, before the event loop gets its own.
BATCH: Final = 128
TURNS: Final = 4


class Readiness(Protocol):
    """Calls back when a descriptor is ready; at most one reader and one writer for each."""

    def add_reader(self, fd: int, callback: Callback, /) -> object:
        """Call back whenever something can be read, until :meth:`remove_reader`."""

    def remove_reader(self, fd: int, /) -> object:
        """Of no effect when there is no reader."""

    def add_writer(self, fd: int, callback: Callback, /) -> object:
        """Call back whenever something can be written, until :meth:`remove_writer`."""

    def remove_writer(self, fd: int, /) -> object:
        """Of no effect when there is no writer."""

    def forget(self, fd: int, /) -> object:
        """Neither reader nor writer any more: the descriptor is about to be closed."""

    def at_turns_end(self, callback: Callback, /) -> bool:
        """Call back once, when everybody who is ready has been heard; False where nobody is being heard just now."""

    def close(self) -> None:
        """Hear of nothing any more."""


def readiness(loop: asyncio.AbstractEventLoop) -> Readiness:
    """The best there is on this machine, working on ``loop``."""
    return Epoll(loop) if hasattr(select, "epoll") else OfLoop(loop)


class OfLoop:
    """Readiness as the event loop itself knows it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.add_reader = loop.add_reader
        self.remove_reader = loop.remove_reader
        self.add_writer = loop.add_writer
        self.remove_writer = loop.remove_writer

    def forget(self, fd: int) -> None:
        self.remove_reader(fd)
        self.remove_writer(fd)

    def at_turns_end(self, callback: Callback) -> bool:
        del callback  # the loop does not say who else is ready
        return False

    def close(self) -> None:
        """There is nothing of its own to be closed."""


class Epoll:
    """Readiness through one epoll set."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._epoll = select.epoll()
        self._loop = loop
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._in_turn = False
        self._at_end: list[Callback] = []
        loop.add_reader(self._epoll.fileno(), self._ready)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def add_reader(self, fd: int, callback: Callback) -> None:
        known = fd in self._readers or fd in self._writers
        self._readers[fd] = callback
        self._set(fd, known)

    def add_writer(self, fd: int, callback: Callback) -> None:
        known = fd in self._readers or fd in self._writers
        self._writers[fd] = callback
        self._set(fd, known)

    def remove_reader(self, fd: int) -> None:
        if self._readers.pop(fd, None) is not None:
            self._set(fd, known=True)

    def remove_writer(self, fd: int) -> None:
        if self._writers.pop(fd, None) is not None:
            self._set(fd, known=True)

    def _set(self, fd: int, known: bool) -> None:
        events = (select.EPOLLIN if fd in self._readers else 0) | (select.EPOLLOUT if fd in self._writers else 0)
        if not events:
            # Out of the set altogether: a hang-up would be reported for ever to nobody.
            self._epoll.unregister(fd)
        elif known:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)

    def forget(self, fd: int) -> None:
        # The kernel takes what is closed out of the set by itself.
        self._readers.pop(fd, None)
        self._writers.pop(fd, None)

    def at_turns_end(self, callback: Callback) -> bool:
        if self._in_turn:
            self._at_end.append(callback)
        return self._in_turn

    def _ready(self) -> None:
        readers, writers, call = self._readers, self._writers, self._call
        for _ in range(TURNS):
            ready = self._epoll.poll(0, BATCH)
            if not ready:
                return
            self._in_turn = True
            for fd, events in ready:
                # Errors and hang-ups are for whoever is there: the next read or write says what it is.
                if events & ~select.EPOLLOUT and (reader := readers.get(fd)) is not None:
                    call(reader)
                if events & ~select.EPOLLIN and (writer := writers.get(fd)) is not None:
                    call(writer)
            self._in_turn = False
            at_end, self._at_end = self._at_end, []
            for callback in at_end:
                call(callback)

    def _call(self, callback: Callback) -> None:
        try:
            callback()
        except Exception:
            # As the loop would do: one broken callback is no reason not to call the others.
            log.exception("a callback broke")
