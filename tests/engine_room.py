"""An engine under a small session of the tests' own, on a loop in a thread.

The session speaks lines: what it is told it says again, and a few words make it do what sessions do.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from reference_server.admission import Limits
from reference_server.listener import Behaviour, Door, Engine
from reference_server.readiness import Epoll, Readiness
from reference_server.session import (
    Actions,
    Close,
    Peer,
    Perform,
    Refusal,
    Security,
    Send,
    StartTls,
    Unwatch,
    Watch,
)

T = TypeVar("T")
SOON = 5.0
PIECE = 100_000


@dataclass
class Diary:
    """What the sessions of one engine have seen, and what they need to misbehave."""

    events: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    wakes: list[Callable[[], None]] = field(default_factory=list)
    cancelled: int = 0
    #: Every line that was heard.
    heard: list[bytes] = field(default_factory=list)
    #: Jobs of ``pieces`` that were begun.
    begun: int = 0
    #: The greeting is a job, done when ``release`` is set.
    greets_by_work: bool = False
    #: What is answered to ``stopping``.
    farewell: list[Any] = field(default_factory=lambda: [Send(b"stopping\n")])


class Parrot:
    """Says every line again.

    ``tls``, ``work``, ``fail``, ``bug``, ``watch``, ``unwatch``, ``much N``, ``bye`` do what they say; ``pieces N``
    are N jobs one after the other with ``PIECE`` octets to send from each; after ``confuse`` its state cannot be read.
    """

    def __init__(self, diary: Diary) -> None:
        self._diary = diary
        self._buffer = b""
        self._confused = False

    @property
    def unfinished(self) -> bool:
        if self._confused:
            raise RuntimeError("a session that has lost its thread")
        return bool(self._buffer)

    def connected(self, peer: Peer, security: Security | None) -> Actions:
        self._diary.events.append(f"connected {peer.address} {security.bits if security else 'clear'}")
        if self._diary.greets_by_work:
            return [Perform(lambda: self._diary.release.wait(SOON), self._worked)]
        return [Send(b"hello\n")]

    def received(self, data: bytes) -> Actions:
        self._buffer += data
        return self._go_on()

    def _go_on(self) -> Actions:
        actions: list[Any] = []
        while b"\n" in self._buffer:
            line, _, self._buffer = self._buffer.partition(b"\n")
            self._diary.heard.append(line)
            match line.split():
                case [b"tls"]:
                    self._buffer = b""
                    return [*actions, Send(b"go\n"), StartTls()]
                case [b"work"]:
                    return [*actions, Perform(lambda: self._diary.release.wait(SOON), self._worked)]
                case [b"fail"]:
                    return [*actions, Perform(self._break_disk, self._worked)]
                case [b"bug"]:
                    raise RuntimeError("a session's own mistake")
                case [b"confuse"]:
                    self._confused = True
                case [b"pieces", count]:
                    return [*actions, Perform(self._piece, lambda _: self._next_piece(int(count) - 1))]
                case [b"watch"]:
                    actions.append(Watch(self._subscribe))
                case [b"unwatch"]:
                    actions.append(Unwatch())
                case [b"much", count]:
                    actions.append(Send(b"x" * int(count) + b"\n"))
                case [b"bye"]:
                    return [*actions, Send(b"bye\n"), Close()]
                case _:
                    actions.append(Send(line + b"\n"))
        return actions

    def _piece(self) -> None:
        self._diary.begun += 1

    def _next_piece(self, left: int) -> Actions:
        if not left:
            return [Send(b"x" * (PIECE - 1) + b"\n"), *self._go_on()]
        return [Send(b"x" * PIECE), Perform(self._piece, lambda _: self._next_piece(left - 1))]

    def _break_disk(self) -> None:
        raise OSError("the disk is full")

    def _worked(self, result: object) -> Actions:
        return [Send(f"worked {result}\n".encode()), *self._go_on()]

    def _subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        self._diary.wakes.append(wake)

        def cancel() -> None:
            self._diary.cancelled += 1

        return cancel

    def secured(self, security: Security) -> Actions:
        self._diary.events.append(f"secured {security.bits}")
        return [Send(b"secured\n")]

    def failed(self, error: Exception) -> Actions:
        return [Send(f"failed: {error}\n".encode()), *self._go_on()]

    def woken(self) -> Actions:
        return [Perform(lambda: None, lambda _: [Send(b"woken\n")])]

    def idled(self) -> Actions:
        return [Send(b"too slow\n")]

    def stopping(self) -> Actions:
        return self._diary.farewell

    def ended(self) -> None:
        self._diary.ended.append("ended")


class EngineRoom:
    """One engine, its loop, and clients for it."""

    def __init__(
        self,
        limits: Limits,
        timeout: float,
        context: ssl.SSLContext | None,
        bits: int,
        readiness: Callable[[asyncio.AbstractEventLoop], Readiness],
    ) -> None:
        self.diary = Diary()
        self.loop = asyncio.new_event_loop()
        self.workers = ThreadPoolExecutor(4)
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        behaviour = Behaviour(lambda: Parrot(self.diary), lambda why: f"no: {why.name}\n".encode(), context, bits)
        self.engine: Engine = self.on_loop(
            lambda: Engine(
                "parrot",
                self.loop,
                readiness(self.loop),
                self.workers,
                limits=limits,
                idle_timeout=timeout,
                behaviour=behaviour,
            )
        )
        self.port = self._open(implicit=False)
        self.implicit_port = self._open(implicit=True) if context is not None else 0

    def _open(self, *, implicit: bool) -> int:
        return self.listen(Door("127.0.0.1", 0, implicit))

    def listen(self, door: Door) -> int:
        """Open another listener; its port."""

        def open_() -> int:
            assert door not in self.engine.listeners
            listener = self.engine.open(door)
            self.engine.adopt(listener)
            port: int = listener._sock.getsockname()[1]
            return port

        return self.on_loop(open_)

    def on_loop(self, act: Callable[[], T]) -> T:
        """Do something where the engine lives."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(act())
            except BaseException as error:
                done.set_exception(error)

        self.loop.call_soon_threadsafe(run)
        return done.result(SOON)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something has become true on the loop."""
        deadline = time.monotonic() + SOON
        while not self.on_loop(condition):
            assert time.monotonic() < deadline, "it did not come true in time"
            time.sleep(0.002)

    @contextmanager
    def client(self, port: int | None = None) -> Iterator[socket.socket]:
        """A connected client."""
        with socket.create_connection(("127.0.0.1", port or self.port), SOON) as sock:
            yield sock

    @property
    def count(self) -> int:
        """How many places are taken."""
        return self.on_loop(lambda: self.engine.admission.count)

    def close(self) -> None:
        self.diary.release.set()
        self.on_loop(self.engine.stop)
        self.on_loop(self.engine.abort)
        self.workers.shutdown()
        self.on_loop(self.engine.ready.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(SOON)
        self.loop.close()


@contextmanager
def engine_room(
    limits: Limits | None = None,
    timeout: float = 60.0,
    context: ssl.SSLContext | None = None,
    bits: int = 256,
    readiness: Callable[[asyncio.AbstractEventLoop], Readiness] = Epoll,
) -> Iterator[EngineRoom]:
    """An engine that is gone when the block ends, and that must not have found a bug unless the block forgave it."""
    room = EngineRoom(limits or Limits(), timeout, context, bits, readiness)
    try:
        yield room
        assert room.engine.bugs == 0
    finally:
        room.close()


def read_line(sock: socket.socket) -> bytes:
    """The next line; empty at the end."""
    line = b""
    while not line.endswith(b"\n"):
        piece = sock.recv(1)
        if not piece:
            return line
        line += piece
    return line


def read_all(sock: socket.socket) -> bytes:
    """Everything up to the end."""
    pieces = []
    while piece := sock.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


REFUSAL_LINES = {why: f"no: {why.name}\n".encode() for why in Refusal}
