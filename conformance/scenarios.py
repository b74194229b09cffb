"""The few named server configurations under which checks run, and what each is for.

Owns: the configurations, as the JSON form of the settings.  Knows neither processes nor checks:
:mod:`conformance.target` fills in ports, certificates and folders and hands the result to a driver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from conformance.contract import DeclaredService

#: Where listeners are bound, and where the suite's clients come from.  All are loopback; none of the clients'
#: addresses is a server's, because some servers treat a client on their own address as trusted (Dovecot: as secured).
SERVER = "127.0.0.1"
SECOND_SERVER = "127.0.0.2"
THIRD_SERVER = "127.0.0.3"
UNBOUND_SERVER = "127.0.0.4"
CLIENT = "127.0.1.1"
SECOND_CLIENT = "127.0.1.2"
DENIED_CLIENT = "127.0.66.1"
#: Ranges of client addresses, for their ends to be tried (ACL).  All are loopback.
RANGE = ("127.0.70.10", "127.0.70.20")
NETWORKS = ("127.0.71.0/24", "127.0.72.128/25", "127.0.73.6/31", "127.0.74.9/32")
#: Denied, though within a network that is allowed; and allowed, though within one that is denied.
DENIED_WITHIN = "127.0.71.64/26"
ALLOWED_WITHIN = "127.0.75.7"
DENIED_AROUND = "127.0.75.0/24"
SERVER_V6 = "::1"
#: TEST-NET-1 (RFC 5737): no address of this machine's.
FOREIGN = "192.0.2.77"

#: The accounts of every scenario.  The first is for checks; observers share the others, since a maildrop has room for
#: one POP3 session at a time (RFC 1939 4).
ACCOUNTS = ("alice", *(f"observer{number}" for number in range(1, 31)))

#: Further accounts of those scenarios in which mail is counted: one for each service and channel, nobody else's.
KEEPERS = tuple(
    f"keeper-{service}-{channel}"
    for service in ("smtp", "pop3", "imap")
    for channel in ("plain", "explicit", "implicit")
)

#: The limit under examination.  Small: what is exact for three is exact for three hundred, and sooner seen.
LIMIT = 3
PER_ADDRESS = 2
#: The idle time-outs under examination, seconds of the server's clock.
SHORT = 2.0
LONGER = 5.0
BRIEF = 0.6
#: Longer than any run of the suite, and never a default.
LONG = 61.0


class Place(Protocol):
    """What a scenario may ask of whoever sets it up."""

    def ports(self, count: int) -> list[int]:
        """Free TCP ports, kept apart for this run."""

    def occupy(self, address: str, port: int) -> None:
        """Listen there, as a stranger, before the server starts and until it has stopped."""

    @property
    def has_ipv6(self) -> bool:
        """Whether ``::1`` can be used."""


Settings = dict[str, Any]
ServiceBuilder = Callable[[DeclaredService, Place], Settings]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One configuration: ``purpose`` in a few words, ``build`` for each service's table.

    ``needs`` are offers without which the scenario makes no sense for a service, which is then left out of it.
    ``defaults`` becomes the settings' own table of defaults.  ``may_refuse``: not to start is an answer too.
    ``must_start``: not to start is a failure of the server's.  ``hurried``: timers that nobody can set are wanted on
    a faster clock.  ``certificates`` are issued for this scenario alone, beside ``main``, which all share: they can be
    replaced while it runs.  Of those that are ``spoilt`` the key cannot be read.
    ``keeps_mail``: it has further accounts, whose mail is counted.  ``sets_clock``: the server's wall clock is set
    while it runs.  ``roomy``: what is done to one of its services is nothing to the others.
    """

    name: str
    purpose: str
    build: ServiceBuilder
    needs: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    may_refuse: bool = False
    hurried: bool = False
    must_start: bool = False
    certificates: tuple[str, ...] = ()
    keeps_mail: bool = False
    spoilt: tuple[str, ...] = ()
    sets_clock: bool = False
    roomy: bool = False


def usual(
    declared: DeclaredService,
    place: Place,
    *,
    plain_ports: int = 1,
    implicit_ports: int = 1,
    **special: Any,
) -> Settings:
    """A service with every channel it offers, bound to one address, and whatever is ``special`` about it."""
    plain_ports = min(plain_ports, declared.max_ports or plain_ports)
    implicit_ports = min(implicit_ports, declared.max_implicit_tls_ports or implicit_ports)
    settings: Settings = {"enabled": True, "bind": [SERVER], "ports": place.ports(plain_ports)}
    if "max_connections" in declared.offers:
        settings["max_connections"] = 100
    if "idle_timeout" in declared.offers:
        settings["idle_timeout"] = LONG
    if "explicit_tls" in declared.offers:
        settings["explicit_tls"] = True
    if "implicit_tls" in declared.offers:
        settings["implicit_tls_ports"] = place.ports(implicit_ports)
    if {"explicit_tls", "implicit_tls"} & declared.offers:
        settings["certificate"] = "main"
    settings.update({key: value for key, value in special.items() if _offered(key, declared)})
    return settings


