"""The ledger itself: what a fault is, and the list of all.

Owns: the description of a fault and the counting of its hits.  Knows no fault.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from reference_server.server import Parts
from reference_server.settings import ServerSettings

#: A file to which every hit adds an octet: the proof that the defect was met, not only installed.
HITS: Final = "LISTENSPEC_FAULT_HITS"

Change = Callable[[ServerSettings], ServerSettings]
Build = Callable[[Parts], Parts]
Describe = Callable[[dict[str, Any]], dict[str, Any]]

_MODULES = (
    "listening", "limits", "refusals", "clocks", "decoys", "decoys_manners",
    "upgrades", "tls_layer", "tls_endings", "restrictions", "implicit_tls", "endings", "decoys_endings",
    "web", "web_logins", "decoys_web", "lifecycle",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to be wrong, or, with nothing in ``breaks``, a legal oddity that must not be taken for wrong.

    ``breaks``: requirements of which each must be seen to fail.  ``consequences``: others that may fail with them;
    three letters stand for a family.  ``services``: where the defect is.
    """

    name: str
    description: str
    breaks: tuple[str, ...]
    consequences: tuple[str, ...]
    services: tuple[str, ...]
    build: Build
    change: Change
    describe: Describe

    @property
    def is_decoy(self) -> bool:
        """Whether it is legal."""
        return not self.breaks


_ledger: dict[str, Fault] = {}
_MAIL: Final = ("smtp", "pop3", "imap")
#: For a defect of what all services share that shall be found where HTTP is spoken, too: for clients who speak first,
#: and who are greeted by nobody, many a check looks elsewhere.
MAIL_AND_WEB: Final = (*_MAIL, "webmail")


def fault(
    name: str,
    description: str,
    *,
    breaks: str = "",
    consequences: str = "",
    services: tuple[str, ...] = _MAIL,
    change: Change = lambda settings: settings,
    describe: Describe = lambda description: description,
) -> Callable[[Build], Build]:
    """Enter the decorated function, which puts the wrong part in.  ``breaks`` as ``"LIM-01 LIM-02"``."""

    def enter(build: Build) -> Build:
        known = Fault(
            name, description, tuple(breaks.split()), tuple(consequences.split()), services, build, change, describe
        )
        if name in _ledger:
            raise LookupError(f"there are two faults of the name {name}")
        _ledger[name] = known
        return build

    return enter


def hit() -> None:
    """The defect has just made a difference."""
    file = os.environ.get(HITS)
    if file:
        with contextlib.suppress(OSError), open(file, "ab") as counted:
            counted.write(b".")


def changed(settings: ServerSettings, **by_service: Any) -> ServerSettings:
    """The settings with the same keys changed in every service; a callable is given the service's table."""
    services = {}
    for service, table in settings.services.items():
        update = {key: value(table) if callable(value) else value for key, value in by_service.items()}
        if any(getattr(table, key) != value for key, value in update.items()):
            hit()
        services[service] = table.model_copy(update=update)
    return settings.model_copy(update={"services": services})


def _load() -> Mapping[str, Fault]:
    for module in _MODULES:
        importlib.import_module(f"reference_server.faults.{module}")
    return dict(sorted(_ledger.items()))


class _Ledger(Mapping[str, Fault]):
    """All faults by name, read when somebody looks."""

    def __getitem__(self, name: str) -> Fault:
        return _load()[name]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(_load())

    def __len__(self) -> int:
        return len(_load())


FAULTS: Mapping[str, Fault] = _Ledger()
