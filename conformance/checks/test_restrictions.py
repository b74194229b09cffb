"""IP restrictions (ACL): who is let in and who is not, at every door, before anything else happens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from conformance.check import Channel, Inconclusive, Latitude, Mismatch, NotOffered, check
from conformance.checks.test_limits import require_exactly
from conformance.dialects.dialect import Malformed
from conformance.dialects.http import REFUSALS, read_response, request
from conformance.hello import AES_256, SIGNAL, TLS1_2, client_hello, in_clear
from conformance.scenarios import CLIENT, DENIED_CLIENT, SECOND_CLIENT, SERVER
from conformance.visit import Door, Endpoint, Form, Refusal, Visit
from conformance.wire import Ended, Silent, Wire
from reference_server.settings import Service

Elsewhere = Callable[[str], Endpoint]

RESTRICTED = ("restrictions",)
IMPLICIT = (Channel.IMPLICIT,)
#: How long a denied client is listened to that says something itself (seconds).
LISTENING = 1.0

#: Where HTTP is spoken.
WEB = (Service.WEBMAIL, Service.ADMIN)
#: By which a web client could say that it speaks for somebody else (RFC 7239, and what was there before it).
CLAIMS = (b"X-Forwarded-For: %s", b"Forwarded: for=%s", b"X-Real-IP: %s", b"True-Client-IP: %s", b"X-Client-IP: %s")

#: How a proxy's introduction of version 2 begins: its signature, and a TCP connection over IPv4.
PROXY_2_HEAD = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"


def proxy_lines(client: str, door: Door) -> dict[str, bytes]:
    """How a proxy would introduce ``client``."""
    octets = bytes(map(int, client.split("."))) + bytes(map(int, SERVER.split(".")))
    return {
        "PROXY": f"PROXY TCP4 {client} {SERVER} 50000 {door.port}\r\n".encode(),
        "PROXY of version 2": PROXY_2_HEAD + octets + (50000).to_bytes(2, "big") + door.port.to_bytes(2, "big"),
    }


def require_denied(endpoint: Endpoint, door: Door, source: str) -> None:
    """A client from there gets no service, in whatever way that is said."""
    outcome = endpoint.attempt(door, source, patience=endpoint.patience)
    if isinstance(outcome, Visit):
        with outcome:
            where = f"{door.address} port {door.port} ({endpoint.channel})"
            raise Mismatch(f"no service for {source} at {where}", "it was served")
    if outcome.wire is not None:
        outcome.wire.close()


def require_allowed(endpoint: Endpoint, door: Door, source: str) -> None:
    """A client from there is served like any other."""
    outcome = endpoint.attempt(door, source)
    if isinstance(outcome, Refusal):
        where = f"{door.address} port {door.port} ({endpoint.channel})"
        raise Mismatch(f"service for {source} at {where}", str(outcome))
    outcome.goodbye()


@check("ACL-01", scenario="allowed_only", needs=RESTRICTED)
def test_an_allowed_client_is_served(endpoint: Endpoint) -> None:
    for source in (CLIENT, "127.0.71.5", "127.0.74.9"):
        require_allowed(endpoint, endpoint.doors[0], source)


@check("ACL-02", scenario="allowed_only", needs=RESTRICTED)
def test_a_client_outside_gets_no_service(endpoint: Endpoint) -> None:
    door = endpoint.doors[0]
    require_allowed(endpoint, door, CLIENT)
    for source in (SECOND_CLIENT, DENIED_CLIENT, "127.0.71.70"):
        require_denied(endpoint, door, source)
    require_allowed(endpoint, door, CLIENT)


@check("ACL-04", scenario="allowed_only", needs=RESTRICTED)
def test_the_list_holds_at_every_door(endpoint: Endpoint) -> None:
    """Both ports, both addresses."""
    for door in endpoint.doors:
        require_allowed(endpoint, door, CLIENT)
        require_denied(endpoint, door, SECOND_CLIENT)
        require_denied(endpoint, door, DENIED_CLIENT)
        require_allowed(endpoint, door, "127.0.70.15")


@check("ACL-06", scenario="restricted_everywhere", needs=RESTRICTED, also=("general", "allowed_only"))
def test_without_a_rule_for_it_a_client_is_treated_as_declared(endpoint: Endpoint, elsewhere: Elsewhere) -> None:
    """No list at all: everybody.  A list of denied ones: everybody else.  A list of allowed ones: nobody else."""
    door = Door(SERVER, endpoint.ports[0])
    for source in (CLIENT, SECOND_CLIENT, "127.0.71.5"):
        require_allowed(endpoint, door, source)
    require_denied(endpoint, door, DENIED_CLIENT)
    unrestricted = elsewhere("general")
    for source in (SECOND_CLIENT, DENIED_CLIENT):
        require_allowed(unrestricted, unrestricted.doors[0], source)
    restricted = elsewhere("allowed_only")
    require_denied(restricted, restricted.doors[0], SECOND_CLIENT)


@check("ACL-09", scenario="allowed_only", needs=RESTRICTED)
def test_nobody_is_believed_who_says_that_he_is_somebody_else(endpoint: Endpoint) -> None:
    """A denied client that introduces itself as a proxy for one that is allowed."""
    door = endpoint.doors[0]
    require_allowed(endpoint, door, CLIENT)
    for title, line in proxy_lines(CLIENT, door).items():
        try:
            wire = endpoint.knock(door, DENIED_CLIENT)
            wire.send_raw(line)
        except (Ended, Silent):
            continue
        outcome = endpoint.enter(wire, endpoint.patience)
        wire.close()
        if isinstance(outcome, Visit):
            raise Mismatch(f"no service for {DENIED_CLIENT}, whatever its {title} line says", "it was served")
    if endpoint.service is Service.SMTP and endpoint.channel is Channel.PLAIN:
        xclient_is_not_believed(endpoint, door)
    if endpoint.service in WEB and endpoint.channel is not Channel.EXPLICIT:
        header_fields_are_not_believed(endpoint, door)
    require_allowed(endpoint, door, CLIENT)


def xclient_is_not_believed(endpoint: Endpoint, door: Door) -> None:
    """An allowed client may not say either that it speaks for another."""
    with endpoint.visit(door, CLIENT) as visit:
        try:
            visit.wire.send(b"XCLIENT ADDR=" + DENIED_CLIENT.encode() + b"\r\n")
            reply = visit.wire.read_line()
        except (Ended, Silent) as end:
            raise Mismatch("XCLIENT from anybody to be rejected, in a reply", str(end)) from None
        if reply.startswith(b"2"):
            raise Mismatch("XCLIENT from anybody to be rejected", repr(reply))
        if not visit.is_alive():
            raise Mismatch("the session to go on after XCLIENT was rejected", "it could no longer act")


def answered_who_claims(endpoint: Endpoint, door: Door, source: str, claim: bytes) -> int | None:
    """The status that a web client gets whose first request says that it is somebody else; None for no answer."""
    try:
        with endpoint.knock(door, source) as wire:
            if endpoint.channel is Channel.IMPLICIT:
                wire.start_tls(endpoint.context(), endpoint.server_name)
            wire.send(request(b"GET", b"/", claim))
            return read_response(wire, endpoint.patience).status
    except (Ended, Silent, Malformed):
        return None


def header_fields_are_not_believed(endpoint: Endpoint, door: Door) -> None:
    """Neither does one make an allowed client of one that is denied, nor the other way round; 400 is fair."""
    usual = answered_who_claims(endpoint, door, CLIENT, b"X-Listenspec: nothing")
    if usual is None or usual in REFUSALS:
        raise Inconclusive(f"a client that is allowed is answered {usual or 'nothing'}")
    for field in CLAIMS:
        as_allowed, as_denied = field % CLIENT.encode(), field % DENIED_CLIENT.encode()
        status = answered_who_claims(endpoint, door, DENIED_CLIENT, as_allowed)
        if status is not None and status not in REFUSALS and status != 400:
            raise Mismatch(f"no service for {DENIED_CLIENT}, whatever it claims", f"{status} to {as_allowed!r}")
        status = answered_who_claims(endpoint, door, CLIENT, as_denied)
        if status is None or status in REFUSALS:
            raise Mismatch(f"service for {CLIENT}, whatever it claims", f"{status or 'no answer'} to {as_denied!r}")


@check("ACL-10", scenario="allowed_only", needs=RESTRICTED)
def test_it_is_decided_before_any_command(endpoint: Endpoint) -> None:
    """Commands in the first segment of a denied client are not answered; best not even a handshake is done for it."""
    if endpoint.declared.restrictions.stage in ("login", "transaction"):
        raise NotOffered(f"the list is declared to be looked at at {endpoint.declared.restrictions.stage}")
    door = endpoint.doors[0]
    require_allowed(endpoint, door, CLIENT)
    shook_hands, said = False, b""
    wire: Wire | None = None
    try:
        wire = endpoint.knock(door, DENIED_CLIENT)
        if endpoint.channel is Channel.IMPLICIT:
            wire.start_tls(endpoint.context(), endpoint.server_name, endpoint.patience)
            shook_hands = True
        wire.send(endpoint.dialect.stray * 3)
        said = everything_said(wire)
    except (Ended, Silent) as end:
        endpoint.transcript.note(0, str(end))
    finally:
        if wire is not None:
            wire.close()
    answers = endpoint.dialect.sentences(said)
    # RFC 5321 3.1: who opens with 554 waits for QUIT, and answers all else with 503.
    waits_for_quit = answers[:1] and answers[0].startswith(b"554") and all(a.startswith(b"503") for a in answers[1:])
    if len(answers) > 1 and not waits_for_quit:
        raise Mismatch("no command of a denied client to be answered", f"it heard {said[:200]!r}")
    if shook_hands:
        raise Latitude("a denied client gets a TLS handshake before it is turned away")
    require_allowed(endpoint, door, CLIENT)


def everything_said(wire: Wire) -> bytes:
    """What the server says until it ends the connection, or says nothing more."""
    said, until = bytearray(), time.monotonic() + LISTENING
    with contextlib.suppress(Ended, Silent):
        while True:
            said += wire.receive(max(0.0, until - time.monotonic()))
    return bytes(said)


@check("ACL-11", scenario="limited_and_restricted", needs=("restrictions", "max_connections"))
def test_a_denied_client_holds_no_slot(endpoint: Endpoint) -> None:
    """However many of its connections come and go, or stay."""
    control = endpoint.fill()
    for visit in control:
        visit.goodbye()
    for _ in range(3):
        for _ in range(endpoint.limit):
            require_denied(endpoint, endpoint.doors[0], DENIED_CLIENT)
    require_exactly(endpoint)


@check("ACL-14", scenario="allowed_only", channels=IMPLICIT, needs=("restrictions", "implicit_tls"))
def test_a_denial_on_the_implicit_port_says_nothing_in_clear(endpoint: Endpoint) -> None:
    hello = client_hello(TLS1_2, (*AES_256, SIGNAL))
    for door in endpoint.doors:
        for said in (b"", hello, endpoint.dialect.stray):
            heard = heard_by_a_denied_client(endpoint, door, said)
            if clear := in_clear(heard):
                raise Mismatch("nothing in clear on the implicit port for a denied client", repr(clear[:200]))
    require_allowed(endpoint, endpoint.doors[0], CLIENT)


def heard_by_a_denied_client(endpoint: Endpoint, door: Door, said: bytes) -> bytes:
    """Every octet that it gets."""
    try:
        wire = endpoint.knock(door, DENIED_CLIENT)
    except (Ended, Silent):
        return b""
    with wire:
        try:
            if said:
                wire.send_raw(said)
            wire.await_end(LISTENING if said else endpoint.patience)
        except (Ended, Silent) as end:
            endpoint.transcript.note(wire.number, str(end))
        return bytes(wire.raw)


def require_control(endpoint: Endpoint) -> None:
    """Somebody else is served just now; otherwise nothing that is seen here means anything."""
    outcome = endpoint.attempt()
    if isinstance(outcome, Refusal):
        raise Inconclusive(f"not even an allowed client is served: {outcome}")
    outcome.goodbye()


def is_denied(endpoint: Endpoint, door: Door, source: str) -> bool:
    """Whether a client from there gets no service."""
    outcome = endpoint.attempt(door, source, patience=endpoint.patience)
    if isinstance(outcome, Visit):
        outcome.goodbye()
        return False
    if outcome.wire is not None:
        outcome.wire.close()
    return outcome.form is not Form.NONSENSE
