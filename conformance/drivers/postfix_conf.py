"""Postfix's configuration: one scenario in the words of main.cf and master.cf (3.6 and later).

Owns: which of Postfix's settings each setting of a scenario becomes, and what cannot be said in them.
Deliberately starts nothing and touches no file.

How the limits work, since it is the least obvious: every listener is a row of master.cf, and a row's ``maxproc`` is
how many processes serve it, one client each.  So ``max_connections`` counts each address and port apart, and nothing
counts them together.  ``max_connections_per_ip`` is counted by anvil(8), by client and by row.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conformance import procfs
from conformance.drivers.asked import Asked, AskedService, UnsupportedSetting
from conformance.drivers.listeners import networks

_CIPHERS_256 = "ECDHE+AESGCM+AES256:ECDHE+CHACHA20:DHE+AESGCM+AES256:!aNULL"
_SUITES_256 = "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

_INTERNAL_SERVICES = """\
cleanup   unix  n  -  n  -     0  cleanup
qmgr      unix  n  -  n  300   1  qmgr
tlsmgr    unix  -  -  n  1000? 1  tlsmgr
rewrite   unix  -  -  n  -     -  trivial-rewrite
bounce    unix  -  -  n  -     0  bounce
defer     unix  -  -  n  -     0  bounce
trace     unix  -  -  n  -     0  bounce
proxymap  unix  -  -  n  -     -  proxymap
error     unix  -  -  n  -     -  error
retry     unix  -  -  n  -     -  error
virtual   unix  -  n  n  -     -  virtual
anvil     unix  -  -  n  -     1  anvil
postlog   unix-dgram n - n -   1  postlogd
"""
"""What smtpd needs to take mail and queue it, and a delivery to Maildirs; nothing that could reach another host."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a private instance lives, and who owns the mail it delivers."""

    folder: Path
    data: Path
    daemons: Path
    mail_uid: int
    mail_gid: int

    @property
    def queue(self) -> Path:
        """The queue, with the sockets by which Postfix's processes find each other."""
        return self.folder / "queue"

    @property
    def state(self) -> Path:
        """What Postfix keeps for itself, such as the random numbers for TLS."""
        return self.folder / "state"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.folder / "log"


def files(asked: Asked, place: Place) -> dict[str, str]:
    """All of Postfix's files for a scenario, by name; raises UnsupportedSetting for what they cannot say."""
    for service in asked.services:
        if (service.explicit_tls or service.implicit_tls_ports) and service.certificate is None:
            raise UnsupportedSetting(f"services.{service.name}.certificate", "TLS needs one")
    return {
        "main.cf": "".join(f"{name} = {value}\n" for name, value in _main(asked, place)),
        "master.cf": _INTERNAL_SERVICES + "".join(row for each in asked.services for row in _rows(each)),
        "clients.cidr": "".join(line + "\n" for each in asked.services for line in _client_access(each)),
        "mailboxes": "".join(f"{address(asked, each.name)} {each.name}/\n" for each in asked.accounts),
        "openssl.cnf": _openssl(asked),
    }


def address(asked: Asked, name: str) -> str:
    """The address at which an account receives mail."""
    chosen = next(each.address for each in asked.accounts if each.name == name)
    return chosen or f"{name}@{asked.hostname}"


def _main(asked: Asked, place: Place) -> Iterator[tuple[str, str | int]]:
    yield "compatibility_level", "3.6"
    yield "queue_directory", str(place.queue)
    yield "data_directory", str(place.state)
    yield "daemon_directory", str(place.daemons)
    yield "maillog_file", str(place.log)
    yield "maillog_file_prefixes", str(place.folder)
    yield "myhostname", asked.hostname
    yield "inet_interfaces", "all"
    yield "inet_protocols", "all" if procfs.has_ipv6() else "ipv4"
    # No client is trusted for its address, and nobody waits for a name server.
    yield "mynetworks", ""
    # Whoever asks for a sign of life again and again (NOOP) is made to wait each time from the 100th on.
    yield "smtpd_junk_command_limit", 1_000_000_000
    yield "notify_classes", ""  # nobody reads what a postmaster is told of each failed handshake
    yield "smtpd_peername_lookup", "no"
    yield "smtpd_relay_restrictions", "permit_sasl_authenticated, reject_unauth_destination"
    yield from _delivery(asked, place)
    for service in asked.services:
        yield from _tls(service, asked.min_cipher_bits, place)
        yield from _clients(service, place)
        if service.idle_timeout:
            seconds = f"{service.idle_timeout:.0f}s"
            yield "smtpd_timeout", seconds
            yield "smtpd_starttls_timeout", seconds
            # Else every octet would begin the time anew, and a request fed octet by octet would never end.
            yield "smtpd_per_request_deadline", "yes"
    if asked.accounts:
        yield "smtpd_sasl_auth_enable", "yes"
        yield "smtpd_sasl_type", "dovecot"
        yield "smtpd_sasl_path", "private/auth"


