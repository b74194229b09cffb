"""Faults of the ports on which TLS begins at once: words in clear, and settings that hold for the other ports only."""

from __future__ import annotations

import select
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from socket import MSG_PEEK, socket
from typing import Any

from reference_server.connection import Connection, Phase
from reference_server.faults.ledger import MAIL_AND_WEB, fault, hit
from reference_server.faults.limits import COUNTING, with_connection
from reference_server.faults.meddling import Meddler, meddled
from reference_server.faults.upgrades import announced
from reference_server.listener import Door, Engine
from reference_server.server import Parts
from reference_server.session import Actions, Peer, Refusal, Security
from reference_server.settings import ServerSettings, Service, ServiceSettings
from reference_server.tls import CertificateError, server_context

#: Where the port does not speak TLS, nothing that needs it can be had there.
EVERYTHING = "PRT LIM IDL TLS EXP ACL CLS IMP LIF"


@fault(
    "no-tls-on-the-implicit-port",
    "the port that should begin with TLS greets in clear",
    breaks="IMP-01 IMP-02 IMP-03",
    consequences=EVERYTHING,
    services=MAIL_AND_WEB,
)
def no_tls_on_the_implicit_port(parts: Parts) -> Parts:
    class Open(Engine):
        def let_in(self, sock: socket, peer: Peer, *, implicit: bool) -> None:
            if implicit:
                hit()
            super().let_in(sock, peer, implicit=False)

    return replace(parts, engine=Open)


@fault(
    "serves-in-clear-whoever-begins-in-clear",
    "a client that speaks in clear on the port of implicit TLS is served in clear, all others under TLS",
    breaks="IMP-02 IMP-03",
    consequences="LIM-06",
)
def serves_in_clear_whoever_begins_in_clear(parts: Parts) -> Parts:
    class Obliging(Connection):
        def _readable(self) -> None:
            if self.phase is Phase.HANDSHAKE and not self._upgrading:
                with suppress(OSError):
                    if self._sock.recv(1, MSG_PEEK).isalnum():
                        hit()
                        self._tls, self.phase = None, Phase.SESSION
                        self._tell(self.session.connected, self.peer, None)
            super()._readable()

    return with_connection(parts, Obliging)


@fault(
    "refuses-in-clear-on-the-implicit-port",
    "a client too many is told so in clear, on the port that should begin with TLS",
    breaks="IMP-02",
)
def refuses_in_clear_on_the_implicit_port(parts: Parts) -> Parts:
    class Loud(Engine):
        def _turn_away(self, sock: socket, why: Refusal, *, implicit: bool) -> None:
            if implicit and why is Refusal.SERVICE_LIMIT:
                hit()
                implicit = False
            super()._turn_away(sock, why, implicit=implicit)

    return replace(parts, engine=Loud)


@fault(
    "gives-up-handshakes-in-clear",
    "a client that is too slow in the handshake is told so in clear",
    breaks="IMP-02",
)
def gives_up_handshakes_in_clear(parts: Parts) -> Parts:
    class Loud(Connection):
        def idled(self) -> None:
            if self.phase is Phase.HANDSHAKE and not self._upgrading:
                hit()
                self._put(b"421 4.4.2 you have taken too long\r\n")
            super().idled()

    return with_connection(parts, Loud)


def _with_doors(parts: Parts, change: Any) -> Parts:
    def doors(table: ServiceSettings) -> list[Door]:
        usual = parts.doors(table)
        found: list[Door] = change(table, usual)
        if found != usual:
            hit()
        return found

    return replace(parts, doors=doors)


@fault(
    "implicit-port-is-everywhere",
    "the implicit TLS port is bound to every address, whatever list is configured",
    breaks="IMP-04 PRT-05",
    consequences="PRT",
    services=MAIL_AND_WEB,
)
def implicit_port_is_everywhere(parts: Parts) -> Parts:
    def everywhere(_: ServiceSettings, doors: Iterable[Door]) -> list[Door]:
        changed = [replace(d, address="0.0.0.0") if d.implicit and ":" not in d.address else d for d in doors]
        return list(dict.fromkeys(changed))

    return _with_doors(parts, everywhere)


