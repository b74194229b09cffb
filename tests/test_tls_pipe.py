"""TLS as a pipe: what goes in and comes out, however the records are cut and whatever the peer does."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from certs import Authority
from reference_server.tls import CertificateError, TlsFailure, TlsPipe, server_context


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create()


@pytest.fixture(scope="module")
def files(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return authority.issue().write(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def context(files: tuple[Path, Path]) -> ssl.SSLContext:
    return server_context(*files)


@pytest.fixture
def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.root_pem.decode("ascii"))


class Client:
    """The other end, in memory as well."""

    def __init__(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost", session=session)

    def shake_hands(self, pipe: TlsPipe, cut: int = 1 << 20) -> None:
        """To the end on both sides, in pieces of ``cut`` octets."""
        done = False
        while not (done and pipe.established):
            try:
                self.tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            self.send(pipe, cut)
            self.incoming.write(pipe.outgoing())

    def send(self, pipe: TlsPipe, cut: int = 1 << 20) -> None:
        """What has been written reaches the pipe."""
        records = self.outgoing.read()
        for start in range(0, len(records), cut):
            pipe.feed(records[start : start + cut])
            if not pipe.established:
                pipe.handshake()

    def hears(self, pipe: TlsPipe) -> bytes:
        self.incoming.write(pipe.outgoing())
        return self.tls.read(1 << 20)


@pytest.fixture
def ends(context: ssl.SSLContext, trusting: ssl.SSLContext) -> tuple[Client, TlsPipe]:
    client, pipe = Client(trusting), TlsPipe(context)
    client.shake_hands(pipe)
    return client, pipe


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("cut", [1, 7, 1 << 20])
def test_octets_go_through_however_records_are_cut(
    context: ssl.SSLContext, trusting: ssl.SSLContext, version: ssl.TLSVersion, cut: int
) -> None:
    trusting.minimum_version = trusting.maximum_version = version
    client, pipe = Client(trusting), TlsPipe(context)
    client.shake_hands(pipe, cut)
    assert pipe.security().bits == 256
    assert pipe.security().version == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
    client.tls.write(b"question")
    client.send(pipe, cut)
    assert pipe.read() == b"question"
    pipe.write(b"answer")
    assert client.hears(pipe) == b"answer"


def test_much_goes_through_at_once(ends: tuple[Client, TlsPipe]) -> None:
    client, pipe = ends
    pipe.write(b"x" * 3_000_000)
    client.incoming.write(pipe.outgoing())
    heard = 0
    while heard < 3_000_000:
        heard += len(client.tls.read(1 << 20))
    client.tls.write(b"y" * 3_000_000)
    client.send(pipe)
    assert pipe.read() == b"y" * 3_000_000


def test_half_a_record_is_nothing_yet(ends: tuple[Client, TlsPipe]) -> None:
    client, pipe = ends
    client.tls.write(b"whole")
    records = client.outgoing.read()
    pipe.feed(records[:-1])
    assert pipe.read() == b""
    assert not pipe.closed
    pipe.feed(records[-1:])
    assert pipe.read() == b"whole"


def test_close_notify_is_heard_behind_the_last_octets_and_answers_still_go_out(ends: tuple[Client, TlsPipe]) -> None:
    client, pipe = ends
    client.tls.write(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    client.send(pipe)
    assert pipe.read() == b"last"
    assert pipe.closed
    pipe.write(b"answer")  # RFC 8446 6.1: each side closes its own direction
    pipe.notify_close()
    assert client.hears(pipe) == b"answer"


def test_our_close_notify_waits_for_nobody(ends: tuple[Client, TlsPipe]) -> None:
    client, pipe = ends
    pipe.notify_close()
    client.incoming.write(pipe.outgoing())
    assert client.tls.read(1) == b""


def test_before_the_handshake_there_is_no_close_notify(context: ssl.SSLContext) -> None:
    pipe = TlsPipe(context)
    pipe.notify_close()
    assert pipe.outgoing() == b""


@pytest.mark.parametrize("octets", [b"EHLO in.clear.example\r\n", b"\x16\x03\x01\xff\xff" + bytes(70_000)])
def test_what_is_no_handshake_fails_and_never_becomes_application_data(context: ssl.SSLContext, octets: bytes) -> None:
    pipe = TlsPipe(context)
    pipe.feed(octets)
    with pytest.raises(TlsFailure):
        pipe.handshake()
    with pytest.raises(TlsFailure):
        pipe.read()
    with pytest.raises(TlsFailure):
        pipe.write(b"never")
    assert b"never" not in pipe.outgoing()


def test_a_forged_record_ends_it_behind_what_was_whole(ends: tuple[Client, TlsPipe]) -> None:
    client, pipe = ends
    client.tls.write(b"whole")
    client.send(pipe)
    pipe.feed(b"\x17\x03\x03\x00\x20" + b"forged!!" * 4)
    assert pipe.read() == b"whole"
    assert pipe.closed
    assert pipe.outgoing()  # the alert


def test_the_servers_order_of_ciphers_counts(context: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    trusting.maximum_version = ssl.TLSVersion.TLSv1_2
    trusting.set_ciphers("ECDHE+AESGCM+AES128:ECDHE+AESGCM+AES256")
    client, pipe = Client(trusting), TlsPipe(context)
    client.shake_hands(pipe)
    assert pipe.security().bits == 256


@pytest.mark.parametrize("ciphers", ["ECDHE+AESGCM+AES128", "AES256-GCM-SHA384", "ECDHE+AES256+SHA384"])
def test_weak_ciphers_and_those_without_forward_secrecy_are_not_agreed_on(
    context: ssl.SSLContext, trusting: ssl.SSLContext, ciphers: str
) -> None:
    trusting.maximum_version = ssl.TLSVersion.TLSv1_2
    trusting.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    with pytest.raises(TlsFailure):
        Client(trusting).shake_hands(TlsPipe(context))


def test_fewer_bits_can_be_allowed(files: tuple[Path, Path], trusting: ssl.SSLContext) -> None:
    trusting.maximum_version = ssl.TLSVersion.TLSv1_2
    trusting.set_ciphers("ECDHE+AESGCM+AES128")
    client, pipe = Client(trusting), TlsPipe(server_context(*files, min_bits=128))
    client.shake_hands(pipe)
    assert pipe.security().bits == 128


def test_a_session_of_one_service_is_not_resumed_by_another(
    files: tuple[Path, Path], context: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    trusting.maximum_version = ssl.TLSVersion.TLSv1_2
    first, pipe = Client(trusting), TlsPipe(context)
    first.shake_hands(pipe)
    again = Client(trusting, first.tls.session)
    again.shake_hands(TlsPipe(context))
    assert again.tls.session_reused
    elsewhere = Client(trusting, first.tls.session)
    elsewhere.shake_hands(TlsPipe(server_context(*files)))
    assert not elsewhere.tls.session_reused


def test_a_key_that_wants_a_password_is_refused_without_asking(files: tuple[Path, Path], tmp_path: Path) -> None:
    chain, key = files
    locked = tmp_path / "locked.pem"
    found = serialization.load_pem_private_key(key.read_bytes(), None)
    locked.write_bytes(
        found.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(CertificateError, match=r"locked\.pem: the key is encrypted"):
        server_context(chain, locked)


@pytest.mark.parametrize("missing", ["chain", "key"])
def test_a_file_that_is_not_there_is_named(files: tuple[Path, Path], tmp_path: Path, missing: str) -> None:
    absent = tmp_path / "absent.pem"
    chain, key = (absent, files[1]) if missing == "chain" else (files[0], absent)
    with pytest.raises(CertificateError, match=r"absent\.pem: No such file"):
        server_context(chain, key)
