"""nginx's configuration for HTTP: one scenario in the words of nginx.conf.

Owns: which of nginx's directives each setting of a scenario becomes, the private sites behind the services, and what
cannot be said.  Deliberately starts nothing and touches no file.

How limits and restrictions work, since HTTP itself counts requests and not connections: where a service has either,
its ports belong to a front, a ``server`` of nginx's stream module, which hands every connection that it takes, octet by
octet, to the HTTP server behind a Unix socket.  TLS is spoken there.  A service that has neither is served directly.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conformance import procfs
from conformance.drivers import listeners
from conformance.drivers.asked import Account, Asked, AskedService, UnsupportedSetting

SERVICES = ("webmail", "admin")
LOGIN_PATH = "/"

_SITES = {"webmail": "Mail", "admin": "Remote Administration"}

_CONNECTIONS = 1024
"""Clients where no number is asked for."""
_CONNECTIONS_A_CLIENT = 3
"""With a front: the client's, the front's to the HTTP server, and that one's own end of it."""
_CONNECTIONS_BESIDES = 256
"""More than a worker has beside those of clients, surplus ones that are being closed included."""

_FEW = 20
"""Up to so many connections a limit is there to be reached, and a place has to be free as soon as one side is gone;
otherwise who has said everything may still listen."""

_NEVER = 24 * 86_400.0
"""Seconds; what stands for no time-out, since nginx has none but long ones."""
_FRONT_LATER = 0.4
"""Seconds that the front waits for the HTTP server to end a connection; what it ends itself is not ended under TLS."""

_CIPHERS_256 = "ECDHE+AESGCM+AES256:ECDHE+CHACHA20:DHE+AESGCM+AES256:!aNULL"
_SUITES_256 = "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a private instance lives; ``user``: as whom its worker runs, for a master that can choose."""

    folder: Path
    stream: tuple[Path, ...] | None
    """What has to be loaded for the stream module: nothing where it is built in; None where there is none."""
    user: tuple[str, str] | None


def files(asked: Asked, place: Place) -> dict[str, str]:
    """All of nginx's files for a scenario, by their names in its folder.

    Raises UnsupportedSetting for what they cannot say.
    """
    for service in asked.services:
        _refuse(service, place)
    written = {"nginx.conf": "\n".join(_conf(asked, place)) + "\n"}
    for service in asked.services:
        written[f"{service.name}.people"] = "".join(_people(asked, service))
        title = _SITES[service.name]
        written[f"{service.name}/index.html"] = (
            f"<!DOCTYPE html>\n<html lang=en>\n<title>{title}</title>\n<h1>{title}</h1>\n"
        )
    return written


def fronted(service: AskedService) -> bool:
    """Whether somebody stands in front of the service who counts or chooses its clients."""
    return bool(service.max_connections or service.max_connections_per_ip or service.allow or service.deny)


def quoted(value: object) -> str:
    """One argument of a directive, whatever it is made of; raises UnsupportedSetting for what nginx would replace."""
    text = str(value)
    if "$" in text:
        raise UnsupportedSetting("data", f"nginx would take a variable for it: {text}")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def seconds(time: float) -> str:
    """A time of nginx's, which counts milliseconds."""
    return f"{round((time or _NEVER) * 1000)}ms"


def addresses(service: AskedService, port: int) -> Iterator[str]:
    """What ``listen`` wants for one port of a service."""
    everywhere = ["0.0.0.0", "::"] if procfs.has_ipv6() else ["0.0.0.0"]
    for each in service.bind:
        for address in everywhere if each == "*" else [each]:
            yield f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def restrictions(service: AskedService) -> Iterator[str]:
    """``allow`` and ``deny``, of which the first that fits is obeyed: so denied ones come first."""
    for setting, entries in (("deny", service.deny), ("allow", service.allow)):
        for entry in entries:
            try:
                covered = listeners.networks(entry)
            except ValueError as error:
                raise UnsupportedSetting(f"services.{service.name}.{setting}", str(error)) from None
            for network in covered:
                yield f"{setting} {network};"
    if service.allow:
        yield "deny all;"


def tls(asked: Asked, service: AskedService) -> Iterator[str]:
    """Certificate, versions and ciphers; the same words in every one of nginx's modules."""
    assert service.certificate is not None
    yield f"ssl_certificate {quoted(service.certificate.chain)};"
    yield f"ssl_certificate_key {quoted(service.certificate.key)};"
    yield "ssl_protocols TLSv1.2 TLSv1.3;"
    yield "ssl_prefer_server_ciphers on;"
    if asked.min_cipher_bits >= 256:
        yield f"ssl_ciphers {_CIPHERS_256};"


def beginning(place: Place, connections: int) -> Iterator[str]:
    """What stands at the head of every configuration: one process that serves, as whom, and for how many."""
    yield "daemon off;"
    yield "worker_processes 1;"
    yield f"pid {quoted(place.folder / 'nginx.pid')};"
    yield f"error_log {quoted(place.folder / 'error.log')};"
    if place.user is not None:
        yield f"user {' '.join(place.user)};"
    yield f"events {{ worker_connections {connections}; }}"


