"""Implicit TLS (IMP): nothing in clear before, after or instead of the handshake; in all else a port like others."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Mapping
from typing import Any

from conformance.check import Channel, Inconclusive, Mismatch, check
from conformance.checks import test_limits as limits
from conformance.checks.test_explicit_tls import require_bad, require_refused
from conformance.checks.test_ports import confirm_with_a_real_client, require_binding
from conformance.checks.test_restrictions import heard_by_a_denied_client, require_allowed, require_denied
from conformance.checks.test_tls import require_certificate
from conformance.handshake import presented
from conformance.hello import AES_256, SIGNAL, TLS1_0, TLS1_2, client_hello, in_clear
from conformance.scenarios import CLIENT, DENIED_CLIENT, SECOND_CLIENT
from conformance.visit import Door, Endpoint, Form, Refusal, Visit, expecting
from conformance.watch import Seen
from conformance.wire import PATIENCE, Ended, Silent, Wire

Elsewhere = Callable[[str], Endpoint]
Observed = Callable[..., Seen]

IMPLICIT = (Channel.IMPLICIT,)
NEEDS = ("implicit_tls",)
#: How long a port is listened to that should say nothing by itself (seconds).
LISTENING = 0.15
#: How many clients begin a handshake and do not go on, and how soon others must be served all the same (seconds).
STALLED = 50
AT_ONCE = 1.0
#: A server that has a process for each client starts all of theirs first, which is over after a moment (seconds).
STARTS_WITHIN = 4.0


@check("IMP-01", scenario="general", channels=IMPLICIT, needs=NEEDS)
def test_the_handshake_begins_at_once_and_the_greeting_comes_inside(endpoint: Endpoint) -> None:
    """Nobody says anything before the client's first record."""
    with expecting("every port of implicit TLS to be connected to"):
        wires = [endpoint.knock(door) for door in endpoint.doors]
    until = time.monotonic() + LISTENING
    for wire in wires:
        with contextlib.suppress(Silent, Ended):
            wire.receive(max(0.01, until - time.monotonic()))
        if wire.raw:
            raise Mismatch("nothing from the server before the client begins the handshake", repr(bytes(wire.raw)))
    for wire in wires:
        outcome = endpoint.enter(wire)
        if isinstance(outcome, Refusal):
            raise Mismatch("service inside TLS", str(outcome))
        outcome.goodbye()
    with expecting("service inside TLS for a client whose ClientHello comes in two segments"):
        wire = endpoint.knock()
        wire.start_tls(endpoint.context(), endpoint.server_name, in_pieces=True)
        endpoint.dialect.greeting(wire, PATIENCE)
        endpoint.dialect.act(wire)
        endpoint.dialect.goodbye(wire)


#: What a client may send there that makes no handshake.
NO_HANDSHAKES: Mapping[str, bytes] = {
    "garbage": bytes(range(0x80, 0x100)) * 4,
    "an old version": client_hello(TLS1_0),
    "half a ClientHello and an alert": client_hello(TLS1_2, (*AES_256, SIGNAL))[:40] + bytes.fromhex("15030300020228"),
    "a request of HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@check(
    "IMP-02",
    scenario="general",
    channels=IMPLICIT,
    needs=NEEDS,
    watches=("silent_handshake", "half_hello"),
    also=("limited", "allowed_only"),
)
def test_no_octet_in_clear_ever_leaves_the_port(endpoint: Endpoint, elsewhere: Elsewhere, observed: Observed) -> None:
    """Not to a client that speaks in clear, that is one too many, that is denied, or whose time is up."""
    for title, octets in {**NO_HANDSHAKES, "commands in clear": endpoint.dialect.stray * 3}.items():
        with expecting("the port of implicit TLS to be connected to"):
            wire = endpoint.knock()
        with wire, contextlib.suppress(Ended, Silent):
            wire.send_raw(octets)
            wire.await_end(LISTENING)
        require_nothing_in_clear(wire, f"in answer to {title}")
    if "max_connections" in endpoint.declared.offers:
        surplus_hears_nothing_in_clear(elsewhere("limited"))
    if "restrictions" in endpoint.declared.offers:
        restricted = elsewhere("allowed_only")
        if clear := in_clear(heard_by_a_denied_client(restricted, restricted.doors[0], b"")):
            raise Mismatch("nothing in clear for a denied client", repr(clear[:200]))
    for name in ("silent_handshake", "half_hello"):
        seen = observed(name)
        seen.require()
        if clear := in_clear(seen.said):
            raise Mismatch(f"{seen.title}: nothing in clear when its time is up", repr(clear[:200]))
    endpoint.visit().goodbye()


def require_nothing_in_clear(wire: Wire, when: str) -> None:
    """Every octet that came belongs to a TLS record."""
    if clear := in_clear(bytes(wire.raw)):
        raise Mismatch(f"nothing in clear {when}", repr(clear[:200]))


