"""IP restrictions (ACL): what a range covers, which rule counts, in which spelling, and from when."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

from conformance.check import NO_CHANNEL, Channel, Mismatch, NotAssessable, check
from conformance.checks.test_restrictions import is_denied, require_allowed, require_control, require_denied
from conformance.scenarios import (
    ALLOWED_WITHIN,
    CLIENT,
    DENIED_CLIENT,
    NETWORKS,
    RANGE,
    SECOND_CLIENT,
    SERVER,
    SERVER_V6,
)
from conformance.visit import Door, Endpoint, Refusal

Elsewhere = Callable[[str], Endpoint]

RESTRICTED = ("restrictions",)


def ends(network: str) -> tuple[str, str]:
    """The first and the last address of a network."""
    covered = ip_network(network)
    return str(covered[0]), str(covered[-1])


def beside(address: str, step: int) -> str:
    """The address so many steps away."""
    return str(ip_address(address) + step)


@check("ACL-03", scenario="allowed_only", needs=RESTRICTED)
def test_the_ends_of_a_range_are_in_and_their_neighbours_are_not(endpoint: Endpoint) -> None:
    door = endpoint.doors[0]
    require_control(endpoint)
    for first, last in (RANGE, *map(ends, NETWORKS)):
        for source in dict.fromkeys((first, last)):
            require_allowed(endpoint, door, source)
        for source in (beside(first, -1), beside(last, +1)):
            require_denied(endpoint, door, source)
    require_control(endpoint)


@check("ACL-05", scenario="allowed_only", needs=RESTRICTED)
def test_where_rules_overlap_deny_beats_allow(endpoint: Endpoint) -> None:
    """Whichever is wider."""
    door = endpoint.doors[0]
    for source in ("127.0.71.63", "127.0.71.128"):
        require_allowed(endpoint, door, source)
    for source in ("127.0.71.64", "127.0.71.127", ALLOWED_WITHIN, "127.0.75.8"):
        require_denied(endpoint, door, source)
    require_control(endpoint)


def over_both(endpoint: Endpoint) -> tuple[Door, Door]:
    """The same port over IPv4 and IPv6, both of them reached."""
    if not (endpoint.site.place.has_ipv6 and endpoint.declared.ipv6):
        raise NotAssessable("no IPv6 here")
    port = endpoint.ports[0]
    return Door(SERVER, port), Door(SERVER_V6, port)


@check("ACL-07", scenario="restricted_everywhere", needs=RESTRICTED, also=("allowed_everywhere",))
def test_an_ipv4_client_is_matched_as_one(endpoint: Endpoint, elsewhere: Elsewhere) -> None:
    """On a dual-stack listener, for rules that deny and for rules that allow, the widest and its ends included."""
    over_4, over_6 = over_both(endpoint)
    endpoint.visit(over_6).goodbye()
    require_allowed(endpoint, over_4, CLIENT)
    require_denied(endpoint, over_4, DENIED_CLIENT)
    allowed = elsewhere("allowed_everywhere")
    over_4, over_6 = over_both(allowed)
    for source in ("127.0.0.1", CLIENT, "127.255.255.254", "127.0.65.255", "127.0.67.0"):
        require_allowed(allowed, over_4, source)
    for source in ("127.0.66.0", DENIED_CLIENT, "127.0.66.255"):
        require_denied(allowed, over_4, source)
    if not is_denied(allowed, over_6, SERVER_V6):
        raise Mismatch("no service for an IPv6 client where 127.0.0.0/8 is allowed", "it was served")


@check("ACL-08", scenario="spelled_out", needs=RESTRICTED)
def test_an_address_is_the_same_in_every_spelling(endpoint: Endpoint) -> None:
    """Denied in the longest spelling there is, from where it is written in the shortest."""
    over_4, over_6 = over_both(endpoint)
    require_allowed(endpoint, over_4, CLIENT)
    if not is_denied(endpoint, over_6, SERVER_V6):
        raise Mismatch(f"no service for {SERVER_V6}, which is denied as 0000:...:0001", "it was served")
    require_allowed(endpoint, over_4, CLIENT)


@contextmanager
def relisted(endpoint: Endpoint) -> Iterator[Endpoint]:
    """The service, whose lists are empty when it begins and when it ends."""
    plain = endpoint.through(Channel.PLAIN)
    yield plain
    relist(plain)


def relist(endpoint: Endpoint, allow: Sequence[str] = (), deny: Sequence[str] = ()) -> str | None:
    """Have the service take on other lists: why it did not, or None."""
    settings = copy.deepcopy(endpoint.site.settings)
    table = settings["services"][endpoint.service.value]
    for key, value in (("allow", allow), ("deny", deny)):
        table.pop(key, None)
        if value:
            table[key] = list(value)
    return endpoint.site.reload(settings)


@check("ACL-12", scenario="relisted", channels=NO_CHANNEL, needs=("restrictions", "reload"))
def test_a_changed_list_holds_from_the_next_connection_on(endpoint: Endpoint) -> None:
    with relisted(endpoint) as plain:
        door = plain.doors[0]
        require_allowed(plain, door, SECOND_CLIENT)
        for allow, deny in (((), (SECOND_CLIENT,)), ((CLIENT,), ())):
            if (error := relist(plain, allow, deny)) is not None:
                raise Mismatch("another list to be taken on", error)
            require_denied(plain, door, SECOND_CLIENT)
            require_allowed(plain, door, CLIENT)
            if (error := relist(plain)) is not None:
                raise Mismatch("an empty list to be taken on", error)
            require_allowed(plain, door, SECOND_CLIENT)


#: What is no range, or none that anybody can have meant.
MALFORMED = (
    "127.0.70.20-127.0.70.10",
    "127.0.70.0/33",
    "127.0.70.256",
    "127.0.70",
    "127.0.070.1",
    "127.0.70.1-::1",
    "everybody",
    "",
)


@check("ACL-13", scenario="relisted", channels=NO_CHANNEL, needs=("restrictions", "reload"))
def test_a_range_that_is_none_is_rejected_and_never_widened(endpoint: Endpoint) -> None:
    with relisted(endpoint) as plain:
        door = plain.doors[0]
        for text in MALFORMED:
            error = relist(plain, allow=(CLIENT, text))
            plain.transcript.note(0, f"allow = {text!r}: {error or 'taken without a complaint'}")
            if error is not None:
                continue
            # Whatever it was taken for, nobody else may profit from it.
            for source in (SECOND_CLIENT, "127.0.70.15"):
                if not is_denied(plain, door, source):
                    raise Mismatch(f"{text!r} in a list of allowed ranges to let nobody in", f"{source} was served")
        if isinstance(refusal := plain.attempt(door), Refusal):
            raise Mismatch("the server to serve on after lists that it refused", str(refusal))
        refusal.goodbye()