def _refuse(service: AskedService, place: Place) -> None:
    path = f"services.{service.name}"
    if service.implicit_tls_ports and service.certificate is None:
        raise UnsupportedSetting(f"{path}.certificate", "TLS needs one")
    if fronted(service) and place.stream is None:
        raise UnsupportedSetting(path, "limits and restrictions need nginx's stream module")


def _conf(asked: Asked, place: Place) -> Iterator[str]:
    fronts = [service for service in asked.services if fronted(service)]
    for module in (place.stream or ()) if fronts else ():
        yield f"load_module {quoted(module)};"
    clients = sum(service.max_connections or _CONNECTIONS for service in asked.services)
    connections = _CONNECTIONS_A_CLIENT * clients + _CONNECTIONS_BESIDES
    yield f"worker_rlimit_nofile {connections + _CONNECTIONS_BESIDES};"
    yield from beginning(place, connections)
    if fronts:
        yield "stream {"
        for service in fronts:
            yield from _front(service)
        yield "}"
    yield "http {"
    yield "access_log off;"
    yield "server_tokens off;"
    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        yield f"{kind}_temp_path {quoted(place.folder / 'temporary' / kind)};"
    for service in asked.services:
        yield from _site(asked, service, place, under_tls=False)
        yield from _site(asked, service, place, under_tls=True)
    yield "}"


def _socket(service: AskedService, *, under_tls: bool) -> str:
    """Below the folder in which nginx runs: a whole path might be longer than a socket's may be."""
    return f"unix:{service.name}-{'tls' if under_tls else 'clear'}"


def _ports(service: AskedService, *, under_tls: bool) -> tuple[int, ...]:
    return service.implicit_tls_ports if under_tls else service.ports


def _front(service: AskedService) -> Iterator[str]:
    if service.max_connections:
        # One key for all: every connection of the service is counted under it.
        yield f"limit_conn_zone {service.name} zone={service.name}:64k;"
    if service.max_connections_per_ip:
        yield f"limit_conn_zone $binary_remote_addr zone={service.name}-clients:1m;"
    for under_tls in (False, True):
        if not (ports := _ports(service, under_tls=under_tls)):
            continue
        yield "server {"
        for port in ports:
            for address in addresses(service, port):
                yield f"listen {address};"
        if service.max_connections:
            yield f"limit_conn {service.name} {service.max_connections};"
        if service.max_connections_per_ip:
            yield f"limit_conn {service.name}-clients {service.max_connections_per_ip};"
        yield from restrictions(service)
        yield f"proxy_pass {_socket(service, under_tls=under_tls)};"
        yield f"proxy_timeout {seconds((service.idle_timeout or _NEVER) + _FRONT_LATER)};"
        if not 0 < service.max_connections <= _FEW:
            yield "proxy_half_close on;"
        yield "}"


def _site(asked: Asked, service: AskedService, place: Place, *, under_tls: bool) -> Iterator[str]:
    ports = _ports(service, under_tls=under_tls)
    if not ports:
        return
    idle = service.idle_timeout
    yield "server {"
    suffix = " ssl" if under_tls else ""
    if fronted(service):
        yield f"listen {_socket(service, under_tls=under_tls)}{suffix};"
    else:
        for port in ports:
            for address in addresses(service, port):
                yield f"listen {address}{suffix};"
    if under_tls:
        yield from tls(asked, service)
        if asked.min_cipher_bits >= 256:
            yield f"ssl_conf_command Ciphersuites {_SUITES_256};"
    for directive in ("client_header_timeout", "client_body_timeout", "keepalive_timeout", "lingering_timeout"):
        yield f"{directive} {seconds(idle)};"
    # A client that does not read is the front's, where there is one: it holds the octets.
    yield f"send_timeout {seconds(2 * idle if fronted(service) else idle)};"
    yield f"root {quoted(place.folder / service.name)};"
    if service.require_tls_for_login and not under_tls:
        yield from _elsewhere(service)
    else:
        yield f"auth_basic {quoted(_SITES[service.name])};"
        yield f"auth_basic_user_file {quoted(place.folder / f'{service.name}.people')};"
    yield "}"


def _elsewhere(service: AskedService) -> Iterator[str]:
    """A site that takes no passwords: it says where one can be given, or that it cannot."""
    if service.implicit_tls_ports:
        yield f"location / {{ return 301 https://$host:{service.implicit_tls_ports[0]}$request_uri; }}"
    else:
        yield "location / { return 403; }"


def _people(asked: Asked, service: AskedService) -> Iterator[str]:
    for account in asked.accounts:
        if ":" in account.name:
            raise UnsupportedSetting("accounts", f"{account.name!r}: a colon ends a name (RFC 7617 2)")
        if service.name != "admin" or account.admin:
            yield f"{account.name}:{_salted(account)}\n"


def _salted(account: Account) -> str:
    # In clear a password must not hold a colon, behind which nginx sees a comment.
    salt = os.urandom(8)
    digest = hashlib.sha1(account.password.encode() + salt, usedforsecurity=False).digest()
    return "{SSHA}" + base64.b64encode(digest + salt).decode()