def surplus_hears_nothing_in_clear(limited: Endpoint) -> None:
    """One client too many: once it says nothing, once it begins a handshake."""
    visits = limited.fill()
    for octets in (b"", client_hello(TLS1_2, (*AES_256, SIGNAL))):
        try:
            wire = limited.knock()
        except (Ended, Silent):
            continue
        with wire, contextlib.suppress(Ended, Silent):
            if octets:
                wire.send_raw(octets)
            wire.await_end(LISTENING)
        require_nothing_in_clear(wire, "for a client too many")
    for visit in visits:
        visit.goodbye()


@check("IMP-03", scenario="general", channels=IMPLICIT, needs=NEEDS)
def test_a_client_in_clear_gets_no_service(endpoint: Endpoint) -> None:
    plain = endpoint.through(Channel.PLAIN)
    for door in endpoint.doors:
        for opening in (b"", endpoint.dialect.stray)[door != endpoint.doors[0] :]:
            try:
                wire = endpoint.knock(door)
                if opening:
                    wire.send_raw(opening)
            except (Ended, Silent):
                continue
            outcome = plain.enter(wire, LISTENING)
            wire.close()
            if isinstance(outcome, Visit):
                raise Mismatch(f"no service in clear at port {door.port} of implicit TLS", "a client was served")
            if outcome.form is Form.REPLY:
                raise Mismatch(f"no word in clear at port {door.port} of implicit TLS", str(outcome))
    endpoint.visit().goodbye()


@check("IMP-04", scenario="listed", channels=IMPLICIT, needs=NEEDS)
def test_it_is_bound_to_the_addresses_of_the_plain_port(endpoint: Endpoint) -> None:
    plain = endpoint.through(Channel.PLAIN)
    bound = [address for address in endpoint.addresses if ":" not in address]
    for each in (plain, endpoint):
        require_binding(each, bound)


@check("IMP-05", scenario="limited", channels=IMPLICIT, needs=("implicit_tls", "max_connections"))
def test_it_shares_the_limit(endpoint: Endpoint) -> None:
    limits.test_channels_share_one_limit(endpoint)


@check("IMP-06", scenario="allowed_only", channels=IMPLICIT, needs=("implicit_tls", "restrictions"))
def test_the_same_addresses_are_let_in(endpoint: Endpoint) -> None:
    for each in (endpoint.through(Channel.PLAIN), endpoint):
        for source in (CLIENT, "127.0.70.20", "127.0.73.6"):
            require_allowed(each, each.doors[-1], source)
        for source in (DENIED_CLIENT, SECOND_CLIENT, "127.0.70.21", "127.0.71.64"):
            require_denied(each, each.doors[-1], source)


@check("IMP-07", scenario="idle", channels=IMPLICIT, needs=NEEDS, watches=("silent_handshake", "after_command"))
def test_it_has_the_same_time_out(endpoint: Endpoint, observed: Observed) -> None:
    """In the handshake and behind it."""
    del endpoint
    observed("silent_handshake").require_closed()
    observed("after_command").require_in_time()


@check("IMP-08", scenario="own_certificate", channels=IMPLICIT, needs=NEEDS)
def test_it_presents_the_selected_certificate(endpoint: Endpoint) -> None:
    """The same one as after an upgrade."""
    channels = [channel for channel in endpoint.channels if channel is not Channel.PLAIN]
    for each in map(endpoint.through, channels):
        for door in each.doors:
            with each.visit(door) as visit:
                require_certificate(each, presented(visit.wire))


@check("IMP-09", scenario="general", channels=IMPLICIT, needs=NEEDS)
def test_the_upgrade_is_neither_offered_nor_accepted_there(endpoint: Endpoint) -> None:
    command = endpoint.dialect.tls_command.decode()
    for door in endpoint.doors:
        with endpoint.visit(door) as visit:
            if endpoint.dialect.offers_tls(visit.wire):
                raise Mismatch(f"no {command} offered at port {door.port} of implicit TLS", "it is offered")
            where = f"at port {door.port} of implicit TLS"
            require_bad(endpoint, require_refused(endpoint, visit.wire, where), where)
            visit.goodbye()


def switched(endpoint: Endpoint, *, plain: bool, implicit: bool) -> None:
    """Have the service listen in clear, under implicit TLS, in both ways or not at all."""
    settings = copy.deepcopy(endpoint.site.settings)
    table: dict[str, Any] = settings["services"][endpoint.service.value]
    if not plain:
        table["ports"] = []
        table["explicit_tls"] = False
    if not implicit:
        table["implicit_tls_ports"] = []
    table["enabled"] = plain or implicit
    if (error := endpoint.site.reload(settings)) is not None:
        raise Mismatch("ports in clear and ports of implicit TLS to be switched independently", error)


def require_closed(endpoint: Endpoint, doors: list[Door]) -> None:
    """Nobody listens there."""
    for door in doors:
        outcome = endpoint.attempt(door, patience=endpoint.patience)
        if isinstance(outcome, Visit) or outcome.form is not Form.CONNECT:
            seen = "a client was served" if isinstance(outcome, Visit) else str(outcome)
            raise Mismatch(f"port {door.port} to be closed, as it is switched off", seen)


