"""Explicit TLS (EXP) in HTTP: the upgrade in place of RFC 2817, and what becomes of the requests around it."""

from __future__ import annotations

from conformance.check import NO_CHANNEL, Channel, Inconclusive, Mismatch, check
from conformance.dialects.dialect import Malformed, NotServed
from conformance.dialects.http import exchange, read_response, read_to_the_end, request
from conformance.hello import in_clear
from conformance.visit import Door, Endpoint, Refusal, expecting
from conformance.wire import Ended, Silent, Wire

EXPLICIT = ("explicit_tls",)
#: What is asked for together with TLS.
ASKED = ((b"GET", b"/"), (b"OPTIONS", b"*"), (b"GET", b"/request-of-listenspec-that-leads-nowhere"))


def asking(plain: Endpoint, method: bytes, target: bytes) -> bytes:
    """A request that asks for TLS as well."""
    return request(method, target, plain.dialect.tls_command, b"Connection: Upgrade")


def status_inside(explicit: Endpoint, method: bytes, target: bytes) -> int:
    """What the request is answered with that is made under TLS: under implicit TLS, where there is that."""
    channel = Channel.IMPLICIT if Channel.IMPLICIT in explicit.channels else Channel.EXPLICIT
    outcome = explicit.through(channel).attempt()
    if isinstance(outcome, Refusal):
        raise Inconclusive(f"no session under TLS: {outcome}")
    with outcome, expecting(f"{method.decode()} {target.decode()} to be answered under TLS"):
        return exchange(outcome.wire, method, target).status


def require_agreed(wire: Wire) -> None:
    """101, with what RFC 2817 3.3 and RFC 9110 7.8 want of it."""
    response = read_response(wire)
    if response.status != 101:
        raise NotServed(response.line)
    if not any(each.strip().upper().startswith("TLS/") for each in response.header("upgrade").split(",")):
        raise Mismatch("101 with the version of TLS in Upgrade", f"Upgrade: {response.header('upgrade')!r}")
    if not response.lists("connection", "upgrade"):
        raise Mismatch("101 with Connection: Upgrade", f"Connection: {response.header('connection')!r}")


@check("EXP-19", scenario="general", channels=NO_CHANNEL, needs=EXPLICIT)
def test_the_request_that_asks_for_tls_is_answered_inside(endpoint: Endpoint) -> None:
    """On every plain port; whatever was asked, and without being asked again."""
    plain, explicit = endpoint.through(Channel.PLAIN), endpoint.through(Channel.EXPLICIT)
    for method, target in ASKED:
        words = f"{method.decode()} {target.decode()}"
        expected = status_inside(explicit, method, target)
        for door in plain.doors:
            with plain.visit(door) as visit:
                wire = visit.wire
                with expecting(f"101 to {words} with Upgrade, and the handshake"):
                    wire.send(asking(plain, method, target))
                    require_agreed(wire)
                    wire.start_tls(explicit.context(), explicit.server_name)
                with expecting(f"the answer to {words} as the first under TLS"):
                    answer = read_response(wire)
                if answer.status != expected:
                    raise Mismatch(
                        f"the answer to {words} as the first under TLS (status {expected})",
                        answer.line.decode("latin-1"),
                    )
                with expecting("the next request to be answered under TLS"):
                    exchange(wire, b"GET", b"/")


@check("EXP-20", scenario="general", channels=NO_CHANNEL, needs=EXPLICIT)
def test_nothing_pipelined_in_clear_behind_the_upgrade_is_answered(endpoint: Endpoint) -> None:
    """A whole request, three of them, and half a one, each in the segment of the upgrade."""
    plain, explicit = endpoint.through(Channel.PLAIN), endpoint.through(Channel.EXPLICIT)
    stray = explicit.dialect.stray
    expected = [status_inside(explicit, b"OPTIONS", b"*"), status_inside(explicit, b"GET", b"/")]
    for door in plain.doors:
        for behind in (stray, stray * 3, stray[:-3]):
            require_not_answered(plain, door, behind, expected)
    explicit.visit().goodbye()


def require_not_answered(plain: Endpoint, door: Door, behind: bytes, expected: list[int]) -> None:
    """Inside TLS there are two answers: to the request that asked for it, and to the next that is made there."""
    with plain.visit(door) as visit:
        wire = visit.wire
        try:
            wire.send(asking(plain, b"OPTIONS", b"*") + behind)
            if read_response(wire).status != 101:
                return  # no upgrade for the sake of what came with it
        except (Ended, Silent, Malformed):
            return
        heard = wire.heard
        try:
            wire.start_tls(plain.context(), plain.server_name)
        except (Ended, Silent) as error:
            if answered := in_clear(bytes(wire.raw[heard:])):
                raise Mismatch(f"{behind!r} behind the upgrade not to be answered", f"in clear: {answered!r}") from None
            plain.transcript.note(wire.number, f"what came in clear was taken for TLS: {error}")
            return
        try:
            wire.send(request(b"GET", b"/", b"Connection: close"))
            responses, _ = read_to_the_end(wire)
        except Ended:
            return
        except Silent as error:
            raise Inconclusive(f"inside TLS the connection is not closed: {error}") from None
        except Malformed as nonsense:
            raise Mismatch("answers inside TLS", str(nonsense)) from None
        inside = [response.status for response in responses]
        if responses and inside != expected[: len(inside)]:
            raise Mismatch(
                f"inside TLS, the answer to the request that asked for it and to the next one {expected}, and none to "
                f"{behind!r} that came in clear",
                f"{inside}",
            )