def _delivery(asked: Asked, place: Place) -> Iterator[tuple[str, str]]:
    for none in ("mydestination", "alias_maps", "local_recipient_maps"):
        yield none, ""
    for transport in ("local_transport", "relay_transport", "default_transport"):
        yield transport, "error:5.1.2 mail leaves this server for nowhere"
    domains = sorted({address(asked, each.name).rpartition("@")[2] for each in asked.accounts})
    yield "virtual_mailbox_domains", ", ".join(domains)
    yield "virtual_mailbox_base", str(place.data)
    yield "virtual_mailbox_maps", f"texthash:{place.folder}/mailboxes"
    yield "virtual_minimum_uid", "1"
    yield "virtual_uid_maps", f"static:{place.mail_uid}"
    yield "virtual_gid_maps", f"static:{place.mail_gid}"


def _tls(service: AskedService, min_cipher_bits: int, place: Place) -> Iterator[tuple[str, str]]:
    yield "smtpd_tls_security_level", "may" if service.explicit_tls else "none"
    yield "smtpd_tls_auth_only", "yes" if service.require_tls_for_login else "no"
    if service.certificate is None:
        return
    # Not smtpd_tls_chain_files: when such a file is missing, STARTTLS is agreed to and then there is no certificate.
    yield "smtpd_tls_cert_file", str(service.certificate.chain)
    yield "smtpd_tls_key_file", str(service.certificate.key)
    for prefix in ("smtpd_tls", "smtpd_tls_mandatory"):
        yield f"{prefix}_protocols", ">=TLSv1.2"
        yield f"{prefix}_ciphers", "high"
    yield "tls_ssl_options", "NO_RENEGOTIATION"
    if min_cipher_bits >= 256:
        yield "tls_high_cipherlist", _CIPHERS_256
        yield "tls_config_file", f"{place.folder}/openssl.cnf"


def _clients(service: AskedService, place: Place) -> Iterator[tuple[str, str | int]]:
    yield "smtpd_client_connection_count_limit", service.max_connections_per_ip  # 0 is no limit; left out it is 50
    yield "smtpd_client_event_limit_exceptions", ""
    if service.allow or service.deny:
        yield "smtpd_client_restrictions", f"check_client_access cidr:{place.folder}/clients.cidr"
        yield "smtpd_delay_reject", "no"  # else a client is told only when it names a recipient


def _openssl(asked: Asked) -> str:
    """OpenSSL's own settings, since Postfix has none for the suites of TLS 1.3."""
    return (
        f"openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = tls\n[tls]\nCiphersuites = {_SUITES_256}\n"
        if asked.min_cipher_bits >= 256
        else ""
    )


def _rows(service: AskedService) -> Iterator[str]:
    for port in service.ports:
        yield from _listener(service, port, "")
    for port in service.implicit_tls_ports:
        yield from _listener(service, port, "\n  -o smtpd_tls_wrappermode=yes -o smtpd_tls_security_level=encrypt")


def _listener(service: AskedService, port: int, more: str) -> Iterator[str]:
    for where in service.bind:
        # A row without an address has all of them.
        place = f"{port}" if where == "*" else f"[{where}]:{port}" if ":" in where else f"{where}:{port}"
        yield f"{place}  inet  n  -  n  -  {service.max_connections}  smtpd{more}\n"


def _client_access(service: AskedService) -> Iterator[str]:
    """The lines of a cidr_table(5), of which the first that matches decides."""
    for network in _networks(service, "deny"):
        yield f"{network} {_DENIED}"
    if service.allow:
        for network in _networks(service, "allow"):
            yield f"{network} OK"
        yield f"0.0.0.0/0 {_DENIED}"
        yield f"::/0 {_DENIED}"


_DENIED = "521 5.7.1 Your address is not served here"
"""521 ends the connection; with 554 the client would stay, and be refused each command."""


def _networks(service: AskedService, key: str) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for text in service.allow if key == "allow" else service.deny:
        try:
            yield from networks(text)
        except ValueError as error:
            raise UnsupportedSetting(f"services.{service.name}.{key}", str(error)) from None
