"""Hundreds of clients that come and go in every way at once: nothing is lost by it, and nothing is gained."""

from __future__ import annotations

import os
import random
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from certs import Authority
from reference_server.admission import Limits
from reference_server.tls import server_context
from tests.engine_room import SOON, EngineRoom, engine_room, read_all, read_line

N = 8
CLIENTS = 12
VISITS = 60
HALF_A_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"

Visit = Callable[[EngineRoom, ssl.SSLContext], None]


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), SOON)


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _says(*words: bytes, resets: bool = False) -> Visit:
    def visit(room: EngineRoom, _context: ssl.SSLContext) -> None:
        sock = _connect(room.port)
        with sock:
            read_line(sock)
            for word in words:
                sock.sendall(word)
            if resets:
                _reset(sock)

    return visit


def _sends_in_clear(octets: bytes, *, resets: bool = False) -> Visit:
    def visit(room: EngineRoom, _context: ssl.SSLContext) -> None:
        with _connect(room.implicit_port) as sock:
            sock.sendall(octets)
            if resets:
                _reset(sock)

    return visit


def _takes_leave(room: EngineRoom, _context: ssl.SSLContext) -> None:
    with _connect(room.port) as sock:
        sock.sendall(b"one\nbye\n")
        read_all(sock)


def _resets_at_once(room: EngineRoom, _context: ssl.SSLContext) -> None:
    _reset(_connect(room.port))


def _under_tls(last: bytes, *, resets: bool = False) -> Visit:
    def visit(room: EngineRoom, context: ssl.SSLContext) -> None:
        with _connect(room.implicit_port) as raw, context.wrap_socket(raw, server_hostname="localhost") as sock:
            sock.sendall(last)
            if resets:
                _reset(sock)
            else:
                while read_line(sock) not in (last, b""):
                    continue
                sock.unwrap()

    return visit


def _upgrades(room: EngineRoom, context: ssl.SSLContext) -> None:
    with _connect(room.port) as raw:
        read_line(raw)
        raw.sendall(b"tls\n")
        read_line(raw)
        with context.wrap_socket(raw, server_hostname="localhost") as sock:
            read_line(sock)


VISITS_OF: Mapping[str, Visit] = {
    "closes at once": _says(),
    "takes leave": _takes_leave,
    "resets": _says(b"one\n", resets=True),
    "resets at once": _resets_at_once,
    "closes during work": _says(b"work\n"),
    "resets during work": _says(b"work\n", resets=True),
    "resets while it watches": _says(b"watch\n", resets=True),
    "closes with much to read": _says(b"much 3000000\n"),
    "resets with work waiting for it": _says(b"pieces 60\n", resets=True),
    "leaves half a line": _says(b"hal"),
    "fails to shake hands": _sends_in_clear(b"this is no hello\n"),
    "leaves half a hello": _sends_in_clear(HALF_A_HELLO),
    "resets half a hello": _sends_in_clear(HALF_A_HELLO, resets=True),
    "breaks an upgrade": _says(b"tls\n", b"not one octet of TLS\n"),
    "says close_notify": _under_tls(b"one\n"),
    "takes leave under TLS": _under_tls(b"bye\n"),
    "resets under TLS": _under_tls(b"one\n", resets=True),
    "upgrades": _upgrades,
}


@pytest.fixture
def trusting() -> tuple[Authority, ssl.SSLContext]:
    authority = Authority.create()
    return authority, ssl.create_default_context(cadata=authority.root_pem.decode("ascii"))


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_whatever_way_clients_come_and_go_the_limit_holds_and_nothing_is_left(
    trusting: tuple[Authority, ssl.SSLContext], tmp_path: Path
) -> None:
    authority, context = trusting
    with engine_room(Limits(connections=N), context=server_context(*authority.issue().write(tmp_path))) as room:
        room.diary.release.set()
        before = _descriptors()
        most = [0]

        def come_and_go(seed: int) -> None:
            choose = random.Random(seed)
            for _ in range(VISITS):
                # Surplus clients are refused in the middle of whatever they are about.
                with suppress(OSError):
                    VISITS_OF[choose.choice(sorted(VISITS_OF))](room, context)
                most[0] = max(most[0], room.engine.admission.count)

        clients = [threading.Thread(target=come_and_go, args=(seed,)) for seed in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(30)
        room.until(lambda: room.engine.admission.count == 0)
        room.until(lambda: not len(room.engine.lingering) and not room.engine.connections)
        assert 0 < most[0] <= N
        assert len(room.engine.clock) == 0
        assert _descriptors() == before
        told = sum(event.startswith("connected") for event in room.diary.events)
        assert len(room.diary.ended) >= told > CLIENTS
        with ExitStack() as held:
            for _ in range(N):
                assert read_line(held.enter_context(room.client())) == b"hello\n"
            assert read_line(held.enter_context(room.client())) == b"no: SERVICE_LIMIT\n"


@pytest.mark.parametrize("way", sorted(VISITS_OF))
def test_each_way_gives_its_place_back(trusting: tuple[Authority, ssl.SSLContext], tmp_path: Path, way: str) -> None:
    authority, context = trusting
    with engine_room(Limits(connections=1), context=server_context(*authority.issue().write(tmp_path))) as room:
        room.diary.release.set()
        for _ in range(3):
            VISITS_OF[way](room, context)
            room.until(lambda: room.engine.admission.count == 0)
        room.until(lambda: len(room.diary.ended) >= sum(e.startswith("connected") for e in room.diary.events))
