"""A raw connection: every ending is told apart, and nothing that a real client hides is hidden."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from certs import Authority, Situation
from conformance.hello import TLS1_0, client_hello
from conformance.procfs import SUITE_PORTS
from conformance.transcript import Transcript
from conformance.wire import (
    TLS1_2,
    TLS1_3,
    Ended,
    Ending,
    Silent,
    Wire,
)
from conformance.wire_contexts import client_context, trusting_nobody
from conformance.wire_local import Occupied, Reservation

Serve = Callable[[socket.socket], None]
SOON = 5.0


@contextmanager
def server(serve: Serve) -> Iterator[int]:
    """A listener whose one client is served by ``serve`` on a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SOON)

        def accept() -> None:
            client, _ = listener.accept()
            with client:
                client.settimeout(SOON)
                serve(client)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(SOON)
            assert not thread.is_alive()


def connect(port: int) -> Wire:
    return Wire.connect("127.0.0.1", port, transcript=Transcript())


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority.create()
    root = folder / "root.pem"
    root.write_bytes(authority.root_pem)
    chain, key = authority.issue(Situation.VALID).write(folder / "leaf")
    return root, chain, key


@pytest.fixture
def server_context(tls_files: tuple[Path, Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # not every build of Python begins there
    context.load_cert_chain(tls_files[1], tls_files[2])
    return context


def test_a_line_is_read_and_what_comes_behind_it_stays() -> None:
    with server(lambda client: client.sendall(b"one\r\ntwo\r\n")) as port, connect(port) as wire:
        assert wire.read_line() == b"one\r\n"
        assert wire.read_line() == b"two\r\n"


def test_nobody_there_is_a_refused_connect() -> None:
    port = Reservation(next(free_ports()))
    try:
        with pytest.raises(Ended) as caught:
            connect(port.port)
        assert caught.value.ending is Ending.REFUSED
    finally:
        port.close()


def test_a_fin_is_told_from_a_reset() -> None:
    with server(lambda client: client.sendall(b"bye")) as port, connect(port) as wire:
        assert wire.await_end(SOON) == (Ending.FIN, b"bye")

    def reset(client: socket.socket) -> None:
        client.recv(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with server(reset) as port, connect(port) as wire:
        wire.send(b"x")
        assert wire.await_end(SOON)[0] is Ending.RST
        assert wire.ended_at is not None


def test_silence_is_not_an_end() -> None:
    done = threading.Event()
    with server(lambda _: (done.wait(SOON), None)[1]) as port, connect(port) as wire:
        with pytest.raises(Silent):
            wire.receive(0.05)
        with pytest.raises(Silent):
            wire.await_end(0.05)
        assert wire.ending is None
        done.set()


def test_close_notify_is_told_from_a_ragged_end(
    server_context: ssl.SSLContext, tls_files: tuple[Path, Path, Path]
) -> None:
    context = client_context(str(tls_files[0]))

    def orderly(client: socket.socket) -> None:
        with server_context.wrap_socket(client, server_side=True) as tls:
            tls.sendall(b"last words")
            with suppress(OSError):  # the client leaves without an answer of its own
                tls.unwrap()

    def ragged(client: socket.socket) -> None:
        tls = server_context.wrap_socket(client, server_side=True)
        tls.sendall(b"last words")
        tls.close()

    for serve, ending in ((orderly, Ending.CLOSE_NOTIFY), (ragged, Ending.RAGGED)):
        with server(serve) as port, connect(port) as wire:
            wire.start_tls(context, "localhost")
            assert wire.secure
            assert wire.receive() == b"last words"
            with pytest.raises(Ended) as caught:
                wire.receive()
            assert caught.value.ending is ending


@pytest.mark.parametrize("version", [TLS1_2, TLS1_3])
def test_what_comes_with_the_end_of_the_handshake_is_read(
    server_context: ssl.SSLContext, tls_files: tuple[Path, Path, Path], version: ssl.TLSVersion
) -> None:
    """A server may greet, and even take leave, in the segment that ends the handshake."""

    def serve(client: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = server_context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                if outgoing.pending:
                    client.sendall(outgoing.read())
                incoming.write(client.recv(65536))
        tls.write(b"hello\r\n")
        with suppress(ssl.SSLError):
            tls.unwrap()
        client.sendall(outgoing.read())

    context = client_context(str(tls_files[0]), minimum=version, maximum=version)
    with server(serve) as port, connect(port) as wire:
        wire.start_tls(context, "localhost")
        assert wire.read_line(SOON) == b"hello\r\n"
        assert wire.await_end(SOON)[0] is Ending.CLOSE_NOTIFY


def test_octets_in_clear_before_the_handshake_are_seen(tls_files: tuple[Path, Path, Path]) -> None:
    def greet_in_clear(client: socket.socket) -> None:
        client.sendall(b"220 hello in clear\r\n")
        client.recv(4096)

    with server(greet_in_clear) as port, connect(port) as wire:
        with pytest.raises(Ended) as caught:
            wire.start_tls(client_context(str(tls_files[0])), "localhost")
        assert caught.value.ending is Ending.TLS_FAILED
        assert bytes(wire.raw).startswith(b"220 hello in clear")


def test_a_client_that_trusts_nobody_fails_the_handshake_with_an_alert(server_context: ssl.SSLContext) -> None:
    alerts: list[str] = []

    def serve(client: socket.socket) -> None:
        try:
            server_context.wrap_socket(client, server_side=True).recv(1)
        except ssl.SSLError as error:
            alerts.append(str(error.reason))

    with server(serve) as port, connect(port) as wire, pytest.raises(Ended) as caught:
        wire.start_tls(trusting_nobody(), "localhost")
    assert caught.value.ending is Ending.TLS_FAILED
    assert "UNKNOWN_CA" in alerts[0]


def test_a_hand_made_hello_of_tls_1_0_is_refused_for_its_version(server_context: ssl.SSLContext) -> None:
    reasons: list[str] = []

    def serve(client: socket.socket) -> None:
        try:
            server_context.wrap_socket(client, server_side=True)
        except ssl.SSLError as error:
            reasons.append(str(error.reason))

    with server(serve) as port, connect(port) as wire:
        wire.send_raw(client_hello(TLS1_0))
        wire.await_end(SOON)
    assert reasons == ["UNSUPPORTED_PROTOCOL"]


def test_half_a_hello_completes_nothing(server_context: ssl.SSLContext) -> None:
    failed: list[str] = []

    def serve(client: socket.socket) -> None:
        try:
            server_context.wrap_socket(client, server_side=True)
        except (ssl.SSLError, OSError) as error:
            failed.append(type(error).__name__)

    with server(serve) as port, connect(port) as wire:
        wire.send_half_hello(trusting_nobody())
        wire.finish()
        wire.await_end(SOON)
    assert failed


def test_a_client_that_does_not_read_can_still_be_measured() -> None:
    done = threading.Event()
    with server(lambda _: (done.wait(SOON), None)[1]) as port, connect(port) as wire:
        sent = wire.send_some(b"x" * 50_000_000, patience=0.05)
        assert 0 < sent < 50_000_000
        done.set()


def test_what_was_said_before_a_door_was_closed_can_be_read_behind_all_that_was_sent() -> None:
    def serve(client: socket.socket) -> None:
        client.recv(4)
        client.sendall(b"goodbye\r\n")

    with server(serve) as port, connect(port) as wire:
        wire.pour(b"QUIT" + b"x" * 4_000_000)
        assert wire.read_line(SOON) == b"goodbye\r\n"
        with pytest.raises(Ended):
            wire.receive(SOON)


def test_a_reserved_number_is_kept_from_others_and_free_for_a_server() -> None:
    held = Reservation(next(free_ports()))
    try:
        with pytest.raises(OSError, match="in use"):
            Reservation(held.port)
        server_on_it = Occupied("127.0.0.1", held.port)
        server_on_it.close()
    finally:
        held.close()


def free_ports() -> Iterator[int]:
    for port in SUITE_PORTS:
        try:
            Reservation(port).close()
        except OSError:
            continue
        yield port


def test_octets_and_the_end_come_in_one_segment() -> None:
    seen: list[bytes] = []

    def serve(client: socket.socket) -> None:
        seen.append(client.recv(100, socket.MSG_WAITALL))
        seen.append(client.recv(100, socket.MSG_DONTWAIT))

    with server(serve) as port, connect(port) as wire:
        wire.send_raw_and_finish(b"farewell")
        assert wire.await_end(SOON)[0] in (Ending.FIN, Ending.RST)
    assert seen == [b"farewell", b""]
