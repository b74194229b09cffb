"""LIF: what becomes of listeners, sessions and counters when the configuration changes, and when the server stops."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from conformance import mail
from conformance.check import NO_CHANNEL, Channel, Inconclusive, Latitude, Mismatch, NotAssessable, check
from conformance.checks.test_idle import FOLLOWS, Observed
from conformance.checks.test_limits import require_exactly, require_full
from conformance.dialects import NotServed, http, smtp
from conformance.scenarios import LONG, SERVER
from conformance.visit import Door, Endpoint, Form, Refusal, Visit, expecting
from conformance.wire import PATIENCE, Ended, Ending, Silent
from reference_server.settings import Service

RELOADED = ("reload",)
#: Services whose protocol has a word for the end that the server wants (RFC 5321 3.8, 3501 7.1.5, 4511 4.4.1).
WITH_FAREWELL = (Service.SMTP, Service.IMAP, Service.LDAP)
#: RFC 9112 9.5: who is between two requests may be left at any time, and whoever has an answer has been served.
BETWEEN_REQUESTS = (Service.WEBMAIL, Service.ADMIN)
#: So long a connection may hear nothing that was accepted although the server is about to stop (seconds).
HEARD_WITHIN = 1.0
#: How soon after the signal a server must have turned to its listeners (seconds).
BEGUN_WITHIN = 0.3
#: How long a session that was left alone by a service's end is watched before it counts as such (seconds).
DRAINED = 0.3


def every_door(endpoint: Endpoint) -> list[tuple[Endpoint, Door]]:
    """All doors of the service, with the channel that is behind each."""
    channels = [channel for channel in endpoint.channels if channel is not Channel.EXPLICIT]
    return [(endpoint.through(channel), door) for channel in channels for door in endpoint.through(channel).doors]


def guests(endpoint: Endpoint) -> list[Visit]:
    """A session in each channel."""
    return [endpoint.through(channel).visit() for channel in endpoint.channels]


@contextlib.contextmanager
def changed(endpoint: Endpoint, edit: Callable[[dict[str, Any]], None], what: str) -> Iterator[None]:
    """Inside, the service has another table; afterwards the one that it had.  Raises :class:`Mismatch`."""
    before = endpoint.site.settings
    if (error := alter(endpoint, edit)) is not None:
        raise Mismatch(f"{what} to be taken on", error)
    try:
        yield
    finally:
        back = endpoint.site.reload(before)
    if back is not None:
        raise Mismatch("the configuration that was there before to be taken on again", back)


def alter(endpoint: Endpoint, edit: Callable[[dict[str, Any]], None]) -> str | None:
    """Reload with the service's table changed: why that was not taken on, or None."""
    return endpoint.site.change(lambda settings: edit(settings["services"][endpoint.service.value]))


def some_other(table: dict[str, Any]) -> None:
    """A change that concerns no session and no listener."""
    if "max_connections" in table:
        table["max_connections"] -= 1
    elif "idle_timeout" in table:
        table["idle_timeout"] += 1


