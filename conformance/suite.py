"""One run of the suite: which results it is made of, and what is shared while it lasts.

Owns: the choice of what is examined (requirement, service, channel), the target and its observers, and the way from
an exception to a result.  Knows no pytest hook: those are in :mod:`conformance.plugin`.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from conformance import drivers, requirements
from conformance.check import (
    CHANNEL_NEEDS,
    EVERY_CHANNEL,
    Channel,
    Check,
    Inconclusive,
    Latitude,
    Mismatch,
    NotAssessable,
    NotOffered,
    Refused,
    all_checks,
    checks_for,
)
from conformance.observatory import Key, Observatory
from conformance.report.model import Result, TranscriptEvent, Verdict
from conformance.scenarios import SCENARIOS
from conformance.target import DriverError, DriverRefused, Target, Unavailable
from conformance.transcript import Transcript
from conformance.visit import Endpoint
from conformance.watch import Seen
from conformance.watches import WATCHES
from reference_server.settings import Service


class UsageError(Exception):
    """What was asked for does not exist; ``str()`` says what and offers what does."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What the user wants examined; empty means everything."""

    services: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def wants(self, case: Case) -> bool:
        """Whether ``case`` is among it."""
        return (
            (not self.services or case.service.value in self.services)
            and (not self.families or case.check.requirement.partition("-")[0] in self.families)
            and (not self.only or case.id in self.only)
        )


@dataclass(frozen=True, slots=True)
class Case:
    """One check for one service and channel: what becomes one result."""

    check: Check
    service: Service
    channel: Channel

    @property
    def id(self) -> str:
        """The result id of the contract."""
        return f"{self.check.requirement}/{self.service}/{self.channel}"

    @property
    def level(self) -> str:
        """MUST, SHOULD or MAY, as it is for this service."""
        return str(requirements.load()[self.check.requirement].level_for(self.service))


def driver_of(target: str | None, driver: str | None) -> tuple[str, contextlib.AbstractContextManager[list[str]]]:
    """The name of the driver that was asked for, and its command for as long as it is needed.

    Raises :class:`UsageError`.
    """
    if driver:
        command = shlex.split(driver)
        if not command:
            raise UsageError("--driver needs a command")
        return target or command[0].rpartition("/")[2], contextlib.nullcontext(command)
    name = target or "reference"
    if name not in drivers.NAMES:
        known = ", ".join(sorted(drivers.NAMES))
        raise UsageError(f"there is no target {name!r}; known are {known}; anything else goes with --driver 'CMD ARGS'")
    return name, drivers.prepared(name)


