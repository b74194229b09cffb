"""Idle clients, all watched at once.

Owns: the observations that take time.  Each brings a connection to a stage of its session, falls silent there (or
stays active, as a twin that must survive) and records when and how the server ended it, on a thread of its own.  They
are begun together; a check only collects what was seen, so that waiting is never serial.  Knows no requirement.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from conformance.check import Channel, Inconclusive, Mismatch, NotAssessable, NotOffered
from conformance.contract import Stage as Clock
from conformance.contract import Timer
from conformance.dialects import NotServed
from conformance.dialects.dialect import Malformed
from conformance.scenarios import LONG, LONGER
from conformance.target import ACCOUNTS, DriverError, Target, Unavailable
from conformance.transcript import Transcript
from conformance.visit import Endpoint, Refusal, Visit
from conformance.wire import Ended, Ending, Silent, Wire
from reference_server.settings import Service

#: Earliest and latest end of an idle connection, as the register has it.
EARLY = 0.95
LEAST_SLACK = 1.0
SLACK_SHARE = 0.25
#: An observer that overslept by more than this (seconds) does not judge what it saw too late.
TRUSTED_LATENESS = 0.25
#: The share of a time-out after which a command comes that must still be in time.
LATE = 0.75
#: How long the longest time-out is watched: long enough to outlive every other one (seconds).
LONG_LOOK = 6.5


@dataclass(slots=True)
class Seen:
    """What one observer saw.

    ``after`` is how many seconds after the client's last sign of life the server ended the connection, None when it
    had not done so ``watched`` seconds after it; ``expected`` what the configuration says; ``said`` the last words.
    ``failure`` says what the server did wrong where that is not a matter of time; ``trouble`` why nothing can be said.
    """

    title: str
    expected: float
    slack: float
    transcript: Transcript
    after: float | None = None
    watched: float = 0.0
    ending: Ending | None = None
    said: bytes = b""
    lateness: float = 0.0
    failure: tuple[str, str] | None = None
    trouble: str | None = None
    not_offered: str | None = None

    @property
    def earliest(self) -> float:
        return self.expected * EARLY

    @property
    def latest(self) -> float:
        return self.expected + self.slack

    def require(self) -> None:
        """Raise what stands in the way of a judgement, or the failure that was seen."""
        if self.not_offered is not None:
            raise NotOffered(self.not_offered)
        if self.trouble is not None:
            raise Inconclusive(f"{self.title}: {self.trouble}")
        if self.failure is not None:
            raise Mismatch(f"{self.title}: {self.failure[0]}", self.failure[1])

    def require_not_early(self) -> None:
        """Raise :class:`Mismatch` when the connection was ended before its time."""
        self.require()
        if self.after is not None and self.after < self.earliest:
            raise Mismatch(
                f"{self.title}: open for at least {self.earliest:.2f} s (time-out {self.expected:g} s)",
                f"ended after {self.after:.2f} s ({self.ending})",
            )

    def require_closed(self) -> None:
        """Raise :class:`Mismatch` when the connection was not ended in time."""
        self.require()
        if self.after is None:
            actual = f"still open after {self.watched:.2f} s"
        elif self.after > self.latest:
            actual = f"ended only after {self.after:.2f} s ({self.ending})"
        else:
            return
        if self.lateness > TRUSTED_LATENESS:
            raise Inconclusive(f"{self.title}: {actual}, but the observer itself was {self.lateness:.2f} s late")
        raise Mismatch(
            f"{self.title}: ended by the server within {self.latest:.2f} s (time-out {self.expected:g} s)", actual
        )

    def require_in_time(self) -> None:
        """Neither early nor late."""
        self.require_not_early()
        self.require_closed()


Act = Callable[["Watcher"], None]


@dataclass(frozen=True, slots=True)
class Watch:
    """A kind of observation: where it happens and what its client does."""

    title: str
    scenario: str
    act: Act
    #: By service, the clock that runs; None: as the dialect's stage of that name says.
    clock: Clock | None = None
    #: The dialect's stage, where the watch is one of falling silent in a stage.
    stage: str | None = None
    #: Only one of these at a time in one service of the scenario: it fills the limit.
    exclusive: bool = False
    #: The client signs in; POP3 then needs a maildrop of its own.
    signs_in: bool = False


@dataclass(slots=True)
class Watcher:
    """One observation under way."""

    endpoint: Endpoint
    seen: Seen
    timer: Timer | None
    stage: str | None

    def enter(self) -> Visit:
        """A served session.  What stands in the way is no judgement about time."""
        outcome = self.endpoint.attempt()
        if isinstance(outcome, Refusal):
            raise Inconclusive(f"no session to watch: {outcome}")
        return outcome

    def fall_silent(self, wire: Wire, since: float | None = None) -> None:
        """Send nothing more, and watch until the server ends the connection or its time is long over."""
        anchor = wire.last_sent_at if since is None else since
        if self.timer is not None and self.timer.reset_by == "nothing":
            anchor = wire.connected_at
        give_up = anchor + self.seen.latest + 0.5
        said = bytearray()
        while True:
            left = give_up - time.monotonic()
            if left <= 0:
                self.seen.watched = time.monotonic() - anchor
                break
            try:
                said += wire.receive(min(left, 0.25))
            except Silent:
                continue
            except Ended as end:
                self.seen.ending = end.ending
                self.seen.after = (wire.ended_at or time.monotonic()) - anchor
                break
        self.seen.said = bytes(said)
        self.seen.lateness = wire.lateness

    def stay_active(self, visit: Visit, every: float, until: float) -> None:
        """Probe every so many seconds; note a failure when the server ends the session all the same."""
        began = time.monotonic()
        while time.monotonic() - began < until:
            # Counted from our last octet, as the server does, and not from its answer, which may have taken a while.
            self._rest(max(0.0, visit.wire.last_sent_at + every - time.monotonic()))
            silence = time.monotonic() - visit.wire.last_sent_at
            if silence > self.seen.earliest:
                self.seen.trouble = f"the client was late: it was silent for {silence:.2f} s instead of {every:.2f} s"
                return
            try:
                self.endpoint.dialect.probe(visit.wire)
            except (Ended, Silent, NotServed, Malformed) as error:
                self.seen.failure = (
                    f"open, with a command every {every:.2f} s (time-out {self.seen.expected:g} s)",
                    f"after {time.monotonic() - began:.2f} s: {error}",
                )
                return

    def _rest(self, seconds: float) -> None:
        threading.Event().wait(seconds)


def _silent(watcher: Watcher) -> None:
    wire = watcher.endpoint.knock()
    watcher.fall_silent(wire, since=wire.connected_at)


def _half_hello(watcher: Watcher) -> None:
    wire = watcher.endpoint.knock()
    wire.send_half_hello(watcher.endpoint.context())
    # The handshake as a whole has its time; octets of it may or may not count as a sign of life.
    watcher.fall_silent(wire)


def _agreed_to_tls(watcher: Watcher) -> Wire:
    endpoint = watcher.endpoint.through(Channel.PLAIN)
    outcome = endpoint.attempt()
    if isinstance(outcome, Refusal):
        raise Inconclusive(f"no session to watch: {outcome}")
    reply = endpoint.dialect.ask_tls(outcome.wire)
    if reply is not None:
        raise Inconclusive(f"explicit TLS was refused: {reply!r}")
    return outcome.wire


def _after_starttls(watcher: Watcher) -> None:
    watcher.fall_silent(_agreed_to_tls(watcher))


def _half_hello_after_starttls(watcher: Watcher) -> None:
    wire = _agreed_to_tls(watcher)
    wire.send_half_hello(watcher.endpoint.context())
    watcher.fall_silent(wire)


def _half_line(watcher: Watcher) -> None:
    visit = watcher.enter()
    command_at = visit.wire.last_sent_at
    watcher.endpoint.dialect.begin(visit.wire)
    by_commands = watcher.timer is not None and watcher.timer.reset_by == "commands"
    watcher.fall_silent(visit.wire, since=command_at if by_commands else None)


def _in_stage(watcher: Watcher) -> None:
    assert watcher.stage is not None
    visit = watcher.enter()
    watcher.endpoint.dialect.stages[watcher.stage].enter(visit.wire, watcher.endpoint.credentials)
    watcher.fall_silent(visit.wire)


def _kept_alive_by_the_kernel(watcher: Watcher) -> None:
    visit = watcher.enter()
    visit.wire.keep_probing()
    watcher.endpoint.dialect.probe(visit.wire)
    watcher.fall_silent(visit.wire)


def _active(watcher: Watcher) -> None:
    watcher.stay_active(watcher.enter(), 0.6 * watcher.seen.expected, _active_for(watcher))


def _active_signed_in(watcher: Watcher) -> None:
    visit = watcher.enter()
    visit.login()
    watcher.stay_active(visit, 0.6 * watcher.seen.expected, _active_for(watcher))


def _active_for(watcher: Watcher) -> float:
    """Three times the time-out; where that is a long one nobody can set, just past it."""
    expected = watcher.seen.expected
    return 3 * expected if expected <= LONGER else 1.2 * expected


def _late_probe(watcher: Watcher) -> None:
    visit = watcher.enter()
    watcher.endpoint.dialect.probe(visit.wire)
    watcher.stay_active(visit, LATE * watcher.seen.expected, 0.5 * watcher.seen.expected)


def _beside_a_neighbour(watcher: Watcher) -> None:
    """An idle client while another one of the same service is never quiet."""
    neighbour = watcher.enter()
    visit = watcher.enter()
    watcher.endpoint.dialect.probe(visit.wire)
    done = threading.Event()

    def chatter() -> None:
        with contextlib.suppress(Ended, Silent, NotServed, Malformed):
            while not done.wait(0.1):
                watcher.endpoint.dialect.probe(neighbour.wire)

    thread = threading.Thread(target=chatter, daemon=True)
    thread.start()
    try:
        watcher.fall_silent(visit.wire)
    finally:
        done.set()
        thread.join(10)


def _in_idle_with_mail(watcher: Watcher) -> None:
    """A client in IDLE that is told of new mail again and again, and says nothing itself."""
    from conformance.dialects import imap

    visit = watcher.enter()
    watcher.endpoint.dialect.stages["in_idle"].enter(visit.wire, watcher.endpoint.credentials)
    writer = watcher.enter()
    writer.login()
    done = threading.Event()

    def deliver() -> None:
        with contextlib.suppress(Ended, Silent, NotServed, Malformed):
            while not done.wait(0.3 * watcher.seen.expected):
                imap.append(writer.wire, b"Subject: news\r\n\r\nnews\r\n")

    thread = threading.Thread(target=deliver, daemon=True)
    thread.start()
    try:
        watcher.fall_silent(visit.wire)
    finally:
        done.set()
        thread.join(10)
    if b"EXISTS" not in watcher.seen.said.upper():
        watcher.seen.trouble = "the server announced no new mail, so that its output was not put to the test"


def _trickle(watcher: Watcher) -> None:
    """One octet after another of a line that never ends, each well within the time-out."""
    visit = watcher.enter()
    idle_timeout = float(watcher.endpoint.settings["idle_timeout"]) / watcher.endpoint.site.ready.clock_rate
    watcher.endpoint.dialect.begin(visit.wire)
    anchor = visit.wire.last_sent_at
    while time.monotonic() < anchor + watcher.seen.latest + 0.5:
        try:
            visit.wire.receive(0.5 * idle_timeout)
        except Silent:
            with contextlib.suppress(Ended):
                visit.wire.send(b"x")
        except Ended as end:
            watcher.seen.ending = end.ending
            watcher.seen.after = (visit.wire.ended_at or time.monotonic()) - anchor
            return
    watcher.seen.watched = time.monotonic() - anchor


def _long_look(watcher: Watcher) -> None:
    """Far below a long time-out nothing happens."""
    visit = watcher.enter()
    began = time.monotonic()
    threading.Event().wait(LONG_LOOK)
    if not visit.is_alive():
        watcher.seen.failure = (
            f"open after {LONG_LOOK:g} s (time-out {watcher.seen.expected:g} s)",
            f"ended before {time.monotonic() - began:.2f} s were over",
        )


def _refill(watcher: Watcher) -> None:
    """Fill the limit with clients that fall silent; when their time is over, as many new ones are served."""
    visits = watcher.endpoint.fill()
    _await_refill(watcher, visits)


def _refill_stuck(watcher: Watcher) -> None:
    """As above, with clients that have asked for much, do not read it and do not close."""
    visits = [
        visit
        for visit in watcher.endpoint.fill()
        if visit.wire.send_some(watcher.endpoint.dialect.ask_much(visit.wire)) >= 0
    ]
    _await_refill(watcher, visits)


def _await_refill(watcher: Watcher, visits: list[Visit]) -> None:
    endpoint, seen = watcher.endpoint, watcher.seen
    last_sign = max(visit.wire.last_sent_at for visit in visits)
    # Until shortly before the time-out nobody else gets in: otherwise the limit was not full and nothing is shown.
    threading.Event().wait(max(0.0, last_sign + 0.5 * seen.expected - time.monotonic()))
    surplus = endpoint.attempt(patience=0.3)
    if isinstance(surplus, Visit):
        if endpoint.declared.limit.surplus != "evict_oldest_unauthenticated":
            seen.trouble = "the limit was not full, so that nothing is shown by what comes later"
        surplus.close()
    elif surplus.wire is not None:
        surplus.wire.close()
    threading.Event().wait(max(0.0, last_sign + seen.expected - time.monotonic()))
    fresh: list[Visit] = []
    for served in range(endpoint.limit):
        left = max(0.1, last_sign + seen.latest + endpoint.declared.limit.recovery - time.monotonic())
        outcome = endpoint.eventually(within=left)
        if isinstance(outcome, Refusal):
            seen.failure = (
                f"{endpoint.limit} new clients served within {seen.latest:.2f} s of the last sign of life",
                f"{served} were served; the next was {outcome}",
            )
            break
        fresh.append(outcome)
    for visit in (*visits, *fresh):
        visit.wire.reset()


BEFORE, HANDSHAKE, AFTER = Clock.BEFORE_LOGIN, Clock.HANDSHAKE, Clock.AFTER_LOGIN

WATCHES: Mapping[str, Watch] = {
    "silent": Watch("a client that never sends a byte", "idle", _silent, BEFORE),
    "silent_handshake": Watch("a client silent on the TLS port", "idle", _silent, HANDSHAKE),
    "half_hello": Watch("half a ClientHello", "idle", _half_hello, HANDSHAKE),
    "after_starttls": Watch("no handshake after the server agreed to TLS", "idle", _after_starttls, HANDSHAKE),
    "half_hello_after_starttls": Watch(
        "half a ClientHello after the server agreed to TLS", "idle", _half_hello_after_starttls, HANDSHAKE
    ),
    "half_line": Watch("half a command line", "idle", _half_line, BEFORE),
    "after_command": Watch("idle after a command", "idle", _in_stage, None, "after_command"),
    "after_login": Watch("idle after signing in", "idle", _in_stage, None, "after_login", signs_in=True),
    "in_text": Watch("silent in the text of a message", "idle", _in_stage, None, "in_text"),
    "in_sasl": Watch("silent in an authentication exchange", "idle", _in_stage, None, "in_sasl"),
    "in_literal": Watch("silent in a literal", "idle", _in_stage, None, "in_literal", signs_in=True),
    "in_idle": Watch("silent in IDLE", "idle", _in_stage, None, "in_idle", signs_in=True),
    "in_idle_with_mail": Watch(
        "in IDLE, hearing of new mail", "idle", _in_idle_with_mail, Clock.IMAP_IDLE, signs_in=True
    ),
    "kernel_probes": Watch("idle, with TCP keep-alive probes", "idle", _kept_alive_by_the_kernel, BEFORE),
    "neighbour": Watch("idle beside a busy neighbour", "idle", _beside_a_neighbour, BEFORE),
    "active": Watch("active before signing in", "idle", _active, BEFORE),
    "active_signed_in": Watch("active after signing in", "idle", _active_signed_in, AFTER, signs_in=True),
    "late_probe": Watch("a command shortly before the time is up", "idle", _late_probe, BEFORE),
    "longer": Watch("idle after a command, with a longer time-out", "idle_longer", _in_stage, None, "after_command"),
    "long": Watch("idle for a while, with a long time-out", "patient", _long_look, BEFORE),
    "trickle": Watch("a request that comes octet by octet and never ends", "brief", _trickle, Clock.TRICKLE),
    "alone": Watch("idle on a server without other traffic", "quiet", _in_stage, None, "after_command"),
    "refill": Watch("the limit filled by idle clients", "idle_and_full", _refill, BEFORE, exclusive=True),
    "refill_stuck": Watch(
        "the limit filled by clients that do not read", "stuck_and_full", _refill_stuck, BEFORE, exclusive=True
    ),
}


Key = tuple[str, Service, Channel]


class Observatory:
    """All observers of a run."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._threads: dict[Key, threading.Thread] = {}
        self._seen: dict[Key, Seen] = {}
        self._turns: dict[tuple[str, Service], threading.Lock] = {}
        self._accounts: dict[Service, dict[Key, int]] = {}
        self._lock = threading.Lock()

    def begin(self, keys: Iterable[Key]) -> None:
        """Begin those observations that are not under way yet."""
        with self._lock:
            fresh = [key for key in dict.fromkeys(keys) if key not in self._threads]
            for key in fresh:
                name = "-".join(str(part) for part in key)
                self._threads[key] = threading.Thread(target=self._observe, args=(key,), name=name, daemon=True)
        for key in fresh:
            self._threads[key].start()

    def collect(self, key: Key) -> Seen:
        """What was seen; waits until it has been."""
        self.begin([key])
        self._threads[key].join()
        return self._seen[key]

    def remaining(self) -> int:
        """How many observers are still at it."""
        return sum(thread.is_alive() for thread in self._threads.values())

    def _account(self, key: Key) -> str:
        """An account for those who sign in, as far as they reach one that no other observer of the service has."""
        if not WATCHES[key[0]].signs_in:
            return ACCOUNTS[0]
        with self._lock:
            used = self._accounts.setdefault(key[1], {})
            number = used.setdefault(key, len(used))
        return ACCOUNTS[1 + number % (len(ACCOUNTS) - 1)]

    def _turn(self, watch: Watch, service: Service) -> contextlib.AbstractContextManager[object]:
        if not watch.exclusive:
            return contextlib.nullcontext()
        with self._lock:
            return self._turns.setdefault((watch.scenario, service), threading.Lock())

    def _observe(self, key: Key) -> None:
        name, service, channel = key
        watch = WATCHES[name]
        target = self._target
        seen = self._seen[key] = Seen(watch.title, LONG, LEAST_SLACK, Transcript((target.password.encode(),)))
        try:
            site = target.site(watch.scenario)
            declared = target.declared(service)
            if service.value not in site.settings["services"]:
                raise NotOffered(f"{service} does not offer what scenario {watch.scenario} is about")
            credentials = target.credentials(service, self._account(key))
            endpoint = Endpoint(site, service, channel, declared, credentials, str(target.ca_file), seen.transcript)
            clock = watch.clock or Clock(endpoint.dialect.stages[watch.stage or ""].timer)
            seen.expected = expected_seconds(endpoint, clock)
            seen.slack = max(LEAST_SLACK, SLACK_SHARE * seen.expected) + declared.idle_timeout_late
            watcher = Watcher(endpoint, seen, declared.timers.of(clock), watch.stage)
            try:
                with self._turn(watch, service):
                    watch.act(watcher)
            finally:
                endpoint.close_all()
        except NotOffered as outcome:
            seen.not_offered = str(outcome)
        except (NotAssessable, Unavailable) as outcome:
            seen.trouble = str(outcome)
        except Mismatch as mismatch:
            seen.failure = (mismatch.expected, mismatch.actual)
        except (Inconclusive, Ended, Silent, NotServed, Malformed, DriverError) as error:
            seen.trouble = str(error)
        except Exception as error:  # whatever it is, the check that collects it must know
            seen.trouble = f"the observer broke: {type(error).__name__}: {error}"


def expected_seconds(endpoint: Endpoint, clock: Clock) -> float:
    """How long the configuration lets a client be idle there, in seconds of our clock.

    Raises :class:`NotOffered` when the target declares that it never ends such a client.
    """
    told = endpoint.site.ready.timers.get(endpoint.service, {})
    if clock in told:
        seconds = told[clock]
    else:
        timer = endpoint.declared.timers.of(clock)
        configured = endpoint.settings.get("idle_timeout")
        own = configured if timer is None or timer.follows_idle_timeout else timer.seconds
        seconds = None if own is None else float(own) / endpoint.site.ready.clock_rate
    if seconds is None:
        raise NotOffered(f"{endpoint.service} declares no time-out there ({clock})")
    return float(seconds)