_OFFER_OF_KEY = {
    "bind": "bind",
    "max_connections": "max_connections",
    "max_connections_per_ip": "max_connections_per_ip",
    "idle_timeout": "idle_timeout",
    "require_tls_for_login": "require_tls_for_login",
    "allow": "restrictions",
    "deny": "restrictions",
}


def _offered(key: str, declared: DeclaredService) -> bool:
    return _OFFER_OF_KEY.get(key, key) in declared.offers or key not in _OFFER_OF_KEY


def _with(**special: Any) -> ServiceBuilder:
    def build(declared: DeclaredService, place: Place) -> Settings:
        return usual(declared, place, **special)

    return build


def _addresses(declared: DeclaredService, place: Place) -> list[str]:
    return [SERVER, SECOND_SERVER, *([SERVER_V6] if place.has_ipv6 and declared.ipv6 else [])]


def _listed(declared: DeclaredService, place: Place) -> Settings:
    return usual(declared, place, bind=_addresses(declared, place))


def _limited(declared: DeclaredService, place: Place) -> Settings:
    return usual(declared, place, max_connections=LIMIT, plain_ports=2, bind=_addresses(declared, place))


def _beside_a_stranger(declared: DeclaredService, place: Place) -> Settings:
    settings = usual(declared, place, bind=[SERVER])
    for port in (*settings["ports"], *settings.get("implicit_tls_ports", ())):
        place.occupy(SECOND_SERVER, port)
    return settings


def _brief(declared: DeclaredService, place: Place) -> Settings:
    return usual(declared, place, idle_timeout=max(BRIEF, declared.idle_timeout_min))


def _clear_only(declared: DeclaredService, place: Place) -> Settings:
    settings = usual(declared, place, plain_ports=2)
    for key in ("explicit_tls", "implicit_tls_ports", "certificate"):
        settings.pop(key, None)
    return settings


def _port_taken(declared: DeclaredService, place: Place) -> Settings:
    settings = usual(declared, place, plain_ports=2)
    place.occupy(SERVER, settings["ports"][0])
    return settings


def _inheriting(declared: DeclaredService, place: Place) -> Settings:
    settings = usual(declared, place)
    del settings["bind"]
    return settings


def _scenarios(*scenarios: Scenario) -> Mapping[str, Scenario]:
    return {scenario.name: scenario for scenario in scenarios}


