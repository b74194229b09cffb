"""The checks of a certification, several at a time.

Owns: which checks may run beside each other, and calling each with what it asks for.  A check is mostly waiting for one
server, and every scenario has a server of its own: so what shares a scenario comes one after the other, and the rest
side by side.  Knows neither what a check does nor how results are told.

pytest runs the same checks one by one, with its own fixtures, where people ask it to.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from conformance.check import Channel, Outcome
from conformance.report.model import Result, Verdict
from conformance.scenarios import SCENARIOS
from conformance.suite import Case, Suite
from conformance.visit import Endpoint
from conformance.watch import Seen

#: Checks at a time.  Each waits more than it works, and the servers it waits for have their own processes.
AT_ONCE = max(3, os.cpu_count() or 1)
#: Verdicts after which a server is not to be trusted any more.
_DUBIOUS = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.ERROR)

#: What must not be shared: a scenario, or one service of one where its services have nothing to do with each other.
Share = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Examined:
    """One check to be called: ``function`` and the names of what it asks for."""

    case: Case
    function: Callable[..., None]
    wants: tuple[str, ...]

    @property
    def shares(self) -> tuple[Share, ...]:
        """What it needs for itself, in an order that all keep to."""
        names = {self.case.check.scenario, *self.case.check.scenarios}
        return tuple(sorted((name, self.case.service.value if _is_roomy(name) else "") for name in names))


def _is_roomy(scenario: str) -> bool:
    return SCENARIOS[scenario].roomy


@dataclass(slots=True)
class Examination:
    """All of them.  ``told`` is called with each result as it comes, by one thread at a time."""

    suite: Suite
    told: Callable[[Result], None]
    _locks: dict[Share, threading.Lock] = field(default_factory=dict)
    _telling: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _broken: list[BaseException] = field(default_factory=list)

    def run(self, examined: Sequence[Examined]) -> None:
        """Call every one.  What collects observations comes last: those who observe are at it meanwhile."""
        self._locks = {share: threading.Lock() for each in examined for share in each.shares}
        queues: dict[Share, list[Examined]] = {}
        for each in examined:
            if not each.case.check.watches:
                queues.setdefault(each.shares[0] if len(each.shares) == 1 else _own(each), []).append(each)
        waiting = iter(sorted(queues.values(), key=len, reverse=True))
        lock = threading.Lock()
        workers = [
            threading.Thread(target=self._work, args=(waiting, lock), name=f"checks-{number}", daemon=True)
            for number in range(AT_ONCE)
        ]
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            self._work(iter([[each for each in examined if each.case.check.watches]]), lock)
        finally:
            self._stopped.set()
        if self._broken:
            raise self._broken[0]

    def _work(self, waiting: Iterator[list[Examined]], lock: threading.Lock) -> None:
        try:
            while True:
                with lock:
                    queue = next(waiting, None)
                if queue is None:
                    return
                for each in queue:
                    if self._stopped.is_set():
                        return
                    self._examine(each)
        except BaseException as error:
            self._broken.append(error)
            self._stopped.set()

    def _examine(self, each: Examined) -> None:
        transcript = self.suite.transcript()
        with ExitStack() as held:
            for share in each.shares:
                held.enter_context(self._locks[share])
            began = time.monotonic()
            error = self._called(each, transcript)
            result = self.suite.result(each.case, error, time.monotonic() - began, transcript)
            if result.verdict in _DUBIOUS:
                self.suite.target.discard(each.case.check.scenario)
        with self._telling:
            self.told(result)

    def _called(self, each: Examined, transcript: Any) -> BaseException | None:
        endpoint: Endpoint | None = None
        try:
            endpoint = self.suite.endpoint(each.case, transcript)
            each.function(**self._given(endpoint, each.wants))
        except (Exception, Outcome) as error:
            return error
        finally:
            if endpoint is not None:
                endpoint.close_all()
        return None

    def _given(self, endpoint: Endpoint, wants: Sequence[str]) -> dict[str, Any]:
        given = {
            "endpoint": endpoint,
            "observed": observer(self.suite, endpoint),
            "elsewhere": lambda scenario: self.suite.endpoint_elsewhere(scenario, endpoint),
        }
        return {name: given[name] for name in wants}


def _own(each: Examined) -> Share:
    """A queue for itself: it needs what several queues have."""
    return each.case.id, each.case.check.name


def observer(suite: Suite, endpoint: Endpoint) -> Callable[..., Seen]:
    """What the observers saw of the endpoint, by the name of the watch and, where it matters, the channel."""

    def collect(name: str, channel: Channel | None = None) -> Seen:
        return suite.collect(name, endpoint.through(channel) if channel is not None else endpoint)

    return collect
