"""The engine on real sockets: who is let in, what is heard, how it ends, and that every place comes back."""

from __future__ import annotations

import os
import resource
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from certs import Authority
from reference_server.address_range import AddressRange
from reference_server.admission import Limits
from reference_server.idle import PATIENCE
from reference_server.tls import CertificateError, server_context
from tests.engine_room import SOON, EngineRoom, engine_room, read_all, read_line

Files = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority.create()
    chain, key = authority.issue().write(folder)
    root = folder / "root.pem"
    root.write_bytes(authority.root_pem)
    return root, chain, key


@pytest.fixture
def room(files: Files) -> Iterator[EngineRoom]:
    with engine_room(context=server_context(files[1], files[2])) as room:
        yield room


@pytest.fixture
def trusting(files: Files) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(files[0]))


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_a_client_is_greeted_and_answered(room: EngineRoom) -> None:
    with room.client() as client:
        assert read_line(client) == b"hello\n"
        client.sendall(b"one\ntwo\n")
        assert read_line(client) + read_line(client) == b"one\ntwo\n"
        client.sendall(b"bye\n")
        assert read_all(client) == b"bye\n"
    room.until(lambda: room.engine.admission.count == 0)
    assert room.diary.events == ["connected 127.0.0.1 clear"]
    assert room.diary.ended == ["ended"]


def test_the_surplus_is_told_and_takes_no_place() -> None:
    with engine_room(Limits(connections=1)) as room, room.client() as first:
        assert read_line(first) == b"hello\n"
        for _ in range(5):
            with room.client() as surplus:
                surplus.sendall(b"pipelined before anything was heard\n" * 100)
                assert read_all(surplus) == b"no: SERVICE_LIMIT\n"
        first.sendall(b"still here\n")
        assert read_line(first) == b"still here\n"
        assert room.count == 1


def test_a_refusal_on_an_implicit_port_is_not_one_byte(files: Files) -> None:
    denied = (AddressRange.parse("127.0.0.1"),)
    with (
        engine_room(Limits(deny=denied), context=server_context(files[1], files[2])) as room,
        room.client(room.implicit_port) as client,
        suppress(ConnectionResetError),
    ):
        assert read_all(client) == b""


@pytest.mark.parametrize("way", ["fin", "reset", "bye", "reset at once"])
def test_a_place_comes_back_however_a_client_leaves(room: EngineRoom, way: str) -> None:
    for _ in range(20):
        client = socket.create_connection(("127.0.0.1", room.port), SOON)
        if way != "reset at once":
            assert read_line(client) == b"hello\n"
        if way == "bye":
            client.sendall(b"bye\n")
            read_all(client)
        if way.startswith("reset"):
            reset(client)
        client.close()
    room.until(lambda: room.engine.admission.count == 0 and not room.engine.connections)


def test_a_handshake_comes_first_on_an_implicit_port(room: EngineRoom, trusting: ssl.SSLContext) -> None:
    with room.client(room.implicit_port) as raw, trusting.wrap_socket(raw, server_hostname="localhost") as client:
        assert read_line(client) == b"hello\n"
        client.sendall(b"bye\n")
        assert read_line(client) == b"bye\n"
        assert client.recv(1) == b""
    assert room.diary.events == ["connected 127.0.0.1 256"]


def test_close_notify_precedes_the_fin(room: EngineRoom, trusting: ssl.SSLContext) -> None:
    with room.client(room.implicit_port) as raw:
        client = trusting.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)
        with client:
            assert read_line(client) == b"hello\n"
            client.sendall(b"bye\n")
            assert read_all(client) == b"bye\n"


@pytest.mark.parametrize(
    "octets", [b"EHLO in clear\r\n", bytes(range(128, 256)), b"\x16\x03\x01\x02\x00\x01", b""], ids=range(4)
)
def test_a_failed_handshake_ends_and_frees_its_place(room: EngineRoom, octets: bytes) -> None:
    for port in (room.implicit_port, room.port):
        with room.client(port) as client:
            if port == room.port:
                assert read_line(client) == b"hello\n"
                client.sendall(b"tls\n")
                assert read_line(client) == b"go\n"
            client.sendall(octets)
            client.shutdown(socket.SHUT_WR)
            heard = b""
            with suppress(ConnectionResetError):
                heard = read_all(client)
            assert b"hello" not in heard
            assert b"\n" not in heard
        room.until(lambda: room.engine.admission.count == 0)


def test_a_reset_in_a_handshake_frees_its_place(room: EngineRoom) -> None:
    for _ in range(30):
        client = socket.create_connection(("127.0.0.1", room.implicit_port), SOON)
        client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")
        reset(client)
    room.until(lambda: room.engine.admission.count == 0)


