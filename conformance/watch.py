"""What an observer of an idle client is, and what it can have seen.

Owns: the record of one observation with the ways to judge it, and what a client can do while it is watched.  Knows no
requirement: which observations there are is :mod:`conformance.watches`, and all of them at once are the
:mod:`conformance.observatory`'s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from conformance.check import Inconclusive, Mismatch, NotAssessable, NotOffered, Outcome
from conformance.contract import Stage as Clock
from conformance.contract import Timer
from conformance.dialects import NotServed
from conformance.dialects.dialect import Malformed
from conformance.pulse import PULSE
from conformance.transcript import Transcript
from conformance.visit import Endpoint, Refusal, Visit
from conformance.wire import Ended, Ending, Silent, Wire

#: Earliest and latest end of an idle connection, as the register has it.
EARLY = 0.95
LEAST_SLACK = 1.0
SLACK_SHARE = 0.25
#: An observer looks up so often while it waits (seconds), and notes how late it was.
GLANCE = 0.5
#: An observer that overslept by more than this (seconds) does not judge what it saw too late.
TRUSTED_LATENESS = 0.25


#: No longer is waited for a server that the machine keeps from running (seconds).
MOST_STARVED = 15.0


@dataclass(slots=True)
class Guest:
    """A client that was there when the server stopped: what it heard, and how its connection ended.

    ``in_request``: it was in the middle of one, where there is no room for a farewell.
    """

    title: str
    in_request: bool = False
    said: bytes = b""
    ending: Ending | None = None


@dataclass(slots=True)
class Seen:
    """What one observer saw.

    ``after`` is how many seconds after the client's last sign of life the server ended the connection, None when it
    had not done so ``watched`` seconds after it; ``expected`` what the configuration says; ``said`` the last words.
    ``starved`` is for how many of these seconds the machine kept the server from running: they do not count against it.
    ``unsure`` is for how long the server may have known the client before that sign of life was over (seconds).
    ``failure`` says what the server did wrong where that is not a matter of time; ``trouble`` why nothing can be said,
    and ``may_come_right`` whether another look may help.  ``guests`` are those who were there when it stopped.
    ``mail`` says how many messages had to be in the accounts of the watch after the end, and how many were;
    ``mail_trouble`` why that went wrong, ``not_counted`` why nobody can look, ``locked`` what is said of a maildrop
    that cannot be had any more.
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
    starved: float = 0.0
    unsure: float = 0.0
    failure: tuple[str, str] | None = None
    trouble: str | None = None
    may_come_right: bool = True
    not_offered: str | None = None
    not_assessable: str | None = None
    guests: list[Guest] = field(default_factory=list)
    mail: tuple[int, int] | None = None
    mail_trouble: str | None = None
    not_counted: str | None = None
    locked: str | None = None

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
        if self.not_assessable is not None:
            raise NotAssessable(self.not_assessable)
        if self.trouble is not None:
            raise Inconclusive(f"{self.title}: {self.trouble}")
        if self.failure is not None:
            raise Mismatch(f"{self.title}: {self.failure[0]}", self.failure[1])

    def require_not_early(self) -> None:
        """Raise :class:`Mismatch` when the connection was ended before its time."""
        self.require()
        if self.after is not None and self.after + self.unsure < self.earliest:
            raise Mismatch(
                f"{self.title}: open for at least {self.earliest:.2f} s (time-out {self.expected:g} s)",
                f"ended after {self.after:.2f} s ({self.ending})",
            )

    def require_closed(self) -> None:
        """Raise :class:`Mismatch` when the connection was not ended in time."""
        self.require()
        if self.after is None:
            late, actual = self.watched - self.latest - self.starved, f"still open after {self.watched:.2f} s"
        elif self.after > self.latest + self.starved:
            late = self.after - self.latest - self.starved
            actual = f"ended only after {self.after:.2f} s ({self.ending})"
        else:
            return
        # On a machine that kept the observer waiting for so long, the server may have been kept waiting, too.
        if self.lateness > TRUSTED_LATENESS or late <= self.lateness:
            raise Inconclusive(f"{self.title}: {actual}, but the observer itself was {self.lateness:.2f} s late")
        raise Mismatch(
            f"{self.title}: ended by the server within {self.latest:.2f} s (time-out {self.expected:g} s)", actual
        )

    @property
    def undecided(self) -> bool:
        """Whether it ended late, or did not end, for an observer that was late itself."""
        if self.after is None and not self.watched:
            return False  # its end was not what was looked at
        try:
            self.require_closed()
        except Inconclusive:
            return self.trouble is None
        except Outcome:
            return False
        return False

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
    #: Only one of these at a time in the whole scenario: it takes the server away from everybody.
    alone: bool = False
    #: The client signs in; POP3 then needs a maildrop of its own.
    signs_in: bool = False
    #: The client has the account whose mail is changed by its service and channel only.
    keeps_mail: bool = False


@dataclass(slots=True)
class Watcher:
    """One observation under way."""

    endpoint: Endpoint
    seen: Seen
    timer: Timer | None
    stage: str | None
    #: For how long the server had been kept from running when the observation began (seconds).
    waited: float = 0.0

    def enter(self) -> Visit:
        """A served session.  What stands in the way is no judgement about time."""
        outcome = self.endpoint.attempt()
        if isinstance(outcome, Refusal):
            raise Inconclusive(f"no session to watch: {outcome}")
        return outcome

    def time_left(self, anchor: float) -> float:
        """Seconds for which to go on watching whoever gave its last sign of life then; none are left at 0 or below.

        A server that the machine keeps from running gets so much longer.
        """
        left = anchor + self.seen.latest + 0.5 - time.monotonic()
        return left if left > 0 else left + self.count_starved()

    def count_starved(self) -> float:
        """For how long the server was kept from running since the observation began (seconds)."""
        self.seen.starved = min(self.endpoint.site.kept_waiting() - self.waited, MOST_STARVED)
        return self.seen.starved

    def fall_silent(self, wire: Wire, since: float | None = None) -> None:
        """Send nothing more, and watch until the server ends the connection or its time is long over."""
        anchor = wire.last_sent_at if since is None else since
        if self.timer is not None and self.timer.reset_by == "nothing":
            anchor = wire.connected_at
        if anchor == wire.connected_at:
            self.seen.unsure = wire.connected_at - wire.asked_at
        said = bytearray()
        while True:
            left = self.time_left(anchor)
            if left <= 0:
                self.seen.watched = time.monotonic() - anchor
                break
            try:
                said += wire.receive(min(left, GLANCE))
            except Silent:
                continue
            except Ended as end:
                self.seen.ending = end.ending
                self.seen.after = (wire.ended_at or time.monotonic()) - anchor
                break
        self.seen.said = bytes(said)
        noticed = time.monotonic()
        self.seen.lateness = max(wire.lateness, PULSE.lateness(noticed - 1.0, noticed))

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