class Knocking:
    """Somebody who connects again and again, on a thread, until told to stop; what went wrong with it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._knock, daemon=True)
        self.times = 0
        self.refused: Refusal | None = None

    def __enter__(self) -> Knocking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(2 * PATIENCE)

    def _knock(self) -> None:
        while not self._done.wait(0.01) and self.refused is None and self.times < 500:
            outcome = self._endpoint.attempt()
            if isinstance(outcome, Visit):
                outcome.close()
            elif not (outcome.greeted and self._endpoint.service in BETWEEN_REQUESTS):
                self.refused = outcome
                return
            self.times += 1


@check("LIF-01", scenario="living", channels=NO_CHANNEL, needs=RELOADED)
def test_a_reload_disturbs_nobody(endpoint: Endpoint) -> None:
    """Sessions in every channel, a message or request under way, and clients that connect meanwhile."""
    plain = endpoint.through(Channel.PLAIN)
    asking = guests(endpoint) if endpoint.service in BETWEEN_REQUESTS else []
    for visit in asking:
        endpoint.dialect.begin(visit.wire)
    visits = guests(endpoint)
    under_way = mail.begun(plain, endpoint.credentials) if endpoint.service is Service.SMTP else None
    if under_way is not None:
        under_way.wire.send(b"Subject: under way\r\n\r\nhalf of it,\r\n")
    with Knocking(plain) as knocking:
        for _ in range(2):
            with changed(endpoint, some_other, "a change of something else"):
                pass
    if knocking.refused is not None:
        raise Mismatch("clients that connect during a reload to be served", str(knocking.refused))
    for visit in asking:
        with expecting(f"a request ({visit.endpoint.channel}) that was under way to be answered after the reload"):
            http.finish(visit.wire)
        visit.close()
    if under_way is not None:
        finish(under_way)
    if [visit for visit in visits if not survives(visit)]:
        raise Latitude("connections between two requests are closed, as RFC 9112 9.5 allows")


def survives(visit: Visit) -> bool:
    """Whether a session can still act; False for one that could be ended at any time.  Raises :class:`Mismatch`."""
    alive = visit.is_alive()
    if not alive and visit.endpoint.service not in BETWEEN_REQUESTS:
        raise Mismatch(f"a session ({visit.endpoint.channel}) to outlive a reload", "it could no longer act")
    visit.goodbye()
    return alive


def finish(visit: Visit) -> None:
    """The rest of a message."""
    with expecting("the message under way to be taken after the reload"):
        visit.wire.send(b"and the other.\r\n.\r\n")
        code, reply = smtp.read_reply(visit.wire)
        if code != 250:
            raise NotServed(reply)
    visit.goodbye()


@check("LIF-02", scenario="living", channels=NO_CHANNEL, needs=RELOADED)
def test_ports_that_change_are_opened_and_closed(endpoint: Endpoint) -> None:
    """The first port of each list goes and another comes, the second one stays."""
    lists = [key for key in ("ports", "implicit_tls_ports") if endpoint.settings.get(key)]
    fresh = dict(zip(lists, endpoint.site.place.ports(len(lists)), strict=True))
    doors = every_door(endpoint)
    gone = [(through, door) for through, door in doors if door.port == through.ports[0]]
    stay = [(through, door) for through, door in doors if door.port != through.ports[0]]

    def edit(table: dict[str, Any]) -> None:
        for key, port in fresh.items():
            table[key] = [*table[key][1:], port]

    with changed(endpoint, edit, "a change of ports"):
        come = [(through, Door(door.address, through.ports[-1])) for through, door in gone]
        for through, door in (*come, *stay):
            through.visit(door).goodbye()
        for through, door in gone:
            if isinstance(outcome := through.attempt(door, patience=through.patience), Visit):
                outcome.close()
                raise Mismatch(f"port {door.port}, which is configured no more, to be closed", "it served a client")
    for through, door in doors:
        through.visit(door).goodbye()


def _unknown_port(table: dict[str, Any]) -> None:
    table["ports"] = [70000]


def _no_time(table: dict[str, Any]) -> None:
    table["idle_timeout"] = -5


def _unknown_certificate(table: dict[str, Any]) -> None:
    table["certificate"] = "nobody's"


UNUSABLE = {
    "port 70000": ("ports", _unknown_port),
    "an idle time-out of -5 s": ("idle_timeout", _no_time),
    "a certificate that is not there": ("certificate", _unknown_certificate),
}


@check("LIF-03", scenario="living", channels=NO_CHANNEL, needs=RELOADED)
def test_what_cannot_be_used_leaves_the_old_configuration_in_force(endpoint: Endpoint) -> None:
    visits = guests(endpoint)
    before = endpoint.site.settings
    for what, (key, edit) in UNUSABLE.items():
        if key not in endpoint.settings:
            continue
        if alter(endpoint, edit) is None:
            endpoint.site.reload(before)
            raise Mismatch(f"{what} to be turned down", "it was taken without a complaint")
        for through, door in every_door(endpoint):
            through.visit(door).goodbye()
    for visit in visits:
        if not visit.is_alive():
            raise Mismatch("sessions to go on after a configuration was turned down", "one could no longer act")
        visit.goodbye()


@check("LIF-04", scenario="living", channels=NO_CHANNEL, needs=RELOADED)
def test_a_service_that_is_switched_off_is_closed(endpoint: Endpoint) -> None:
    """Its doors at once; who is inside hears a farewell, or is allowed to finish.  Nobody else notices."""
    visits = guests(endpoint)
    doors = every_door(endpoint)
    others = endpoint.other_services()

    def off(table: dict[str, Any]) -> None:
        table["enabled"] = False

    with changed(endpoint, off, "a service that is switched off"):
        for through, door in doors:
            if isinstance(outcome := through.attempt(door, patience=through.patience), Visit):
                outcome.close()
                raise Mismatch(f"port {door.port} of a service that is off to be closed", "it served a client")
        for visit in visits:
            require_leave(visit)
        for other in others:
            other.visit().goodbye()
    for through, door in doors:
        through.visit(door).goodbye()


def require_leave(visit: Visit) -> None:
    """The session is ended in good order, or goes on."""
    dialect, wire = visit.endpoint.dialect, visit.wire
    try:
        ending, said = wire.await_end(DRAINED)
    except Silent:
        if not visit.is_alive():
            raise Mismatch("a session of a service that is switched off to be ended, or to go on", "neither") from None
        visit.goodbye()
        return
    visit.close()  # otherwise the server would wait for that when it is stopped
    if ending is Ending.RST:
        raise Mismatch("a session of a service that is switched off to be ended in good order", str(ending))
    if visit.endpoint.service in WITH_FAREWELL and not dialect.is_farewell(said):
        raise Mismatch("a farewell to a session of a service that is switched off, or that it goes on", repr(said))


@check("LIF-05", scenario="living", channels=NO_CHANNEL)
def test_a_stop_closes_the_doors_at_once(endpoint: Endpoint) -> None:
    """Nobody is let in and then ignored while the server ends, and nobody at all when it has ended."""
    doors = every_door(endpoint)
    visit = endpoint.through(Channel.PLAIN).visit()
    troubles: list[BaseException] = []

    def stop() -> None:
        try:
            endpoint.site.stop()
        except BaseException as error:  # it is told where the check is
            troubles.append(error)

    stopping = threading.Thread(target=stop, daemon=True)
    signalled = time.monotonic()
    stopping.start()
    try:
        while stopping.is_alive() and time.monotonic() < signalled + PATIENCE:
            through, door = doors[0]
            if time.monotonic() > signalled + BEGUN_WITHIN:
                require_not_ignored(through, door)
                visit.close()  # for whom it may have waited until now
            stopping.join(0.05)
        stopping.join(2 * PATIENCE)
        if troubles:
            raise troubles[0]
        for through, door in doors:
            require_closed(through, door)
    finally:
        stopping.join(2 * PATIENCE)
        visit.close()
        endpoint.site.start()
    for through, door in doors:
        through.visit(door).goodbye()


def require_not_ignored(endpoint: Endpoint, door: Door) -> None:
    """Whoever is still let in hears something, or is sent away, at once."""
    began = time.monotonic()
    outcome = endpoint.attempt(door, patience=HEARD_WITHIN)
    took = time.monotonic() - began
    if isinstance(outcome, Visit):
        outcome.close()
        return
    if outcome.wire is not None:
        outcome.wire.close()
    left_alone = outcome.form is Form.SILENCE or (outcome.form in (Form.FIN, Form.RST) and took > HEARD_WITHIN / 2)
    if left_alone:
        raise Mismatch(
            "nobody to be accepted and ignored while the server stops", f"a client heard nothing for {took:.2f} s"
        )


def require_closed(endpoint: Endpoint, door: Door) -> None:
    try:
        wire = endpoint.knock(door)
    except (Ended, Silent):
        return
    wire.close()
    raise Mismatch(f"port {door.port} to be closed when the server has stopped", "a connect was accepted")


@check("LIF-06", scenario="adjusted", channels=NO_CHANNEL, needs=("max_connections", "reload"))
def test_counters_outlive_a_reload(endpoint: Endpoint) -> None:
    """As many as the limit allows before it, and one more after it; then they leave, and as many come again."""
    plain = endpoint.through(Channel.PLAIN)
    visits = plain.fill()

    def longer(table: dict[str, Any]) -> None:
        if "idle_timeout" in table:
            table["idle_timeout"] = LONG + 1

    with changed(endpoint, longer, "a change of something else"):
        require_full(plain, visits)
        for visit in visits:
            visit.goodbye()
        require_exactly(plain)


@check("LIF-07", scenario="living", channels=NO_CHANNEL)
def test_a_server_that_says_it_is_ready_is(endpoint: Endpoint) -> None:
    """The very first client is served, in clear and where TLS comes first."""
    first = {through.channel: (through, door) for through, door in reversed(every_door(endpoint))}
    for through, door in first.values():
        endpoint.site.restart()
        outcome = through.attempt(door)
        if isinstance(outcome, Refusal):
            raise Mismatch(f"the first client at port {door.port} to be served", str(outcome))
        outcome.goodbye()


@check("LIF-08", scenario="living", channels=NO_CHANNEL)
def test_an_address_and_port_belong_to_one_listener(endpoint: Endpoint) -> None:
    """In both lists of a service, and in two services.  Twice in one list is no question: it is one listener."""
    for what, tables in twice(endpoint).items():
        settings = {**endpoint.site.settings, "services": tables}
        if endpoint.site.start_another(settings) is None:
            raise Mismatch(
                f"a configuration with one port twice to be refused ({what})", "the server said it was ready"
            )
    # The same without what is wrong with it: otherwise it may have been refused for any reason.
    table = {**endpoint.settings, "bind": [SERVER], "ports": endpoint.site.place.ports(1)}
    table.pop("implicit_tls_ports", None)
    good = {**endpoint.site.settings, "services": {endpoint.service.value: table}}
    if (error := endpoint.site.start_another(good)) is not None:
        raise Inconclusive(f"not even a configuration without a mistake is taken: {error}")


def twice(endpoint: Endpoint) -> dict[str, dict[str, Any]]:
    """The services of configurations that name one port twice."""
    name = endpoint.service.value
    (port,) = endpoint.site.place.ports(1)
    table = {**endpoint.settings, "ports": [port]}
    table.pop("implicit_tls_ports", None)
    found: dict[str, dict[str, Any]] = {}
    if endpoint.settings.get("implicit_tls_ports"):
        found["in clear and for TLS"] = {name: {**table, "implicit_tls_ports": [port]}}
    for another in endpoint.other_services()[:1]:
        theirs = {**another.settings, "ports": [port]}
        theirs.pop("implicit_tls_ports", None)
        found[f"also for {another.service}"] = {name: table, another.service.value: theirs}
    if not found:
        raise NotAssessable("the target has no other list of ports")
    return found


@check("LIF-09", scenario="adjusted", needs=("max_connections", "reload"))
def test_a_limit_that_is_changed_holds_on_every_channel(endpoint: Endpoint) -> None:
    lower = endpoint.limit - 1

    def edit(table: dict[str, Any]) -> None:
        table["max_connections"] = lower

    with changed(endpoint, edit, f"a limit of {lower}"):
        require_exactly(endpoint)


@check("LIF-09", scenario="shortened", channels=NO_CHANNEL, needs=(*FOLLOWS, "reload"), watches=("shortened",))
def test_a_time_out_that_is_changed_holds_on_every_channel(observed: Observed, endpoint: Endpoint) -> None:
    for channel in endpoint.channels:
        observed("shortened", channel).require_in_time()
