"""Observations of clients that are not silent, and yet ask for nothing: records without data, answers taken slowly.

Owns: what these clients do.  Knows no requirement; :mod:`conformance.watches` lists them with the others.
"""

from __future__ import annotations

import contextlib
import time

from conformance.check import NotAssessable, NotOffered
from conformance.client_1_3 import Client13
from conformance.handshake import at_the_hello, versions
from conformance.records import TurnedAway, Unreadable
from conformance.visit import Refusal
from conformance.watch import Watcher
from conformance.wire import PATIENCE, Ended, Ending, Silent

#: The client's receive buffer: so small that what it has not read is not with its own kernel (octets).
SMALL = 4096
#: How often the slow reader reads (seconds).
SIP = 0.1
#: How far a wall clock is set (seconds).
DAY = 86400.0


def key_updates(watcher: Watcher) -> None:
    """A command, and from then on nothing but a KeyUpdate every half time-out (RFC 8446 4.6.3)."""
    endpoint, seen = watcher.endpoint, watcher.seen
    if "1.3" not in versions(endpoint):
        raise NotOffered("the target does not speak TLS 1.3, which has KeyUpdate")
    wire = at_the_hello(endpoint)
    client = Client13(wire)
    try:
        client.handshake()
        client.send(endpoint.dialect.stray)
        anchor = time.monotonic()
        client.receive(PATIENCE)
    except (Ended, Silent, TurnedAway, Unreadable) as failure:
        seen.trouble = f"no session made by hand: {failure}"
        return
    updated = anchor
    while True:
        left = watcher.time_left(anchor)
        if left <= 0:
            seen.watched = time.monotonic() - anchor
            return
        try:
            if time.monotonic() - updated >= 0.5 * seen.expected:
                client.update_key()
                updated = time.monotonic()
            with contextlib.suppress(Silent):
                client.receive(min(left, 0.25 * seen.expected))
        except (Ended, TurnedAway) as end:
            seen.ending = end.ending if isinstance(end, Ended) else Ending.CLOSE_NOTIFY
            seen.after = time.monotonic() - anchor
            return
        except Unreadable as nonsense:
            seen.trouble = str(nonsense)
            return


def other_days(watcher: Watcher) -> None:
    """The wall clock is set a day forward between two commands, and a day back before the client falls silent.

    Others may set it at the same moment: a server with time-outs on another clock does not notice any of it.
    """
    visit = watcher.enter()
    watcher.endpoint.dialect.probe(visit.wire)
    watcher.endpoint.site.set_clock(DAY)
    watcher.stay_active(visit, 0.5 * watcher.seen.expected, 0.4 * watcher.seen.expected)
    watcher.endpoint.site.set_clock(-DAY)
    if watcher.seen.failure is None and watcher.seen.trouble is None:
        watcher.fall_silent(visit.wire)


def slow_reader(watcher: Watcher) -> None:
    """A client that has asked for much, and takes the answer little by little for longer than the time-out."""
    endpoint, seen = watcher.endpoint, watcher.seen
    outcome = endpoint.attempt(receive_buffer=SMALL)
    if isinstance(outcome, Refusal):
        seen.trouble = f"no session to watch: {outcome}"
        return
    wire = outcome.wire
    began, taken = time.monotonic(), 0
    try:
        wire.send_some(endpoint.dialect.ask_much(wire, endpoint.credentials))
        began = time.monotonic()
        while time.monotonic() < began + 1.5 * seen.latest:
            taken += len(wire.receive(PATIENCE))
            time.sleep(SIP)
    except Ended as end:
        after = time.monotonic() - began
        if after < 0.5 * seen.expected:
            raise NotAssessable(
                f"the server does not keep so much for a client that is slow to take it: {end} after {after:.2f} s,"
                f" long before its time-out of {seen.expected:g} s"
            ) from None
        seen.failure = (
            f"a client that takes its answer little by little to be served on (time-out {seen.expected:g} s)",
            f"{end} after {after:.2f} s, when it had taken {taken} octets",
        )
    except Silent as silence:
        seen.trouble = f"the answer came to an end before the time-out: {silence}"
