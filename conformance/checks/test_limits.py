"""Simultaneous connections (LIM): exactly as many as configured, over every port, address and channel.

Every check here counts sessions that can still act, each proved by an answer of its own, and ends with a full refill,
so that a slot that was lost or given back twice shows, in either direction.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle, islice

from conformance.check import (
    NO_CHANNEL,
    Channel,
    Inconclusive,
    Mismatch,
    NotAssessable,
    NotOffered,
    check,
)
from conformance.dialects import NotServed
from conformance.hello import TLS1_0, client_hello
from conformance.scenarios import (
    DENIED_CLIENT,
)
from conformance.visit import Door, Endpoint, Form, Refusal, Visit, at_once, served_at_once
from conformance.watch import Seen
from conformance.wire import Ended, Silent, Wire
from conformance.wire_contexts import trusting_nobody

Observed = Callable[[str], Seen]

LIMITED = ("max_connections",)
#: How long a limit may be exceeded before it must show (contract: allow 3 s).
SHOWS_WITHIN = 3.0
#: A moment without any traffic of ours (seconds).
QUIET = 0.05


def require_full(endpoint: Endpoint, holders: list[Visit], door: Door | None = None) -> None:
    """With ``holders`` served, one more is not; or an older one gave way to it."""
    outcome = endpoint.attempt(door, patience=endpoint.patience)
    if isinstance(outcome, Refusal):
        if outcome.wire is not None:
            outcome.wire.close()
        return
    everybody = [*holders, outcome]
    deadline = time.monotonic() + (SHOWS_WITHIN if gives_way(endpoint) else 0.0)
    while True:
        alive = served_at_once(everybody)
        if alive <= len(holders):
            break
        if time.monotonic() >= deadline:
            outcome.close()
            where = door or endpoint.doors[0]
            raise Mismatch(
                f"no more than {len(holders)} clients served at once",
                f"{alive} could act at the same time, the last one at {where.address} port {where.port}"
                f" ({endpoint.channel})",
            )
        time.sleep(0.1)
    outcome.close()


def gives_way(endpoint: Endpoint) -> bool:
    """Whether the target declares that it makes room for newcomers."""
    return endpoint.declared.limit.surplus == "evict_oldest_unauthenticated"


def require_exactly(endpoint: Endpoint) -> None:
    """As many as the limit says are served at once, and not one more; then all leave."""
    visits = endpoint.fill()
    require_full(endpoint, visits)
    for visit in visits:
        visit.goodbye()


def require_scope(endpoint: Endpoint, *wider: str) -> None:
    """The target declares a limit that is counted together at least that widely."""
    if endpoint.declared.limit.scope not in ("service", *wider):
        raise NotOffered(f"the limit is declared to count per {endpoint.declared.limit.scope}")


def refill_after(endpoint: Endpoint, leave: Callable[[Visit], None]) -> None:
    """Fill, have everybody leave in some way, and find exactly as many places again."""
    for visit in endpoint.fill():
        leave(visit)
    require_exactly(endpoint)


@check("LIM-01", scenario="limited")
def test_as_many_as_configured_are_served_at_once(endpoint: Endpoint) -> None:
    visits = endpoint.fill()
    alive = served_at_once(visits)
    if alive != endpoint.limit:
        raise Mismatch(f"{endpoint.limit} sessions that can all act, twice over", f"{alive} could")


@check("LIM-02", scenario="limited")
def test_one_more_is_not_served(endpoint: Endpoint) -> None:
    visits = endpoint.fill()
    require_full(endpoint, visits)
    if not gives_way(endpoint) and served_at_once(visits) != endpoint.limit:
        raise Mismatch("those that were there first to stay", "a held session was lost to a newcomer")


@check("LIM-03", scenario="limited")
def test_a_slot_is_free_after_an_orderly_end(endpoint: Endpoint) -> None:
    refill_after(endpoint, Visit.goodbye)


@check("LIM-04", scenario="limited")
def test_a_slot_is_free_after_a_fin_without_goodbye(endpoint: Endpoint) -> None:
    refill_after(endpoint, lambda visit: visit.wire.finish())


@check("LIM-05", scenario="limited")
def test_a_slot_is_free_after_a_reset(endpoint: Endpoint) -> None:
    """Reset in the middle of a session, before the greeting is read, and at once after the connect."""
    for _ in range(2):
        for visit in endpoint.fill():
            visit.wire.reset()
    for _ in range(3 * endpoint.limit):
        reset_at_once(endpoint)
    for _ in range(endpoint.limit):
        try:
            wire = endpoint.knock()
            if endpoint.channel is not Channel.IMPLICIT and endpoint.dialect.greets:
                wire.receive(0.2)
            wire.reset()
        except (Ended, Silent):
            continue
    require_exactly(endpoint)


def reset_at_once(endpoint: Endpoint) -> None:
    """Connect and reset before the server can have said anything."""
    try:
        endpoint.knock().reset()
    except (Ended, Silent):
        return


@check("LIM-06", scenario="limited", channels=(Channel.IMPLICIT,))
def test_a_slot_is_free_after_a_failed_implicit_handshake(endpoint: Endpoint) -> None:
    for fail in islice(cycle(HANDSHAKE_FAILURES), 3 * len(HANDSHAKE_FAILURES)):
        try:
            fail(endpoint, endpoint.knock())
        except (Ended, Silent):
            continue
    require_exactly(endpoint)


@check("LIM-07", scenario="limited", channels=(Channel.EXPLICIT,))
def test_a_slot_is_free_after_a_failed_explicit_handshake(endpoint: Endpoint) -> None:
    plain = endpoint.through(Channel.PLAIN)
    for failed, fail in enumerate(islice(cycle(HANDSHAKE_FAILURES), 2 * len(HANDSHAKE_FAILURES))):
        visit = plain.eventually()
        if isinstance(visit, Refusal):
            raise Mismatch("slots of failed handshakes to be free again", f"after {failed} of them: {visit}")
        try:
            if (reply := plain.dialect.ask_tls(visit.wire)) is not None:
                raise Inconclusive(f"explicit TLS was refused: {reply!r}")
            fail(plain, visit.wire)
        except (Ended, Silent):
            continue
    require_exactly(endpoint)


def _send_garbage(endpoint: Endpoint, wire: Wire) -> None:
    del endpoint
    wire.send_raw(bytes(range(0x80, 0x100)) * 4)
    wire.await_end(1.0)


def _speak_plainly(endpoint: Endpoint, wire: Wire) -> None:
    endpoint.dialect.begin(wire)
    wire.send_raw(b"\r\n")
    wire.await_end(1.0)


def _offer_an_old_version(endpoint: Endpoint, wire: Wire) -> None:
    del endpoint
    wire.send_raw(client_hello(TLS1_0))
    wire.await_end(1.0)


def _stop_halfway(endpoint: Endpoint, wire: Wire) -> None:
    wire.send_half_hello(endpoint.context())
    wire.finish()
    wire.await_end(1.0)


def _reset_halfway(endpoint: Endpoint, wire: Wire) -> None:
    wire.send_half_hello(endpoint.context())
    wire.reset()


def _refuse_the_certificate(endpoint: Endpoint, wire: Wire) -> None:
    del endpoint
    # A client that trusts nobody ends the handshake with an alert.
    wire.start_tls(trusting_nobody(), "localhost")


HANDSHAKE_FAILURES: tuple[Callable[[Endpoint, Wire], None], ...] = (
    _send_garbage,
    _speak_plainly,
    _offer_an_old_version,
    _stop_halfway,
    _reset_halfway,
    _refuse_the_certificate,
)


@check("LIM-08", scenario="idle_and_full", needs=LIMITED, watches=("refill",))
def test_a_slot_is_free_after_an_idle_close(endpoint: Endpoint, observed: Observed) -> None:
    del endpoint
    observed("refill").require()


@check("LIM-09", scenario="limited")
def test_refused_connections_consume_nothing(endpoint: Endpoint) -> None:
    visits = endpoint.fill()
    for _ in range(10 * endpoint.limit):
        outcome = endpoint.attempt(patience=0.02 if endpoint.declared.limit.surplus == "queue" else endpoint.patience)
        if isinstance(outcome, Visit):
            outcome.close()
        elif outcome.wire is not None:
            outcome.wire.close()
    if gives_way(endpoint):
        # Every newcomer took the place of an older one; what counts is that exactly as many are served now.
        for visit in visits:
            visit.close()
        require_exactly(endpoint)
        return
    visits.pop().goodbye()
    newcomer = endpoint.eventually()
    if isinstance(newcomer, Refusal):
        raise Mismatch("one client to be served in place of the one that left", str(newcomer))
    require_full(endpoint, [*visits, newcomer])
    for visit in (*visits, newcomer):
        visit.close()
    require_exactly(endpoint)


@check("LIM-10", scenario="limited_and_restricted")
def test_denied_connections_consume_nothing(endpoint: Endpoint) -> None:
    """A denied client keeps twice as many connections open as there are slots, and takes none."""
    control = endpoint.fill()
    for visit in control:
        visit.goodbye()
    denied: list[Wire] = []
    for _ in range(2 * endpoint.limit):
        try:
            denied.append(endpoint.knock(source=DENIED_CLIENT))
        except (Ended, Silent):
            continue
    try:
        visits = endpoint.fill()
        require_full(endpoint, visits)
        for visit in visits:
            visit.goodbye()
    finally:
        for wire in denied:
            wire.close()
    require_exactly(endpoint)


@check("LIM-11", scenario="limited", channels=NO_CHANNEL, needs=("max_connections", "implicit_tls"))
def test_channels_share_one_limit(endpoint: Endpoint) -> None:
    """Every division of the slots between the plain and the TLS port; the next client of either kind is refused."""
    require_scope(endpoint)
    plain, implicit = endpoint.through(Channel.PLAIN), endpoint.through(Channel.IMPLICIT)
    for in_clear in range(endpoint.limit + 1):
        visits = plain.fill(in_clear) + implicit.fill(endpoint.limit - in_clear)
        for one_more in (plain, implicit):
            require_full(one_more, visits)
        if gives_way(endpoint):
            for visit in visits:
                visit.close()
            continue
        for visit in visits:
            visit.goodbye()
    require_exactly(plain)


@check("LIM-12", scenario="limited")
def test_the_limit_spans_ports_and_addresses(endpoint: Endpoint) -> None:
    if endpoint.declared.limit.scope == "listener":
        raise NotOffered("the limit is declared to count per listener")
    doors = endpoint.doors
    if len(doors) < 2:
        raise NotAssessable("the target has one port on one address only")
    visits = endpoint.fill(doors=doors)
    for door in doors:
        require_full(endpoint, visits, door)
        if gives_way(endpoint):
            for visit in visits:
                visit.close()
            visits = endpoint.fill(doors=doors)
    for visit in visits:
        visit.goodbye()
    # Whoever comes over IPv6 is counted with those who come over IPv4.
    for door in [door for door in doors if ":" in door.address][:1]:
        visits = endpoint.fill(doors=[door])
        require_full(endpoint, visits, doors[0])
        for visit in visits:
            visit.goodbye()
    require_exactly(endpoint)


@check("LIM-13", scenario="limited", channels=NO_CHANNEL, needs=("max_connections", "explicit_tls"))
def test_an_upgrade_neither_frees_nor_takes_a_slot(endpoint: Endpoint) -> None:
    plain, explicit = endpoint.through(Channel.PLAIN), endpoint.through(Channel.EXPLICIT)
    visits = plain.fill()
    for visit in visits:
        try:
            explicit.upgrade(visit.wire)
            explicit.dialect.act(visit.wire)
        except (NotServed, Ended, Silent) as error:
            raise Mismatch("every one of the sessions to be upgraded", str(error)) from None
    upgraded = [Visit(visit.wire, explicit) for visit in visits]
    require_full(plain, upgraded)
    if not gives_way(endpoint) and served_at_once(upgraded) != endpoint.limit:
        raise Mismatch("every upgraded session to stay", "one of them was lost")
    for visit in upgraded:
        visit.close()
    require_exactly(plain)


@check("LIM-14", scenario="limited")
def test_limits_of_different_services_are_independent(endpoint: Endpoint) -> None:
    others = endpoint.other_services()
    if not others:
        raise NotAssessable("the target has one service only")
    visits = endpoint.fill()
    require_full(endpoint, visits)
    for other in others:
        for visit in other.fill():
            visit.goodbye()


@check("LIM-19", scenario="limited")
def test_the_limit_is_exact_in_a_burst(endpoint: Endpoint) -> None:
    """Three times as many clients as slots, let go at the same moment."""
    count = 3 * endpoint.limit
    for visit in endpoint.fill():
        visit.goodbye()
    # When the slots of these are free cannot be seen from outside; that they are by then is asked elsewhere.
    time.sleep(QUIET)
    outcomes = at_once(count, lambda: endpoint.attempt(patience=endpoint.patience))
    visits = [outcome for outcome in outcomes if isinstance(outcome, Visit)]
    alive = served_at_once(visits)
    if alive > endpoint.limit and gives_way(endpoint):
        time.sleep(SHOWS_WITHIN)
        alive = served_at_once(visits)
    if alive > endpoint.limit:
        raise Mismatch(f"no more than {endpoint.limit} served at once", f"{alive} of {count} could act")
    if alive < endpoint.limit and not gives_way(endpoint):
        waiting = [o for o in outcomes if isinstance(o, Refusal) and o.form is Form.SILENCE]
        if not waiting:
            raise Mismatch(f"{endpoint.limit} of {count} to be served", f"only {alive} were")
    endpoint.close_all()
    require_exactly(endpoint)


WAYS_TO_LEAVE: tuple[Callable[[Visit], None], ...] = (
    Visit.goodbye,
    Visit.close,
    lambda visit: visit.wire.finish(),
    lambda visit: visit.wire.reset(),
)


@check("LIM-20", scenario="limited")
def test_the_count_does_not_drift(endpoint: Endpoint) -> None:
    """Twenty times as many connections as slots, ending in every way; then exactly as many are served."""
    ways = cycle(WAYS_TO_LEAVE)
    for number in range(20 * endpoint.limit):
        if number % 4 == 3:
            reset_at_once(endpoint)
            continue
        outcome = endpoint.eventually()
        if isinstance(outcome, Refusal):
            raise Mismatch("a free slot whenever everybody has left", f"after {number} connections: {outcome}")
        next(ways)(outcome)
    require_exactly(endpoint)


@check("LIM-23", scenario="limited")
def test_whoever_waits_is_served_when_a_slot_is_free(endpoint: Endpoint) -> None:
    """A surplus client is either refused, or served as soon as there is room; one that has gone away costs nothing."""
    visits = endpoint.fill()
    for outcome in [endpoint.attempt(patience=0.1) for _ in range(2)]:
        if outcome.wire is not None:
            outcome.wire.reset()
    waiting = endpoint.attempt(patience=endpoint.patience)
    if isinstance(waiting, Visit):
        if not gives_way(endpoint):
            raise Mismatch(f"no more than {endpoint.limit} served", "one more was")
        waiting.close()
    elif waiting.wire is not None:
        visits.pop().goodbye()
        outcome = endpoint.enter(waiting.wire, endpoint.release)
        if isinstance(outcome, Refusal) and outcome.form is Form.SILENCE:
            raise Mismatch("the client that waited to be served once a slot is free", str(outcome))
        if isinstance(outcome, Visit):
            visits.append(outcome)
    for visit in visits:
        visit.close()
    require_exactly(endpoint)


@check("LIM-28", scenario="limited")
def test_the_listener_resumes_by_itself(endpoint: Endpoint) -> None:
    """Full, refused somebody, one left; then nothing happens for the release time, and the next client is served."""
    visits = endpoint.fill()
    require_full(endpoint, visits)
    if gives_way(endpoint):
        visits = [visit for visit in visits if visit.is_alive()]
    visits.pop().goodbye()
    time.sleep(QUIET)
    outcome = endpoint.attempt(patience=endpoint.release)
    if isinstance(outcome, Refusal):
        raise Mismatch("a client to be served by a listener that had been full", str(outcome))
    for visit in (*visits, outcome):
        visit.close()
    require_exactly(endpoint)
