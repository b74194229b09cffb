"""What a scenario asks for, as a driver sees it.

Owns: reading a scenario, and finding the first thing in it that nobody offers.  A driver has to answer
``unsupported`` to every setting that it does not know, so what is known is listed here, once, and everything
else is refused.  Deliberately knows nothing of any implementation, and judges no values beyond their type:
that is the server's part.  Standard library only: a driver should be up at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

JsonObject: TypeAlias = Mapping[str, Any]

SERVER_SETTINGS = frozenset(
    {
        "format",
        "hostname",
        "data",
        "certificates",
        "accounts",
        "defaults",
        "services",
        "min_cipher_bits",
        "ldap_tls",
        "clock_rate",
        "wall_clock",
    }
)
ACCOUNT_SETTINGS = frozenset({"name", "password", "password_hash", "address", "inbox", "admin", "discard"})

_OFFER_OF = {
    "max_connections": "max_connections",
    "max_connections_per_ip": "max_connections_per_ip",
    "idle_timeout": "idle_timeout",
    "explicit_tls": "explicit_tls",
    "implicit_tls_ports": "implicit_tls",
    "require_tls_for_login": "require_tls_for_login",
    "allow": "restrictions",
    "deny": "restrictions",
}
"""Which offer a setting needs, where it is more than off; `bind` and `ports` have rules of their own."""


class UnsupportedSetting(Exception):
    """The driver cannot do what a setting asks for."""

    def __init__(self, setting: str, reason: str) -> None:
        super().__init__(f"{setting}: {reason}")
        self.setting = setting
        self.reason = reason


class BadScenario(Exception):
    """The scenario is no scenario; the message names the key and the reason."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Two PEM files."""

    chain: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who can log in, and the message files that are in the inbox at the start; ``admin``: into that too."""

    name: str
    password: str
    address: str = ""
    inbox: tuple[Path, ...] = ()
    admin: bool = False


@dataclass(frozen=True, slots=True)
class AskedService:
    """The settings of one service; every absent one is off."""

    name: str
    bind: tuple[str, ...] = ("*",)
    ports: tuple[int, ...] = ()
    max_connections: int = 0
    max_connections_per_ip: int = 0
    idle_timeout: float = 0
    explicit_tls: bool = False
    implicit_tls_ports: tuple[int, ...] = ()
    certificate: Certificate | None = None
    require_tls_for_login: bool = False
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


SERVICE_SETTINGS = frozenset({field.name for field in fields(AskedService)} - {"name"} | {"enabled"})


@dataclass(frozen=True, slots=True)
class Asked:
    """One scenario; ``services`` are the enabled ones."""

    hostname: str
    data: Path
    accounts: tuple[Account, ...]
    services: tuple[AskedService, ...]
    clock_rate: float
    min_cipher_bits: int


def read(path: Path) -> JsonObject:
    """The scenario in a file; raises BadScenario when it holds none."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadScenario(f"{path}: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("services"), dict):
        raise BadScenario(f"{path}: a scenario is an object with services")
    if document.get("format") != 1:
        raise BadScenario(f"{path}: format: only 1 is known, not {document.get('format')!r}")
    return document


def refuse_what_is_not_offered(document: JsonObject, description: JsonObject) -> None:
    """Raise UnsupportedSetting for the first setting that ``description`` does not offer.

    ``description`` is what the driver prints for ``describe``.
    """
    for key in document:
        if key not in SERVER_SETTINGS:
            raise UnsupportedSetting(key, "no such setting is known")
    rate, rate_max = document.get("clock_rate", 1), description.get("clock_rate_max", 1)
    if rate > rate_max:
        raise UnsupportedSetting("clock_rate", f"at most {rate_max:g} times, not {rate:g}")
    if document.get("wall_clock") and not any(
        "wall_clock" in description["services"].get(name, {}).get("offers", ()) for name in document["services"]
    ):
        raise UnsupportedSetting("wall_clock", "the clock of this server cannot be set")
    if document.get("ldap_tls") and "ldap" not in description["services"]:
        raise UnsupportedSetting("ldap_tls", "this server has no LDAP service")
    for position, account in enumerate(document.get("accounts", ())):
        for key in account:
            if key not in ACCOUNT_SETTINGS:
                raise UnsupportedSetting(f"accounts.{position}.{key}", "no such setting is known")
    for key in document.get("defaults", {}):
        if key not in SERVICE_SETTINGS:
            raise UnsupportedSetting(f"defaults.{key}", "no such setting is known")
    for name, settings in document["services"].items():
        described = description["services"].get(name)
        if described is None:
            raise UnsupportedSetting(f"services.{name}", "this server has no such service")
        for key in settings:
            if key not in SERVICE_SETTINGS:
                raise UnsupportedSetting(f"services.{name}.{key}", "no such setting is known")
        inherited = {**document.get("defaults", {}), **settings}
        for key, reason in _beyond(inherited, described):
            raise UnsupportedSetting(f"services.{name}.{key}", reason)


