"""Connections of one client address (LIM): each has its share, and nobody else's."""

from __future__ import annotations

import time

from conformance.check import Mismatch, NotAssessable, check
from conformance.checks.test_limits import SHOWS_WITHIN
from conformance.dialects import NotServed
from conformance.scenarios import CLIENT, PER_ADDRESS, SECOND_CLIENT, SERVER, SERVER_V6
from conformance.visit import Door, Endpoint, Refusal, Visit
from conformance.wire import Ended, Silent


def counted_at_login(endpoint: Endpoint) -> bool:
    """Whether the target declares that it counts a client's connections when it signs in."""
    return endpoint.declared.per_ip.stage == "login"


def fill_address(endpoint: Endpoint, door: Door, source: str | None, count: int = PER_ADDRESS) -> list[Visit]:
    """``count`` sessions from one address, signed in where that is when they are counted."""
    visits = endpoint.fill(count, [door], source)
    if counted_at_login(endpoint):
        for visit in visits:
            visit.login()
    return visits


def require_address_full(endpoint: Endpoint, door: Door, source: str | None) -> None:
    """One more session from that address gets no service (or no login).

    Where logins are counted, the count may take a moment to become known to whoever decides.
    """
    deadline = time.monotonic() + (SHOWS_WITHIN if counted_at_login(endpoint) else 0.0)
    while has_room(endpoint, door, source):
        if time.monotonic() >= deadline:
            raise Mismatch(
                f"no more than {PER_ADDRESS} connections from one address",
                f"one more from {source or 'the same address'} was served",
            )
        time.sleep(0.2)


def has_room(endpoint: Endpoint, door: Door, source: str | None) -> bool:
    """Whether one more session from that address is served (and signed in, where that is when they are counted)."""
    outcome = endpoint.attempt(door, source, patience=endpoint.patience)
    if isinstance(outcome, Refusal):
        if outcome.wire is not None:
            outcome.wire.close()
        return False
    with outcome:
        if counted_at_login(endpoint):
            try:
                endpoint.dialect.login(outcome.wire, endpoint.credentials)
            except (NotServed, Ended, Silent):
                return False
    return True


def v4_doors(endpoint: Endpoint) -> list[Door]:
    return [Door(SERVER, port) for port in endpoint.ports]


@check("LIM-15", scenario="per_address")
def test_one_address_gets_no_more_than_its_share(endpoint: Endpoint) -> None:
    for door in v4_doors(endpoint):
        visits = fill_address(endpoint, door, CLIENT)
        require_address_full(endpoint, door, CLIENT)
        for visit in visits:
            visit.goodbye()
        for visit in fill_address(endpoint, door, CLIENT):
            visit.goodbye()


@check("LIM-16", scenario="per_address")
def test_an_address_at_its_limit_does_not_affect_another(endpoint: Endpoint) -> None:
    door = v4_doors(endpoint)[0]
    visits = fill_address(endpoint, door, CLIENT)
    require_address_full(endpoint, door, CLIENT)
    others = fill_address(endpoint, door, SECOND_CLIENT)
    require_address_full(endpoint, door, SECOND_CLIENT)
    for visit in (*visits, *others):
        visit.goodbye()


@check("LIM-17", scenario="per_address")
def test_an_address_and_its_mapped_form_are_one_client(endpoint: Endpoint) -> None:
    """On listeners for every address an IPv4 client may show up as ``::ffff:a.b.c.d``: it is the same client still."""
    if not (endpoint.site.place.has_ipv6 and endpoint.declared.ipv6):
        raise NotAssessable("no IPv6 here")
    control = endpoint.attempt(Door(SERVER_V6, endpoint.ports[0]))
    if isinstance(control, Refusal):
        raise NotAssessable(f"the server cannot be reached over IPv6: {control}")
    control.goodbye()
    door = v4_doors(endpoint)[0]
    visits = fill_address(endpoint, door, CLIENT)
    require_address_full(endpoint, door, CLIENT)
    # Two addresses of a dual-stack listener's clients must not be taken for one and the same either.
    others = fill_address(endpoint, door, SECOND_CLIENT)
    for visit in (*visits, *others):
        visit.goodbye()
