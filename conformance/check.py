"""What a check is and how it says what it found.

Owns: the decorator that ties a test to a row of the register, and the exceptions by which a check reaches its
verdict.  Knows neither pytest's machinery (that is :mod:`conformance.plugin`) nor any server.

A check returns normally when what it asks for was observed to hold.  The only way to fail an implementation is
:class:`Mismatch`; every exception that is not one of those below is an error of the suite's or the driver's.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from conformance import requirements
from reference_server.settings import Service

CheckFunction = TypeVar("CheckFunction", bound=Callable[..., None])


class Channel(enum.StrEnum):
    """How a session is protected; ``NONE`` where the requirement does not distinguish."""

    PLAIN = "plain"
    EXPLICIT = "explicit"
    IMPLICIT = "implicit"
    NONE = "-"


EVERY_CHANNEL = (Channel.PLAIN, Channel.EXPLICIT, Channel.IMPLICIT)
TLS_CHANNELS = (Channel.EXPLICIT, Channel.IMPLICIT)
NO_CHANNEL = (Channel.NONE,)

#: What a target must offer for a channel to exist.
CHANNEL_NEEDS = {Channel.EXPLICIT: "explicit_tls", Channel.IMPLICIT: "implicit_tls"}


class Outcome(Exception):
    """A verdict other than ``pass``; ``str()`` is the reason."""


class Mismatch(Outcome):
    """The server was seen to do otherwise than it must: verdict ``fail``."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"expected {expected}; saw {actual}")
        self.expected = expected
        self.actual = actual


class Latitude(Outcome):
    """A SHOULD or MAY was declined in a way that the requirement allows; the reason says what was seen."""


class NotOffered(Outcome):
    """The implementation declares that it does not have what the requirement is about."""


class NotAssessable(Outcome):
    """It cannot be judged here; the reason says why."""


class Refused(Outcome):
    """The server would not start with what it was asked, and that is an answer that the scenario allows."""


class Inconclusive(Outcome):
    """A control failed: nothing that was seen can be held against (or for) the server."""


@dataclass(frozen=True, slots=True)
class Check:
    """How one test is tied to one requirement.

    ``scenario`` names the server configuration it runs under; ``channels`` those it is repeated for; ``needs`` what
    the target must offer (contract, ``offers``); ``watches`` the idle observations that it reads.
    """

    requirement: str
    scenario: str
    channels: tuple[Channel, ...] = EVERY_CHANNEL
    services: frozenset[Service] | None = None
    needs: frozenset[str] = frozenset()
    watches: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    name: str = ""


_checks: dict[str, list[Check]] = {}


def check(
    requirement: str,
    *,
    scenario: str,
    channels: tuple[Channel, ...] = EVERY_CHANNEL,
    services: tuple[Service, ...] = (),
    needs: tuple[str, ...] = (),
    watches: tuple[str, ...] = (),
    also: tuple[str, ...] = (),
) -> Callable[[CheckFunction], CheckFunction]:
    """Tie the decorated pytest test to a row of the register.

    ``also`` names further scenarios that the check starts, so that they are ready in time.  Raises ``LookupError``
    (a collection error) for an id that the register does not have or a scenario that does not exist.
    """
    from conformance.scenarios import SCENARIOS

    if requirement not in requirements.load():
        raise LookupError(f"there is no requirement {requirement!r} in the register")
    for name in (scenario, *also):
        if name not in SCENARIOS:
            raise LookupError(f"{requirement}: there is no scenario {name!r}")

    def tie(function: CheckFunction) -> CheckFunction:
        module = inspect.getmodule(function)
        file = (module.__name__ if module else "?").rpartition(".")[2]
        tied = Check(
            requirement,
            scenario,
            channels,
            frozenset(services) or None,
            frozenset(needs),
            watches,
            also,
            f"{file}.py::{function.__name__}",
        )
        known = _checks.setdefault(requirement, [])
        if tied not in known:  # pytest may import a module that was imported before
            known.append(tied)
        marked: Any = function
        marked.listenspec_check = tied
        return function

    return tie


def checks_for(requirement: str) -> tuple[Check, ...]:
    """The checks that examine ``requirement``, of all check modules."""
    _import_all()
    return tuple(_checks.get(requirement, ()))


def all_checks() -> tuple[Check, ...]:
    """Every check there is."""
    _import_all()
    return tuple(check for checks in _checks.values() for check in checks)


def _import_all() -> None:
    import importlib
    import pkgutil

    import conformance.checks

    for module in pkgutil.iter_modules(conformance.checks.__path__):
        if module.name.startswith("test_"):
            importlib.import_module(f"conformance.checks.{module.name}")
