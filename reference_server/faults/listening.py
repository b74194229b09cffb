"""Faults of ports and binding: it listens where it should not, or does not where it should."""

from __future__ import annotations

from dataclasses import replace
from socket import socket

from reference_server.faults.ledger import MAIL_AND_WEB, changed, fault, hit
from reference_server.listener import Door, Engine, Listener
from reference_server.server import Parts, doors_of
from reference_server.session import Peer, Policy
from reference_server.settings import ServerSettings, ServiceSettings


@fault(
    "first-port-only",
    "only the first port of a list is opened",
    breaks="PRT-01",
    consequences="PRT LIM ACL EXP IMP TLS",
)
def first_port_only(parts: Parts) -> Parts:
    def doors(table: ServiceSettings) -> list[Door]:
        kept = {*table.ports[:1], *table.implicit_tls_ports[:1]}
        every = doors_of(table)
        if len({door.port for door in every}) > len(kept):
            hit()
        return [door for door in every if door.port in kept]

    return replace(parts, doors=doors)


@fault(
    "extra-port",
    "a port is open that nobody configured: the one behind the first",
    breaks="PRT-02",
    consequences="IMP-10 IMP-13",
    services=MAIL_AND_WEB,
)
def extra_port(parts: Parts) -> Parts:
    def doors(table: ServiceSettings) -> list[Door]:
        hit()
        every = doors_of(table)
        return [*every, *(replace(door, port=door.port + 1) for door in every[:1])]

    return replace(parts, doors=doors)


@fault(
    "second-port-forgets-tls",
    "explicit TLS is offered on the first port of a list only",
    breaks="PRT-03",
    consequences="PRT-01 EXP LIM TLS IMP-10 IMP-13 CLS LIF HTT",
    services=MAIL_AND_WEB,
)
def second_port_forgets_tls(parts: Parts) -> Parts:
    class ForgetfulEngine(Engine):
        def let_in(self, sock: socket, peer: Peer, *, implicit: bool) -> None:
            plain = sorted(door.port for door in self.listeners if not door.implicit)
            usual = self.behaviour
            if len(plain) > 1 and peer.local_port == plain[-1]:
                hit()
                session = usual.new_session()
                policy = Policy("mail.example.test")
                self.behaviour = replace(usual, new_session=lambda: type(session)(policy, session._store))  # type: ignore[call-arg,attr-defined]
            try:
                super().let_in(sock, peer, implicit=implicit)
            finally:
                self.behaviour = usual

    return replace(parts, engine=ForgetfulEngine)


@fault(
    "wildcard-always",
    "it listens on every address, whatever list is configured",
    breaks="PRT-05",
    consequences="PRT IMP-04 LIM-12 ACL",
    change=lambda settings: changed(settings, bind=("*",)),
)
def wildcard_always(parts: Parts) -> Parts:
    return parts


@fault(
    "needs-every-address",
    "it asks for the port on every address and gives up when one is somebody else's",
    breaks="PRT-07",
    consequences="PRT IMP-04 LIM-12 ACL",
    services=MAIL_AND_WEB,
    change=lambda settings: changed(settings, bind=("0.0.0.0",)),
)
def needs_every_address(parts: Parts) -> Parts:
    return parts


@fault(
    "first-address-only",
    "only the first address of a list is bound",
    breaks="PRT-06",
    consequences="PRT LIM-12 IMP-04",
    services=MAIL_AND_WEB,
    change=lambda settings: changed(settings, bind=lambda table: table.bind[:1]),
)
def first_address_only(parts: Parts) -> Parts:
    return parts


@fault(
    "loopback-by-default",
    "without a list it listens on 127.0.0.1 only",
    breaks="PRT-04",
    consequences="LIM-17 LIM-18 PRT-10 ACL IMP-04",
    services=MAIL_AND_WEB,
    change=lambda settings: changed(
        settings, bind=lambda table: ("127.0.0.1",) if table.bind == ("*",) else table.bind
    ),
)
def loopback_by_default(parts: Parts) -> Parts:
    return parts


def _defaults_always(settings: ServerSettings) -> ServerSettings:
    listed = getattr(settings.defaults, "bind", None)
    chosen = "bind" in settings.defaults.model_fields_set
    return changed(settings, bind=tuple(listed)) if chosen and listed else settings


@fault(
    "defaults-win",
    "a service's own list of addresses is ignored where the server has one",
    breaks="PRT-09",
    services=MAIL_AND_WEB,
    change=_defaults_always,
)
def defaults_win(parts: Parts) -> Parts:
    return parts


@fault(
    "first-address-of-a-name",
    "of the addresses of a host name only the first is bound",
    breaks="PRT-08",
    services=MAIL_AND_WEB,
)
def first_address_of_a_name(parts: Parts) -> Parts:
    def doors(table: ServiceSettings) -> list[Door]:
        every = doors_of(table)
        if "localhost" not in table.bind:
            return every
        hit()
        return [door for door in every if door.address == every[0].address]

    return replace(parts, doors=doors)


@fault(
    "port-taken-silently",
    "a port that another program holds is left out without a word, and the service's other ports with it",
    breaks="PRT-11",
    consequences="PRT-12",
    services=MAIL_AND_WEB,
)
def port_taken_silently(parts: Parts) -> Parts:
    class SilentEngine(Engine):
        def open(self, door: Door) -> Listener:
            from reference_server.listener import BindError

            if self.taken:
                return self.nobody()
            try:
                return super().open(door)
            except BindError:
                hit()
                self.taken = True
                return self.nobody()

        taken = False

        def nobody(self) -> Listener:
            return super().open(Door("127.0.0.1", 0))

    return replace(parts, engine=SilentEngine)


@fault(
    "lets-others-share",
    "a second server can take the same port, and each gets some of the clients",
    breaks="PRT-12",
    consequences="PRT-06 PRT-07 PRT-11",
    services=MAIL_AND_WEB,
)
def lets_others_share(parts: Parts) -> Parts:
    import socket as sockets

    class SharingEngine(Engine):
        def open(self, door: Door) -> Listener:
            usual = sockets.socket.bind

            def bind(sock: socket, address: object) -> None:
                hit()
                sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEPORT, 1)
                usual(sock, address)  # type: ignore[arg-type]

            sockets.socket.bind = bind  # type: ignore[method-assign,assignment]
            try:
                return super().open(door)
            finally:
                sockets.socket.bind = usual  # type: ignore[method-assign]

    return replace(parts, engine=SharingEngine)
