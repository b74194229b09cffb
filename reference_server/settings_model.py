"""The shape of a configuration: one vocabulary for what a mail server is told about how to listen.

Owns: the keys, their types, and what each value must be like on its own.  Deliberately knows nothing of files,
of inheritance, and of what must hold between keys (``settings_rules``).  Users import all of this from
``reference_server.settings``.
"""

from __future__ import annotations

import enum
import platform
import re
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    Strict,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)

from reference_server.address_range import AddressRange, normalise
from reference_server.settings_problems import Problem

MAX_ADDRESS = 254
"""Octets of a mail address; RFC 5321 4.5.3.1.3 has 256 with the angle brackets."""


class Service(enum.StrEnum):
    """The six services, in the order in which people think of them."""

    SMTP = "smtp"
    POP3 = "pop3"
    IMAP = "imap"
    WEBMAIL = "webmail"
    LDAP = "ldap"
    ADMIN = "admin"


_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
_ONLY_NUMBERS = re.compile(r"[0-9.]+", re.ASCII)
_ACCOUNT_NAME = re.compile(r"[^\s/\\\x00-\x1f\x7f]{1,128}")
_ADDRESS = re.compile(r"[^\s@<>()\[\],;:\"\\\x00-\x1f\x7f]{1,64}@" + _HOST_NAME.pattern)


def _range(value: object) -> AddressRange:
    if isinstance(value, AddressRange):
        return value
    if not isinstance(value, str):
        raise ValueError("must be text in quotes: an address, a network or first-last")
    return AddressRange.parse(value)


def _bind(value: str) -> str:
    """Normal form of an address or host name to bind to; refuses what resolvers would read in odd ways."""
    if value == "*":
        return value
    if value.startswith("["):
        raise ValueError(f'write IPv6 addresses without brackets, not "{value}"')
    if "/" in value:
        raise ValueError(f'"{value}" is a network; a service is bound to single addresses, host names or "*"')
    if ":" in value and value.count(":") == 1:
        raise ValueError(f'"{value}" has a port; ports are set by the keys ports and implicit_tls_ports')
    try:
        address = ip_address(value)
    except ValueError:
        if ":" in value or _ONLY_NUMBERS.fullmatch(value):
            # getaddrinfo would read "127.1" as 127.0.0.1 and "010.0.0.1" as 8.0.0.1.
            raise ValueError(f'"{value}" is not an IP address') from None
        if not _HOST_NAME.fullmatch(value) or len(value) > 253:
            raise ValueError(f'"{value}" is neither an address nor a host name') from None
        return value.lower().rstrip(".")
    if isinstance(address, IPv6Address) and address.scope_id is not None and not address.is_link_local:
        raise ValueError(f'only link-local addresses have an interface behind "%", not "{value}"')
    return str(normalise(address))


def _hostname(value: str) -> str:
    if not _HOST_NAME.fullmatch(value):
        raise ValueError(f'"{value}" is not a host name')
    return value.rstrip(".")


def _account_name(value: str) -> str:
    # The name is also that of the account's folder.
    if not _ACCOUNT_NAME.fullmatch(value) or value.startswith("."):
        raise ValueError("an account's name has no spaces and no slashes, and does not begin with a dot")
    return value


def _mail_address(value: str) -> str:
    if not _ADDRESS.fullmatch(value) or len(value) > MAX_ADDRESS:
        raise ValueError(f'"{value}" is not a mail address such as alice@example.test')
    return value


def _password_hash(value: SecretStr) -> SecretStr:
    from reference_server.passwords import is_well_formed

    if not is_well_formed(value.get_secret_value()):
        raise ValueError(
            "is not a hash this server knows; make one with: python -m reference_server.passwords"
        )
    return value


def _not_empty(value: SecretStr) -> SecretStr:
    if not value.get_secret_value():
        raise ValueError("must not be empty")
    return value


def _path(value: object) -> object:
    if isinstance(value, str) and (not value or "\x00" in value):
        raise ValueError("must name a file or folder")
    return value


#: A range serialises as it may be written: a settings document can be made from a model again.
RangeText: TypeAlias = Annotated[
    AddressRange,
    PlainValidator(_range),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {"type": "string", "examples": ["10.0.0.5", "192.168.0.0/16", "172.16.0.1-172.16.0.99", "2001:db8::/32"]}
    ),
]
BindText: TypeAlias = Annotated[StrictStr, AfterValidator(_bind)]
PortNumber: TypeAlias = Annotated[StrictInt, Field(ge=0, le=65535)]
Seconds: TypeAlias = Annotated[StrictFloat, Field(gt=0, allow_inf_nan=False)]
Count: TypeAlias = Annotated[StrictInt, Field(ge=0, le=1_000_000)]
FilePath: TypeAlias = Annotated[Path, BeforeValidator(_path)]
Secret: TypeAlias = Annotated[SecretStr, Strict()]


class _Document(BaseModel):
    """What stands below each key becomes its description in a schema (``settings_schema``), and only there: to read
    it takes longer than to read most configurations."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class CertificateSettings(_Document):
    """A certificate with its chain, and its private key, both PEM."""

    chain: FilePath
    """The server's certificate, followed by the intermediate certificates."""
    key: FilePath
    """The private key, without a pass phrase."""


class AccountSettings(_Document):
    """Somebody who has mail here."""

    name: Annotated[StrictStr, AfterValidator(_account_name)]
    """What people log in with."""
    password: Annotated[Secret, AfterValidator(_not_empty)] | None = None
    """In clear; for tests and demonstrations."""
    password_hash: Annotated[Secret, AfterValidator(_password_hash)] | None = None
    """In place of password: a line that `python -m reference_server.passwords` prints."""
    address: Annotated[StrictStr, AfterValidator(_mail_address)] = ""
    """The mail address; left out, it is the name at the server's hostname."""
    inbox: tuple[FilePath, ...] = ()
    """Scenarios only: message files that are in the inbox at the start."""
    admin: StrictBool = False
    """May enter Remote Admin."""
    discard: StrictBool = False
    """Accepts mail and keeps none: for load tests."""


