"""Connections of one client address (LIM): each has its share, and nobody else's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from conformance.check import Mismatch, NotAssessable, check
from conformance.checks.test_limits import SHOWS_WITHIN
from conformance.dialects import NotServed
from conformance.dialects.dialect import Credentials
from conformance.scenarios import ACCOUNTS, CLIENT, PER_ADDRESS, SECOND_CLIENT, SERVER, SERVER_V6
from conformance.visit import Door, Endpoint, Refusal, Visit
from conformance.wire import Ended, Silent
from reference_server.settings import Service


def counted_at_login(endpoint: Endpoint) -> bool:
    """Whether the target declares that it counts a client's connections when it signs in."""
    return endpoint.declared.per_ip.stage == "login"


@dataclass(frozen=True, slots=True)
class Crowd:
    """As many sessions of one address as it may have, and the accounts that they and others have signed in with."""

    endpoint: Endpoint
    door: Door
    source: str
    visits: list[Visit]
    used: tuple[Credentials, ...]

    def require_full(self) -> None:
        """One more session from that address gets no service (or no login).

        Where logins are counted, the count may take a moment to become known to whoever decides.
        """
        deadline = time.monotonic() + (SHOWS_WITHIN if counted_at_login(self.endpoint) else 0.0)
        while self._has_room():
            if time.monotonic() >= deadline:
                raise Mismatch(
                    f"no more than {PER_ADDRESS} connections from one address",
                    f"one more from {self.source} was served",
                )
            time.sleep(0.2)

    def _has_room(self) -> bool:
        """Whether one more session is served (and signed in, where that is when they are counted)."""
        outcome = self.endpoint.attempt(self.door, self.source, patience=self.endpoint.patience)
        if isinstance(outcome, Refusal):
            if outcome.wire is not None:
                outcome.wire.close()
            return False
        with outcome:
            if not counted_at_login(self.endpoint):
                return True
            first = self.endpoint.credentials
            return signs_in(outcome, newcomer(first, self.used) if alone(first, self.used) else first)

    def leave(self) -> None:
        """Everybody says goodbye."""
        for visit in self.visits:
            visit.goodbye()


def signs_in(visit: Visit, credentials: Credentials) -> bool:
    """Whether the server takes the login."""
    try:
        visit.endpoint.dialect.login(visit.wire, credentials)
    except (NotServed, Ended, Silent):
        return False
    return True


def alone(first: Credentials, used: Sequence[Credentials]) -> bool:
    """Whether everybody has an account to itself: in POP3 a maildrop may be for one session at a time (RFC 1939 4)."""
    return any(credentials != first for credentials in used)


def newcomer(first: Credentials, used: Sequence[Credentials]) -> Credentials:
    """An account that nobody of ``used`` has."""
    name = ACCOUNTS[len(used)]
    return replace(first, name=name, address=f"{name}@example.test")


def sign_in(visit: Visit, used: Sequence[Credentials]) -> Credentials:
    """Sign in beside others, as the same user where that can be; as whom.  Raises :class:`Mismatch`."""
    first = visit.endpoint.credentials
    if not alone(first, used):
        if signs_in(visit, first):
            return first
        if visit.endpoint.service is not Service.POP3 or not used:
            raise Mismatch("the login to be accepted", "it was refused")
    chosen = newcomer(first, used)
    if not signs_in(visit, chosen):
        raise Mismatch("the login to be accepted", "it was refused")
    return chosen


def crowd(endpoint: Endpoint, door: Door, source: str, beside: Crowd | None = None) -> Crowd:
    """As many sessions from one address as it may have, signed in where that is when they are counted."""
    visits = endpoint.fill(PER_ADDRESS, [door], source)
    used = [*beside.used] if beside is not None else []
    if counted_at_login(endpoint):
        for visit in visits:
            used.append(sign_in(visit, used))
    return Crowd(endpoint, door, source, visits, tuple(used))


def v4_doors(endpoint: Endpoint) -> list[Door]:
    return [Door(SERVER, port) for port in endpoint.ports]


@check("LIM-15", scenario="per_address")
def test_one_address_gets_no_more_than_its_share(endpoint: Endpoint) -> None:
    for door in v4_doors(endpoint):
        everybody = crowd(endpoint, door, CLIENT)
        everybody.require_full()
        everybody.leave()
        crowd(endpoint, door, CLIENT).leave()


@check("LIM-16", scenario="per_address")
def test_an_address_at_its_limit_does_not_affect_another(endpoint: Endpoint) -> None:
    door = v4_doors(endpoint)[0]
    here = crowd(endpoint, door, CLIENT)
    here.require_full()
    there = crowd(endpoint, door, SECOND_CLIENT, beside=here)
    there.require_full()
    here.leave()
    there.leave()


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
    here = crowd(endpoint, door, CLIENT)
    here.require_full()
    # Two addresses of a dual-stack listener's clients must not be taken for one and the same either.
    there = crowd(endpoint, door, SECOND_CLIENT, beside=here)
    here.leave()
    there.leave()
