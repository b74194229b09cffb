"""The observations that there are: where each happens and what its client does there.

Owns: the table of watches.  Knows no requirement; checks name the watches that they read.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Any

from conformance.check import Channel, Inconclusive, Mismatch, NotOffered
from conformance.contract import Stage as Clock
from conformance.dialects import NotServed
from conformance.dialects.dialect import Malformed
from conformance.scenarios import LONGER, SHORT
from conformance.target import DriverRefused
from conformance.visit import Endpoint, Refusal, Visit
from conformance.watch import LEAST_SLACK, SLACK_SHARE, Watch, Watcher
from conformance.watches_mail import cut_append, cut_text, deleted, guests
from conformance.watches_traffic import SMALL, key_updates, other_days, slow_reader
from conformance.wire import Ended, Silent, Wire

#: How often a neighbour says something that is never quiet (seconds).
CHATTER = 0.25
#: The share of a time-out after which a command comes that must still be in time.
LATE = 0.75
#: How long the longest time-out is watched: long enough to outlive every other one (seconds).
LONG_LOOK = 6.5


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
            while not done.wait(CHATTER):
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
    """One octet after another of a line or a content that never ends, each well within the time-out."""
    visit = watcher.enter()
    idle_timeout = float(watcher.endpoint.settings["idle_timeout"]) / watcher.endpoint.site.ready.clock_rate
    if watcher.stage is None:
        watcher.endpoint.dialect.begin(visit.wire)
    else:
        watcher.endpoint.dialect.stages[watcher.stage].enter(visit.wire, watcher.endpoint.credentials)
    anchor = visit.wire.last_sent_at
    while watcher.time_left(anchor) > 0:
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


def _restart(watcher: Watcher) -> None:
    """Stopped and started again at once; then a second server on the same ports."""
    plain = watcher.endpoint.through(Channel.PLAIN)
    # The server closes first, so that its side of the connection is left in TIME_WAIT.
    plain.visit().goodbye()
    try:
        with guests(watcher.seen, plain):
            plain.site.restart()
    except DriverRefused as refusal:
        raise Mismatch("the server to be started again at once", str(refusal)) from None
    plain.visit().goodbye()
    if plain.site.start_twin() is None:
        raise Mismatch("a second server on the same ports to be refused", "it said that it was ready")
    plain.visit().goodbye()


def shortest(endpoint: Endpoint) -> float:
    """The shortest time-out that can be watched there (seconds)."""
    return max(SHORT, endpoint.declared.idle_timeout_min)


def _shortened(watcher: Watcher) -> None:
    """The time-out is made shorter while the server runs; then a client falls silent at the last of the ports."""
    endpoint, seen = watcher.endpoint, watcher.seen
    if watcher.timer is not None and not watcher.timer.follows_idle_timeout:
        raise NotOffered(f"{endpoint.service} declares a time-out of its own there")
    shorter = {each.service.value: shortest(each) for each in (endpoint, *endpoint.other_services())}

    def edit(settings: dict[str, Any]) -> None:
        for name, seconds in shorter.items():
            settings["services"][name]["idle_timeout"] = seconds

    # For all services at once, and whoever comes first: what others watch is not disturbed by one reload after another.
    if (error := endpoint.site.change(edit)) is not None:
        raise Mismatch(f"time-outs of {shorter} (seconds) to be taken on", error)
    seconds = shorter[endpoint.service.value]
    seen.expected = seconds / endpoint.site.ready.clock_rate
    seen.slack = max(LEAST_SLACK, SLACK_SHARE * seen.expected) + endpoint.declared.idle_timeout_late
    outcome = endpoint.attempt(endpoint.doors[-1])
    if isinstance(outcome, Refusal):
        raise Inconclusive(f"no session to watch: {outcome}")
    endpoint.dialect.probe(outcome.wire)
    watcher.fall_silent(outcome.wire)


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


def _filled(watcher: Watcher, **options: Any) -> list[Visit]:
    """The limit, filled.  Raises :class:`Inconclusive` when that took so long that the first may have gone again."""
    began = time.monotonic()
    try:
        return watcher.endpoint.fill(**options)
    except Mismatch:
        took = time.monotonic() - began
        if took > 0.5 * watcher.seen.expected:
            raise Inconclusive(f"to fill the limit took {took:.2f} s (time-out {watcher.seen.expected:g} s)") from None
        raise


def _refill(watcher: Watcher) -> None:
    """Fill the limit with clients that fall silent; when their time is over, as many new ones are served."""
    visits = _filled(watcher)
    _await_refill(watcher, visits)


def _refill_stuck(watcher: Watcher) -> None:
    """As above, with clients that have asked for much, do not read it and do not close."""
    visits = [
        visit
        for visit in _filled(watcher, receive_buffer=SMALL)
        if visit.wire.send_some(watcher.endpoint.dialect.ask_much(visit.wire, watcher.endpoint.credentials)) >= 0
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
            if all(_is_open(visit) for visit in visits):
                seen.failure = (f"no more than {len(visits)} clients served at once", "one more was served")
            else:
                seen.trouble = "the limit was not full, so that nothing is shown by what comes later"
        surplus.close()
    elif surplus.wire is not None:
        surplus.wire.close()
    threading.Event().wait(max(0.0, last_sign + seen.expected - time.monotonic()))
    fresh: list[Visit] = []
    for served in range(endpoint.limit):
        outcome = _served_until(watcher, last_sign + seen.latest + endpoint.declared.limit.recovery)
        if isinstance(outcome, Refusal):
            seen.failure = (
                f"{endpoint.limit} new clients served within {seen.latest:.2f} s of the last sign of life",
                f"{served} were served; the next was {outcome}",
            )
            break
        fresh.append(outcome)
    for visit in (*visits, *fresh):
        visit.wire.reset()


def _served_until(watcher: Watcher, deadline: float) -> Visit | Refusal:
    """A new client, served by then; later by as much as the machine keeps the server from running."""
    while True:
        left = deadline + watcher.count_starved() - time.monotonic()
        outcome = watcher.endpoint.eventually(within=max(0.1, left))
        if isinstance(outcome, Visit) or time.monotonic() >= deadline + watcher.count_starved():
            return outcome


def _is_open(visit: Visit) -> bool:
    """Whether the server has not ended the connection; asks it nothing, which would be a sign of life."""
    try:
        while True:
            visit.wire.receive(0.0)
    except Silent:
        return True
    except Ended:
        return False


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
    "in_body": Watch("silent in the content of a request", "idle", _in_stage, None, "in_body"),
    "in_chunks": Watch("silent in a chunk of a request's content", "idle", _in_stage, None, "in_chunks"),
    "in_literal": Watch("silent in a literal", "idle", _in_stage, None, "in_literal", signs_in=True),
    "in_idle": Watch("silent in IDLE", "idle", _in_stage, None, "in_idle", signs_in=True),
    "in_idle_with_mail": Watch(
        "in IDLE, hearing of new mail", "idle", _in_idle_with_mail, Clock.IMAP_IDLE, signs_in=True
    ),
    "deleted": Watch("silent with a message marked as deleted", "idle", deleted, AFTER, keeps_mail=True),
    "cut_text": Watch("silent in the text of a message that is looked for", "idle", cut_text, BEFORE, keeps_mail=True),
    "cut_append": Watch("silent in a message that is appended", "idle", cut_append, AFTER, keeps_mail=True),
    "kernel_probes": Watch("idle, with TCP keep-alive probes", "idle", _kept_alive_by_the_kernel, BEFORE),
    "neighbour": Watch("idle beside a busy neighbour", "idle", _beside_a_neighbour, BEFORE),
    "key_updates": Watch("idle but for records without data", "idle", key_updates, BEFORE),
    "slow_reader": Watch("an answer that is taken little by little", "idle", slow_reader, BEFORE),
    "other_days": Watch("idle while the wall clock is set forward and back", "other_days", other_days, BEFORE),
    "active": Watch("active before signing in", "idle", _active, BEFORE),
    "active_signed_in": Watch("active after signing in", "idle", _active_signed_in, AFTER, signs_in=True),
    "late_probe": Watch("a command shortly before the time is up", "idle", _late_probe, BEFORE),
    "longer": Watch("idle after a command, with a longer time-out", "idle_longer", _in_stage, None, "after_command"),
    "shortened": Watch("idle after the time-out was made shorter", "shortened", _shortened, BEFORE),
    "long": Watch("idle for a while, with a long time-out", "general", _long_look, BEFORE),
    "restart": Watch("stopped and started again", "restarted", _restart, BEFORE, alone=True),
    "trickle": Watch("a request that comes octet by octet and never ends", "brief", _trickle, Clock.TRICKLE),
    "trickling_content": Watch(
        "a content that comes octet by octet and never ends", "brief", _trickle, Clock.TRICKLE, "in_body"
    ),
    "alone": Watch("idle on a server without other traffic", "quiet", _in_stage, None, "after_command"),
    "refill": Watch("the limit filled by idle clients", "idle_and_full", _refill, BEFORE, exclusive=True),
    "refill_stuck": Watch(
        "the limit filled by clients that do not read", "stuck_and_full", _refill_stuck, BEFORE, exclusive=True
    ),
}
