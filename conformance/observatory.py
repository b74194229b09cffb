"""Idle clients, all watched at once.

Owns: the observers.  Each is a thread that carries out one watch; they are begun together, and a check only collects
what was seen, so that waiting is never serial.  Knows neither requirements nor what a watch consists of.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable

from conformance.check import Channel, Inconclusive, Mismatch, NotAssessable, NotOffered
from conformance.contract import Stage as Clock
from conformance.dialects import NotServed
from conformance.dialects.dialect import Malformed
from conformance.mail import keeper_of
from conformance.pulse import PULSE
from conformance.scenarios import ACCOUNTS, LONG
from conformance.target import DriverError, Target, Unavailable
from conformance.transcript import Transcript
from conformance.visit import Endpoint
from conformance.watch import LEAST_SLACK, SLACK_SHARE, Seen, Watch, Watcher
from conformance.watches import WATCHES
from conformance.wire import Ended, Silent
from reference_server.settings import Service

Key = tuple[str, Service, Channel]
#: How often an observer goes that cannot say anything of what it saw.
ATTEMPTS = 3


class Observatory:
    """All observers of a run."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._threads: dict[Key, threading.Thread] = {}
        self._seen: dict[Key, Seen] = {}
        self._turns: dict[tuple[str, Service | None], threading.Lock] = {}
        self._accounts: dict[Service, dict[Key, int]] = {}
        self._lock = threading.Lock()

    def begin(self, keys: Iterable[Key]) -> None:
        """Begin those observations that are not under way yet."""
        with self._lock:
            fresh = [key for key in dict.fromkeys(keys) if key not in self._threads]
            for key in fresh:
                name = "-".join(str(part) for part in key)
                self._threads[key] = threading.Thread(target=self._observe, args=(key,), name=name, daemon=True)
        if fresh:
            PULSE.begin()
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
        if WATCHES[key[0]].keeps_mail:
            return keeper_of(key[1], key[2])
        if not WATCHES[key[0]].signs_in:
            return ACCOUNTS[0]
        with self._lock:
            used = self._accounts.setdefault(key[1], {})
            number = used.setdefault(key, len(used))
        return ACCOUNTS[1 + number % (len(ACCOUNTS) - 1)]

    def _turn(self, watch: Watch, service: Service) -> contextlib.AbstractContextManager[object]:
        if not watch.exclusive and not watch.alone:
            return contextlib.nullcontext()
        with self._lock:
            return self._turns.setdefault((watch.scenario, None if watch.alone else service), threading.Lock())

    def _observe(self, key: Key) -> None:
        """Whoever could not see anything for a while looks again."""
        for attempt in range(ATTEMPTS):
            seen = self._attempt(key)
            if not seen.may_come_right or (seen.trouble is None and not seen.undecided):
                return
            if attempt + 1 < ATTEMPTS:
                seen.transcript.note(0, f"once more: {seen.trouble or 'the observer was late'}")

    def _attempt(self, key: Key) -> Seen:
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
                    watcher.waited = site.kept_waiting()
                    watch.act(watcher)
                    watcher.count_starved()
            finally:
                endpoint.close_all()
        except NotOffered as outcome:
            seen.not_offered = str(outcome)
        except (NotAssessable, Unavailable) as outcome:
            seen.not_assessable = str(outcome)
        except DriverError as error:
            seen.trouble, seen.may_come_right = str(error), False
        except Mismatch as mismatch:
            seen.failure = (mismatch.expected, mismatch.actual)
        except (Inconclusive, Ended, Silent, NotServed, Malformed) as error:
            seen.trouble = str(error)
        except Exception as error:  # whatever it is, the check that collects it must know
            seen.trouble, seen.may_come_right = f"the observer broke: {type(error).__name__}: {error}", False
        return seen


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