def test_an_upgrade_starts_the_session_over_and_keeps_the_place(room: EngineRoom, trusting: ssl.SSLContext) -> None:
    with room.client() as raw:
        assert read_line(raw) == b"hello\n"
        raw.sendall(b"tls\nthis came in clear and is never answered\n")
        assert read_line(raw) == b"go\n"
        with trusting.wrap_socket(raw, server_hostname="localhost") as client:
            assert read_line(client) == b"secured\n"
            client.sendall(b"inside\n")
            assert read_line(client) == b"inside\n"
            assert room.count == 1
    assert room.diary.events == ["connected 127.0.0.1 clear", "secured 256"]


def test_a_cipher_of_128_bits_is_not_enough(room: EngineRoom, trusting: ssl.SSLContext) -> None:
    trusting.maximum_version = ssl.TLSVersion.TLSv1_2
    trusting.set_ciphers("ECDHE+AES128")
    with room.client(room.implicit_port) as raw, pytest.raises(ssl.SSLError):
        trusting.wrap_socket(raw, server_hostname="localhost")
    room.until(lambda: room.engine.admission.count == 0)
    assert room.diary.events == []


@pytest.mark.parametrize("stage", ["silent", "half a line", "handshake", "tls agreed", "not reading"])
def test_a_silent_client_is_ended_in_its_time(files: Files, stage: str) -> None:
    timeout = 0.3
    with engine_room(timeout=timeout, context=server_context(files[1], files[2])) as room:
        with room.client(room.implicit_port if stage == "handshake" else room.port) as client:
            if stage == "half a line":
                client.sendall(b"half")
            elif stage == "tls agreed":
                client.sendall(b"tls\n")
            elif stage == "not reading":
                client.sendall(b"much 20000000\n")
            began = time.monotonic()
            room.until(lambda: room.engine.admission.count == 1)
            room.until(lambda: room.engine.admission.count == 0)
            took = time.monotonic() - began
            assert took >= timeout * 0.9
            if stage in ("silent", "half a line"):
                assert read_all(client) == b"hello\ntoo slow\n"
        assert room.diary.ended in (["ended"], [])


def test_busy_neighbours_put_nothing_off_and_keep_their_own_time() -> None:
    with engine_room(timeout=0.4) as room, room.client() as idle, room.client() as busy:
        read_line(idle), read_line(busy)
        began = time.monotonic()
        while room.count == 2 and time.monotonic() - began < SOON:
            busy.sendall(b"again\n")
            assert read_line(busy) == b"again\n"
        assert read_all(idle) == b"too slow\n"
        busy.sendall(b"still here\n")
        assert read_line(busy) == b"still here\n"


def test_a_trickle_is_ended_although_it_is_never_idle() -> None:
    with engine_room(timeout=0.1) as room, room.client() as client:
        assert read_line(client) == b"hello\n"
        began = time.monotonic()
        with suppress(ConnectionResetError, BrokenPipeError):
            while room.count == 1 and time.monotonic() - began < SOON:
                client.sendall(b"x")
                time.sleep(0.02)
        assert time.monotonic() - began >= PATIENCE * 0.1 * 0.9
        assert room.count == 0


def test_the_clock_rests_while_the_server_works() -> None:
    with engine_room(timeout=0.2) as room, room.client() as client:
        assert read_line(client) == b"hello\n"
        client.sendall(b"work\nafterwards\n")
        time.sleep(0.5)  # what is asked is that nothing happens meanwhile
        room.diary.release.set()
        assert read_line(client) == b"worked True\n"
        assert read_line(client) == b"afterwards\n"


def test_a_failed_job_is_told_and_is_no_bug(room: EngineRoom) -> None:
    with room.client() as client:
        assert read_line(client) == b"hello\n"
        client.sendall(b"fail\nnext\n")
        assert read_line(client) == b"failed: the disk is full\n"
        assert read_line(client) == b"next\n"


def test_a_session_ends_only_after_its_job(room: EngineRoom) -> None:
    with room.client() as client:
        assert read_line(client) == b"hello\n"
        client.sendall(b"work\n")
        room.until(lambda: any(connection._at_work for connection in room.engine.connections))
        for connection in list(room.engine.connections):
            room.on_loop(connection.abort)
    assert room.count == 0
    assert room.diary.ended == []
    room.diary.release.set()
    room.until(lambda: room.diary.ended == ["ended"])


def test_a_bug_ends_its_own_connection_only(room: EngineRoom, caplog: pytest.LogCaptureFixture) -> None:
    with room.client() as healthy, room.client() as client:
        read_line(healthy), read_line(client)
        client.sendall(b"bug\n")
        with suppress(ConnectionResetError):
            assert read_all(client) == b""
        healthy.sendall(b"fine\n")
        assert read_line(healthy) == b"fine\n"
    assert room.engine.bugs == 1
    assert "a session's own mistake" in caplog.text
    room.engine.bugs = 0


