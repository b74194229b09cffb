"""Ports and binding (PRT): what is configured serves, where it is configured, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable

from conformance.check import NO_CHANNEL, Channel, Inconclusive, Latitude, Mismatch, NotAssessable, check
from conformance.clients import CLIENT_ERRORS, CLIENTS
from conformance.scenarios import DENIED_CLIENT, FOREIGN, SECOND_SERVER, SERVER, SERVER_V6, THIRD_SERVER, UNBOUND_SERVER
from conformance.target import DriverRefused
from conformance.visit import Door, Endpoint, Form, Refusal, Visit, at_once
from conformance.watch import Seen
from conformance.wire_local import addresses_of

Elsewhere = Callable[[str], Endpoint]

#: Every loopback address that is not in a list under examination must stay without service.
OTHERS = (SERVER, SECOND_SERVER, THIRD_SERVER, UNBOUND_SERVER)


def require_no_service(endpoint: Endpoint, door: Door) -> None:
    """Nobody is served there; being refused by the kernel or cut off are both fine."""
    outcome = endpoint.attempt(door, patience=endpoint.patience)
    if isinstance(outcome, Visit):
        raise Mismatch(f"no service at {door.address} port {door.port}", "a client was served there")
    if outcome.form is Form.REPLY:
        raise Mismatch(f"no service at {door.address} port {door.port}", str(outcome))


def require_binding(endpoint: Endpoint, bound: list[str]) -> None:
    """Served at every address of ``bound``, nowhere else; a control before and after."""
    for address in bound:
        for port in endpoint.ports:
            endpoint.visit(Door(address, port)).goodbye()
    for address in OTHERS:
        if address not in bound:
            for port in endpoint.ports:
                require_no_service(endpoint, Door(address, port))
    if isinstance(endpoint.attempt(), Refusal):
        raise Inconclusive("the server no longer serves the address that it is bound to")


@check("PRT-01", scenario="general")
def test_every_configured_port_serves(endpoint: Endpoint) -> None:
    for door in endpoint.doors:
        endpoint.visit(door).goodbye()
    confirm_with_a_real_client(endpoint, endpoint.doors[0])


def confirm_with_a_real_client(endpoint: Endpoint, door: Door) -> None:
    """An ordinary user's program gets there what the wire promised."""
    name, use = CLIENTS[endpoint.service]
    endpoint.transcript.note(0, f"{name} signs in at {door.address} port {door.port} ({endpoint.channel})")
    try:
        use(door.address, door.port, endpoint.channel.value, endpoint.context(), endpoint.credentials)
    except CLIENT_ERRORS as error:
        raise Mismatch(f"{name} to get a session ({endpoint.channel})", f"{type(error).__name__}: {error}") from None


@check("PRT-02", scenario="general", channels=NO_CHANNEL)
def test_a_port_that_is_not_configured_gives_no_service(endpoint: Endpoint) -> None:
    """The ports behind those of the service."""
    taken = {
        port
        for table in endpoint.site.settings["services"].values()
        for port in (*table["ports"], *table.get("implicit_tls_ports", ()))
    }
    configured = [door.port for channel in endpoint.channels for door in endpoint.through(channel).doors]
    # The ports behind the configured ones were kept free of other programs when these were chosen.
    for port in sorted({port + 1 for port in configured} - taken):
        require_no_service(endpoint.through(Channel.PLAIN), Door(SERVER, port))
    endpoint.through(Channel.PLAIN).visit().goodbye()


@check("PRT-03", scenario="general", channels=NO_CHANNEL)
def test_all_ports_behave_alike(endpoint: Endpoint) -> None:
    """The same capabilities on every port of a channel; between channels only what TLS changes may differ."""
    for channel in endpoint.channels:
        through = endpoint.through(channel)
        seen: dict[Door, frozenset[str]] = {}
        for door in through.doors:
            with through.visit(door) as visit:
                seen[door] = through.dialect.capabilities(visit.wire)
        first = next(iter(seen))
        for door, capabilities in seen.items():
            if capabilities != seen[first]:
                raise Mismatch(
                    f"port {door.port} to offer what port {first.port} offers ({channel})",
                    f"only one of them offers {', '.join(sorted(capabilities ^ seen[first]))}",
                )


@check("PRT-04", scenario="everywhere")
def test_default_binding_reaches_every_local_address(endpoint: Endpoint) -> None:
    for port in endpoint.ports:
        for address in (SERVER, SECOND_SERVER, UNBOUND_SERVER):
            endpoint.visit(Door(address, port)).goodbye()
        if endpoint.site.place.has_ipv6 and endpoint.declared.ipv6:
            endpoint.visit(Door(SERVER_V6, port)).goodbye()