@dataclass(slots=True)
class Suite:
    """What the checks of one process share."""

    target: Target
    selection: Selection
    custom_driver: str | None = None
    observatory: Observatory = field(init=False)
    resources: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __post_init__(self) -> None:
        self.observatory = Observatory(self.target)

    @classmethod
    def create(cls, target: str | None, driver: str | None, selection: Selection) -> Suite:
        """Raises :class:`UsageError` for an unknown target, DriverError when its driver cannot describe it."""
        name, prepared = driver_of(target, driver)
        with contextlib.ExitStack() as resources:
            command = resources.enter_context(prepared)
            suite = cls(Target(name, command), selection, driver)
            suite.resources.push(resources.pop_all())
            return suite

    def require_something(self) -> None:
        """Raises :class:`UsageError` when what was chosen is not to be had from this target."""
        name, offered = self.target.description.name, [service.value for service in self.target.services]
        for service in self.selection.services:
            if service not in offered:
                raise UsageError(f"{name} has no {service}; what can be examined is {', '.join(offered)}")
        cases = {case.id for check in all_checks() for case in self.cases(check)}
        for wanted in self.selection.only:
            if wanted not in cases:
                rows = {check.requirement for check in all_checks()}
                requirement = wanted.partition("/")[0]
                if requirement not in rows:
                    raise UsageError(f"there is no check of {requirement} yet")
                every = replace(self, selection=Selection())
                others = [case.id for check in checks_for(requirement) for case in every.cases(check)]
                raise UsageError(f"there is no result {wanted} for {name}; there is {', '.join(others) or 'none'}")
        if not cases:
            raise UsageError(f"nothing that was chosen applies to {name}")

    # -- what is examined -------------------------------------------------------------------------------------------

    def cases(self, check: Check) -> Iterator[Case]:
        """Every result that ``check`` gives for this target."""
        requirement = requirements.load()[check.requirement]
        for service in self.target.services:
            if check.services is not None and service not in check.services:
                continue
            if not requirement.applies_to(service):
                continue
            for channel in check.channels:
                need = CHANNEL_NEEDS.get(channel)
                if need is not None and need not in self.target.declared(service).offers:
                    continue
                case = Case(check, service, channel)
                if self.selection.wants(case):
                    yield case

    def keys(self, cases: Iterable[Case]) -> list[Key]:
        """The observations that these results read; one for no channel reads those of all, if a channel is theirs."""
        return [
            (name, case.service, channel)
            for case in cases
            for name in case.check.watches
            if self._exists(name, case)
            for channel in self._channels(case, name)
        ]

    def _channels(self, case: Case, watch: str) -> Iterator[Channel]:
        if case.channel is not Channel.NONE or WATCHES[watch].alone:
            yield case.channel
            return
        offers = self.target.declared(case.service).offers
        for channel in EVERY_CHANNEL:
            if channel not in CHANNEL_NEEDS or CHANNEL_NEEDS[channel] in offers:
                yield channel

    def _exists(self, name: str, case: Case) -> bool:
        declared = self.target.declared(case.service)
        watch = WATCHES[name]
        return case.check.needs <= declared.offers and SCENARIOS[watch.scenario].needs <= declared.offers

    def scenarios(self, cases: Sequence[Case]) -> list[str]:
        """The scenarios that these results run under, those that take longest to judge first."""
        watched = [WATCHES[name].scenario for case in cases for name in case.check.watches]
        others = [name for case in cases for name in (case.check.scenario, *case.check.scenarios)]
        return list(dict.fromkeys([*watched, *others]))

    # -- how one is run ---------------------------------------------------------------------------------------------

    def endpoint(self, case: Case, transcript: Transcript) -> Endpoint:
        """Where ``case`` is examined.  Raises an outcome when it cannot be, DriverError when the driver broke."""
        declared = self.target.declared(case.service)
        missing = sorted((case.check.needs | SCENARIOS[case.check.scenario].needs) - declared.offers)
        if missing:
            raise NotOffered(f"{case.service} does not offer {', '.join(missing)}")
        try:
            site = self.target.site(case.check.scenario)
        except Unavailable as reason:
            raise NotAssessable(str(reason)) from None
        except DriverRefused as refusal:
            if SCENARIOS[case.check.scenario].may_refuse:
                raise Refused(str(refusal)) from None
            if SCENARIOS[case.check.scenario].must_start:
                purpose = SCENARIOS[case.check.scenario].purpose
                raise Mismatch(f"the server to start ({purpose})", str(refusal)) from None
            raise
        credentials = self.target.credentials(case.service)
        return Endpoint(site, case.service, case.channel, declared, credentials, str(self.target.ca_file), transcript)

    def endpoint_elsewhere(self, scenario: str, near: Endpoint) -> Endpoint:
        """The same service and channel under another scenario."""
        try:
            site = self.target.site(scenario)
        except Unavailable as reason:
            raise NotAssessable(str(reason)) from None
        return replace(near, site=site)

    def collect(self, name: str, endpoint: Endpoint) -> Seen:
        """What an observer saw; its record becomes part of the check's."""
        seen = self.observatory.collect((name, endpoint.service, endpoint.channel))
        endpoint.transcript.take(seen.transcript.entries(), seen.transcript.started)
        return seen

    def transcript(self) -> Transcript:
        """A fresh record that hides this run's password."""
        return Transcript((self.target.password.encode(),))

    # -- what came out ----------------------------------------------------------------------------------------------

    def result(self, case: Case, error: BaseException | None, duration: float, transcript: Transcript | None) -> Result:
        """The result of ``case``, from how its check ended."""
        expected = actual = reason = ""
        match error:
            case None | Refused():
                # Where a configuration may be refused, refusing it is all that is asked.
                verdict = Verdict.PASS
            case Mismatch():
                verdict, expected, actual = Verdict.FAIL, error.expected, error.actual
            case Latitude():
                verdict, reason = Verdict.LATITUDE, str(error)
            case NotOffered():
                verdict, reason = Verdict.NOT_OFFERED, str(error)
            case NotAssessable():
                verdict, reason = Verdict.NOT_ASSESSABLE, str(error)
            case Inconclusive():
                verdict, reason = Verdict.INCONCLUSIVE, str(error)
            case DriverError():
                verdict, reason = Verdict.ERROR, str(error)
            case _:
                verdict, reason = Verdict.ERROR, f"{type(error).__name__}: {error}"
        entries = transcript.entries() if transcript is not None and verdict in _EVIDENT else ()
        return Result(
            id=case.id,
            requirement=case.check.requirement,
            level=case.level,
            service=case.service.value,
            channel=case.channel.value,
            check=case.check.name,
            verdict=verdict,
            expected=expected,
            actual=actual,
            reason=reason,
            duration=round(duration, 3),
            transcript=tuple(
                TranscriptEvent(round(entry.at, 4), entry.connection, entry.source, _escape(entry.data), entry.tls)
                for entry in entries
            ),
            repro=self.repro(case),
        )

    def repro(self, case: Case) -> str:
        """The command that examines this one thing again."""
        target = f"--driver {shlex.quote(self.custom_driver)}" if self.custom_driver else self.target.name
        return f"listenspec certify {target} --only {case.id}"

    def close(self) -> list[str]:
        """Stop everything; complaints about drivers that did not stop as they must."""
        try:
            return self.target.close()
        finally:
            self.resources.close()


#: Verdicts that come with their evidence.
_EVIDENT = (Verdict.FAIL, Verdict.LATITUDE, Verdict.INCONCLUSIVE, Verdict.ERROR)


def _escape(data: bytes) -> str:
    text = data.decode("utf-8", "backslashreplace")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


__all__ = ["Case", "DriverError", "Selection", "Suite", "Unavailable", "UsageError", "driver_of"]
