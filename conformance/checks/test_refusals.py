"""Simultaneous connections (LIM), what SHOULD and MAY be: how a surplus client is told, and how limits are changed."""

from __future__ import annotations

import contextlib
import threading
import time
from copy import deepcopy

from conformance.check import NO_CHANNEL, Channel, Inconclusive, Latitude, Mismatch, NotAssessable, check
from conformance.checks.test_limits import gives_way, require_full
from conformance.scenarios import LIMIT, SERVER_V6
from conformance.visit import Endpoint, Form, Refusal, Visit, served_at_once
from conformance.wire import Ended, Silent, Wire
from reference_server.settings import Service

#: Explicit TLS is refused as plain text is: the client never comes so far as to ask for it.
FIRST_WORDS = (Channel.PLAIN, Channel.IMPLICIT)
#: Sessions beyond any limit that a server has by itself when nobody sets one.
MANY = 60
#: Seconds; 300 clients come in far less wherever somebody takes or refuses them.
FLOOD_LASTS = 3.0


def surplus(endpoint: Endpoint) -> Refusal:
    """How the client is refused that is one too many."""
    endpoint.fill()
    outcome = endpoint.attempt(patience=endpoint.patience)
    if isinstance(outcome, Visit):
        if gives_way(endpoint):
            raise Latitude("the newcomer is served and an older session gives way")
        raise Inconclusive("nobody was refused, which is judged elsewhere")
    return outcome


@check("LIM-18", scenario="per_address", channels=NO_CHANNEL)
def test_ipv6_clients_may_be_counted_by_prefix(endpoint: Endpoint) -> None:
    if not endpoint.declared.ipv6 or not endpoint.site.place.has_ipv6:
        raise NotAssessable("no IPv6 here")
    prefix = endpoint.declared.per_ip.ipv6_prefix
    if prefix == 128:
        return
    raise Latitude(
        f"addresses that share {prefix} bits are declared to be one client; {SERVER_V6} is all there is here"
    )


@check("LIM-21", scenario="limited", channels=FIRST_WORDS)
def test_a_flood_of_surplus_clients_blocks_nobody(endpoint: Endpoint) -> None:
    """While clients that read nothing keep coming, those who are served get their answers within a second."""
    visits = endpoint.fill()
    done = threading.Event()
    came = 0

    def flood() -> None:
        nonlocal came
        wires: list[Wire] = []
        while not done.is_set() and came < 300:
            # Where the surplus waits in the kernel's queue, that is full at some time, and a connect is not answered.
            with contextlib.suppress(Ended, Silent):
                wires.append(endpoint.knock(timeout=FLOOD_LASTS))
            came += 1
        for wire in wires:
            wire.reset()

    flooding = threading.Thread(target=flood, daemon=True)
    flooding.start()
    slowest = 0.0
    until = time.monotonic() + FLOOD_LASTS
    try:
        while flooding.is_alive() and slowest < 1.0 and time.monotonic() < until:
            for visit in visits:
                began = time.monotonic()
                if not visit.is_alive():
                    if gives_way(endpoint):
                        raise Latitude("the newcomers take the places of older sessions")
                    raise Mismatch("held sessions to be answered during a flood", "one of them was lost")
                slowest = max(slowest, time.monotonic() - began)
    finally:
        done.set()
        flooding.join(30)
    if slowest >= 1.0:
        raise Mismatch("held sessions to be answered within 1 s during a flood", f"one waited {slowest:.2f} s")


@check("LIM-22", scenario="unlimited", channels=NO_CHANNEL)
def test_zero_means_no_limit(endpoint: Endpoint) -> None:
    plain = endpoint.through(Channel.PLAIN)
    visits = plain.fill(MANY)
    alive = served_at_once(visits)
    if alive < MANY:
        raise Mismatch(f"{MANY} clients served at once where 0 stands for no limit", f"{alive} were")


@check("LIM-24", scenario="limited", channels=FIRST_WORDS)
def test_smtp_refuses_with_421(endpoint: Endpoint) -> None:
    refusal = surplus(endpoint)
    if refusal.form is not Form.REPLY or not refusal.detail.startswith("421"):
        raise Latitude(f"a surplus client is {refusal}")


@check("LIM-25", scenario="limited", channels=FIRST_WORDS)
def test_imap_refuses_with_bye(endpoint: Endpoint) -> None:
    refusal = surplus(endpoint)
    if refusal.form not in (Form.REPLY, Form.NONSENSE):
        raise Latitude(f"a surplus client is {refusal}")
    if not refusal.detail.upper().startswith("* BYE"):
        raise Mismatch("an untagged BYE as the refusal", refusal.detail)


@check("LIM-26", scenario="limited", channels=FIRST_WORDS, services=(Service.POP3, Service.LDAP))
def test_how_a_surplus_client_is_told(endpoint: Endpoint) -> None:
    refusal = surplus(endpoint)
    if refusal.form is not Form.REPLY:
        raise Latitude(f"a surplus client is {refusal}")


@check("LIM-27", scenario="adjusted")
def test_a_limit_can_be_changed_at_run_time(endpoint: Endpoint) -> None:
    """Lowered, it ends no session and lets nobody in until there is room; raised, it lets more in at once."""

    def change(limit: int) -> None:
        settings = deepcopy(endpoint.site.settings)
        settings["services"][endpoint.service.value]["max_connections"] = limit
        if (error := endpoint.site.reload(settings)) is not None:
            raise Mismatch(f"a limit of {limit} to be taken on at run time", f"the new settings were refused: {error}")

    try:
        visits = endpoint.fill()
        change(LIMIT - 1)
        alive = served_at_once(visits)
        if alive < LIMIT:
            raise Latitude(f"lowering the limit by one left {alive} of {LIMIT} sessions")
        visits.pop().goodbye()
        require_full(endpoint, visits)
        change(LIMIT + 1)
        for _ in range(2):
            outcome = endpoint.eventually()
            if isinstance(outcome, Refusal):
                raise Mismatch(f"{LIMIT + 1} sessions after the limit was raised", str(outcome))
            visits.append(outcome)
        require_full(endpoint, visits)
    finally:
        change(LIMIT)
