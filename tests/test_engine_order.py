"""In which order things happen on a connection, and what must never happen: the engine's promises to its sessions."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from certs import Authority
from reference_server import connection, outgoing
from reference_server.admission import Limits
from reference_server.connection import Phase
from reference_server.readiness import OfLoop
from reference_server.session import Close, Send
from reference_server.tls import TlsPipe, server_context
from tests.engine_room import PIECE, SOON, EngineRoom, engine_room, read_all, read_line

MUCH = 20_000_000


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create()


@pytest.fixture(scope="module")
def context(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    return server_context(*authority.issue().write(tmp_path_factory.mktemp("certificate")))


@pytest.fixture
def room(context: ssl.SSLContext) -> Iterator[EngineRoom]:
    with engine_room(context=context) as room:
        yield room


class Tls:
    """A TLS client that keeps its records until it is told to send them."""

    def __init__(self, sock: socket.socket, authority: Authority) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        trusting = ssl.create_default_context(cadata=authority.root_pem.decode("ascii"))
        self.tls = trusting.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def shake_hands(self) -> None:
        """All but the last flight has left when this returns."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self.incoming.write(self.sock.recv(65536))
            else:
                return

    def flush(self, behind: bytes = b"") -> None:
        self.sock.sendall(self.outgoing.read() + behind)

    def read_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            try:
                piece = self.tls.read(1)
            except ssl.SSLWantReadError:
                records = self.sock.recv(65536)
                if not records:
                    return line
                self.incoming.write(records)
            else:
                line += piece
        return line


def readable(sock: socket.socket) -> bool:
    """Whether something has arrived that nobody has read."""
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_what_is_said_behind_the_end_is_not_heard(room: EngineRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "HIGH_WATER", 2 * MUCH)  # reading goes on with a backlog
    with room.client() as client:
        client.sendall(b"much %d\nbye\n" % MUCH)
        room.until(lambda: any(each.phase is Phase.LEAVING for each in room.engine.connections))
        client.sendall(b"never\n")
        (served,) = room.on_loop(lambda: list(room.engine.connections))
        room.until(lambda: not readable(served._sock))
        assert read_all(client).endswith(b"x\nbye\n")
    assert room.diary.heard == [b"much %d" % MUCH, b"bye"]


def test_a_session_hears_nothing_while_work_is_under_way_that_its_handshake_brought(
    room: EngineRoom, authority: Authority
) -> None:
    room.diary.greets_by_work = True
    with room.client(room.implicit_port) as raw:
        client = Tls(raw, authority)
        client.shake_hands()
        client.tls.write(b"early\n")
        client.flush()
        room.until(lambda: any(each.at_work for each in room.engine.connections))
        assert room.diary.heard == []
        room.diary.release.set()
        assert client.read_line() == b"worked True\n"
        assert client.read_line() == b"early\n"


def test_what_happens_outside_during_work_is_told_after_it(room: EngineRoom) -> None:
    with room.client() as client:
        assert read_line(client) == b"hello\n"
        client.sendall(b"watch\nwork\n")
        room.until(lambda: any(each.at_work for each in room.engine.connections))
        room.diary.wakes[0]()
        room.on_loop(lambda: None)
        room.diary.release.set()
        assert read_line(client) == b"worked True\n"
        assert read_line(client) == b"woken\n"


def test_tls_can_be_asked_for_behind_work(room: EngineRoom, authority: Authority) -> None:
    room.diary.release.set()
    with room.client() as raw:
        raw.sendall(b"work\ntls\n")
        assert [read_line(raw) for _ in range(3)] == [b"hello\n", b"worked True\n", b"go\n"]
        client = Tls(raw, authority)
        client.shake_hands()
        client.flush()
        assert client.read_line() == b"secured\n"


def test_no_work_is_begun_for_a_client_that_does_not_take_the_last(room: EngineRoom) -> None:
    with room.client() as client:
        assert read_line(client) == b"hello\n"
        client.sendall(b"pieces 300\nafterwards\nbye\n")
        room.until(lambda: any(each._held is not None for each in room.engine.connections))
        (served,) = room.on_loop(lambda: list(room.engine.connections))
        assert served._out._waiting is not None
        assert len(served._out._waiting) <= outgoing.HIGH_WATER + PIECE
        assert room.diary.begun < 300
        assert read_all(client) == b"x" * (300 * PIECE - 1) + b"\nafterwards\nbye\n"
    assert room.diary.begun == 300


def test_its_time_goes_on_while_work_waits_for_it() -> None:
    with engine_room(timeout=0.3) as room, room.client() as client:
        assert read_line(client) == b"hello\n"
        client.sendall(b"pieces 300\n")
        room.until(lambda: any(each._held is not None for each in room.engine.connections))
        room.until(lambda: room.engine.admission.count == 0)
        assert room.diary.ended == ["ended"]
        assert room.diary.begun < 300