def _beyond(settings: JsonObject, described: JsonObject) -> Iterator[tuple[str, str]]:
    offers = described["offers"]
    for key, offer in _OFFER_OF.items():
        if settings.get(key) and offer not in offers:
            yield key, f"{offer} is not offered"
    if settings.get("bind", ["*"]) != ["*"] and "bind" not in offers:
        yield "bind", "it listens on every address"
    for key, limit in (("ports", "max_ports"), ("implicit_tls_ports", "max_implicit_tls_ports")):
        most = described.get(limit)
        if most is not None and len(settings.get(key, ())) > most:
            yield key, f"at most {most}"


def understand(document: JsonObject, path: Path) -> Asked:
    """Give a scenario that is all offered its shape; relative paths count from the folder of ``path``.

    Raises BadScenario when it has none, UnsupportedSetting for an account whose password is only a hash: that
    is a hash of the reference server's.
    """
    folder = path.resolve().parent
    for position, account in enumerate(document.get("accounts", ())):
        if "password_hash" in account:
            raise UnsupportedSetting(f"accounts.{position}.password_hash", "a password in clear is needed")
    try:
        certificates = {
            name: Certificate(folder / files["chain"], folder / files["key"])
            for name, files in document.get("certificates", {}).items()
        }
        inherited = document.get("defaults", {})
        return Asked(
            hostname=document.get("hostname", "localhost"),
            data=folder / document["data"],
            accounts=tuple(_account(each, folder) for each in document.get("accounts", ())),
            services=tuple(
                _service(name, {**inherited, **settings}, certificates)
                for name, settings in document["services"].items()
                if {**inherited, **settings}.get("enabled", True)
            ),
            clock_rate=float(document.get("clock_rate", 1)),
            min_cipher_bits=int(document.get("min_cipher_bits", 256)),
        )
    except KeyError as error:
        raise BadScenario(f"{path}: {error} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise BadScenario(f"{path}: {error}") from None


def _account(settings: JsonObject, folder: Path) -> Account:
    return Account(
        name=settings["name"],
        password=settings["password"],
        address=settings.get("address", ""),
        inbox=tuple(folder / file for file in settings.get("inbox", ())),
        admin=bool(settings.get("admin", False)),
    )


def _service(name: str, settings: JsonObject, certificates: Mapping[str, Certificate]) -> AskedService:
    chosen = settings.get("certificate")
    if chosen is None:
        certificate = next(iter(certificates.values())) if len(certificates) == 1 else None
    elif chosen in certificates:
        certificate = certificates[chosen]
    else:
        raise ValueError(f"services.{name}.certificate: there is no certificate {chosen!r}")
    return AskedService(
        name=name,
        bind=_strings(settings.get("bind", ["*"])),
        ports=tuple(int(port) for port in settings.get("ports", ())),
        max_connections=int(settings.get("max_connections") or 0),
        max_connections_per_ip=int(settings.get("max_connections_per_ip") or 0),
        idle_timeout=float(settings.get("idle_timeout") or 0),
        explicit_tls=bool(settings.get("explicit_tls", False)),
        implicit_tls_ports=tuple(int(port) for port in settings.get("implicit_tls_ports", ())),
        certificate=certificate,
        require_tls_for_login=bool(settings.get("require_tls_for_login", False)),
        allow=_strings(settings.get("allow", ())),
        deny=_strings(settings.get("deny", ())),
    )


def _strings(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)