@fault(
    "first-implicit-port-only",
    "of several ports of implicit TLS only the first is opened",
    breaks="IMP-14 PRT-01",
    consequences=EVERYTHING,
    services=MAIL_AND_WEB,
)
def first_implicit_port_only(parts: Parts) -> Parts:
    def first(table: ServiceSettings, doors: Iterable[Door]) -> list[Door]:
        return [door for door in doors if not door.implicit or door.port == table.implicit_tls_ports[0]]

    return _with_doors(parts, first)


_FIRST: dict[str, Path] = {}


def _remember_the_first(settings: ServerSettings) -> ServerSettings:
    for certificate in list(settings.certificates.values())[:1]:
        _FIRST.update(chain=certificate.chain, key=certificate.key)
    return settings


@fault(
    "another-certificate-on-the-implicit-port",
    "the implicit port presents the first certificate there is, explicit TLS the one that is selected",
    breaks="IMP-08",
    consequences="TLS",
    services=MAIL_AND_WEB,
    change=_remember_the_first,
)
def another_certificate_on_the_implicit_port(parts: Parts) -> Parts:
    class Other(Connection):
        def begin(self) -> None:
            super().begin()
            if self._tls is not None and not self._upgrading and self.phase is Phase.HANDSHAKE:
                hit()
                self._tls = self.pipe_type(server_context(_FIRST["chain"], _FIRST["key"], self.engine.min_cipher_bits))

    return with_connection(parts, Other)


@fault(
    "offers-the-upgrade-on-the-implicit-port",
    "STARTTLS is advertised on the port that began with TLS",
    breaks="IMP-09",
    consequences="PRT-03 EXP-06",
)
def offers_the_upgrade_on_the_implicit_port(parts: Parts) -> Parts:
    class Repeating(Meddler):
        began_with_tls = False

        def connected(self, peer: Peer, security: Security | None) -> Actions:
            self.began_with_tls = security is not None
            return super().connected(peer, security)

        def says(self, octets: bytes) -> bytes:
            if not self.began_with_tls:
                return octets
            return announced(self.service, b"STLS" if self.service is Service.POP3 else b"STARTTLS", octets)

    return meddled(parts, Repeating)


def _keeping_open(parts: Parts, *, implicit: bool) -> Parts:
    class Sticky(Engine):
        def close(self, doors: Iterable[Door]) -> None:
            doors = list(doors)
            kept = [door for door in doors if door.implicit is implicit and len(doors) < len(self.listeners)]
            if kept:
                hit()
            super().close([door for door in doors if door not in kept])

    return replace(parts, engine=Sticky)


@fault(
    "implicit-port-stays-open",
    "an implicit TLS port that is switched off at run time stays open",
    breaks="IMP-10 IMP-13",
    consequences="LIF",
    services=MAIL_AND_WEB,
)
def implicit_port_stays_open(parts: Parts) -> Parts:
    return _keeping_open(parts, implicit=True)


@fault(
    "plain-port-stays-open",
    "where implicit TLS is all that is left, the port in clear stays open",
    breaks="IMP-13",
    consequences="LIF",
)
def plain_port_stays_open(parts: Parts) -> Parts:
    return _keeping_open(parts, implicit=False)


@fault(
    "clear-without-a-key",
    "where the key cannot be read, the port of implicit TLS serves in clear",
    breaks="IMP-11",
    consequences="EXP-12 TLS-15",
    services=MAIL_AND_WEB,
)
def clear_without_a_key(parts: Parts) -> Parts:
    def context(chain: Path, key: Path, bits: int) -> Any:
        try:
            return parts.context(chain, key, bits)
        except CertificateError:
            hit()
            return None

    class Careless(Engine):
        def let_in(self, sock: socket, peer: Peer, *, implicit: bool) -> None:
            super().let_in(sock, peer, implicit=implicit and self.tls_context is not None)

    return replace(parts, engine=Careless, context=context)


@fault(
    "shakes-hands-while-accepting",
    "nobody is let in while a client has not begun the handshake that it was accepted for",
    breaks="IMP-12",
    consequences=COUNTING + " IDL TLS IMP EXP PRT LIM",
    services=MAIL_AND_WEB,
)
def shakes_hands_while_accepting(parts: Parts) -> Parts:
    class Patient(Engine):
        def let_in(self, sock: socket, peer: Peer, *, implicit: bool) -> None:
            if implicit and not select.select([sock], [], [], 0.5)[0]:
                hit()
            super().let_in(sock, peer, implicit=implicit)

    return replace(parts, engine=Patient)
