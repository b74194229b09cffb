"""The TLS layer (TLS), its handshakes: versions, suites and certificates, alike through every door.

What no client of today will say is said by hand (see :mod:`conformance.hello`); what must serve is proved by sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from conformance.check import NO_CHANNEL, TLS_CHANNELS, Channel, Inconclusive, Latitude, Mismatch, NotOffered, check
from conformance.checks.test_ports import confirm_with_a_real_client
from conformance.client_1_3 import Client13
from conformance.handshake import (
    at_the_hello,
    bits,
    client,
    configured_chain,
    declared_versions,
    describe,
    offer,
    pinned_hello,
    presented,
    require_control,
    require_hello,
    still_serves,
    versions,
)
from conformance.hello import (
    AES_128,
    AES_128_OF_1_3,
    AES_256,
    AES_256_OF_1_3,
    CHACHA_20,
    CHACHA_20_OF_1_3,
    OLD_SUITES,
    SIGNAL,
    SSL3,
    STRONG_BOTH_WAYS,
    TLS1_0,
    TLS1_1,
    TLS1_2,
    TLS1_3,
    WEAK_SUITES,
    WITHOUT_FORWARD_SECRECY,
    client_hello,
    ssl2_hello,
)
from conformance.records import TurnedAway, Unreadable
from conformance.visit import Door, Endpoint, Refusal, Visit
from conformance.wire import Ended, Silent

Elsewhere = Callable[[str], Endpoint]

LEAST_BITS = 256
#: OpenSSL's words for a client that offers AES-128 before everything else, and for one that offers nothing else.
PREFERS_128 = "ECDHE+AESGCM+AES128:DHE+AESGCM+AES128:ECDHE+AESGCM+AES256:DHE+AESGCM+AES256:ECDHE+CHACHA20"
ONLY_128 = "ECDHE+AESGCM+AES128:DHE+AESGCM+AES128"

OLD_HELLOS: Mapping[str, Callable[[], bytes]] = {
    "SSL 2": ssl2_hello,
    "SSL 3": lambda: client_hello(SSL3),
    "TLS 1.0": lambda: client_hello(TLS1_0),
    "TLS 1.1": lambda: client_hello(TLS1_1),
    "TLS 1.1, by the extension of TLS 1.3": lambda: client_hello(
        TLS1_2, (*OLD_SUITES, *AES_256), versions=(TLS1_1, TLS1_0)
    ),
}
BY_PREFERENCE_128: Mapping[str, Callable[[], bytes]] = {
    "1.2": lambda: client_hello(TLS1_2, (*AES_128, *AES_256, *CHACHA_20, SIGNAL)),
    "1.3": lambda: client_hello(TLS1_3, (AES_128_OF_1_3, AES_256_OF_1_3, CHACHA_20_OF_1_3)),
}
SUITES_OF_256 = frozenset({*AES_256, *CHACHA_20, AES_256_OF_1_3, CHACHA_20_OF_1_3})
#: RFC 9150: TLS 1.3 suites that protect integrity only.
WITHOUT_ENCRYPTION_1_3 = (0xC0B5, 0xC0B4)
UNKNOWN_NAME = "elsewhere.invalid"
ODD_NAMES: Mapping[str, bytes] = {
    "an unknown name": UNKNOWN_NAME.encode(),
    "an address": b"127.0.0.1",
    "a name of 255 octets": b"x" * 255,
    "a name with a NUL": b"local\0host",
    "octets that are no text": b"\xff\xfe.example",
}


def require_no_hello(endpoint: Endpoint, door: Door, title: str, hello: bytes) -> None:
    """The server does not go on with what it was offered, and says nothing in clear about it."""
    seen = offer(endpoint, hello, door)
    where = f"at port {door.port} ({endpoint.channel})"
    if seen.answer.clear:
        raise Mismatch(f"an alert or a close in answer to {title} {where}", str(seen))
    if seen.answer.hello is not None:
        raise Mismatch(f"{title} not to be negotiated {where}", f"the server agrees to {seen}")


@check("TLS-01", scenario="general", channels=TLS_CHANNELS)
def test_no_old_version_is_negotiated(endpoint: Endpoint) -> None:
    for door in endpoint.doors:
        require_control(endpoint, door)
        for title, hello in OLD_HELLOS.items():
            require_no_hello(endpoint, door, title, hello())
        require_control(endpoint, door)


@check("TLS-02", scenario="general", channels=TLS_CHANNELS)
def test_the_versions_of_today_are_spoken(endpoint: Endpoint) -> None:
    declared = declared_versions(endpoint)
    for version in declared:
        for door in endpoint.doors:
            outcome = client(endpoint, version).attempt(door)
            if isinstance(outcome, Visit):
                outcome.goodbye()
            elif version == "1.3":
                raise Latitude(f"a client that speaks TLS 1.3 only is {outcome}")
            else:
                raise Mismatch(f"a client that speaks TLS {version} only to be served", str(outcome))
    if "1.2" not in declared:
        raise NotOffered("the target declares that it speaks TLS 1.3 only")
    if "1.3" not in declared:
        raise Latitude("the target declares that it does not speak TLS 1.3")


@check("TLS-03", scenario="general", channels=TLS_CHANNELS)
def test_whoever_offers_256_bits_gets_them(endpoint: Endpoint) -> None:
    """A client with the usual list, and one that would rather have AES-128."""
    spoken = versions(endpoint)
    for door in endpoint.doors:
        for version in spoken:
            require_256(client(endpoint, version), door)
        if "1.2" in spoken:
            require_256(client(endpoint, "1.2", ciphers=PREFERS_128), door)
        for version in spoken:
            chosen = require_hello(endpoint, BY_PREFERENCE_128[version](), door)
            if chosen.suite not in SUITES_OF_256:
                raise Mismatch(
                    f"{LEAST_BITS} bits for a client of TLS {version} that offers both sizes, 128 first",
                    f"the server takes {chosen}",
                )


def require_256(endpoint: Endpoint, door: Door) -> None:
    with endpoint.visit(door) as visit:
        name, size = bits(visit)
        if size < LEAST_BITS:
            raise Mismatch(f"a suite of {LEAST_BITS} bits for a client that offers both sizes", f"{name}, {size} bits")


@check("TLS-04", scenario="general", channels=TLS_CHANNELS)
def test_whoever_offers_no_more_than_128_bits_is_turned_away(endpoint: Endpoint) -> None:
    """Turned away in the handshake, or before the first octet inside TLS."""
    served = []
    spoken = versions(endpoint)
    if "1.2" in spoken:
        outcome = client(endpoint, "1.2", ciphers=ONLY_128).attempt()
        if isinstance(outcome, Visit):
            outcome.goodbye()
            served.append("1.2")
    if "1.3" in spoken:
        # No library lets one choose the suites of TLS 1.3.
        with at_the_hello(endpoint) as wire:
            session = Client13(wire, AES_128_OF_1_3)
            try:
                session.handshake()
                session.send(endpoint.dialect.stray)
                endpoint.transcript.note(wire.number, f"inside TLS: {session.receive()!r}")
                served.append("1.3")
            except (Ended, Silent, TurnedAway, Unreadable) as refusal:
                endpoint.transcript.note(wire.number, f"turned away: {refusal}")
    if served:
        raise Latitude(f"a client with AES-128 alone is served under TLS {' and '.join(served)}")
    if not still_serves(endpoint):
        raise Inconclusive("nobody else is served either")


@check("TLS-05", scenario="general", channels=TLS_CHANNELS, also=("own_certificate",))
def test_the_selected_certificate_is_presented_with_its_chain(endpoint: Endpoint, elsewhere: Elsewhere) -> None:
    """The only certificate there is; and one that is not the first, of another kind of key."""
    endpoints = [endpoint]
    if "certificate" in endpoint.declared.offers:
        endpoints.append(elsewhere("own_certificate"))
    for each in endpoints:
        spoken = versions(each)
        for door in each.doors:
            for version in spoken:
                with client(each, version).visit(door) as visit:
                    require_certificate(each, presented(visit.wire))
        confirm_with_a_real_client(each, each.doors[0])


def require_certificate(endpoint: Endpoint, shown: bytes) -> None:
    selected = configured_chain(endpoint)[0]
    if shown != selected:
        raise Mismatch(f"the selected certificate ({describe(selected)})", f"another one: {describe(shown)}")


@check("TLS-06", scenario="own_certificate", channels=TLS_CHANNELS)
def test_whatever_name_is_asked_for_the_selected_certificate_is_shown(endpoint: Endpoint) -> None:
    """Without a name, with a wrong one, and with what is no name at all."""
    spoken = versions(endpoint)
    for version in spoken:
        with client(endpoint, version, server_name=None).visit() as visit:
            require_certificate(endpoint, presented(visit.wire))
        outcome = client(endpoint, version, server_name=UNKNOWN_NAME).attempt()
        if isinstance(outcome, Visit):
            with outcome:
                require_certificate(endpoint, presented(outcome.wire))
        elif "UNRECOGNIZED_NAME" not in str(outcome).upper():
            raise Mismatch("the selected certificate or unrecognized_name for an unknown name", str(outcome))
    for title, name in ODD_NAMES.items():
        for version in spoken:
            seen = offer(endpoint, pinned_hello(version, name))
            if seen.answer.clear or (seen.answer.hello is None and seen.answer.alert is None and seen.ending is None):
                raise Mismatch(f"a certificate, an alert or a close for {title}", str(seen))
            if seen.answer.chain:
                require_certificate(endpoint, seen.answer.chain[0])
            if not still_serves(endpoint):
                raise Mismatch(f"the server to serve on after it was asked for {title}", "it no longer serves")


@check("TLS-07", scenario="own_certificate", channels=TLS_CHANNELS)
def test_no_weak_suite_is_negotiated(endpoint: Endpoint) -> None:
    for door in endpoint.doors:
        require_control(endpoint, door)
        for weakness, suites in WEAK_SUITES.items():
            require_no_hello(endpoint, door, f"a suite with {weakness}", client_hello(TLS1_2, (*suites, SIGNAL)))
        hello = client_hello(TLS1_3, WITHOUT_ENCRYPTION_1_3)
        require_no_hello(endpoint, door, "a suite with no encryption (TLS 1.3)", hello)
        require_control(endpoint, door)


@check("TLS-08", scenario="own_certificate", channels=TLS_CHANNELS)
def test_key_exchange_has_forward_secrecy(endpoint: Endpoint) -> None:
    """With a key of RSA, by which a careless server can do without; and the server's own order decides."""
    spoken = versions(endpoint)
    for version in spoken:
        with client(endpoint, version).visit() as visit:
            name, _ = bits(visit)
            if not name.startswith(("TLS_", "ECDHE-", "DHE-")):
                raise Mismatch("a key exchange with forward secrecy", name)
    if "1.2" not in spoken:
        return
    require_control(endpoint)
    title = "a key exchange without forward secrecy"
    require_no_hello(endpoint, endpoint.doors[0], title, client_hello(TLS1_2, (*WITHOUT_FORWARD_SECRECY, SIGNAL)))
    chosen = [str(require_hello(endpoint, client_hello(TLS1_2, (*suites, SIGNAL)))) for suites in STRONG_BOTH_WAYS]
    if chosen[0] != chosen[1]:
        raise Latitude(f"among strong suites the client's order decides: {' and '.join(chosen)}")


