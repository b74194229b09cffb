"""Hand-made ClientHello messages: a real TLS library takes them for what they say, and its answers are read rightly."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from certs import Authority, KeyType
from conformance.hello import (
    AES_128,
    AES_128_OF_1_3,
    AES_256,
    AES_256_OF_1_3,
    CHACHA_20_OF_1_3,
    OLD_SUITES,
    RENEGOTIATION_INFO,
    SIGNAL,
    SSL2,
    SSL3,
    TLS1_0,
    TLS1_1,
    TLS1_2,
    TLS1_3,
    WEAK_SUITES,
    WITHOUT_FORWARD_SECRECY,
    Answer,
    client_hello,
    in_clear,
    read_answer,
    ssl2_hello,
)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create()


def server(folder: Path, authority: Authority, *, key: KeyType = "ec", ciphers: str = "") -> ssl.SSLContext:
    """A server that takes everything its library can do since TLS 1.2, however weak."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # not every build of Python begins there
    context.load_cert_chain(*authority.issue(key=key).write(folder / key))
    if ciphers:
        context.set_ciphers(ciphers)
    return context


def permissive(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_ciphers("ALL:eNULL:aNULL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    return context


def answer(context: ssl.SSLContext, hello: bytes) -> Answer:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(hello)
    with pytest.raises(ssl.SSLError):  # at the least it wants more
        tls.do_handshake()
    return read_answer(outgoing.read())


@pytest.mark.parametrize("version", [TLS1_0, TLS1_1])
@pytest.mark.parametrize("key", ["ec", "rsa"])
def test_a_server_that_still_speaks_an_old_version_takes_the_offer(
    tmp_path: Path, authority: Authority, version: int, key: KeyType
) -> None:
    hello = answer(permissive(server(tmp_path, authority, key=key)), client_hello(version)).hello
    assert hello is not None
    assert hello.version == version


@pytest.mark.parametrize("version", [SSL3, TLS1_0, TLS1_1])
def test_a_modern_server_refuses_an_old_version_for_being_old(
    tmp_path: Path, authority: Authority, version: int
) -> None:
    refused = answer(server(tmp_path, authority), client_hello(version))
    assert refused.hello is None
    # SSL 3 had no alert for it.
    assert str(refused) == ("alert handshake_failure" if version == SSL3 else "alert protocol_version")


def test_old_versions_in_the_extension_are_refused_too(tmp_path: Path, authority: Authority) -> None:
    refused = answer(server(tmp_path, authority), client_hello(TLS1_2, versions=(TLS1_1, TLS1_0)))
    assert str(refused) == "alert protocol_version"


def test_ssl_2_is_not_understood(tmp_path: Path, authority: Authority) -> None:
    assert answer(server(tmp_path, authority), ssl2_hello()).hello is None


def test_the_answer_of_a_server_of_ssl_2_is_recognised() -> None:
    hello = read_answer(bytes.fromhex("802b 04 00 01 0002 0000 0003 0010") + bytes(20)).hello
    assert hello is not None
    assert hello.version == SSL2


@pytest.mark.parametrize("weakness", ["no encryption", "no authentication"])
@pytest.mark.parametrize("key", ["ec", "rsa"])
def test_a_careless_server_takes_a_weak_suite(
    tmp_path: Path, authority: Authority, weakness: str, key: KeyType
) -> None:
    suites = WEAK_SUITES[weakness]
    hello = answer(permissive(server(tmp_path, authority, key=key)), client_hello(TLS1_2, (*suites, SIGNAL))).hello
    assert hello is not None
    assert hello.suite in suites


@pytest.mark.parametrize("weakness", WEAK_SUITES)
def test_a_careful_server_takes_none(tmp_path: Path, authority: Authority, weakness: str) -> None:
    refused = answer(server(tmp_path, authority), client_hello(TLS1_2, (*WEAK_SUITES[weakness], SIGNAL)))
    assert refused.hello is None
    assert refused.alert is not None


def test_no_group_of_weak_suites_contains_a_good_one() -> None:
    good = {*AES_128, *AES_256, *WITHOUT_FORWARD_SECRECY, AES_128_OF_1_3, AES_256_OF_1_3, CHACHA_20_OF_1_3}
    for suites in WEAK_SUITES.values():
        assert not good & set(suites)


def test_tls_1_2_shows_its_certificates_and_its_choice(tmp_path: Path, authority: Authority) -> None:
    context = server(tmp_path, authority, ciphers="ECDHE+AES256")
    seen = answer(context, client_hello(TLS1_2, (*AES_128, *AES_256, SIGNAL), compressions=b"\x01\x00"))
    assert seen.hello is not None
    assert (seen.hello.version, seen.hello.suite, seen.hello.compression) == (TLS1_2, AES_256[0], 0)
    assert RENEGOTIATION_INFO in seen.hello.extensions
    written = x509.load_pem_x509_certificates((tmp_path / "ec" / "chain.pem").read_bytes())
    assert seen.chain == tuple(certificate.public_bytes(Encoding.DER) for certificate in written)


@pytest.mark.parametrize("first", [AES_128_OF_1_3, AES_256_OF_1_3, CHACHA_20_OF_1_3])
def test_tls_1_3_shows_which_suite_it_takes(tmp_path: Path, authority: Authority, first: int) -> None:
    seen = answer(server(tmp_path, authority), client_hello(TLS1_3, (first,)))
    assert seen.hello is not None
    assert (seen.hello.version, seen.hello.suite, seen.hello.retry) == (TLS1_3, first, False)
    assert seen.settled


def test_a_server_that_wants_another_curve_asks_for_another_hello(tmp_path: Path, authority: Authority) -> None:
    context = server(tmp_path, authority)
    context.set_ecdh_curve("secp384r1")
    seen = answer(context, client_hello(TLS1_3, (AES_256_OF_1_3,)))
    assert seen.hello is not None
    assert seen.hello.retry
    assert seen.hello.suite == AES_256_OF_1_3


def test_a_name_can_be_anything(tmp_path: Path, authority: Authority) -> None:
    asked: list[str | None] = []
    context = server(tmp_path, authority)
    context.sni_callback = lambda _tls, name, _context: asked.append(name)
    for name in ("elsewhere.invalid", b"127.0.0.1", b"x" * 255, None):
        assert answer(context, client_hello(TLS1_2, AES_256, name)).hello is not None
    assert asked == ["elsewhere.invalid", "127.0.0.1", "x" * 255, None]
    assert answer(context, client_hello(TLS1_2, AES_256, b"local\0host")).alert is not None


def test_unknown_protocols_are_offered(tmp_path: Path, authority: Authority) -> None:
    context = server(tmp_path, authority)
    context.set_alpn_protocols(["imap"])
    chosen = answer(context, client_hello(TLS1_2, AES_256, protocols=(b"nonsense", b"imap"))).hello
    assert chosen is not None
    assert chosen.extensions[16] == b"\x00\x05\x04imap"


def test_what_is_no_tls_is_told_from_it() -> None:
    alert = bytes.fromhex("15 0303 0002 0228")
    assert in_clear(alert) == b""
    assert in_clear(alert[:3]) == b""
    assert in_clear(alert + b"* BYE\r\n") == b"* BYE\r\n"
    assert in_clear(b"220 ready\r\n") == b"220 ready\r\n"
    assert read_answer(b"220 ready\r\n").settled
    assert str(read_answer(b"220 ready\r\n")) == r"b'220 ready\r\n' in clear"
    assert str(read_answer(alert)) == "alert handshake_failure"
    assert str(read_answer(b"")) == "no answer"


@given(st.binary(max_size=200))
def test_nothing_that_comes_back_breaks_the_reader(octets: bytes) -> None:
    read_answer(octets)
    read_answer(b"\x16\x03\x03" + len(octets).to_bytes(2, "big") + octets)
    read_answer(b"\x16\x03\x03" + (len(octets) + 4).to_bytes(2, "big") + b"\x02\0\0" + bytes([len(octets)]) + octets)


def test_an_answer_that_comes_octet_by_octet_is_the_same(tmp_path: Path, authority: Authority) -> None:
    context = server(tmp_path, authority)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(client_hello(TLS1_2, (*AES_256, *OLD_SUITES)))
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    octets = outgoing.read()
    settled_at = next(length for length in range(len(octets) + 1) if read_answer(octets[:length]).settled)
    assert read_answer(octets[:settled_at]).chain == read_answer(octets).chain
    assert all(not read_answer(octets[:length]).clear for length in range(len(octets)))
