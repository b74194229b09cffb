"""The register as a person reads it.

Owns: the list of requirements, and the page about one of them, on a terminal of any width or one row a line in a pipe.
Knows the register and which checks there are; judges nothing.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Final

from conformance.requirements import FAMILIES, SERVICES, Requirement, load

#: Where the text of a row begins.
_MARGIN: Final = 28


def show(name: str | None = None) -> None:
    """Print the register, one family of it, or all about one requirement.  ``name`` must be one of them."""
    width = max(60, min(120, shutil.get_terminal_size().columns)) if sys.stdout.isatty() else None
    lines = _page(load()[name], width) if name is not None and name in load() else _list(name, width)
    for line in lines:
        print(line)


def _list(family: str | None, width: int | None) -> Iterator[str]:
    """Every row, of ``family`` or of all; a row takes one line where ``width`` is None."""
    yield "Services: " + ", ".join(f"{service[0].upper()} {service}" for service in SERVICES)
    for code, title in FAMILIES.items():
        if family not in (None, code):
            continue
        yield ""
        yield f"{code}: {title}"
        for row in load().values():
            if row.family == code:
                yield from _row(row, width)


def _row(row: Requirement, width: int | None) -> Iterator[str]:
    exception = "" if not row.exceptions else f" [{row.levels}]"
    yield from _folded(f"{row.id}  {row.level:<6}  {_letters(row):<{_MARGIN - 16}}", row.text + exception, width)


def _letters(row: Requirement) -> str:
    """Which services, in a few columns."""
    if row.where_offered == {"ldap"} and row.services == SERVICES:
        return "with TLS"
    if row.services == SERVICES:
        return "all"
    return " ".join(service[0].upper() for service in row.services)


def _page(row: Requirement, width: int | None) -> Iterator[str]:
    from conformance.check import checks_for

    yield f"{row.id}  {row.levels}  ({FAMILIES[row.family]})"
    yield ""
    services = [f"{service} (where offered)" if service in row.where_offered else service for service in row.services]
    for label, text in (
        ("required", row.text),
        ("observable", row.observable),
        ("services", ", ".join(services)),
        ("source", row.source),
    ):
        yield from _folded(f"{label:<12}", text, width)
    label = "examined by"
    for check in checks_for(row.id):
        channels = ", ".join(channel for channel in check.channels if channel != "-")
        where = f" ({channels})" if channels else ""
        yield f"{label:<12}{check.name}, scenario {check.scenario}{where}"
        label = ""
    if label:
        yield f"{label:<12}nothing yet: there is no check for it"


def _folded(label: str, text: str, width: int | None) -> list[str]:
    if width is None:
        return [label + text]
    return textwrap.wrap(text, width, initial_indent=label, subsequent_indent=" " * len(label))
