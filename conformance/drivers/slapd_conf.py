"""slapd's configuration: one scenario in the words of slapd.conf (OpenLDAP 2.5), and its accounts as LDIF.

Owns: which of slapd's settings each setting of a scenario becomes, the directory that the accounts make, and what
cannot be said.  The limit of connections is not here: slapd has no setting for it, see ``slapd``.  Deliberately
starts nothing and touches no file.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conformance import procfs
from conformance.drivers import tcp_wrappers
from conformance.drivers.asked import Account, Asked, AskedService, UnsupportedSetting

BASE_DN = "o=mail"
PEOPLE_DN = f"ou=people,{BASE_DN}"
USER_DN = f"uid={{name}},{PEOPLE_DN}"

DAEMON = "slapd"
"""The name by which TCP wrappers know it."""

_SCHEMAS = ("core", "cosine", "inetorgperson")

_THREADS = 256
"""By default 16, of which one client may hold half, each with a request whose answer it does not read: two such
clients would hold up all the others."""

_BESIDES = (
    "+AEAD:+ECDHE-ECDSA:+ECDHE-RSA:+DHE-RSA:+GROUP-X25519:+GROUP-ALL:+SIGN-ALL:+COMP-NULL:+CTYPE-X509"
    ":%SERVER_PRECEDENCE"
)
_VERSIONS = "+VERS-TLS1.3:+VERS-TLS1.2"
_256, _128 = "+AES-256-GCM:+CHACHA20-POLY1305", "+AES-128-GCM"
"""Words of GnuTLS, with which Debian builds slapd; TLSProtocolMin does nothing there."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a private instance lives, and where its package keeps schemas and modules."""

    folder: Path
    schemas: Path
    modules: Path

    @property
    def database(self) -> Path:
        """The folder of the address book."""
        return self.folder / "database"


@dataclass(frozen=True, slots=True)
class Files:
    """Everything that has to be written before slapd starts."""

    slapd_conf: str
    people_ldif: str
    hosts_allow: str


def files(asked: Asked, place: Place) -> Files:
    """All of slapd's files for a scenario; raises UnsupportedSetting for what they cannot say."""
    (service,) = asked.services
    _refuse(service)
    return Files(
        slapd_conf="\n".join(_conf(asked, service, place)) + "\n",
        people_ldif="\n".join(_people(asked)),
        hosts_allow="".join(line + "\n" for line in tcp_wrappers.lines(service, DAEMON)),
    )


def urls(service: AskedService) -> list[str]:
    """What slapd listens on, for its option ``-h``."""
    everywhere = ["0.0.0.0", "::"] if procfs.has_ipv6() else ["0.0.0.0"]
    addresses = [address for each in service.bind for address in (everywhere if each == "*" else [each])]
    return [
        f"{scheme}://{f'[{address}]' if ':' in address else address}:{port}/"
        for scheme, ports in (("ldap", service.ports), ("ldaps", service.implicit_tls_ports))
        for port in ports
        for address in addresses
    ]


def _refuse(service: AskedService) -> None:
    path = f"services.{service.name}"
    if service.implicit_tls_ports and service.ports and not service.explicit_tls:
        raise UnsupportedSetting(
            f"{path}.explicit_tls", "slapd offers StartTLS wherever it has TLS at all: it cannot be off alone"
        )
    if (service.explicit_tls or service.implicit_tls_ports) and service.certificate is None:
        raise UnsupportedSetting(f"{path}.certificate", "TLS needs one")
    if service.idle_timeout != int(service.idle_timeout):
        raise UnsupportedSetting(f"{path}.idle_timeout", "slapd counts whole seconds")


def _conf(asked: Asked, service: AskedService, place: Place) -> Iterator[str]:
    for schema in _SCHEMAS:
        yield f"include {_quoted(place.schemas / schema)}.schema"
    yield f"modulepath {_quoted(place.modules)}"
    yield "moduleload back_mdb"
    yield "loglevel 0"
    yield f"sasl-host {asked.hostname}"  # else it looks for its own name in the DNS
    yield f"threads {_THREADS}"
    yield f"idletimeout {int(service.idle_timeout)}"  # 0 is never
    yield f"writetimeout {int(service.idle_timeout)}"  # a client that does not read has no other clock
    if service.explicit_tls or service.implicit_tls_ports:
        assert service.certificate is not None
        yield f"TLSCertificateFile {_quoted(service.certificate.chain)}"
        yield f"TLSCertificateKeyFile {_quoted(service.certificate.key)}"
        ciphers = _256 if asked.min_cipher_bits >= 256 else f"{_256}:{_128}"
        yield f"TLSCipherSuite NONE:{_VERSIONS}:{ciphers}:{_BESIDES}"
    if service.require_tls_for_login:
        yield "security simple_bind=128"
        yield "sasl-secprops none,minssf=128"
    yield "database mdb"
    yield f"suffix {BASE_DN}"
    yield f"directory {_quoted(place.database)}"
    yield "dbnosync"
    yield "access to attrs=userPassword by anonymous auth by * none"
    yield "access to * by * read"


def _quoted(path: Path) -> str:
    # slapd.conf(5): an argument with white space stands in double quotes, a backslash is for quotes and itself.
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _people(asked: Asked) -> Iterator[str]:
    yield from _entry(BASE_DN, {"objectClass": ["organization"], "o": ["mail"]})
    yield from _entry(PEOPLE_DN, {"objectClass": ["organizationalUnit"], "ou": ["people"]})
    for account in asked.accounts:
        attributes = {
            "objectClass": ["inetOrgPerson"],
            "uid": [account.name],
            "cn": [account.name],
            "sn": [account.name],
            "mail": [account.address] if account.address else [],
            "userPassword": [_salted(account)],
        }
        yield from _entry(USER_DN.format(name=_escaped(account.name)), attributes)


def _entry(name: str, attributes: dict[str, list[str]]) -> Iterator[str]:
    """One entry of LDIF, in the form that holds whatever a value is made of (RFC 2849)."""
    yield f"dn:: {base64.b64encode(name.encode()).decode()}"
    for kind, values in attributes.items():
        for value in values:
            yield f"{kind}:: {base64.b64encode(value.encode()).decode()}"
    yield ""


def _escaped(value: str) -> str:
    # RFC 4514 2.4: any octet may be written as a backslash and two digits.
    plain = "".join(each for each in value if each.isascii() and (each.isalnum() or each in "-_.@"))
    if plain == value:
        return value
    return "".join(f"\\{octet:02x}" for octet in value.encode())


def _salted(account: Account) -> str:
    salt = os.urandom(8)
    digest = hashlib.sha1(account.password.encode() + salt, usedforsecurity=False).digest()
    return "{SSHA}" + base64.b64encode(digest + salt).decode()
