"""What a run of the suite found: results, their evidence, and the verdict that follows from them.

Owns: the shapes of a report, their JSON form both ways, and the rules by which results add up to a verdict and an exit
status.  Deliberately knows nothing of how a result came about, of files, and of how anything is shown.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Final, TypeVar

from conformance import requirements
from conformance.requirements import FAMILIES, SERVICES

__all__ = [
    "FAMILIES",
    "FORMAT",
    "LEVELS",
    "SERVICES",
    "SUITE",
    "Conformance",
    "ReportError",
    "Result",
    "Run",
    "TargetName",
    "TranscriptEvent",
    "Verdict",
    "printable",
    "suite_version",
]

FORMAT: Final = 1
#: What a result's level can be.
LEVELS: Final = [level.value for level in requirements.Level]
SUITE: Final = "listenspec"

T = TypeVar("T")


class ReportError(ValueError):
    """A document that is no report; the message names the key and what is wrong with it."""


class Verdict(enum.StrEnum):
    """What a check found."""

    PASS = "pass"
    FAIL = "fail"
    LATITUDE = "latitude"
    NOT_OFFERED = "not_offered"
    NOT_ASSESSABLE = "not_assessable"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"

    @property
    def examined(self) -> bool:
        """Whether something was found out about the server."""
        return self in (Verdict.PASS, Verdict.FAIL, Verdict.LATITUDE)

    @property
    def unsettled(self) -> bool:
        """Whether it should have been found out and was not."""
        return self in (Verdict.INCONCLUSIVE, Verdict.ERROR)


class Conformance(enum.StrEnum):
    """What a run says of its target as a whole."""

    CONFORMANT = "conformant"
    NON_CONFORMANT = "non_conformant"
    INCOMPLETE = "incomplete"

    @property
    def exit_status(self) -> int:
        """The status with which a program that ran the suite ends."""
        match self:
            case Conformance.CONFORMANT:
                return 0
            case Conformance.NON_CONFORMANT:
                return 1
            case Conformance.INCOMPLETE:
                return 3


@dataclass(frozen=True, slots=True)
class TranscriptEvent:
    """One thing that happened on a connection.

    ``at`` is in seconds since the check began; ``source`` is ``client``, ``server`` or ``note``; ``data`` is what was
    sent, as printable text with everything else escaped; ``tls`` whether it went through TLS.
    """

    at: float
    connection: int
    source: str
    data: str
    tls: bool

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "at": self.at,
            "connection": self.connection,
            "from": self.source,
            "bytes": self.data,
            "tls": self.tls,
        }

    @classmethod
    def from_dict(cls, document: Any) -> TranscriptEvent:
        """Raises :class:`ReportError`."""
        fields = _object(document, "transcript")
        return cls(
            at=_number(fields, "at"),
            connection=_typed(fields, "connection", int),
            source=_typed(fields, "from", str),
            data=_typed(fields, "bytes", str),
            tls=_typed(fields, "tls", bool),
        )


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found for one service and channel.  ``duration`` is in seconds.

    ``expected`` and ``actual`` come with ``fail``, ``reason`` with every verdict but ``pass`` and ``fail``.  ``repro``
    is the command that examines this one thing again.
    """

    id: str
    requirement: str
    level: str
    service: str
    channel: str
    check: str
    verdict: Verdict
    expected: str = ""
    actual: str = ""
    reason: str = ""
    duration: float = 0.0
    transcript: tuple[TranscriptEvent, ...] = ()
    repro: str = ""

    @property
    def family(self) -> str:
        """The three letters of the requirement's family."""
        return self.requirement.partition("-")[0]

    @property
    def text(self) -> str:
        """What is required, in the register's words; empty for a row that this release does not know."""
        row = requirements.load().get(self.requirement)
        return row.text if row is not None else ""

    @property
    def binding(self) -> bool:
        """Whether it counts for conformance."""
        return self.level == requirements.Level.MUST

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; what is empty is left out."""
        words = {"expected": self.expected, "actual": self.actual, "reason": self.reason}
        document: dict[str, Any] = {
            "id": self.id,
            "requirement": self.requirement,
            "level": self.level,
            "service": self.service,
            "channel": self.channel,
            "check": self.check,
            "verdict": self.verdict.value,
            **{key: word for key, word in words.items() if word},
            "duration": self.duration,
        }
        if self.transcript:
            document["transcript"] = [event.to_dict() for event in self.transcript]
        if self.repro:
            document["repro"] = self.repro
        return document

    @classmethod
    def from_dict(cls, document: Any) -> Result:
        """Raises :class:`ReportError`."""
        fields = _object(document, "result")
        verdict = _typed(fields, "verdict", str)
        if verdict not in set(Verdict):
            raise ReportError(f"verdict: {verdict!r} is not one of {', '.join(Verdict)}")
        return cls(
            id=_typed(fields, "id", str),
            requirement=_typed(fields, "requirement", str),
            level=_typed(fields, "level", str),
            service=_typed(fields, "service", str),
            channel=_typed(fields, "channel", str),
            check=_typed(fields, "check", str),
            verdict=Verdict(verdict),
            expected=_typed(fields, "expected", str, ""),
            actual=_typed(fields, "actual", str, ""),
            reason=_typed(fields, "reason", str, ""),
            duration=_number(fields, "duration"),
            transcript=tuple(TranscriptEvent.from_dict(event) for event in _typed(fields, "transcript", list, [])),
            repro=_typed(fields, "repro", str, ""),
        )


@dataclass(frozen=True, slots=True)
class TargetName:
    """What was examined: the implementation as it names itself, and the driver through which it was reached."""

    name: str
    version: str = ""
    driver: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"name": self.name, "version": self.version, "driver": self.driver}

    @classmethod
    def from_dict(cls, document: Any) -> TargetName:
        """Raises :class:`ReportError`."""
        fields = _object(document, "target")
        return cls(*(_typed(fields, key, str) for key in ("name", "version", "driver")))

    def __str__(self) -> str:
        return " ".join(part for part in (self.name, self.version) if part)


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run.

    ``started`` is a UTC time as RFC 3339 writes it, ``duration`` in seconds.  ``troubles`` are what went wrong beside
    the results: a driver that could not be used, a check that could not be loaded.  With troubles a run is incomplete.
    """

    target: TargetName
    started: str
    duration: float
    results: tuple[Result, ...]
    troubles: tuple[str, ...] = ()
    suite_version: str = ""

    def in_order(self) -> Run:
        """The same with its results by their ids, in whatever order they came."""
        return replace(self, results=tuple(sorted(self.results, key=lambda result: result.id)))

    @property
    def totals(self) -> dict[Verdict, int]:
        """How many results have each verdict, zeros included."""
        counted = Counter(result.verdict for result in self.results)
        return {verdict: counted[verdict] for verdict in Verdict}

    @property
    def verdict(self) -> Conformance:
        """What the results add up to.

        A MUST that failed outweighs everything else; a run that examined no MUST says nothing.
        """
        binding = [result.verdict for result in self.results if result.binding]
        if Verdict.FAIL in binding:
            return Conformance.NON_CONFORMANT
        if self.troubles or any(verdict.unsettled for verdict in binding):
            return Conformance.INCOMPLETE
        if not any(verdict.examined for verdict in binding):
            return Conformance.INCOMPLETE
        return Conformance.CONFORMANT

    @property
    def exit_status(self) -> int:
        """The status with which a program that ran the suite ends."""
        return self.verdict.exit_status

    def to_dict(self) -> dict[str, Any]:
        """The JSON form of the contract."""
        return {
            "format": FORMAT,
            "suite": {"name": SUITE, "version": self.suite_version or suite_version()},
            "target": self.target.to_dict(),
            "started": self.started,
            **self.summary_dict(),
            "results": [result.to_dict() for result in self.results],
        }

    def summary_dict(self) -> dict[str, Any]:
        """What is known only when a run has ended."""
        document: dict[str, Any] = {
            "duration": self.duration,
            "verdict": self.verdict.value,
            "totals": {verdict.value: count for verdict, count in self.totals.items()},
        }
        if self.troubles:
            document["troubles"] = list(self.troubles)
        return document

    @classmethod
    def from_dict(cls, document: Any) -> Run:
        """Raises :class:`ReportError`, also for a verdict or totals that do not follow from the results."""
        fields = _object(document, "report")
        if fields.get("format") != FORMAT:
            raise ReportError(f"format: {fields.get('format')!r} is not one that is understood here ({FORMAT})")
        run = cls(
            target=TargetName.from_dict(fields.get("target")),
            started=_typed(fields, "started", str),
            duration=_number(fields, "duration"),
            results=tuple(Result.from_dict(result) for result in _typed(fields, "results", list)),
            troubles=tuple(str(trouble) for trouble in _typed(fields, "troubles", list, [])),
            suite_version=_typed(_object(fields.get("suite"), "suite"), "version", str),
        )
        for key, value in run.summary_dict().items():
            if fields.get(key) != value:
                raise ReportError(f"{key}: it says {fields.get(key)!r}, but its results give {value!r}")
        return run


def suite_version() -> str:
    """The version of this suite."""
    return metadata.version(SUITE)


def printable(text: str) -> str:
    """``text`` with everything escaped that is not printable, line ends included: no peer moves a reader's cursor."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def _object(document: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise ReportError(f"{name}: an object is wanted, not {document!r:.60}")
    return document


def _typed(fields: Mapping[str, Any], key: str, wanted: type[T], default: T | None = None) -> T:
    if key not in fields and default is None:
        raise ReportError(f"{key}: missing")
    value = fields.get(key, default)
    # JSON's true is an int to Python, and never what a count means.
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise ReportError(f"{key}: {wanted.__name__} is wanted, not {value!r:.60}")
    return value


def _number(fields: Mapping[str, Any], key: str) -> float:
    value = fields.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ReportError(f"{key}: a number is wanted, not {value!r:.60}")
    return float(value)