def test_a_client_that_reads_slowly_is_not_idle() -> None:
    timeout, size = 0.3, 3_000_000
    with engine_room(timeout=timeout) as room, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
        client.settimeout(SOON)
        client.connect(("127.0.0.1", room.port))
        assert read_line(client) == b"hello\n"
        client.sendall(b"much %d\n" % size)
        began, heard = time.monotonic(), 0
        while heard < size + 1:
            heard += len(client.recv(min(1 << 16, size + 1 - heard)))
            time.sleep(0.02)  # a slow line
        assert time.monotonic() - began > 2 * timeout
        client.sendall(b"still here\n")
        assert read_line(client) == b"still here\n"


def test_the_end_is_told_once_when_it_comes_during_work(room: EngineRoom) -> None:
    room.diary.farewell = [Send(b"x" * MUCH), Close()]
    with room.client() as client:
        client.sendall(b"work\n")
        room.until(lambda: any(each.at_work for each in room.engine.connections))
        room.on_loop(room.engine.stop)
        room.until(lambda: any(each.phase is Phase.LEAVING for each in room.engine.connections))
        room.diary.release.set()
        room.until(lambda: not any(each.at_work for each in room.engine.connections))
        assert len(read_all(client)) == len(b"hello\n") + MUCH
    room.until(lambda: room.engine.admission.count == 0)
    assert room.diary.ended == ["ended"]


def test_a_client_that_is_reading_when_the_server_stops_gets_the_rest(room: EngineRoom) -> None:
    with room.client() as client:
        assert read_line(client) == b"hello\n"
        client.sendall(b"much 8000000\n")
        room.until(lambda: any(each._out.stalled for each in room.engine.connections))
        room.on_loop(room.engine.stop)
        assert read_all(client).endswith(b"x\nstopping\n")


def test_requests_cut_anywhere_are_no_trickle() -> None:
    timeout = 0.05
    with engine_room(timeout=timeout) as room, room.client() as client:
        assert read_line(client) == b"hello\n"
        client.sendall(b"al")
        began = time.monotonic()
        while time.monotonic() - began < 20 * timeout:
            client.sendall(b"ways\nal")
            assert read_line(client) == b"always\n"


def test_a_broken_record_behind_a_good_one_ends_the_session_and_is_no_bug(
    room: EngineRoom, authority: Authority
) -> None:
    with room.client(room.implicit_port) as raw:
        client = Tls(raw, authority)
        client.shake_hands()
        client.flush()
        assert client.read_line() == b"hello\n"
        client.tls.write(b"whole\n")
        client.flush(behind=b"\x17\x03\x03\x00\x20" + b"rubbish" * 8)
        with suppress(ConnectionResetError, ssl.SSLError):
            client.read_line()
    room.until(lambda: room.engine.admission.count == 0)
    assert room.diary.heard in ([b"whole"], [])


@pytest.mark.parametrize("where", ["session", "pipe", "beginning"])
def test_a_mistake_anywhere_ends_its_own_connection_and_is_counted(
    room: EngineRoom, authority: Authority, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a mistake")

    with room.client() as healthy:
        assert read_line(healthy) == b"hello\n"
        if where == "pipe":
            monkeypatch.setattr(TlsPipe, "read", broken)
        elif where == "beginning":
            monkeypatch.setattr(room.engine.behaviour, "new_session", broken)
        with room.client(room.implicit_port if where == "pipe" else room.port) as raw, suppress(ConnectionResetError):
            if where == "pipe":
                client = Tls(raw, authority)
                client.shake_hands()
                client.flush()
            elif where == "session":
                raw.sendall(b"confuse\n")
            read_all(raw)
        healthy.sendall(b"fine\n")
        assert read_line(healthy) == b"fine\n"
    room.until(lambda: room.engine.admission.count == 0 and len(room.engine.clock) == 0)
    assert room.engine.bugs == 1
    room.engine.bugs = 0


def test_so_many_linger_at_once_and_the_next_is_closed_at_once(
    room: EngineRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGERING_AT_ONCE", 2)
    clients = [socket.create_connection(("127.0.0.1", room.port), SOON) for _ in range(4)]
    for client in clients:
        client.sendall(b"bye\n")
        assert read_all(client) == b"hello\nbye\n"
    assert room.on_loop(lambda: len(room.engine.lingering)) == 2
    for client in clients:
        client.close()
    room.until(lambda: len(room.engine.lingering) == 0)


def test_what_was_answered_before_a_session_broke_still_arrives(room: EngineRoom) -> None:
    with room.client() as client:
        assert read_line(client) == b"hello\n"
        client.sendall(b"confuse\nfine\n")
        assert read_all(client) == b"fine\n"
    assert room.engine.bugs == 1
    room.engine.bugs = 0


def test_without_epoll_it_serves_as_well(context: ssl.SSLContext) -> None:
    with engine_room(Limits(connections=1), readiness=OfLoop, context=context) as room, room.client() as client:
        assert read_line(client) == b"hello\n"
        client.sendall(b"much 3000000\nbye\n")
        with room.client() as surplus:
            assert read_all(surplus) == b"no: SERVICE_LIMIT\n"
        assert read_all(client).endswith(b"x\nbye\n")