def test_what_happens_outside_wakes_a_watching_session(room: EngineRoom) -> None:
    with room.client() as client:
        assert read_line(client) == b"hello\n"
        client.sendall(b"watch\nready\n")
        assert read_line(client) == b"ready\n"
        room.diary.wakes[0]()
        assert read_line(client) == b"woken\n"
        client.sendall(b"unwatch\nready\n")
        assert read_line(client) == b"ready\n"
        room.diary.wakes[0]()
        client.sendall(b"quiet\n")
        assert read_line(client) == b"quiet\n"
    assert room.diary.cancelled == 1


def test_work_that_nobody_asked_for_is_no_sign_of_life() -> None:
    with engine_room(timeout=0.4) as room, room.client() as client:
        assert read_line(client) == b"hello\n"
        client.sendall(b"watch\nready\n")
        assert read_line(client) == b"ready\n"
        began = time.monotonic()
        while (line := read_line_waking(room, client)) == b"woken\n":
            assert time.monotonic() - began < SOON
        assert line == b"too slow\n"


def read_line_waking(room: EngineRoom, client: socket.socket) -> bytes:
    """Something happens outside; what the client hears next."""
    room.diary.wakes[0]()
    return read_line(client)


def test_a_client_that_closes_its_side_still_gets_its_answers(room: EngineRoom) -> None:
    room.diary.release.set()
    with room.client() as client:
        client.sendall(b"one\nwork\ntwo\n")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"hello\none\nworked True\ntwo\n"


def test_the_last_reply_survives_unread_input(room: EngineRoom) -> None:
    with room.client() as client:
        client.sendall(b"bye\n" + b"never read\n" * 2000)
        assert read_all(client) == b"hello\nbye\n"


def test_much_output_reaches_a_slow_reader_whole() -> None:
    with engine_room(timeout=1.0) as room, room.client() as client:
        assert read_line(client) == b"hello\n"
        client.sendall(b"much 8000000\n")
        heard = 0
        while heard < 8_000_001:
            heard += len(client.recv(400_000))
        assert heard == 8_000_001


def test_accepting_goes_on_after_descriptors_ran_out(room: EngineRoom, caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = socket.socket()
    held: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        waiting.settimeout(SOON)
        waiting.connect(("127.0.0.1", room.port))
        room.until(lambda: any(listener._resting is not None for listener in room.engine.listeners.values()))
        used = time.process_time()
        time.sleep(0.3)  # what is asked is what it costs to wait
        assert time.process_time() - used < 0.2
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with waiting:
        assert read_line(waiting) == b"hello\n"
    assert caplog.text.count("cannot accept for a moment") == 1


def test_a_stop_says_farewell_and_waits_for_work(room: EngineRoom) -> None:
    with room.client() as client:
        assert read_line(client) == b"hello\n"
        room.on_loop(room.engine.stop)
        assert read_all(client) == b"stopping\n"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", room.port), SOON)


def test_fifty_silent_handshakes_delay_nobody(room: EngineRoom, trusting: ssl.SSLContext) -> None:
    stalled = [socket.create_connection(("127.0.0.1", room.implicit_port), SOON) for _ in range(50)]
    try:
        with room.client(room.implicit_port) as raw, trusting.wrap_socket(raw, server_hostname="localhost") as client:
            assert read_line(client) == b"hello\n"
    finally:
        for stranger in stalled:
            stranger.close()


def test_a_burst_never_overshoots() -> None:
    with engine_room(Limits(connections=5)) as room:
        barrier = threading.Barrier(20)
        heard: list[bytes] = []
        leave = threading.Event()

        def come() -> None:
            barrier.wait(SOON)
            with room.client() as client:
                heard.append(read_line(client))
                leave.wait(SOON)

        clients = [threading.Thread(target=come) for _ in range(20)]
        for client in clients:
            client.start()
        deadline = time.monotonic() + SOON
        while len(heard) < 20 and time.monotonic() < deadline:
            time.sleep(0.002)
        leave.set()
        for client in clients:
            client.join(SOON)
        assert sorted(heard) == [b"hello\n"] * 5 + [b"no: SERVICE_LIMIT\n"] * 15


def test_a_certificate_that_cannot_be_used_is_named(files: Files, tmp_path: Path) -> None:
    other = Authority.create().issue().write(tmp_path / "other")
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("this is no certificate")
    for chain, key, message in (
        (tmp_path / "missing.pem", files[2], "missing.pem: No such file"),
        (files[1], other[1], "not the key of the certificate"),
        (rubbish, files[2], "rubbish.pem"),
    ):
        with pytest.raises(CertificateError, match=message):
            server_context(chain, key)
