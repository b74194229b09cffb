"""Faults of the idle clock: it does not run, runs too fast, or is put off by the wrong things."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

from reference_server.admission import Admission, Limits, Ticket
from reference_server.connection import Connection, Phase
from reference_server.faults.ledger import MAIL_AND_WEB, changed, fault, hit
from reference_server.faults.limits import with_connection
from reference_server.idle import IdleClock
from reference_server.listener import Engine
from reference_server.server import Parts, Speaker
from reference_server.session import Actions, Policy, Send
from reference_server.settings import Service
from reference_server.tls import TlsPipe

#: Whatever keeps a clock from running keeps everything from being seen that only an idle close shows.
NEVER = "IDL LIM-08 IMP-07 CLS TLS-11"


def with_clock(parts: Parts, kind: type[IdleClock[Connection]]) -> Parts:
    """The same server with another clock."""

    class OtherEngine(parts.engine):  # type: ignore[name-defined,misc]
        clock_type = kind

    return replace(parts, engine=OtherEngine)


def _except(parts: Parts, spared: Any) -> Parts:
    """No time passes for clients for which ``spared(connection)`` holds when their time is up."""

    class SparingConnection(Connection):
        __slots__ = ()

        def idled(self) -> None:
            if spared(self):
                hit()
                self.engine.clock.rest(self)
            else:
                super().idled()

    return with_connection(parts, SparingConnection)


@fault(
    "never-idle",
    "the idle time-out is read and never used",
    breaks="IDL-01 IDL-24 IDL-11",
    consequences=NEVER,
    services=MAIL_AND_WEB,
    change=lambda settings: changed(settings, idle_timeout=None),
)
def never_idle(parts: Parts) -> Parts:
    return parts


@fault(
    "half-the-time",
    "idle clients are ended after half of the configured time",
    breaks="IDL-02",
    consequences=NEVER,
    services=MAIL_AND_WEB,
    change=lambda settings: changed(
        settings, idle_timeout=lambda table: table.idle_timeout / 2 if table.idle_timeout else None
    ),
)
def half_the_time(parts: Parts) -> Parts:
    return parts


@fault(
    "rounds-up-to-ten-seconds",
    "time-outs below ten seconds are taken for ten",
    breaks="IDL-24",
    consequences=NEVER,
    services=MAIL_AND_WEB,
    change=lambda settings: changed(
        settings, idle_timeout=lambda table: max(10.0, table.idle_timeout) if table.idle_timeout else None
    ),
)
def rounds_up(parts: Parts) -> Parts:
    return parts


@fault(
    "session-limit",
    "the time counts from the connect, and a client that is busy is ended all the same",
    breaks="IDL-03",
    consequences=NEVER,
    services=MAIL_AND_WEB,
)
def session_limit(parts: Parts) -> Parts:
    class AbsoluteClock(IdleClock[Connection]):
        def heard(self, client: Connection, now: float) -> None:
            if client in self._heard:
                hit()
            self._heard.setdefault(client, now)

        def rest(self, client: Connection) -> None:
            """Not even work stops it."""

    return with_clock(parts, AbsoluteClock)


@fault(
    "clock-starts-with-the-first-byte",
    "a client that never sends a byte is never ended",
    breaks="IDL-04",
    consequences=NEVER,
    services=MAIL_AND_WEB,
)
def clock_starts_with_the_first_byte(parts: Parts) -> Parts:
    class LateClock(IdleClock[Connection]):
        def heard(self, client: Connection, now: float) -> None:
            if client in self._known:
                super().heard(client, now)
            else:
                hit()
                self._known.add(client)

        def forget(self, client: Connection) -> None:
            super().forget(client)
            if client.phase is not Phase.SESSION:
                self._known.discard(client)

        def __init__(self, timeout: float) -> None:
            super().__init__(timeout)
            self._known: set[Connection] = set()

    return with_clock(parts, LateClock)


@fault(
    "no-clock-in-implicit-handshake",
    "during the handshake on the implicit port no time passes",
    breaks="IDL-05",
    consequences=NEVER,
    services=MAIL_AND_WEB,
)
def no_clock_in_implicit_handshake(parts: Parts) -> Parts:
    return _except(parts, lambda client: client.phase is Phase.HANDSHAKE and not client._upgrading)


@fault(
    "no-clock-after-starttls",
    "once the server has agreed to TLS, it waits for the handshake for ever",
    breaks="IDL-06",
    consequences=NEVER,
    services=MAIL_AND_WEB,
)
def no_clock_after_starttls(parts: Parts) -> Parts:
    return _except(parts, lambda client: client.phase is Phase.HANDSHAKE and client._upgrading)


@fault(
    "no-clock-with-half-a-line",
    "with an unfinished line in its buffer no time passes",
    breaks="IDL-07",
    consequences=NEVER,
    services=MAIL_AND_WEB,
)
def no_clock_with_half_a_line(parts: Parts) -> Parts:
    return _except(parts, lambda client: client.phase is Phase.SESSION and client.session.unfinished)


@fault(
    "no-clock-in-the-middle",
    "in the middle of a text, a literal or an authentication no time passes",
    breaks="IDL-08",
    consequences=NEVER,
)
def no_clock_in_the_middle(parts: Parts) -> Parts:
    return _except(parts, lambda client: client.phase is Phase.SESSION and client.session.unfinished)


@fault(
    "output-counts",
    "whatever the server sends keeps the client alive",
    breaks="IDL-11",
    consequences="IDL",
    services=("imap",),
)
def output_counts(parts: Parts) -> Parts:
    class FlatteredConnection(Connection):
        __slots__ = ()

        def _put(self, octets: bytes) -> None:
            if octets and self.phase is Phase.SESSION and not self._at_work:
                hit()
                self.engine.heard(self)
            super()._put(octets)

    return with_connection(parts, FlatteredConnection)


@fault(
    "no-bye-before-autologout",
    "an idle client is ended without a word",
    breaks="IDL-13 IDL-14",
    consequences="CLS",
)
def no_bye_before_autologout(parts: Parts) -> Parts:
    class RudeConnection(Connection):
        __slots__ = ()

        def idled(self) -> None:
            hit()
            self._leave()
            if self.phase is Phase.LEAVING:
                self.abort()

    return with_connection(parts, RudeConnection)


@fault(
    "talks-before-autologout",
    "an idle POP3 client hears that its time is up",
    breaks="IDL-15",
    services=("pop3",),
)
def talks_before_autologout(parts: Parts) -> Parts:
    def talkative(speaker: Speaker) -> Speaker:
        def session(policy: Policy, store: Any) -> Any:
            made: Any = speaker.session(policy, store)

            class Talkative(type(made)):  # type: ignore[misc]
                __slots__ = ()

                def idled(self) -> Actions:
                    hit()
                    return [Send(b"-ERR you were idle for too long\r\n")]

            return Talkative(policy, store)

        return Speaker(session, speaker.refusal)

    wrong = talkative(parts.speakers[Service.POP3])
    return replace(parts, speakers={**parts.speakers, Service.POP3: wrong})


def _impatient(description: dict[str, Any]) -> dict[str, Any]:
    hit()
    for table in description["services"].values():
        table["defaults"]["idle_timeout"] = 60
    return description


@fault(
    "impatient-by-default",
    "where nobody sets a time-out, it is a minute",
    breaks="IDL-18 IDL-19 IDL-20",
    describe=_impatient,
)
def impatient_by_default(parts: Parts) -> Parts:
    return parts


@fault(
    "idle-clients-are-ended-early-in-idle",
    "a client in IDLE is ended after half of its time",
    breaks="IDL-21",
    consequences="IDL",
    services=("imap",),
)
def ended_early_in_idle(parts: Parts) -> Parts:
    class HastyConnection(Connection):
        __slots__ = ()

        def _carry_out(self, actions: Actions) -> None:
            watching = self._cancel_watch
            super()._carry_out(actions)
            if watching is None and self._cancel_watch is not None:
                self.engine.loop.call_later(self.engine.clock.timeout / 2, self._hurry)

        def _hurry(self) -> None:
            if self._cancel_watch is not None and not self._at_work:
                hit()
                self.idled()

    return with_connection(parts, HastyConnection)


@fault(
    "clock-needs-traffic",
    "idle clients are looked for only when another one is heard",
    breaks="IDL-22",
    consequences=NEVER,
)
def clock_needs_traffic(parts: Parts) -> Parts:
    class SleepyEngine(Engine):
        def heard(self, connection: Connection) -> None:
            self.clock.heard(connection, self.now())
            for late in self.clock.overdue(self.now()):
                late.idled()

        def _watch_idle(self) -> None:
            hit()

    return replace(parts, engine=SleepyEngine)


@fault(
    "busy-neighbours-put-it-off",
    "whenever any client is heard, the look for idle ones is put off",
    breaks="IDL-22",
    consequences=NEVER,
    services=MAIL_AND_WEB,
)
def busy_neighbours_put_it_off(parts: Parts) -> Parts:
    class DistractedEngine(Engine):
        def heard(self, connection: Connection) -> None:
            super().heard(connection)
            if self._idle_timer is not None and not math.isinf(self.clock.timeout):
                hit()
                self._idle_timer.cancel()
                self._idle_timer = self.loop.call_later(self.clock.timeout, self._end_idle)

    return replace(parts, engine=DistractedEngine)


@fault(
    "tls-has-its-own-time-out",
    "sessions under TLS have the built-in time-out of five minutes",
    breaks="IDL-23 IMP-07",
    consequences=NEVER,
    services=MAIL_AND_WEB,
)
def tls_has_its_own_time_out(parts: Parts) -> Parts:
    return _except(parts, lambda client: client._tls is not None and client._tls.established)


@fault(
    "waits-for-the-client-to-close",
    "an idle client's place is free only when the client has closed its side, too",
    breaks="IDL-25 IDL-09 LIM-08",
    consequences=NEVER,
    services=MAIL_AND_WEB,
)
def waits_for_the_client(parts: Parts) -> Parts:
    class PoliteConnection(Connection):
        __slots__ = ()

        def idled(self) -> None:
            hit()
            ticket = self.ticket
            assert ticket is not None
            # Who leaves gives back another ticket, of no admission; this one is kept for half a minute.
            self.ticket = Ticket(Admission(Limits()), self.peer.address)
            self.ticket._admission = None
            super().idled()
            self.engine.loop.call_later(30, ticket.give_back)

    return with_connection(parts, PoliteConnection)


@fault(
    "trickle-for-ever",
    "a request that comes octet by octet may take for ever",
    breaks="IDL-10",
    consequences="IDL",
    services=MAIL_AND_WEB,
)
def trickle_for_ever(parts: Parts) -> Parts:
    class PatientClock(IdleClock[Connection]):
        def owes(self, client: Connection, now: float) -> None:
            del client, now
            hit()

    return with_clock(parts, PatientClock)


@fault(
    "records-without-data-count",
    "a client that sends TLS records without any data in them is never idle",
    breaks="IDL-12",
    services=MAIL_AND_WEB,
)
def records_without_data_count(parts: Parts) -> Parts:
    class Impressed(Connection):
        def _decrypt(self, tls: TlsPipe) -> None:
            if self.phase is Phase.SESSION:
                hit()
                self.engine.heard(self)
            super()._decrypt(tls)

    return with_connection(parts, Impressed)


@fault(
    "slow-readers-are-idle",
    "a client that takes a long answer little by little is ended in the middle of it",
    breaks="IDL-26",
    services=MAIL_AND_WEB,
)
def slow_readers_are_idle(parts: Parts) -> Parts:
    class Impatient(Connection):
        def has_sent(self) -> None:
            since = self.engine.clock._heard.get(self)
            super().has_sent()
            if since is not None and self in self.engine.clock._heard:
                hit()
                self.engine.clock._heard[self] = since
                self.engine.clock._heard.move_to_end(self, last=False)

    return with_connection(parts, Impatient)


@fault(
    "counts-by-the-wall-clock",
    "silence is counted by the wall clock: setting it forward ends sessions, setting it back keeps them",
    breaks="IDL-27",  # several observers set the one clock there is: not in every service is it seen every time
)
def counts_by_the_wall_clock(parts: Parts) -> Parts:
    class Dated(parts.engine):  # type: ignore[name-defined,misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            hit()
            self.now = time.time

    return replace(parts, engine=Dated)