def through_combinations(endpoint: Endpoint, combinations: list[tuple[bool, bool]]) -> None:
    """Each of these, and then what was configured first."""
    first = endpoint.site.settings
    each = (endpoint.through(Channel.PLAIN), endpoint)
    doors = [one.doors for one in each]
    try:
        for combination in combinations:
            switched(endpoint, plain=combination[0], implicit=combination[1])
            for one, there, is_on in zip(each, doors, combination, strict=True):
                if not is_on:
                    require_closed(one, there)
                    continue
                for door in there:
                    one.visit(door).goodbye()
            endpoint.site.reload(first)
    finally:
        if (error := endpoint.site.reload(first)) is not None:
            raise Inconclusive(f"the server does not take its own settings back: {error}")
    for one, there in zip(each, doors, strict=True):
        one.visit(there[0]).goodbye()


@check("IMP-10", scenario="switched", channels=IMPLICIT, needs=("implicit_tls", "reload"))
def test_a_port_that_is_switched_off_is_closed(endpoint: Endpoint) -> None:
    through_combinations(endpoint, [(True, False)])


@check("IMP-13", scenario="switched", channels=IMPLICIT, needs=("implicit_tls", "reload"))
def test_both_kinds_of_port_are_independent(endpoint: Endpoint) -> None:
    """All four combinations."""
    through_combinations(endpoint, [(True, True), (False, True), (True, False), (False, False)])


@check("IMP-11", scenario="no_key", channels=IMPLICIT, needs=NEEDS)
def test_without_a_key_nothing_is_served(endpoint: Endpoint) -> None:
    """Not to start is an answer; a port that fails every handshake is one, too; a service in clear is none."""
    plain = endpoint.through(Channel.PLAIN)
    for door in endpoint.doors:
        outcome = endpoint.attempt(door, patience=endpoint.patience)
        if isinstance(outcome, Visit):
            raise Mismatch("no service under TLS without a key", "a client was served")
        try:
            wire = endpoint.knock(door)
        except (Ended, Silent):
            continue
        in_the_clear = plain.enter(wire, LISTENING)
        wire.close()
        if isinstance(in_the_clear, Visit) or in_the_clear.form is Form.REPLY:
            raise Mismatch(f"nothing in clear at port {door.port} of implicit TLS", "a client was answered in clear")


@check("IMP-12", scenario="general", channels=IMPLICIT, needs=NEEDS)
def test_handshakes_that_stall_delay_nobody(endpoint: Endpoint) -> None:
    """Half of them have said nothing, half of them half a ClientHello."""
    stalled: list[Wire] = []
    for number in range(min(STALLED, int(endpoint.settings.get("max_connections") or STALLED) // 2)):
        door = endpoint.doors[number % len(endpoint.doors)]
        try:
            wire = endpoint.knock(door)
            if number % 2:
                wire.send_half_hello(endpoint.context())
        except (Ended, Silent):
            continue
        stalled.append(wire)
    beside = served_everywhere(endpoint)
    if AT_ONCE < max(seconds or PATIENCE for seconds in beside) < STARTS_WITHIN:
        beside = served_everywhere(endpoint)
    for wire in stalled:
        wire.reset()
    alone = served_everywhere(endpoint)
    slowest = max(alone, key=lambda seconds: seconds or float("inf"))
    if slowest is None or slowest > AT_ONCE:
        raise Inconclusive("without any stalled handshake it takes as long")
    if None in beside:
        raise Mismatch(f"a client to be served beside {len(stalled)} stalled handshakes", "it was not")
    longest = max(seconds for seconds in beside if seconds is not None)
    if longest > AT_ONCE + slowest:
        raise Mismatch(
            f"a client to be served within {AT_ONCE:g} s beside {len(stalled)} stalled handshakes",
            f"it took {longest:.2f} s, and {slowest:.2f} s without them",
        )


def served_everywhere(endpoint: Endpoint) -> list[float | None]:
    """How long a client waits at each door, in clear and under TLS."""
    return [served_after(each, door) for each in (endpoint, endpoint.through(Channel.PLAIN)) for door in each.doors]


def served_after(endpoint: Endpoint, door: Door) -> float | None:
    """Seconds that a client waits for service there; None if it gets none."""
    began = time.monotonic()
    outcome = endpoint.attempt(door)
    if isinstance(outcome, Refusal):
        if outcome.wire is not None:
            outcome.wire.close()
        return None
    seconds = time.monotonic() - began
    outcome.goodbye()
    return seconds


@check("IMP-14", scenario="general", channels=IMPLICIT, needs=NEEDS)
def test_every_port_of_implicit_tls_serves(endpoint: Endpoint) -> None:
    for door in endpoint.doors:
        endpoint.visit(door).goodbye()
    confirm_with_a_real_client(endpoint, endpoint.doors[-1])