@check("PRT-05", scenario="listed")
def test_an_address_that_is_not_listed_is_not_served(endpoint: Endpoint) -> None:
    require_binding(endpoint, [address for address in endpoint.addresses if ":" not in address])


@check("PRT-06", scenario="listed", also=("bogus_address",))
def test_every_listed_address_is_bound_and_a_bad_one_widens_nothing(endpoint: Endpoint, elsewhere: Elsewhere) -> None:
    for door in endpoint.doors:
        endpoint.visit(door).goodbye()
    try:
        bogus = elsewhere("bogus_address")
    except DriverRefused as refusal:
        endpoint.transcript.note(0, f"with {FOREIGN} in the list the server refuses to start: {refusal}")
        return
    for address in OTHERS:
        if address != SERVER:
            for port in bogus.ports:
                require_no_service(bogus, Door(address, port))


@check("PRT-07", scenario="beside_a_stranger")
def test_the_port_can_be_somebody_elses_on_another_address(endpoint: Endpoint) -> None:
    """A stranger listened on the same port of another address before the server was started."""
    for port in endpoint.ports:
        endpoint.visit(Door(SERVER, port)).goodbye()
        outcome = endpoint.attempt(Door(SECOND_SERVER, port), patience=0.05)
        if isinstance(outcome, Visit) or outcome.form is not Form.SILENCE:
            raise Mismatch(
                f"the stranger's listener at {SECOND_SERVER} port {port} to be left alone",
                "a client was served there" if isinstance(outcome, Visit) else str(outcome),
            )
        if outcome.wire is not None:
            outcome.wire.close()


@check("PRT-09", scenario="inherited", also=("overridden",))
def test_the_default_list_is_inherited_and_can_be_overridden(endpoint: Endpoint, elsewhere: Elsewhere) -> None:
    require_binding(endpoint, [SECOND_SERVER])
    require_binding(elsewhere("overridden"), [THIRD_SERVER])


@check("PRT-08", scenario="named")
def test_all_addresses_of_a_host_name_are_bound(endpoint: Endpoint) -> None:
    addresses = addresses_of("localhost")
    if len(addresses) < 2:
        raise NotAssessable("localhost has one address only on this machine")
    served = [
        address
        for address in addresses
        if all(isinstance(endpoint.attempt(Door(address, port)), Visit) for port in endpoint.ports)
    ]
    if not served:
        raise Mismatch(f"service at the addresses of localhost ({', '.join(addresses)})", "none at any of them")
    if served != addresses:
        raise Latitude(f"localhost has the addresses {', '.join(addresses)}; served only at {', '.join(served)}")
    for address in OTHERS:
        if address not in addresses:
            for port in endpoint.ports:
                require_no_service(endpoint, Door(address, port))


@check("PRT-10", scenario="restricted_everywhere")
def test_an_ipv4_client_of_a_dual_stack_listener_is_an_ipv4_client(endpoint: Endpoint) -> None:
    """A rule written for an IPv4 address bites, although the listener may see ``::ffff:a.b.c.d``."""
    if not (endpoint.site.place.has_ipv6 and endpoint.declared.ipv6):
        raise NotAssessable("no IPv6 here")
    for port in endpoint.ports:
        endpoint.visit(Door(SERVER_V6, port)).goodbye()
        endpoint.visit(Door(SERVER, port)).goodbye()
        outcome = endpoint.attempt(Door(SERVER, port), source=DENIED_CLIENT, patience=endpoint.patience)
        if isinstance(outcome, Visit):
            raise Mismatch(f"no service for the denied address {DENIED_CLIENT}", "it was served")


@check("PRT-11", scenario="port_taken", channels=NO_CHANNEL)
def test_a_port_in_use_is_reported(endpoint: Endpoint) -> None:
    """To start with what is left is fine; not to start at all is, too, and then there is nothing to ask here."""
    plain = endpoint.through(Channel.PLAIN)
    taken, *others = plain.doors
    for door in others:
        plain.visit(door).goodbye()
    if isinstance(plain.attempt(taken, patience=0.2), Visit):
        raise Mismatch(f"port {taken.port} to stay with the program that has it", "the server serves there")


@check("PRT-12", scenario="restarted", channels=NO_CHANNEL, watches=("restart",))
def test_a_restart_binds_at_once_and_a_second_server_does_not(
    endpoint: Endpoint, observed: Callable[[str], Seen]
) -> None:
    del endpoint
    observed("restart").require()


@check("PRT-13", scenario="general")
def test_a_burst_below_the_limit_is_served(endpoint: Endpoint) -> None:
    count = 20
    if endpoint.settings.get("max_connections", count) < count:
        raise NotAssessable(f"the limit is below {count}")
    outcomes = at_once(count, endpoint.attempt)
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
    if refused:
        raise Mismatch(f"all of {count} simultaneous clients to be served", f"{len(refused)} were not: {refused[0]}")
