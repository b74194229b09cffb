"""The register of requirements, in code.

Owns: reading ``requirements.toml`` and saying which requirement holds for which service, at which level.  Deliberately
knows nothing of checks, of targets and of verdicts: a row is there whether or not anything examines it.
"""

from __future__ import annotations

import enum
import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from types import MappingProxyType
from typing import Any, Final

#: The services a requirement can be about, in the order in which they are always named.
SERVICES: Final = ("smtp", "pop3", "imap", "webmail", "ldap", "admin")

#: Families of requirements, in the order of the register.
FAMILIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "PRT": "ports and binding",
        "LIM": "simultaneous connections",
        "IDL": "idle time-out",
        "ACL": "IP restrictions",
        "EXP": "explicit TLS",
        "IMP": "implicit TLS port",
        "TLS": "quality of the TLS layer",
        "CLS": "state safety when connections end",
        "ROB": "robustness of the listener",
        "HTT": "HTTP specifics",
        "LDP": "LDAP specifics",
        "ADM": "brute force and administration",
        "LIF": "life cycle",
    }
)

_ID = re.compile(r"([A-Z]{3})-\d{2}")
_SERVICES = re.compile(r"([a-z0-9 ]*)(?:\[([a-z0-9 ]+)\])?")
#: What stands for several services; LDAP has TLS only where a server offers that as an extension.
_GROUPS: Final = {"all": "smtp pop3 imap webmail ldap admin", "tls": "smtp pop3 imap webmail admin [ldap]"}
_KEYS: Final = frozenset({"level", "services", "text", "observable", "source"})


class RegisterError(ValueError):
    """The register contradicts itself; the message names the row."""


class Level(enum.StrEnum):
    """How much a requirement binds (RFC 2119)."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One row of the register.

    ``services`` are those it is about, in the usual order; ``where_offered`` those of them for which it holds only if
    the service has the feature at all.  ``level`` is that of most services, ``exceptions`` names the others.  Where
    ``part_level`` is set, that part of the text which says SHOULD or MAY binds only so much.
    """

    id: str
    family: str
    level: Level
    services: tuple[str, ...]
    text: str
    observable: str
    source: str
    where_offered: frozenset[str] = frozenset()
    exceptions: Mapping[str, Level] = field(default_factory=dict)
    part_level: Level | None = None

    def applies_to(self, service: str) -> bool:
        """Whether the requirement is about ``service``, if only where that offers the feature."""
        return service in self.services

    def level_for(self, service: str) -> Level:
        """How much the requirement binds ``service``.  ``LookupError`` for one that it is not about."""
        if not self.applies_to(service):
            raise LookupError(f"{self.id} is not about {service}")
        return self.exceptions.get(service, self.level)

    @property
    def levels(self) -> str:
        """All of it in a few words: ``MUST``, ``SHOULD (imap: MUST)``, ``MUST (in part SHOULD)``."""
        details = [f"{service}: {level}" for service, level in self.exceptions.items()]
        if self.part_level is not None:
            details.append(f"in part {self.part_level}")
        return f"{self.level} ({', '.join(details)})" if details else str(self.level)


@functools.cache
def load() -> Mapping[str, Requirement]:
    """Every requirement by its id, in the order of the register.  Read once.

    ``RegisterError`` when the register is not sound, which no release should ever see.
    """
    return read(resources.files("conformance").joinpath("requirements.toml").read_text("utf-8"))


def read(document: str) -> Mapping[str, Requirement]:
    """The requirements written in ``document`` (TOML).  ``RegisterError`` names the row that is wrong, and how."""
    try:
        rows = tomllib.loads(document)
    except tomllib.TOMLDecodeError as error:
        raise RegisterError(f"not TOML: {error}") from None
    return MappingProxyType({id_: _requirement(id_, row) for id_, row in rows.items()})


def _requirement(id_: str, row: Any) -> Requirement:
    match = _ID.fullmatch(id_)
    if match is None or match[1] not in FAMILIES:
        raise RegisterError(f"{id_}: an id is a family's three letters and two digits")
    if not isinstance(row, dict) or not _KEYS <= row.keys() <= _KEYS | {"part_level"}:
        raise RegisterError(f"{id_}: a row has {', '.join(sorted(_KEYS))} and perhaps part_level")
    words = {key: row[key] for key in ("text", "observable", "source")}
    if not all(isinstance(word, str) and word for word in words.values()):
        raise RegisterError(f"{id_}: text, observable and source are words")
    services, where_offered = _services(id_, row["services"])
    level, exceptions = _levels(id_, row["level"], services)
    part_level = _level(id_, row["part_level"]) if "part_level" in row else None
    return Requirement(
        id_, match[1], level, services, **words,
        where_offered=where_offered, exceptions=exceptions, part_level=part_level,
    )  # fmt: skip


def _services(id_: str, written: Any) -> tuple[tuple[str, ...], frozenset[str]]:
    unbracketed = str(written).strip("[]")
    if written == f"[{unbracketed}]" and unbracketed in _GROUPS:
        written = f"[{_GROUPS[unbracketed]}]"
    match = _SERVICES.fullmatch(_GROUPS.get(str(written), str(written)))
    always, offered = (set((part or "").split()) for part in match.groups()) if match else (set(), set())
    named = always | offered
    if not named or always & offered or not named <= set(SERVICES):
        raise RegisterError(f"{id_}: {written!r} does not name services")
    return tuple(service for service in SERVICES if service in named), frozenset(offered)


def _levels(id_: str, written: Any, services: tuple[str, ...]) -> tuple[Level, Mapping[str, Level]]:
    if not isinstance(written, dict):
        return _level(id_, written), MappingProxyType({})
    if "others" not in written or not written.keys() - {"others"} < set(services):
        raise RegisterError(f"{id_}: levels are given for services of the row, and for the others")
    exceptions = {service: _level(id_, written[service]) for service in services if service in written}
    return _level(id_, written["others"]), MappingProxyType(exceptions)


def _level(id_: str, written: Any) -> Level:
    try:
        return Level(written)
    except ValueError:
        raise RegisterError(f"{id_}: {written!r} is not a level") from None
