"""A server's configuration: read from TOML or JSON, checked as a whole, explained where it is wrong.

Owns: reading a file or a mapping into :class:`ServerSettings`, all problems at once.  The shape is
``settings_model``'s, the rules between keys are ``settings_rules``', the words for a problem are
``settings_problems``'; everybody else imports from here.  Deliberately knows nothing of sockets, TLS contexts
or the mail store: that a port is free or a key fits its certificate shows when they are used.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from reference_server import settings_rules
from reference_server.address_range import AddressRange
from reference_server.settings_model import (
    AccountSettings,
    CertificateSettings,
    ServerSettings,
    Service,
    ServiceSettings,
    SettingsDocument,
    defaults_of,
)
from reference_server.settings_problems import Location, Problem, SettingsError, in_plain_words, path, unknown_key

__all__ = [
    "AccountSettings",
    "AddressRange",
    "CertificateSettings",
    "Problem",
    "ServerSettings",
    "Service",
    "ServiceSettings",
    "SettingsError",
    "defaults_of",
    "json_schema",
    "load",
    "parse",
]


def load(file: Path) -> ServerSettings:
    """Read a settings file, TOML or JSON; relative paths in it count from its folder.

    Raises SettingsError with every problem of the file.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SettingsError([Problem("", f"cannot be read: {error.strerror}")], file) from None
    except UnicodeDecodeError as error:
        raise SettingsError([Problem(f"byte {error.start}", "is not UTF-8 text")], file) from None
    try:
        document = _json(text) if _is_json(file, text) else _toml(text)
        return parse(document, file.resolve().parent)
    except SettingsError as error:
        raise SettingsError(error.problems, file) from None


def parse(document: Mapping[str, Any], base: Path) -> ServerSettings:
    """Check a document; relative paths in it count from the folder ``base``.

    A document with ``format`` is a scenario, where an absent key means off.  Raises SettingsError with every
    problem: those of single values first, then those between keys.
    """
    found: list[Problem] = []
    shape: SettingsDocument | None
    try:
        shape = SettingsDocument.model_validate(document)
    except ValidationError as error:
        errors: list[Mapping[str, Any]] = [dict(each) for each in error.errors(include_url=False)]
        found = [_problem(each) for each in errors]
        shape = _without_mistakes(document, errors)
    if shape is None:
        raise SettingsError(found)
    base = base.absolute()
    services = settings_rules.inherited(shape)
    told = {problem.where for problem in found}
    found += [each for each in settings_rules.problems(shape, services, base) if not _told(each.where, told)]
    if found:
        raise SettingsError(found)
    return ServerSettings.model_construct(
        hostname=shape.hostname,
        data=base / shape.data,
        certificates=settings_rules.resolved_certificates(shape, base),
        accounts=settings_rules.resolved_accounts(shape, base),
        defaults=shape.defaults,
        services=services,
        min_cipher_bits=shape.min_cipher_bits,
        ldap_tls=shape.ldap_tls,
        format=shape.format,
        clock_rate=shape.clock_rate,
        warnings=tuple(settings_rules.warnings(shape, services)),
    )