@check("TLS-10", scenario="general", channels=TLS_CHANNELS)
def test_records_are_not_compressed(endpoint: Endpoint) -> None:
    if "1.2" not in versions(endpoint):
        return  # RFC 8446 4.1.2: TLS 1.3 has no compression
    for door in endpoint.doors:
        require_control(endpoint, door)
        hello = client_hello(TLS1_2, (*AES_256, *CHACHA_20, SIGNAL), compressions=b"\x01\x40\x00")
        seen = offer(endpoint, hello, door)
        if seen.answer.hello is not None and seen.answer.hello.compression:
            raise Mismatch("no compression", f"method {seen.answer.hello.compression} is chosen")


@check("TLS-14", scenario="general", channels=TLS_CHANNELS)
def test_a_client_of_unknown_protocols_is_told_so(endpoint: Endpoint) -> None:
    disregarded = []
    for version in versions(endpoint):
        outcome = client(endpoint, version, protocols=["listenspec-invented"]).attempt()
        if isinstance(outcome, Refusal):
            # Python's ssl has a name of its own for it, or OpenSSL's words.
            if "NO_APPLICATION_PROTOCOL" not in str(outcome).upper().replace(" ", "_"):
                raise Mismatch("no_application_protocol for a client of unknown protocols", str(outcome))
            continue
        with outcome:
            chosen = outcome.wire.tls.selected_alpn_protocol() if outcome.wire.tls is not None else None
        if chosen is not None:
            raise Mismatch("no agreement on a protocol that does not exist", f"agreement on {chosen}")
        disregarded.append(version)
    if disregarded:
        raise Latitude(f"the names are disregarded under TLS {' and '.join(disregarded)}")