class ServiceSettings(_Document):
    """How one service listens.  The values here mean off; ``defaults_of`` says what a settings file gets."""

    enabled: StrictBool = True
    """Whether the service runs."""
    bind: tuple[BindText, ...] = ("*",)
    """Addresses or host names (every address of a name is bound); "*" is every local address, IPv4 and IPv6."""
    ports: tuple[PortNumber, ...] = ()
    """Ports on which sessions begin in clear; 0 is any free port."""
    max_connections: Count = 0
    """Simultaneous connections over all ports, addresses and channels; 0 is no limit."""
    max_connections_per_ip: Count = 0
    """Simultaneous connections from one client address; 0 is no limit."""
    idle_timeout: Seconds | None = None
    """Seconds after which a silent client is disconnected."""
    explicit_tls: StrictBool = False
    """Offer TLS on the ordinary ports: STARTTLS, STLS, or HTTP's Upgrade."""
    implicit_tls_ports: tuple[PortNumber, ...] = ()
    """Ports on which TLS begins with the first byte."""
    certificate: StrictStr | None = None
    """The name of one of the certificates; may be left out when there is exactly one."""
    require_tls_for_login: StrictBool = False
    """Refuse logins over connections that are not protected."""
    allow: tuple[RangeText, ...] = ()
    """Client addresses that may connect: 10.0.0.5, 192.168.0.0/16 or 172.16.0.1-172.16.0.99; empty is everyone."""
    deny: tuple[RangeText, ...] = ()
    """Client addresses that may not connect; beats allow."""
    login_failures: Count = 0
    """Failed logins from one address, within the window, after which it is blocked; 0 is no limit."""
    login_window: Seconds = 300.0
    """Seconds for which a failed login is held against its address."""
    login_block: Seconds = 900.0
    """Seconds for which an address is blocked."""

    @property
    def offers_tls(self) -> bool:
        """Whether any session of the service can be protected."""
        return self.explicit_tls or bool(self.implicit_tls_ports)


def _host_of_this_machine() -> str:
    name = platform.node()
    return name if _HOST_NAME.fullmatch(name) else "localhost"


class SettingsDocument(_Document):
    """A configuration as it is written: nothing is inherited yet."""

    hostname: Annotated[StrictStr, AfterValidator(_hostname)] = Field(default_factory=_host_of_this_machine)
    """The server's name, for greetings."""
    data: FilePath = Path("data")
    """The folder of the mail store; one folder an account below it."""
    certificates: Mapping[str, CertificateSettings] = {}
    """By name; each service selects one."""
    accounts: tuple[AccountSettings, ...] = ()
    """Who has mail here."""
    defaults: ServiceSettings = ServiceSettings()
    """What every service inherits unless it says otherwise."""
    services: Mapping[Service, ServiceSettings] = {}
    """How each service listens.  A service that is not named here is off."""
    min_cipher_bits: Annotated[StrictInt, Field(ge=0, le=256)] = 256
    """The weakest cipher that a TLS session may use, in bits."""
    ldap_tls: StrictBool = False
    """An extension: let LDAP offer TLS as well."""
    format: Annotated[StrictInt, Field(ge=1, le=1)] | None = None
    """Scenarios only: the version of the format, 1.  In a scenario every absent key means off."""
    clock_rate: Annotated[StrictFloat, Field(ge=1, allow_inf_nan=False)] = 1.0
    """Scenarios only: how much faster than ours the server's clock is to run."""
    wall_clock: StrictStr | None = None
    """Scenarios only: a file that says how far ahead the server's wall clock is to be, seconds with their sign."""


class ServerSettings(SettingsDocument):
    """A whole configuration: what was left out is filled in, what is inherited is in its place."""

    warnings: tuple[Problem, ...] = ()
    """What is legal and yet worth a second thought."""

    @property
    def enabled(self) -> dict[Service, ServiceSettings]:
        """The services that are to run."""
        return {service: settings for service, settings in self.services.items() if settings.enabled}


_CUSTOMARY_PORTS: Mapping[Service, tuple[int, ...]] = {
    Service.SMTP: (25, 587),
    Service.POP3: (110,),
    Service.IMAP: (143,),
    Service.WEBMAIL: (80,),
    Service.LDAP: (389,),
    Service.ADMIN: (9000,),
}
CUSTOMARY_IMPLICIT_TLS_PORTS: Mapping[Service, tuple[int, ...]] = {
    Service.SMTP: (465,),
    Service.POP3: (995,),
    Service.IMAP: (993,),
    Service.WEBMAIL: (443,),
    Service.LDAP: (),
    Service.ADMIN: (9443,),
}
"""Ports that people expect; none is opened unless it is asked for."""

_IDLE_TIMEOUTS: Mapping[Service, float] = {
    Service.POP3: 600.0,  # RFC 1939 3: an autologout timer must be of at least 10 minutes
    Service.IMAP: 1800.0,  # RFC 3501 5.4: at least 30 minutes
}


def defaults_of(service: Service) -> ServiceSettings:
    """What a settings file gets for a service of which it says nothing but that it is there."""
    return ServiceSettings(
        ports=_CUSTOMARY_PORTS[service],
        max_connections=50,
        idle_timeout=_IDLE_TIMEOUTS.get(service, 300.0),  # RFC 5321 4.5.3.2.7: at least 5 minutes
        login_failures=10 if service is Service.ADMIN else 0,
    )
