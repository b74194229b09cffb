"""What is told to clients that were ready together is saved up until all have been heard."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from reference_server import outgoing
from reference_server.outgoing import Outgoing
from reference_server.readiness import Epoll


@dataclass
class Notes:
    """What the sender was told."""

    told: list[str] = field(default_factory=list)

    def has_said_it(self) -> None:
        self.told.append("said")

    def has_sent(self) -> None:
        self.told.append("sent some")

    def sends_too_much(self) -> None:
        self.told.append("too much")

    def cannot_send(self) -> None:
        self.told.append("gone")


class Room:
    """A readiness with its loop, run by hand, and pairs of sockets."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.ready = Epoll(self.loop)
        self.sockets: list[socket.socket] = []

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """The server's end and the client's, both non-blocking."""
        ends = socket.socketpair()
        for end in ends:
            end.setblocking(False)
        self.sockets += ends
        return ends

    def when_heard(self, ours: socket.socket, act: Callable[[], None]) -> None:
        """Do this once when something arrives there."""

        def heard() -> None:
            ours.recv(100)
            act()

        self.ready.add_reader(ours.fileno(), heard)

    def turn(self) -> None:
        """One turn of the event loop."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def close(self) -> None:
        self.ready.close()
        self.loop.close()
        for each in self.sockets:
            each.close()


@pytest.fixture
def room() -> Iterator[Room]:
    room = Room()
    yield room
    room.close()


def arrived(client: socket.socket) -> bytes:
    """What is there for the client now."""
    try:
        return client.recv(1 << 20)
    except BlockingIOError:
        return b""


def test_nobody_is_answered_before_all_who_are_ready_have_been_heard(room: Room) -> None:
    pairs = [room.pair() for _ in range(3)]
    seen: list[list[bytes]] = []
    notes = [Notes() for _ in pairs]
    for (ours, _), note in zip(pairs, notes, strict=True):
        out = Outgoing(ours, room.ready, note)

        def answer(out: Outgoing = out) -> None:
            out.put(b"one ")
            out.put(b"two")
            seen.append([arrived(client) for _, client in pairs])

        room.when_heard(ours, answer)
    for _, client in pairs:
        client.send(b"?")
    room.turn()
    assert seen == [[b"", b"", b""]] * 3
    assert [arrived(client) for _, client in pairs] == [b"one two"] * 3
    assert [note.told for note in notes] == [["said"]] * 3


def test_outside_of_a_turn_it_leaves_at_once(room: Room) -> None:
    ours, client = room.pair()
    note = Notes()
    Outgoing(ours, room.ready, note).put(b"good morning")
    assert arrived(client) == b"good morning"
    assert note.told == []


def test_whoever_has_much_to_say_does_not_save_it_up(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "SAVED_AT_MOST", 10)
    ours, client = room.pair()
    out = Outgoing(ours, room.ready, Notes())
    seen: list[bytes] = []

    def answer() -> None:
        for piece in (b"0123456", b"789ab", b"cdef"):
            out.put(piece)
            seen.append(arrived(client))

    room.when_heard(ours, answer)
    client.send(b"?")
    room.turn()
    assert seen == [b"", b"0123456789ab", b""]
    assert arrived(client) == b"cdef"


def test_what_was_saved_up_can_leave_before_the_end_of_the_turn(room: Room) -> None:
    ours, client = room.pair()
    note = Notes()
    out = Outgoing(ours, room.ready, note)
    seen: list[bytes] = []

    def answer() -> None:
        out.put(b"last words")
        out.flush()
        seen.append(arrived(client))

    room.when_heard(ours, answer)
    client.send(b"?")
    room.turn()
    assert seen == [b"last words"]
    assert note.told == []
    assert arrived(client) == b""


def test_a_connection_that_is_over_says_nothing_more(room: Room) -> None:
    ours, client = room.pair()
    out = Outgoing(ours, room.ready, Notes())

    def answer() -> None:
        out.put(b"never")
        out.forget()

    room.when_heard(ours, answer)
    client.send(b"?")
    room.turn()
    assert arrived(client) == b""


def test_what_the_kernel_does_not_take_waits_in_order(room: Room) -> None:
    ours, client = room.pair()
    note = Notes()
    out = Outgoing(ours, room.ready, note)
    text = bytes(range(256)) * 4096
    out.put(text)
    out.put(b"and more")
    assert out.stalled
    assert out.is_high
    assert note.told[:1] == ["too much"]
    received = b""
    for _ in range(1000):
        received += arrived(client)
        if out.empty:
            break
        room.turn()
    received += arrived(client)
    assert received == text + b"and more"
    assert note.told[-1] == "sent some"


def test_a_client_that_has_gone_is_told_of_once(room: Room) -> None:
    ours, client = room.pair()
    note = Notes()
    out = Outgoing(ours, room.ready, note)
    client.close()
    out.put(b"anybody there?")
    assert note.told == ["gone"]
    assert out.empty