SCENARIOS: Mapping[str, Scenario] = _scenarios(
    Scenario(
        "general",
        "two ports a channel, no limit in the way, a long time-out",
        _with(plain_ports=2, implicit_ports=2),
        keeps_mail=True,
        roomy=True,
    ),
    Scenario("everywhere", "default binding: every address", _with(bind=["*"]), frozenset({"bind"})),
    Scenario("listed", "a list of addresses", _listed, frozenset({"bind"})),
    Scenario(
        "bogus_address",
        "a list with an address that this machine does not have",
        _with(bind=[SERVER, FOREIGN]),
        frozenset({"bind"}),
        may_refuse=True,
    ),
    Scenario(
        "beside_a_stranger",
        "another program holds the same ports on another address",
        _beside_a_stranger,
        frozenset({"bind"}),
        must_start=True,
    ),
    Scenario(
        "inherited",
        "the bind list comes from the server's defaults",
        _inheriting,
        frozenset({"bind"}),
        defaults={"bind": [SECOND_SERVER]},
    ),
    Scenario(
        "overridden",
        "the service's own bind list stands against the server's defaults",
        _with(bind=[THIRD_SERVER]),
        frozenset({"bind"}),
        defaults={"bind": [SECOND_SERVER]},
    ),
    Scenario(
        "limited",
        f"at most {LIMIT} connections, over two ports and several addresses",
        _limited,
        frozenset({"max_connections"}),
    ),
    Scenario(
        "per_address",
        f"at most {PER_ADDRESS} connections a client address, on a dual-stack listener",
        _with(max_connections_per_ip=PER_ADDRESS, bind=["*"]),
        frozenset({"max_connections_per_ip"}),
    ),
    Scenario(
        "limited_and_restricted",
        f"at most {LIMIT} connections, and one client address denied",
        _with(max_connections=LIMIT, deny=[DENIED_CLIENT]),
        frozenset({"max_connections", "restrictions"}),
    ),
    Scenario("idle", f"a time-out of {SHORT:g} s", _with(idle_timeout=SHORT), hurried=True, keeps_mail=True),
    Scenario("named", "a host name in the bind list", _with(bind=["localhost"]), frozenset({"bind"})),
    Scenario("port_taken", "another program holds the first port of each service", _port_taken, may_refuse=True),
    Scenario("restarted", "stopped and started again while others run", _with(bind=[SERVER]), keeps_mail=True),
    Scenario(
        "restricted_everywhere",
        "one client address denied, on a dual-stack listener",
        _with(bind=["*"], deny=[DENIED_CLIENT]),
        frozenset({"bind", "restrictions"}),
    ),
    Scenario(
        "allowed_only",
        "a list of allowed ranges, and denied ones that overlap with them, on every port and two addresses",
        _with(
            bind=[SERVER, SECOND_SERVER],
            plain_ports=2,
            implicit_ports=2,
            allow=[CLIENT, "-".join(RANGE), *NETWORKS, ALLOWED_WITHIN],
            deny=[DENIED_WITHIN, DENIED_AROUND],
        ),
        frozenset({"bind", "restrictions"}),
    ),
    Scenario(
        "allowed_everywhere",
        "all IPv4 clients of the loopback are allowed but one network, on a dual-stack listener",
        _with(bind=["*"], allow=["127.0.0.0/8"], deny=["127.0.66.0/24"]),
        frozenset({"bind", "restrictions"}),
    ),
    Scenario(
        "spelled_out",
        "an IPv6 address is denied, in a spelling that no program would choose",
        _with(bind=["*"], deny=["0000:0000:0000:0000:0000:0000:0000:0001"]),
        frozenset({"bind", "restrictions"}),
    ),
    Scenario(
        "relisted",
        "address lists that are changed at run time",
        _with(bind=[SERVER]),
        frozenset({"restrictions", "reload"}),
    ),
    Scenario(
        "switched",
        "ports in clear and ports of implicit TLS that are switched on and off at run time",
        _with(bind=[SERVER]),
        frozenset({"implicit_tls", "reload"}),
    ),
    Scenario(
        "no_key",
        "a certificate without a key that could be read",
        _with(certificate="keyless"),
        frozenset({"implicit_tls", "certificate"}),
        certificates=("keyless",),
        spoilt=("keyless",),
        may_refuse=True,
    ),
    Scenario("unlimited", "no limit: zero", _with(max_connections=0), frozenset({"max_connections"})),
    Scenario(
        "adjusted",
        "a limit that is changed at run time",
        _with(max_connections=LIMIT),
        frozenset({"max_connections", "reload"}),
    ),
    Scenario(
        "living",
        "two ports a channel, for what changes while the server runs, and for its end",
        _with(plain_ports=2, implicit_ports=2),
    ),
    Scenario(
        "shortened",
        "a time-out that is made shorter at run time",
        _with(plain_ports=2, implicit_ports=2),
        frozenset({"idle_timeout", "reload"}),
    ),
    Scenario(
        "brief",
        "the shortest time-out that can be watched, for requests that are never finished",
        _brief,
        frozenset({"idle_timeout"}),
    ),
    Scenario("idle_longer", f"a time-out of {LONGER:g} s", _with(idle_timeout=LONGER), frozenset({"idle_timeout"})),
    Scenario(
        "quiet",
        f"a time-out of {SHORT:g} s, and nobody but idle clients",
        _with(idle_timeout=SHORT),
        hurried=True,
    ),
    Scenario(
        "other_days",
        f"a time-out of {SHORT:g} s, and a wall clock that is set forward and back",
        _with(idle_timeout=SHORT),
        frozenset({"idle_timeout", "wall_clock"}),
        sets_clock=True,
    ),
    Scenario(
        "idle_and_full",
        f"a time-out of {SHORT:g} s and at most {LIMIT} connections",
        _with(idle_timeout=SHORT, max_connections=LIMIT),
        frozenset({"max_connections"}),
        hurried=True,
    ),
    Scenario(
        "stuck_and_full",
        "as idle_and_full, for clients that neither read nor close",
        _with(idle_timeout=SHORT, max_connections=LIMIT),
        frozenset({"max_connections"}),
        hurried=True,
    ),
    Scenario("clear_only", "no TLS of any kind", _clear_only),
    Scenario(
        "no_explicit_tls",
        "implicit TLS, but no explicit",
        _with(explicit_tls=False, plain_ports=2),
        frozenset({"implicit_tls"}),
    ),
    Scenario(
        "login_needs_tls",
        "passwords are taken under TLS only",
        _with(require_tls_for_login=True, plain_ports=2, implicit_ports=2),
        frozenset({"require_tls_for_login"}),
    ),
    Scenario(
        "own_certificate",
        "a certificate that is not the first one, of another kind, and can be replaced",
        _with(certificate="own"),
        frozenset({"certificate"}),
        certificates=("own",),
    ),
)
