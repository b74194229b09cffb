"""The TLS layer (TLS), its sessions: how they end, what they leave behind, and how a certificate is replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from conformance.check import (
    NO_CHANNEL,
    TLS_CHANNELS,
    Channel,
    Inconclusive,
    Latitude,
    Mismatch,
    NotAssessable,
    NotOffered,
    check,
)
from conformance.checks.test_limits import LIMITED, gives_way, require_exactly
from conformance.checks.test_tls import require_certificate
from conformance.client_1_2 import Client12
from conformance.client_1_3 import Client13
from conformance.dialects import NotServed
from conformance.handshake import HELLO_PATIENCE, at_the_hello, client, presented, versions
from conformance.hello import in_clear
from conformance.records import TurnedAway, Unreadable
from conformance.visit import Endpoint, Refusal, Visit, expecting
from conformance.watch import Seen
from conformance.wire import PATIENCE, Ended, Ending, Silent, Wire

Elsewhere = Callable[[str], Endpoint]
Observed = Callable[..., Seen]

#: How often a race that the server must win is run.
RACES = 5
#: As many in a row are as good as any number.
MOST_RENEGOTIATIONS = 5


def require_notified(wire: Wire, when: str) -> None:
    """The server ends the session with close_notify."""
    try:
        ending, _ = wire.await_end(PATIENCE)
    except Silent as silence:
        raise Mismatch(f"close_notify {when}", str(silence)) from None
    if ending is not Ending.CLOSE_NOTIFY:
        raise Mismatch(f"close_notify {when}", str(ending))


@check("TLS-09", scenario="general", channels=TLS_CHANNELS)
def test_renegotiation_is_refused_or_bounded(endpoint: Endpoint) -> None:
    """The kind that is tied to the session before (RFC 5746), and the legacy kind that is tied to nothing."""
    if "1.2" not in versions(endpoint):
        return  # RFC 8446 4.1.2: TLS 1.3 has none
    for legacy in (False, True):
        with at_the_hello(endpoint) as wire:
            accepted = renegotiated(Client12(wire), legacy=legacy, stray=endpoint.dialect.stray)
        kind = "legacy renegotiation" if legacy else "renegotiation"
        endpoint.transcript.note(wire.number, f"{kind}: {accepted} times")
        if legacy and accepted:
            raise Mismatch("legacy renegotiation to be refused (CVE-2009-3555)", "it is done")
        if accepted == MOST_RENEGOTIATIONS:
            raise Mismatch("renegotiation to be refused or bounded", f"it was done {accepted} times in a row")


def renegotiated(session: Client12, *, legacy: bool, stray: bytes) -> int:
    """How often the server lets the client renegotiate."""
    try:
        session.handshake(signal=not legacy)
    except (TurnedAway, Ended, Silent, Unreadable) as failure:
        if legacy:
            return 0  # whoever does not know of RFC 5746 is not let in at all
        raise Inconclusive(f"no session of TLS 1.2 to renegotiate: {failure}") from None
    accepted = 0
    try:
        while accepted < MOST_RENEGOTIATIONS:
            session.renegotiate(legacy=legacy, patience=HELLO_PATIENCE)
            accepted += 1
    except (TurnedAway, Ended):
        return accepted
    except (Silent, Unreadable) as nothing:
        # Disregarded, if the session goes on as if nothing had been asked.
        try:
            session.send(stray)
            session.receive()
        except (TurnedAway, Ended):
            return accepted
        except (Silent, Unreadable):
            raise Inconclusive(f"no answer to a request to renegotiate: {nothing}") from None
    return accepted


@check("TLS-11", scenario="idle", channels=TLS_CHANNELS, watches=("after_command",), also=("limited",))
def test_an_orderly_close_is_announced(endpoint: Endpoint, observed: Observed, elsewhere: Elsewhere) -> None:
    """At a goodbye, for idleness, and with a refusal that is said inside TLS."""
    for version in versions(endpoint):
        visit = client(endpoint, version).visit()
        with expecting("an answer to a goodbye"):
            endpoint.dialect.goodbye(visit.wire)
        require_notified(visit.wire, f"after a goodbye (TLS {version})")
        visit.close()
    if "max_connections" in endpoint.declared.offers and endpoint.channel is Channel.IMPLICIT:
        refusal_is_announced(elsewhere("limited"))
    seen = observed("after_command")
    seen.require()
    if seen.ending is None:
        raise Inconclusive("the idle session was not ended, which is judged elsewhere")
    if seen.ending is not Ending.CLOSE_NOTIFY:
        raise Mismatch("close_notify when an idle session is ended", str(seen.ending))


def refusal_is_announced(limited: Endpoint) -> None:
    """One client too many: if it is told so inside TLS, or an older one is, close_notify comes with it."""
    visits = limited.fill()
    wire = limited.knock()
    try:
        wire.start_tls(limited.context(), "localhost", limited.patience)
        limited.dialect.greeting(wire, limited.patience)
    except NotServed:
        require_notified(wire, "behind a refusal inside TLS")
    except (Ended, Silent):
        limited.transcript.note(wire.number, "no refusal inside TLS")
    else:
        if gives_way(limited):
            for visit in visits:
                if not visit.is_alive():
                    require_notified(visit.wire, "behind the farewell of a session that gave way")
    limited.close_all()


@check("TLS-12", scenario="limited", channels=TLS_CHANNELS, needs=LIMITED)
def test_what_the_client_closes_is_closed(endpoint: Endpoint) -> None:
    """close_notify while the connection stays open, and FIN without close_notify: both end the session."""
    for version in versions(endpoint):
        pinned = client(endpoint, version)
        for leave, name in ((Wire.notify_close, "close_notify"), (Wire.finish, "FIN")):
            visits = pinned.fill()
            for visit in visits:
                leave(visit.wire)
            for visit in visits:
                try:
                    ending, _ = visit.wire.await_end(endpoint.release)
                except Silent as silence:
                    raise Mismatch(
                        f"the session to end after the client's {name} (TLS {version})", str(silence)
                    ) from None
                # RFC 5246 7.2.1 wants it answered; RFC 8446 6.1 does not.
                if version == "1.2" and name == "close_notify" and ending is not Ending.CLOSE_NOTIFY:
                    raise Mismatch("close_notify in answer to the client's (TLS 1.2)", str(ending))
            # Their slots are free although our side of the connections is still open.
            newcomers = pinned.fill()
            for newcomer in newcomers:
                newcomer.goodbye()
    require_exactly(endpoint)


@check("TLS-13", scenario="general", channels=TLS_CHANNELS)
def test_a_resumed_session_is_nobody_s(endpoint: Endpoint) -> None:
    """A session that was signed in is resumed there, through the other channel and in the other services."""
    elsewhere = [endpoint, *(endpoint.through(channel) for channel in endpoint.channels if channel in TLS_CHANNELS)]
    for other in endpoint.other_services():
        elsewhere += [other.through(channel) for channel in other.channels if channel is endpoint.channel]
    for version in versions(endpoint):
        pinned = client(endpoint, version)
        context = pinned.context()
        with pinned.visit() as visit:
            try:
                endpoint.dialect.login(visit.wire, endpoint.credentials)
            except NotServed as refusal:
                raise NotAssessable(f"nobody can sign in here: {refusal}") from None
            if not visit.is_alive():
                raise Inconclusive("the session to be resumed was lost")
            session = visit.wire.tls.session if visit.wire.tls is not None else None
            visit.goodbye()
        if session is None:
            continue
        for place in elsewhere:
            with at_the_hello(place) as wire:
                with expecting(f"{place.service} ({place.channel}) to serve a client that offers to resume a session"):
                    wire.start_tls(context, "localhost", session=session)
                    if place.channel is Channel.IMPLICIT:
                        place.dialect.greeting(wire, PATIENCE)
                    place.dialect.act(wire)
                    signed_in = place.dialect.is_signed_in(wire, place.credentials)
                if signed_in:
                    raise Mismatch(
                        f"a login to be needed in {place.service} ({place.channel})",
                        f"a session of {endpoint.service} ({endpoint.channel}) was resumed and is signed in",
                    )


@check("TLS-15", scenario="own_certificate", channels=NO_CHANNEL, needs=("reload",))
def test_a_replaced_certificate_is_used(endpoint: Endpoint) -> None:
    """New files in the place of the old ones, then a reload; and files that are broken, and another."""
    secured = [endpoint.through(channel) for channel in endpoint.channels if channel in TLS_CHANNELS]
    if not secured:
        raise NotOffered(f"{endpoint.service} offers no TLS")
    site, name = endpoint.site, endpoint.settings["certificate"]
    entry = site.settings["certificates"][name]
    for each in secured:
        require_presented(each)
    site.renew_certificate(name)
    if (error := site.reload(site.settings)) is not None:
        raise Mismatch("the new certificate to be taken", f"the reload was refused: {error}")
    for each in secured:
        require_presented(each)
    for file in (Path(entry["chain"]), Path(entry["key"])):
        sound = file.read_bytes()
        shown = [served_certificate(each) for each in secured]
        file.write_bytes(b"-----BEGIN NOTHING-----\n")
        try:
            error = site.reload(site.settings)
            endpoint.transcript.note(0, f"with a broken {file.name}: {error or 'taken without a complaint'}")
            for each, before in zip(secured, shown, strict=True):
                if served_certificate(each) != before:
                    raise Mismatch(f"the old certificate to stay in use ({each.channel})", "another one is presented")
        finally:
            file.write_bytes(sound)
            again = site.reload(site.settings)
        if again is not None:
            raise Inconclusive(f"the server does not take its own certificate back: {again}")


def served_certificate(endpoint: Endpoint) -> bytes:
    """What the server presents now."""
    outcome = endpoint.attempt()
    if isinstance(outcome, Refusal):
        raise Mismatch(f"TLS to be had as before ({endpoint.channel})", str(outcome))
    with outcome:
        return presented(outcome.wire)


def require_presented(endpoint: Endpoint) -> None:
    """The certificate that is in the file now, at every port."""
    for door in endpoint.doors:
        with endpoint.visit(door) as visit:
            require_certificate(endpoint, presented(visit.wire))


@check("TLS-16", scenario="general", channels=TLS_CHANNELS)
def test_early_data_is_off(endpoint: Endpoint) -> None:
    """No ticket allows it."""
    if "1.3" not in versions(endpoint):
        return  # early data is of TLS 1.3
    with at_the_hello(endpoint) as wire:
        session = Client13(wire)
        try:
            session.handshake()
            session.send(endpoint.dialect.stray)
            session.receive()
        except (Ended, Silent, TurnedAway, Unreadable) as failure:
            raise Inconclusive(f"no session of TLS 1.3 to get a ticket in: {failure}") from None
    endpoint.transcript.note(wire.number, f"tickets allow early data of {session.tickets} octets")
    if allowed := max(session.tickets, default=0):
        raise Latitude(f"tickets allow {allowed} octets of early data")


@check("TLS-18", scenario="general", channels=TLS_CHANNELS)
def test_what_came_before_the_handshake_is_never_taken_for_decrypted(endpoint: Endpoint) -> None:
    """Commands in clear and a FIN at once, where a handshake is due: nothing answers in clear."""
    endpoint.visit().goodbye()
    commands = endpoint.dialect.stray * 3
    for race in range(RACES * len(endpoint.doors)):
        door = endpoint.doors[race % len(endpoint.doors)]
        # Half of the time, explicit TLS is asked for in the very segment that the commands come in.
        pipelined = race % 2 == 1 and endpoint.channel is Channel.EXPLICIT
        try:
            opened = at_the_hello(endpoint, door, behind=commands if pipelined else b"")
        except Inconclusive as reason:
            if not pipelined:
                raise
            # Refused, or answered before the request for TLS was: that is EXP-04's.
            endpoint.transcript.note(0, str(reason))
            continue
        with opened as wire:
            heard = wire.heard
            try:
                if pipelined:
                    wire.finish()
                else:
                    wire.send_raw_and_finish(commands)
                wire.await_end(PATIENCE)
            except (Ended, Silent) as end:
                endpoint.transcript.note(wire.number, str(end))
            answered, turned_down = in_clear(bytes(wire.raw[heard:])), endpoint.dialect.turned_down
            if answered and not (turned_down and answered.startswith(turned_down)):
                raise Mismatch("no answer in clear where a handshake is due", repr(answered[:200]))
    outcome = endpoint.attempt()
    if not isinstance(outcome, Visit):
        raise Mismatch("the server to serve on", str(outcome))
    outcome.goodbye()
