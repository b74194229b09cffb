"""What must hold between the keys of a configuration, and what one key takes from another.

Owns: inheritance (service, then ``[defaults]``, then what is customary), and every rule that no single value
can break on its own: listeners that collide, certificates that are not there, accounts that share a name.
Deliberately knows nothing of how a document was read; a rule says all that it finds and repairs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from reference_server.settings_model import (
    AccountSettings,
    CertificateSettings,
    Service,
    ServiceSettings,
    SettingsDocument,
    defaults_of,
)
from reference_server.settings_problems import Problem, path, unknown_key

_EVERY_IPV4, _EVERY_IPV6 = "0.0.0.0", "::"
_PORT_KEYS = ("ports", "implicit_tls_ports")


def inherited(document: SettingsDocument) -> dict[Service, ServiceSettings]:
    """Each service that the document names, with every key filled in."""
    shared = _written(document.defaults)
    services = {}
    for service in Service:
        if service in document.services:
            start = ServiceSettings() if document.format is not None else defaults_of(service)
            settings = start.model_copy(update={**shared, **_written(document.services[service])})
            if settings.certificate is None and settings.offers_tls and len(document.certificates) == 1:
                settings = settings.model_copy(update={"certificate": next(iter(document.certificates))})
            services[service] = settings
    return services


def _written(settings: ServiceSettings) -> dict[str, object]:
    return {key: getattr(settings, key) for key in settings.model_fields_set}


def resolved_accounts(document: SettingsDocument, base: Path) -> tuple[AccountSettings, ...]:
    """The accounts with addresses, and with inbox files found from ``base``."""
    return tuple(
        account.model_copy(
            update={
                "address": account.address or _address_of(account, document.hostname),
                "inbox": tuple(base / file for file in account.inbox),
            }
        )
        for account in document.accounts
    )


def _address_of(account: AccountSettings, hostname: str) -> str:
    return account.name if "@" in account.name else f"{account.name}@{hostname}"


def resolved_certificates(document: SettingsDocument, base: Path) -> dict[str, CertificateSettings]:
    """The certificates, with their files found from ``base``."""
    return {
        name: CertificateSettings(chain=base / files.chain, key=base / files.key)
        for name, files in document.certificates.items()
    }


def problems(document: SettingsDocument, services: Mapping[Service, ServiceSettings], base: Path) -> Iterator[Problem]:
    """Everything that keeps a server from starting with these settings."""
    yield from _scenario_keys(document)
    if not document.services:
        yield Problem("services", "no service is set up, so nothing would listen; begin with [services.smtp]")
    data = base / document.data
    if data.exists() and not data.is_dir():
        yield Problem("data", f"{data} is not a folder")
    for name, files in resolved_certificates(document, base).items():
        yield from _unreadable(f"certificates.{name}.chain", files.chain)
        yield from _unreadable(f"certificates.{name}.key", files.key)
    yield from _accounts(document, base)
    yield from _bind_lists(document)
    for service, settings in services.items():
        if settings.enabled:
            yield from _service(document, service, settings)
    yield from _collisions(document, services)


#: Beyond this a limit is rarely meant.
MANY_CONNECTIONS = 200


def warnings(document: SettingsDocument, services: Mapping[Service, ServiceSettings]) -> Iterator[Problem]:
    """What is legal, and yet rarely meant."""
    running = {service: settings for service, settings in services.items() if settings.enabled}
    if document.services and not running:
        yield Problem("services", "every service is switched off, so nothing listens")
    for service, settings in running.items():
        for key in ("allow", "deny"):
            if service is Service.SMTP and getattr(settings, key):
                yield Problem(
                    f"services.smtp.{key}",
                    "mail servers with other addresses cannot deliver here; a server that receives mail from the "
                    "Internet must usually accept any address",
                )
        if settings.max_connections > MANY_CONNECTIONS:
            yield Problem(
                f"services.{service}.max_connections",
                f"more than {MANY_CONNECTIONS} connections at a time cost memory and open files; few servers need them",
            )
        if settings.require_tls_for_login and not settings.offers_tls:
            yield Problem(
                f"services.{service}.require_tls_for_login",
                "nobody can log in: logins need TLS and the service offers none",
            )


def _scenario_keys(document: SettingsDocument) -> Iterator[Problem]:
    if document.format is not None:
        return
    if document.clock_rate != 1:
        yield Problem("clock_rate", "is for scenarios only")
    if document.wall_clock is not None:
        yield Problem("wall_clock", "is for scenarios only")
    for position, account in enumerate(document.accounts):
        if account.inbox:
            yield Problem(
                f"accounts[{position}].inbox",
                "is for scenarios only: the server would deliver these messages again at every start",
            )


def _unreadable(where: str, file: Path) -> Iterator[Problem]:
    if not file.exists():
        yield Problem(where, f"there is no file {file}")
    elif not file.is_file():
        yield Problem(where, f"{file} is not a file")
    elif not os.access(file, os.R_OK):
        yield Problem(where, f"{file} may not be read by this user")


def _accounts(document: SettingsDocument, base: Path) -> Iterator[Problem]:
    names: dict[str, int] = {}
    addresses: dict[str, int] = {}
    for position, account in enumerate(resolved_accounts(document, base)):
        where = f"accounts[{position}]"
        # Folders are named after accounts, and not every file system tells Alice from alice.
        earlier = names.setdefault(account.name.casefold(), position)
        if earlier != position:
            yield Problem(f"{where}.name", f'"{account.name}" is the name of accounts[{earlier}] already')
        earlier_address = addresses.setdefault(account.address.casefold(), position)
        if earlier_address not in (position, earlier):
            yield Problem(
                f"{where}.address", f"{account.address} is the address of accounts[{earlier_address}] already"
            )
        if account.password is not None and account.password_hash is not None:
            yield Problem(where, "has both password and password_hash; one is enough")
        elif account.password is None and account.password_hash is None and not account.discard:
            yield Problem(where, "needs password or password_hash")
        for number, file in enumerate(account.inbox):
            yield from _unreadable(f"{where}.inbox[{number}]", file)


def _service(document: SettingsDocument, service: Service, settings: ServiceSettings) -> Iterator[Problem]:
    where = f"services.{service}"
    if not settings.bind:
        yield Problem(f"{where}.bind", 'names no address; leave it out, or write ["*"], for every local address')
    if not settings.ports and not settings.implicit_tls_ports:
        yield Problem(f"{where}.ports", "the service is enabled and has no port to listen on")
    if service is Service.LDAP and not document.ldap_tls:
        for key in ("explicit_tls", "implicit_tls_ports"):
            if getattr(settings, key):
                yield Problem(
                    f"{where}.{key}",
                    f"LDAP offers no TLS here{_origin(document, service, key)}; switch it off for LDAP, or set "
                    "ldap_tls = true at the top of the file, which is an extension",
                )
        return
    yield from _certificate(document, service, settings)


def _certificate(document: SettingsDocument, service: Service, settings: ServiceSettings) -> Iterator[Problem]:
    where = f"services.{service}.certificate"
    known = list(document.certificates)
    if settings.certificate is not None:
        if settings.certificate not in known:
            hint = unknown_key(settings.certificate, known, {}).removeprefix("there is no such key; ")
            yield Problem(where, f'there is no certificate "{settings.certificate}"' + (f"; {hint}" if known else ""))
    elif settings.offers_tls and not known:
        yield Problem(where, "TLS is on and no certificate is set up; add one below [certificates.NAME]")
    elif settings.offers_tls and len(known) > 1:
        yield Problem(where, f"TLS is on and there are several certificates; choose {' or '.join(known)}")


def _origin(document: SettingsDocument, service: Service, key: str) -> str:
    if key in document.services[service].model_fields_set:
        return ""
    return " (inherited from [defaults])" if key in document.defaults.model_fields_set else " (customary)"


@dataclass(frozen=True, slots=True)
class _Port:
    """One entry of one list of ports, with the addresses on which it would be bound."""

    service: Service
    key: str
    position: int
    number: int
    bind: Sequence[str]
    origin: str

    @property
    def where(self) -> str:
        if self.origin:
            return path(("services", self.service.value, self.key))
        return path(("services", self.service.value, self.key, self.position))


def _collisions(document: SettingsDocument, services: Mapping[Service, ServiceSettings]) -> Iterator[Problem]:
    ports = [
        _Port(service, key, position, number, settings.bind, _origin(document, service, key))
        for service, settings in services.items()
        if settings.enabled
        for key in _PORT_KEYS
        for position, number in enumerate(getattr(settings, key))
    ]
    told: set[_PortId] = set()
    for earlier, later in combinations(ports, 2):
        this = (later.service, later.key, later.position)
        if earlier.number != later.number or later.number == 0 or this in told:
            continue
        shared = [one for one in later.bind if any(_overlap(one, other) for other in earlier.bind)]
        if shared:
            told.add(this)
            on = "every address" if "*" in shared else ", ".join(shared)
            yield Problem(
                later.where,
                f"port {later.number} on {on} is taken by {earlier.where} already{later.origin}",
            )


_PortId = tuple[Service, str, int]


def _bind_lists(document: SettingsDocument) -> Iterator[Problem]:
    tables = [("defaults", document.defaults)]
    tables += [(f"services.{service}", settings) for service, settings in document.services.items()]
    for where, settings in tables:
        told: set[int] = set()
        for (first, one), (second, other) in combinations(enumerate(settings.bind), 2):
            if second not in told and _overlap(one, other):
                told.add(second)
                yield Problem(f"{where}.bind[{second}]", f'"{other}" is covered by bind[{first}], "{one}", already')


def _overlap(one: str, other: str) -> bool:
    """Whether both entries of ``bind`` would claim some address.  What a host name resolves to is not known here."""
    if one == other or "*" in (one, other):
        return True
    pair = {one, other}
    if _EVERY_IPV6 in pair:
        return ":" in (pair - {_EVERY_IPV6}).pop()
    if _EVERY_IPV4 in pair:
        return (pair - {_EVERY_IPV4}).pop().replace(".", "").isdigit()
    return False
