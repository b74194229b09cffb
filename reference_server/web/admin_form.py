"""The form of a service in Remote Admin: from settings to fields, and from fields to a settings document.

Owns: the one form that all services have, and which key each field is.  Knows no page, no request and no server; what
is wrong between keys is the settings' own to say.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from reference_server.settings import ServerSettings, Service, ServiceSettings, SettingsError
from reference_server.settings_problems import Problem
from reference_server.web.routing import Form

#: Fields that hold a number, and the words for what they must be.
_WHOLE: Final = ("max_connections", "max_connections_per_ip", "login_failures")
_SECONDS: Final = ("idle_timeout", "login_window", "login_block")
_SWITCHES: Final = ("enabled", "explicit_tls", "require_tls_for_login")
_LISTS: Final = ("allow", "deny")
#: Longer ones mean nothing, and take long to read.
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_PORTS: Final = ("ports", "implicit_tls_ports")


@dataclass(frozen=True, slots=True)
class Fields:
    """What stands in the form: text as somebody would write it, switches as they are."""

    text: Mapping[str, str]
    switches: Mapping[str, bool]
    #: ``default``, ``all`` or ``listed``.
    bind: str
    troubles: Mapping[str, Sequence[str]] = field(default_factory=dict)


def shown(document: Mapping[str, Any], settings: ServerSettings, service: Service) -> Fields:
    """The fields for what is in force, or would be if the service were switched on."""
    table = settings.services.get(service) or ServiceSettings(enabled=False)
    written = document.get("services", {}).get(service.value, {})
    addresses = list(table.bind)
    text = {
        **{key: ", ".join(map(str, getattr(table, key))) for key in _PORTS},
        **{key: str(getattr(table, key)) for key in _WHOLE},
        **{key: _number(getattr(table, key)) for key in _SECONDS},
        **{key: "\n".join(map(str, getattr(table, key))) for key in _LISTS},
        "addresses": "" if addresses == ["*"] else "\n".join(addresses),
        "certificate": table.certificate or "",
    }
    bind = "default" if "bind" not in written else "all" if addresses == ["*"] else "listed"
    return Fields(text, {key: bool(getattr(table, key)) for key in _SWITCHES}, bind)


def filled_in(form: Form) -> Fields:
    """The fields as somebody has filled them in."""
    keys = (*_PORTS, *_WHOLE, *_SECONDS, *_LISTS, "addresses", "certificate")
    return Fields(
        {key: form.text(key).replace("\r\n", "\n") for key in keys},
        {key: form.text(key) == "on" for key in _SWITCHES},
        form.text("bind", "default"),
    )


def table_of(fields: Fields) -> dict[str, Any]:
    """The service's table, every key of the form in it.  Raises :class:`SettingsError` for what is no number."""
    troubles: list[Problem] = []
    table: dict[str, Any] = dict(fields.switches)
    for key in _PORTS:
        table[key] = []
        for word in fields.text[key].replace(",", " ").split():
            if _NUMBER.fullmatch(word):
                table[key].append(int(word))
            else:
                troubles.append(Problem(key, f"{word!r} is not a port; write numbers with commas between them"))
    for key in _WHOLE:
        word = fields.text[key].strip() or "0"
        if _NUMBER.fullmatch(word):
            table[key] = int(word)
        else:
            troubles.append(Problem(key, f"{word!r} is not a whole number"))
    for key in _SECONDS:
        word = fields.text[key].strip()
        try:
            seconds = float(word)
        except ValueError:
            troubles.append(Problem(key, f"{word!r} is not a number of seconds"))
        else:
            table[key] = int(seconds) if seconds.is_integer() else seconds
    for key in _LISTS:
        table[key] = fields.text[key].replace(",", "\n").split("\n")
        table[key] = [line.strip() for line in table[key] if line.strip()]
    match fields.bind:
        case "all":
            table["bind"] = ["*"]
        case "listed":
            table["bind"] = fields.text["addresses"].replace(",", " ").split()
            if not table["bind"]:
                troubles.append(Problem("addresses", "name at least one address, or choose another way to bind"))
        case _:
            table["bind"] = None
    table["certificate"] = fields.text["certificate"] or None
    if troubles:
        raise SettingsError(troubles)
    return table


def changed(
    document: Mapping[str, Any], settings: ServerSettings, service: Service, table: Mapping[str, Any]
) -> dict[str, Any]:
    """The document with the service's table as it shall be.

    What somebody left as it was, and what is not in the file because it is inherited, stays out of it.
    """
    wanted = copy.deepcopy(dict(document))
    written = wanted.setdefault("services", {}).setdefault(service.value, {})
    in_force = settings.services.get(service)
    for key, value in table.items():
        if value is None:
            written.pop(key, None)
        elif key in written or in_force is None or _plain(getattr(in_force, key, None)) != value:
            written[key] = value
    return wanted


def _plain(value: Any) -> Any:
    """A setting as it would be written."""
    return [each if isinstance(each, int) else str(each) for each in value] if isinstance(value, tuple) else value


def troubles_by_field(error: SettingsError, service: Service) -> dict[str, list[str]]:
    """What is wrong, by the field that it stands next to; ``""`` for what belongs to none."""
    found: dict[str, list[str]] = {}
    prefix = f"services.{service.value}."
    for problem in error.problems:
        key = problem.where.removeprefix(prefix).partition("[")[0].partition(".")[0]
        known = key in (*_PORTS, *_WHOLE, *_SECONDS, *_SWITCHES, *_LISTS, "addresses", "certificate", "bind")
        is_ours = problem.where.startswith(prefix) or "." not in problem.where
        where = ("addresses" if key == "bind" else key) if known and is_ours else ""
        found.setdefault(where, []).append(problem.what if where else str(problem))
    return found


def _number(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:g}"