#: What is offered at every door, for the answers to be compared.
POLICY: Mapping[str, Callable[[], bytes]] = {
    **OLD_HELLOS,
    "TLS 1.2, 128 bits first": BY_PREFERENCE_128["1.2"],
    "TLS 1.3, 128 bits first": BY_PREFERENCE_128["1.3"],
    "TLS 1.2 with AES-128 alone": lambda: client_hello(TLS1_2, (*AES_128, SIGNAL)),
    "TLS 1.2 with AES-256 alone": lambda: client_hello(TLS1_2, (*AES_256, SIGNAL)),
    "TLS 1.2 with ChaCha20 alone": lambda: client_hello(TLS1_2, (*CHACHA_20, SIGNAL)),
    "TLS 1.2 with CBC suites": lambda: client_hello(TLS1_2, OLD_SUITES),
    "TLS 1.2 without forward secrecy": lambda: client_hello(TLS1_2, (*WITHOUT_FORWARD_SECRECY, SIGNAL)),
    "TLS 1.3 with AES-128 alone": lambda: client_hello(TLS1_3, (AES_128_OF_1_3,)),
    "TLS 1.3 with AES-256 alone": lambda: client_hello(TLS1_3, (AES_256_OF_1_3,)),
    "TLS 1.3 with ChaCha20 alone": lambda: client_hello(TLS1_3, (CHACHA_20_OF_1_3,)),
    **{
        f"TLS 1.2 with {weakness}": lambda suites=suites: client_hello(TLS1_2, (*suites, SIGNAL))  # type: ignore[misc]
        for weakness, suites in WEAK_SUITES.items()
    },
}


@check("TLS-17", scenario="general", channels=NO_CHANNEL)
def test_every_door_has_the_same_policy(endpoint: Endpoint) -> None:
    """The same offers at every port of every channel with TLS, and the answers compared."""
    doors = [
        (endpoint.through(channel), door)
        for channel in endpoint.channels
        if channel is not Channel.PLAIN
        for door in endpoint.through(channel).doors
    ]
    if not doors:
        raise NotOffered(f"{endpoint.service} offers no TLS")
    for title, hello in POLICY.items():
        first: tuple[str, str] | None = None
        for through, door in doors:
            chosen = offer(through, hello(), door).answer.hello
            answer = "refused" if chosen is None else str(chosen)
            where = f"port {door.port} ({through.channel})"
            if first is None:
                first = answer, where
            elif answer != first[0]:
                raise Mismatch(
                    f"{title} to be treated alike everywhere", f"{first[0]} at {first[1]}, {answer} at {where}"
                )