def json_schema(name: Literal["settings", "scenario", "api"] = "settings") -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a settings file, of a scenario, or of what Remote Admin tells programs."""
    from reference_server import api_schema, settings_schema

    return api_schema.json_schema() if name == "api" else settings_schema.json_schema(name)


def _is_json(file: Path, text: str) -> bool:
    if file.suffix.lower() in (".json", ".toml"):
        return file.suffix.lower() == ".json"
    return text.lstrip().startswith("{")


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, at, place = str(error).rpartition(" (at ")
        if not at:
            raise SettingsError([Problem("", f"is not TOML: {error}")]) from None
        raise SettingsError([Problem(place.rstrip(")"), f"is not TOML: {what}")]) from None
    except RecursionError:
        raise SettingsError([Problem("", "is not usable: it is nested too deeply")]) from None


def _json(text: str) -> dict[str, Any]:
    twice: list[str] = []

    def once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for key, value in pairs:
            if key in table:
                twice.append(key)
            table[key] = value
        return table

    def refuse(constant: str) -> Any:
        raise SettingsError([Problem("", f"is not JSON: there is no number {constant}")])

    try:
        document = json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise SettingsError([Problem(where, f"is not JSON: {error.msg}")]) from None
    except RecursionError:
        raise SettingsError([Problem("", "is not usable: it is nested too deeply")]) from None
    if twice:
        raise SettingsError([Problem(key, "is there twice in one object") for key in twice])
    if not isinstance(document, dict):
        raise SettingsError([Problem("", "is not a JSON object with settings")])
    return document


_TOP = tuple(SettingsDocument.model_fields)
_KEYS: Mapping[str, Sequence[str]] = {
    "": _TOP,
    "services": tuple(ServiceSettings.model_fields),
    "defaults": tuple(ServiceSettings.model_fields),
    "accounts": tuple(AccountSettings.model_fields),
    "certificates": tuple(CertificateSettings.model_fields),
}
_MEANT_IN_SERVICE = {
    "timeout": "idle_timeout",
    "ssl_ports": "implicit_tls_ports",
    "tls_ports": "implicit_tls_ports",
    "starttls": "explicit_tls",
    "stls": "explicit_tls",
    "addresses": "bind",
    "address": "bind",
    "listen": "bind",
    "host": "bind",
}
_MEANT: Mapping[str, Mapping[str, str]] = {
    "": {
        **{key: f"{key} below [services.NAME] or [defaults]" for key in ServiceSettings.model_fields},
        **{service.value: f"[services.{service}]" for service in Service},
        "imap4": "[services.imap]",
        "users": "[[accounts]]",
    },
    "services": _MEANT_IN_SERVICE,
    "defaults": _MEANT_IN_SERVICE,
    "certificates": {"certificate": "chain", "cert": "chain", "private_key": "key"},
    "accounts": {"user": "name", "username": "name", "email": "address"},
}


def _problem(error: Mapping[str, Any]) -> Problem:
    location: Location = error["loc"]
    room = str(location[0]) if len(location) > 1 else ""
    match error["type"]:
        case "extra_forbidden":
            return Problem(path(location), unknown_key(str(location[-1]), _KEYS[room], _MEANT.get(room, {})))
        case "enum" if location[-1] == "[key]":
            name = str(location[-2])
            words = unknown_key(name, [service.value for service in Service], {"imap4": "imap", "http": "webmail"})
            return Problem(path(location[:-1]), words.replace("no such key", "no such service"))
        case _:
            return Problem(path(location), in_plain_words(error))


def _told(where: str, told: Iterable[str]) -> bool:
    """Whether a problem was found there, or in something above, or below it, already."""
    return any(
        where == other or re.match(re.escape(other) + r"[.\[]", where) or re.match(re.escape(where) + r"[.\[]", other)
        for other in told
        if other
    )


def _without_mistakes(document: Mapping[str, Any], errors: Iterable[Mapping[str, Any]]) -> SettingsDocument | None:
    """The document with stand-ins for what is wrong, so that the rules between keys can be checked all the same."""
    try:
        copy = deepcopy(dict(document))
        # From the back: what is removed must not move what is still to be looked at.
        for error in reversed(list(errors)):
            location = [part for part in error["loc"] if part != "[key]"]
            room: Any = copy
            for part in location[:-1]:
                room = room[part]
            if error["type"] == "extra_forbidden":
                del room[location[-1]]
            else:
                _stand_in(room, location)
        return SettingsDocument.model_validate(copy)
    except (ValidationError, TypeError, LookupError):
        return None


def _stand_in(room: Any, location: Sequence[int | str]) -> None:
    last = location[-1]
    key = next(part for part in reversed(location) if isinstance(part, str))
    match key:
        case "ports" | "implicit_tls_ports":
            room[last] = 0 if isinstance(last, int) else [0]
        case "bind":
            room[last] = "unreadable.invalid" if isinstance(last, int) else ["unreadable.invalid"]
        case "chain" | "key":
            room[last] = "unreadable"
        case "name":
            room[last] = f"unreadable-{location[1]}"
        case "address":
            room[last] = f"unreadable-{location[1]}@unreadable.invalid"
        case "password" | "password_hash":
            room.pop(last)
            room["password"] = "unreadable"
        case _:
            del room[last]
