"""Dovecot's configuration: one scenario in the words of dovecot.conf (2.3).

Owns: which of Dovecot's settings each setting of a scenario becomes, and what cannot be said in them.
Deliberately starts nothing and touches no file.

How the limit works, since it is the least obvious: one process ``imap-login`` holds every client that has not
logged in, and every client that has logged in over TLS, whose records it goes on to decrypt; ``client_limit``
bounds these.  A client that logs in without TLS is handed to a process ``imap`` and leaves that count;
``process_limit`` bounds those.  Both are set to the same number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance import procfs
from conformance.drivers import tcp_wrappers
from conformance.drivers.asked import Asked, AskedService, UnsupportedSetting

PROTOCOLS = ("imap", "pop3")

_UNLIMITED = 1000
"""What stands for no limit: Dovecot has none for a login process, and this many clients need no more files
than a process may usually have open."""

_CIPHERS_256 = "ECDHE+AESGCM+AES256:ECDHE+CHACHA20:DHE+AESGCM+AES256:!aNULL"
_SUITES_256 = "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a private instance lives, and as whom it runs; ``root``: it can change users."""

    sockets: Path
    folder: Path
    data: Path
    mail_uid: int
    mail_gid: int
    user: str
    group: str
    root: bool


@dataclass(frozen=True, slots=True)
class Files:
    """Everything that has to be written before Dovecot starts."""

    dovecot_conf: str
    users: str
    hosts_allow: str


def files(asked: Asked, place: Place) -> Files:
    """All of Dovecot's files for a scenario; raises UnsupportedSetting for what they cannot say."""
    for service in asked.services:
        _refuse(service)
    return Files(
        dovecot_conf="\n".join(_conf(asked, place)) + "\n",
        users="".join(
            f"{account.name}:{{PLAIN.HEX}}{account.password.encode().hex()}::::::\n" for account in asked.accounts
        ),
        hosts_allow="".join(
            line + "\n" for service in asked.services for line in tcp_wrappers.lines(service, service.name)
        ),
    )


def restricted(asked: Asked) -> bool:
    """Whether any service asks for IP restrictions."""
    return any(service.allow or service.deny for service in asked.services)


def _refuse(service: AskedService) -> None:
    path = f"services.{service.name}"
    tls = service.explicit_tls or service.implicit_tls_ports
    if service.implicit_tls_ports and service.ports and not service.explicit_tls:
        raise UnsupportedSetting(
            f"{path}.explicit_tls",
            "Dovecot offers STARTTLS wherever it has TLS at all: it cannot be off alone",
        )
    if tls and service.certificate is None:
        raise UnsupportedSetting(f"{path}.certificate", "TLS needs one")


def _conf(asked: Asked, place: Place) -> Iterator[str]:
    yield f"base_dir = {place.sockets}"
    yield f"state_dir = {place.folder}/state"
    yield "log_path = /dev/stderr"
    yield f"protocols = {' '.join(service.name for service in asked.services)}"
    yield f"login_greeting = {asked.hostname} ready"
    # On a machine's own mail server these name users of the package; without root there is only one user.
    if not place.root:
        yield f"default_internal_user = {place.user}"
        yield f"default_internal_group = {place.group}"
        yield f"default_login_user = {place.user}"
        yield "service anvil {\n  chroot =\n}"
    # A server whose clock is made to run faster has to hand that on to its processes.
    yield "import_environment = TZ LD_PRELOAD FAKETIME FAKETIME_DONT_FAKE_MONOTONIC FAKETIME_SHARED"
    yield f"mail_location = maildir:{place.data}/%u"
    yield f"mail_uid = {place.mail_uid}"
    yield f"mail_gid = {place.mail_gid}"
    yield "first_valid_uid = 1"
    yield "auth_mechanisms = plain login"
    yield f"passdb {{\n  driver = passwd-file\n  args = {place.folder}/users\n}}"
    yield "userdb {\n  driver = static\n  args = allow_all_users=yes\n}"
    yield from _tls(asked)
    if restricted(asked):
        yield "login_access_sockets = tcpwrap"
        yield (
            "service tcpwrap {\n  unix_listener login/tcpwrap {\n    mode = 0600\n"
            "    user = $default_login_user\n  }\n}"
        )
    for service in asked.services:
        yield from _service(service, place)


def _tls(asked: Asked) -> Iterator[str]:
    with_tls = [each for each in asked.services if each.explicit_tls or each.implicit_tls_ports]
    yield f"ssl = {'yes' if with_tls else 'no'}"
    if not with_tls:
        return
    first = with_tls[0].certificate
    assert first is not None
    # The top level wants a certificate as soon as there is any TLS; each protocol then has its own.
    yield f"ssl_cert = <{first.chain}"
    yield f"ssl_key = <{first.key}"
    yield "ssl_min_protocol = TLSv1.2"
    if asked.min_cipher_bits >= 256:
        yield f"ssl_cipher_list = {_CIPHERS_256}"
        yield f"ssl_cipher_suites = {_SUITES_256}"


def _service(service: AskedService, place: Place) -> Iterator[str]:
    name, limit = service.name, service.max_connections or _UNLIMITED
    tls = bool(service.explicit_tls or service.implicit_tls_ports)
    yield f"protocol {name} {{"
    # 0 is no limit; left out it would be 10.
    yield f"  mail_max_userip_connections = {service.max_connections_per_ip}"
    yield f"  disable_plaintext_auth = {'yes' if service.require_tls_for_login else 'no'}"
    ssl = "no" if not tls else "required" if service.require_tls_for_login else "yes"
    yield f"  ssl = {ssl}"
    if service.certificate is not None and tls:
        yield f"  ssl_cert = <{service.certificate.chain}"
        yield f"  ssl_key = <{service.certificate.key}"
    yield "}"
    yield f"service {name}-login {{"
    if not place.root:
        yield "  chroot ="
    yield "  service_count = 0"
    yield "  process_limit = 1"
    yield "  process_min_avail = 1"
    yield f"  client_limit = {limit}"
    yield f"  inet_listener {name} {{\n    port = 0\n  }}"
    yield f"  inet_listener {name}s {{\n    port = 0\n  }}"
    for kind, ports in (("plain", service.ports), ("implicit", service.implicit_tls_ports)):
        for port in ports:
            yield f"  inet_listener {kind}-{port} {{"
            yield f"    address = {', '.join(addresses(service.bind))}"
            yield f"    port = {port}"
            if kind == "implicit":
                yield "    ssl = yes"
            yield "  }"
    yield "}"
    yield f"service {name} {{\n  process_limit = {limit}\n}}"


def addresses(bind: Sequence[str]) -> list[str]:
    """A bind list in Dovecot's words: its ``*`` is for IPv4 alone."""
    everywhere = ["*", "::"] if procfs.has_ipv6() else ["*"]
    return [address for each in bind for address in (everywhere if each == "*" else [each])]
