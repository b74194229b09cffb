"""TLS clients made by hand, against a real TLS library: sessions, renegotiation and tickets."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from certs import Authority, KeyType
from conformance.client_1_2 import Client12
from conformance.client_1_3 import Client13
from conformance.hello import AES_128_OF_1_3, AES_256_OF_1_3
from conformance.records import TurnedAway
from conformance.transcript import Transcript
from conformance.wire import Wire

SOON = 5.0
#: SSL_OP_ALLOW_CLIENT_RENEGOTIATION and SSL_OP_ALLOW_UNSAFE_LEGACY_RENEGOTIATION, for which Python has no names.
ALLOW_RENEGOTIATION = 1 << 8
ALLOW_LEGACY = 1 << 18


@pytest.fixture(scope="module", params=["ec", "rsa"])
def context(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    key: KeyType = request.param
    folder: Path = tmp_path_factory.mktemp("certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*Authority.create().issue(key=key).write(folder))
    return context


@contextmanager
def echo(context: ssl.SSLContext) -> Iterator[Wire]:
    """A wire to a TLS server that greets, then says everything it hears again."""

    def serve() -> None:
        sock, _ = listener.accept()
        sock.settimeout(SOON)
        with suppress(OSError), context.wrap_socket(sock, server_side=True) as tls:
            tls.sendall(b"hello")
            while data := tls.recv(4096):
                tls.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SOON)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with Wire.connect("127.0.0.1", listener.getsockname()[1], transcript=Transcript()) as wire:
                yield wire
        finally:
            thread.join(SOON)
            assert not thread.is_alive()


CLIENTS: dict[str, Callable[[Wire], Client12 | Client13]] = {
    "TLS 1.2": Client12,
    "TLS 1.3, AES-256": lambda wire: Client13(wire, AES_256_OF_1_3),
    "TLS 1.3, AES-128": lambda wire: Client13(wire, AES_128_OF_1_3),
}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_session_carries_data_both_ways(context: ssl.SSLContext, client: str) -> None:
    with echo(context) as wire:
        session = CLIENTS[client](wire)
        session.handshake()
        assert session.receive(SOON) == b"hello"
        for said in (b"one", b"two"):
            session.send(said)
            assert session.receive(SOON) == said


@contextmanager
def options(context: ssl.SSLContext, *switched_on: int) -> Iterator[None]:
    before = context.options
    try:
        for option in switched_on:
            context.options |= option
        yield
    finally:
        context.options = before


def test_renegotiation_is_possible_where_it_is_switched_on(context: ssl.SSLContext) -> None:
    with options(context, ALLOW_RENEGOTIATION), echo(context) as wire:
        session = Client12(wire)
        session.handshake()
        assert session.receive(SOON) == b"hello"
        for said in (b"one", b"two"):
            session.renegotiate(patience=SOON)
            session.send(said)
            assert session.receive(SOON) == said


def test_the_legacy_kind_is_possible_where_that_is_switched_on(context: ssl.SSLContext) -> None:
    with options(context, ALLOW_RENEGOTIATION, ALLOW_LEGACY), echo(context) as wire:
        session = Client12(wire)
        session.handshake(signal=False)
        session.renegotiate(legacy=True, patience=SOON)
        session.send(b"on we go")
        assert session.receive(SOON) == b"on we go"


@pytest.mark.parametrize("legacy", [False, True])
def test_renegotiation_is_refused_otherwise(context: ssl.SSLContext, legacy: bool) -> None:
    with echo(context) as wire:
        session = Client12(wire)
        session.handshake(signal=not legacy)
        with pytest.raises(TurnedAway, match="no_renegotiation"):
            session.renegotiate(legacy=legacy, patience=SOON)


def test_tickets_tell_whether_they_allow_early_data(context: ssl.SSLContext) -> None:
    with echo(context) as wire:
        session = Client13(wire)
        session.handshake()
        assert session.receive(SOON) == b"hello"
        assert session.tickets == [0, 0]
