"""TLS clients of every kind at a door, and what becomes of their handshakes.

Owns: the way to the point where a ClientHello is due, the answers to hand-made ones, sessions with clients that are
pinned to something, and which certificate was presented.  Knows no requirement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from conformance.check import Channel, Inconclusive
from conformance.dialects import NotServed
from conformance.dialects.dialect import Malformed
from conformance.hello import (
    AES_128,
    AES_128_OF_1_3,
    AES_256,
    AES_256_OF_1_3,
    CHACHA_20,
    CHACHA_20_OF_1_3,
    SIGNAL,
    Answer,
    ServerHello,
    client_hello,
    read_answer,
)
from conformance.hello import TLS1_2 as VERSION_1_2
from conformance.hello import TLS1_3 as VERSION_1_3
from conformance.visit import Door, Endpoint, Refusal, Visit
from conformance.wire import PATIENCE, TLS1_2, TLS1_3, Ended, Ending, Silent, Wire
from conformance.wire_contexts import client_context

#: How long a ClientHello that needs no answer is given to get one (seconds).
HELLO_PATIENCE = 1.0
#: TLS 1.2 and 1.3 for :func:`client`, by the names that drivers use.
PINNED = {"1.2": TLS1_2, "1.3": TLS1_3}


@dataclass(frozen=True, slots=True)
class Reaction:
    """What a ClientHello led to: what could be read of the answer, and how the connection ended, if it did."""

    answer: Answer
    ending: Ending | None = None

    def __str__(self) -> str:
        if self.ending is None or self.answer.settled:
            return str(self.answer)
        return f"{self.answer}, {self.ending}"


def at_the_hello(endpoint: Endpoint, door: Door | None = None, *, behind: bytes = b"") -> Wire:
    """A connection on which the client's next octets are to be a ClientHello.

    Explicit TLS has been asked for and granted, ``behind`` having gone out with the request.  Raises
    :class:`Inconclusive` when it does not come so far: that is judged elsewhere.
    """
    wire: Wire | None = None
    try:
        wire = endpoint.knock(door)
        if endpoint.channel is not Channel.IMPLICIT:
            endpoint.dialect.greeting(wire, PATIENCE)
            endpoint.dialect.act(wire)
            if (reply := endpoint.dialect.ask_tls(wire, behind=behind)) is not None:
                raise NotServed(reply)
    except (Ended, Silent, NotServed, Malformed) as error:
        if wire is not None:
            wire.close()
        raise Inconclusive(f"no connection to begin TLS on: {error}") from None
    return wire


def offer(endpoint: Endpoint, hello: bytes, door: Door | None = None, patience: float = HELLO_PATIENCE) -> Reaction:
    """Send a hand-made ClientHello and see what comes, up to what is encrypted."""
    wire = at_the_hello(endpoint, door)
    octets = b""
    try:
        wire.send_raw(hello)
        while not (answer := read_answer(octets)).settled:
            octets += wire.receive(patience, "an answer to a ClientHello")
    except Ended as end:
        return Reaction(read_answer(octets), end.ending)
    except Silent:
        return Reaction(read_answer(octets))
    finally:
        wire.reset()
    return Reaction(answer)


def require_hello(endpoint: Endpoint, hello: bytes, door: Door | None = None) -> ServerHello:
    """What the server chooses from an offer that has something for everybody.

    Raises :class:`Inconclusive` when it answers with no ServerHello: that is judged elsewhere.
    """
    seen = offer(endpoint, hello, door, PATIENCE)
    if seen.answer.hello is None:
        raise Inconclusive(f"a ClientHello made by hand is not answered with a ServerHello: {seen}")
    return seen.answer.hello


def client(
    endpoint: Endpoint,
    version: str | None = None,
    *,
    ciphers: str | None = None,
    protocols: Sequence[str] = (),
    server_name: str | None = "localhost",
) -> Endpoint:
    """The same door for a client that speaks one version only, or offers certain TLS 1.2 suites or ALPN names only.

    It verifies the certificate when it asks for ``localhost``, and takes any when it asks for something else.
    """
    pinned = PINNED[version] if version is not None else None
    trusted = endpoint.ca_file if server_name == "localhost" else None
    context = client_context(trusted, minimum=pinned, maximum=pinned)
    if ciphers is not None:
        context.set_ciphers(ciphers)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return endpoint.for_client(context, server_name)


def declared_versions(endpoint: Endpoint) -> list[str]:
    """The versions that the target declares."""
    return sorted(endpoint.declared.tls.versions)


def versions(endpoint: Endpoint) -> list[str]:
    """Those of them that it answers to: that it answers to all of them is one requirement, and not every one.

    Raises :class:`Inconclusive` when it answers to none.
    """
    spoken = [
        version
        for version in declared_versions(endpoint)
        if offer(endpoint, pinned_hello(version), patience=PATIENCE).answer.hello is not None
    ]
    if not spoken:
        raise Inconclusive("a ClientHello made by hand is not answered with a ServerHello, whatever its version")
    return spoken


def bits(visit: Visit) -> tuple[str, int]:
    """The name of the session's suite and the size of its key."""
    cipher = visit.wire.tls.cipher() if visit.wire.tls is not None else None
    if cipher is None:
        raise Inconclusive("a session without a cipher")
    return cipher[0], cipher[2]


def configured_chain(endpoint: Endpoint) -> list[bytes]:
    """The certificates of the file that the service selects, DER, as they are now."""
    name = endpoint.settings["certificate"]
    file = Path(endpoint.site.settings["certificates"][name]["chain"])
    return [each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(file.read_bytes())]


def presented(wire: Wire) -> bytes:
    """The certificate that the server of a session has shown, DER."""
    shown = wire.tls.getpeercert(binary_form=True) if wire.tls is not None else None
    if shown is None:
        raise Inconclusive("a session without a certificate")
    return shown


def describe(certificate: bytes) -> str:
    """A certificate in a few words."""
    try:
        known = x509.load_der_x509_certificate(certificate)
    except ValueError:
        return f"{len(certificate)} octets that are no certificate"
    return f"{known.subject.rfc4514_string()}, serial number {known.serial_number:x}"


def still_serves(endpoint: Endpoint) -> bool:
    """Whether an ordinary client is served."""
    outcome = endpoint.attempt()
    if isinstance(outcome, Refusal):
        return False
    outcome.goodbye()
    return True


_SUITES_OF_1_2 = (*AES_256, *CHACHA_20, *AES_128, SIGNAL)
_SUITES_OF_1_3 = (AES_256_OF_1_3, CHACHA_20_OF_1_3, AES_128_OF_1_3)


def pinned_hello(version: str, server_name: str | bytes | None = "localhost") -> bytes:
    """A hand-made ClientHello of one version, with every good suite."""
    if version == "1.2":
        return client_hello(VERSION_1_2, _SUITES_OF_1_2, server_name)
    return client_hello(VERSION_1_3, _SUITES_OF_1_3, server_name)


def usual_hello() -> bytes:
    """A hand-made ClientHello that every server must have an answer to: the control beside those that it must not."""
    return client_hello(VERSION_1_3, (*_SUITES_OF_1_3, *_SUITES_OF_1_2), versions=(VERSION_1_3, VERSION_1_2))


def require_control(endpoint: Endpoint, door: Door | None = None) -> None:
    """Raises :class:`Inconclusive` when an ordinary hand-made hello is not answered: others then show nothing."""
    require_hello(endpoint, usual_hello(), door)
