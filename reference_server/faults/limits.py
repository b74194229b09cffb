"""Faults of simultaneous connections: too many, too few, places that are lost or given back twice."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from ipaddress import ip_address
from socket import socket
from typing import Any

from reference_server.address_range import IPAddress
from reference_server.admission import Admission, Limits, Ticket
from reference_server.connection import Connection, Phase
from reference_server.faults.ledger import MAIL_AND_WEB, changed, fault, hit
from reference_server.listener import Engine
from reference_server.server import Parts
from reference_server.session import Peer, Refusal

#: Whatever loses or invents places shows wherever places are counted.
COUNTING = "LIM-01 LIM-02 LIM-03 LIM-04 LIM-05 LIM-06 LIM-07 LIM-08 LIM-09 LIM-10 LIM-11 LIM-12 LIM-13 LIM-14 LIM-15"
COUNTING += " LIM-16 LIM-17 LIM-19 LIM-20 LIM-21 LIM-23 LIM-24 LIM-25 LIM-26 LIM-27 LIM-28 IDL-09 IDL-25 IMP-05"
COUNTING += " ACL-11 TLS-12 CLS IMP-12"


def with_admission(parts: Parts, kind: type[Admission]) -> Parts:
    """The same server with another door."""

    class OtherEngine(parts.engine):  # type: ignore[name-defined,misc]
        admission_type = kind

    return replace(parts, engine=OtherEngine)


def with_connection(parts: Parts, kind: type[Connection]) -> Parts:
    """The same server with another way to serve a client."""

    class OtherEngine(parts.engine):  # type: ignore[name-defined,misc]
        connection_type = kind

    return replace(parts, engine=OtherEngine)


@fault(
    "no-limit",
    "the maximum of connections is read and never applied",
    breaks="LIM-02",
    consequences=COUNTING,
    change=lambda settings: changed(settings, max_connections=0),
)
def no_limit(parts: Parts) -> Parts:
    return parts


@fault(
    "one-too-many",
    "one connection more than configured is served",
    breaks="LIM-02 LIM-19",
    consequences=COUNTING,
    services=MAIL_AND_WEB,
    change=lambda settings: changed(settings, max_connections=lambda table: table.max_connections + 1),
)
def one_too_many(parts: Parts) -> Parts:
    return parts


@fault(
    "one-too-few",
    "one connection less than configured is served",
    breaks="LIM-01",
    consequences=COUNTING + " LIM-22",
    services=MAIL_AND_WEB,
    change=lambda settings: changed(settings, max_connections=lambda table: max(0, table.max_connections - 1)),
)
def one_too_few(parts: Parts) -> Parts:
    return parts


@fault(
    "zero-means-fifty",
    "zero stands for the built-in limit of fifty connections, not for none",
    breaks="LIM-22",
    services=MAIL_AND_WEB,
    change=lambda settings: changed(settings, max_connections=lambda table: table.max_connections or 50),
)
def zero_means_fifty(parts: Parts) -> Parts:
    return parts


@fault(
    "ipv6-not-counted",
    "connections over IPv6 are let in, but not counted",
    breaks="LIM-12",
    consequences=COUNTING,
    services=MAIL_AND_WEB,
)
def ipv6_not_counted(parts: Parts) -> Parts:
    class Forgetful(Admission):
        def admit(self, address: IPAddress) -> Ticket | Refusal:
            answer = super().admit(address)
            if isinstance(answer, Ticket) and address.version == 6:
                hit()
                answer.give_back()
            return answer

    return with_admission(parts, Forgetful)


@fault(
    "idle-closes-give-back-twice",
    "whoever is ended for being idle under implicit TLS gives its place back twice",
    breaks="IDL-25",
    consequences=COUNTING,
)
def idle_closes_give_back_twice(parts: Parts) -> Parts:
    class Generous(Connection):
        def idled(self) -> None:
            super().idled()
            if self._tls is not None and not self._upgrading and self.ticket is None:
                hit()
                self.engine.admission._count -= 1

    return with_connection(parts, Generous)


@fault(
    "implicit-not-counted",
    "connections to the implicit TLS port are not counted",
    breaks="LIM-11 IMP-05",
    consequences=COUNTING,
    services=MAIL_AND_WEB,
)
def implicit_not_counted(parts: Parts) -> Parts:
    class ForgetfulEngine(Engine):
        def let_in(self, sock: socket, peer: Peer, *, implicit: bool) -> None:
            if not implicit:
                super().let_in(sock, peer, implicit=implicit)
                return
            hit()
            usual, self.admission = self.admission, Admission(replace(self.admission.limits, connections=0))
            try:
                super().let_in(sock, peer, implicit=implicit)
            finally:
                self.admission = usual

    return replace(parts, engine=ForgetfulEngine)


@fault(
    "limit-per-port",
    "every port and address has a limit of its own",
    breaks="LIM-12",
    consequences=COUNTING,
)
def limit_per_port(parts: Parts) -> Parts:
    class DividedEngine(Engine):
        def let_in(self, sock: socket, peer: Peer, *, implicit: bool) -> None:
            hit()
            usual, key = self.admission, (peer.local_address, peer.local_port)
            self.admission = self.doors.setdefault(key, Admission(usual.limits))
            try:
                super().let_in(sock, peer, implicit=implicit)
            finally:
                self.admission = usual

        def __init__(self, *details: Any, **more: Any) -> None:
            super().__init__(*details, **more)
            self.doors: dict[object, Admission] = {}

    return replace(parts, engine=DividedEngine)


@fault(
    "one-limit-for-all-services",
    "all services count in one counter",
    breaks="LIM-14",
    consequences=COUNTING + " PRT IDL",
    services=MAIL_AND_WEB,
)
def one_limit_for_all_services(parts: Parts) -> Parts:
    class SharedAdmission(Admission):
        everybody: list[SharedAdmission] = []  # noqa: RUF012  that is the defect

        def __init__(self, limits: Limits) -> None:
            super().__init__(limits)
            self.everybody.append(self)

        def admit(self, address: IPAddress) -> Ticket | Refusal:
            inside = sum(other.count for other in self.everybody)
            if inside >= self.limits.connections > self.count:
                hit()
                return Refusal.SERVICE_LIMIT
            return super().admit(address)

    return with_admission(parts, SharedAdmission)


@fault(
    "per-address-never-reached",
    "connections of one address are counted by address and port, so that the limit is never reached",
    breaks="LIM-15 LIM-17",
    consequences="LIM-16",
    services=MAIL_AND_WEB,
    change=lambda settings: changed(
        settings, max_connections_per_ip=lambda table: 1000 if table.max_connections_per_ip else 0
    ),
)
def per_address_never_reached(parts: Parts) -> Parts:
    return parts


@fault(
    "per-address-for-everybody",
    "the limit of one address is applied to all of them together",
    breaks="LIM-16",
    consequences="LIM-15 LIM-17 IDL",
    services=MAIL_AND_WEB,
)
def per_address_for_everybody(parts: Parts) -> Parts:
    class LumpingAdmission(Admission):
        def admit(self, address: IPAddress) -> Ticket | Refusal:
            if self.count >= self.limits.per_address > 0:
                hit()
                return Refusal.ADDRESS_LIMIT
            return super().admit(address)

    return with_admission(parts, LumpingAdmission)


@fault(
    "mapped-clients-are-one",
    "all IPv4 clients of a dual-stack listener count as one, since their IPv6 prefix is the same",
    breaks="LIM-17",
    consequences="LIM-16",
)
def mapped_clients_are_one(parts: Parts) -> Parts:
    class PrefixAdmission(Admission):
        def admit(self, address: IPAddress) -> Ticket | Refusal:
            if self.limits.per_address and address.version == 4:
                hit()
                return super().admit(ip_address("0.0.0.0"))
            return super().admit(address)

    return with_admission(parts, PrefixAdmission)


@fault(
    "overshoots-in-a-burst",
    "it looks whether there is room and counts the client a moment later",
    breaks="LIM-19",
    consequences=COUNTING + " PRT-13",
)
def overshoots_in_a_burst(parts: Parts) -> Parts:
    class SlowAdmission(Admission):
        def __init__(self, limits: Limits) -> None:
            self.recent: list[float] = []
            super().__init__(limits)

        def admit(self, address: IPAddress) -> Ticket | Refusal:
            now = time.monotonic()
            self.recent = [moment for moment in self.recent if now - moment < 0.05]
            limits = self.limits
            if limits.connections:
                if self.count >= limits.connections and self.count - len(self.recent) < limits.connections:
                    hit()
                self.limits = replace(limits, connections=limits.connections + len(self.recent))
            try:
                answer = super().admit(address)
            finally:
                self.limits = limits
            if isinstance(answer, Ticket):
                self.recent.append(now)
            return answer

    return with_admission(parts, SlowAdmission)


@fault(
    "refused-clients-keep-a-place",
    "a client that is refused takes a place and never gives it back",
    breaks="LIM-09",
    consequences=COUNTING,
    services=MAIL_AND_WEB,
)
def refused_clients_keep_a_place(parts: Parts) -> Parts:
    class LeakyAdmission(Admission):
        def admit(self, address: IPAddress) -> Ticket | Refusal:
            answer = super().admit(address)
            if answer is Refusal.SERVICE_LIMIT:
                hit()
                self._count += 1
            return answer

    return with_admission(parts, LeakyAdmission)


@fault(
    "denied-clients-keep-a-place",
    "a client that is denied by its address takes a place and never gives it back",
    breaks="LIM-10",
    consequences="ACL",
    services=MAIL_AND_WEB,
)
def denied_clients_keep_a_place(parts: Parts) -> Parts:
    class LeakyAdmission(Admission):
        def admit(self, address: IPAddress) -> Ticket | Refusal:
            answer = super().admit(address)
            if answer is Refusal.DENIED and self.limits.connections < 50:
                hit()
                self._count += 1
            return answer

    return with_admission(parts, LeakyAdmission)


def _leaking(parts: Parts, lost: Any) -> Parts:
    """Places of clients for which ``lost(connection)`` holds when they go are never given back."""

    class LeakyConnection(Connection):
        __slots__ = ("was",)

        def _let_go(self) -> None:
            if self.ticket is not None and lost(self):
                hit()
                # Nobody else has the ticket: the place is lost.
                self.ticket = Ticket(Admission(Limits()), self.peer.address)
                self.ticket._admission = None
            super()._let_go()

        def _leave(self) -> None:
            self.was = self.phase
            super()._leave()

        def _end(self) -> None:
            self.was = getattr(self, "was", self.phase)
            super()._end()

    return with_connection(parts, LeakyConnection)


@fault(
    "leaks-on-goodbye",
    "a client that takes leave in good order keeps its place",
    breaks="LIM-03",
    consequences=COUNTING + " PRT IDL",
    services=MAIL_AND_WEB,
)
def leaks_on_goodbye(parts: Parts) -> Parts:
    return _leaking(parts, lambda connection: connection.phase is Phase.LINGERING and not connection._eof)


@fault(
    "leaks-on-fin",
    "a client that closes without goodbye keeps its place",
    breaks="LIM-04",
    consequences=COUNTING + " PRT IDL",
    services=MAIL_AND_WEB,
)
def leaks_on_fin(parts: Parts) -> Parts:
    return _leaking(parts, lambda connection: connection._eof and connection.was is not Phase.HANDSHAKE)


@fault(
    "leaks-on-reset",
    "a client whose connection is reset keeps its place",
    breaks="LIM-05",
    consequences=COUNTING + " PRT IDL",
    services=MAIL_AND_WEB,
)
def leaks_on_reset(parts: Parts) -> Parts:
    return _leaking(parts, lambda connection: connection.phase is Phase.ENDED and not connection._eof)


@fault(
    "leaks-on-failed-implicit-handshake",
    "a client whose handshake fails on the implicit port keeps its place",
    breaks="LIM-06",
    consequences=COUNTING + " IDL PRT",
    services=MAIL_AND_WEB,
)
def leaks_on_failed_implicit_handshake(parts: Parts) -> Parts:
    return _leaking(parts, lambda connection: connection.was is Phase.HANDSHAKE and not connection._upgrading)


@fault(
    "leaks-on-failed-upgrade",
    "a client whose handshake fails after STARTTLS keeps its place",
    breaks="LIM-07",
    consequences=COUNTING + " IDL PRT",
)
def leaks_on_failed_upgrade(parts: Parts) -> Parts:
    return _leaking(parts, lambda connection: connection.was is Phase.HANDSHAKE and connection._upgrading)


@fault(
    "leaks-on-idle-close",
    "a client that is ended for being idle keeps its place",
    breaks="LIM-08",
    consequences=COUNTING + " IDL",
)
def leaks_on_idle_close(parts: Parts) -> Parts:
    class LeakyConnection(Connection):
        __slots__ = ()

        def idled(self) -> None:
            hit()
            self.ticket = Ticket(Admission(Limits()), self.peer.address)
            self.ticket._admission = None
            super().idled()

    return with_connection(parts, LeakyConnection)


@fault(
    "upgrade-frees-a-place",
    "a client that upgrades to TLS in place is no longer counted",
    breaks="LIM-13",
    consequences=COUNTING,
    services=MAIL_AND_WEB,
)
def upgrade_frees_a_place(parts: Parts) -> Parts:
    class ForgetfulConnection(Connection):
        __slots__ = ()

        def _start_tls(self) -> None:
            hit()
            assert self.ticket is not None
            self.ticket.give_back()
            super()._start_tls()

    return with_connection(parts, ForgetfulConnection)


@fault(
    "gives-back-twice",
    "every fourth client that leaves gives its place back twice, so that the real limit grows",
    breaks="LIM-20",
    consequences=COUNTING,
    services=MAIL_AND_WEB,
)
def gives_back_twice(parts: Parts) -> Parts:
    numbers = itertools.count(1)

    class GenerousConnection(Connection):
        __slots__ = ()

        def _let_go(self) -> None:
            if self.ticket is not None and next(numbers) % 4 == 0:
                hit()
                self.engine.admission._count -= 1
            super()._let_go()

    return with_connection(parts, GenerousConnection)


@fault(
    "forgets-who-waits",
    "a surplus client is neither refused nor served: it waits for ever",
    breaks="LIM-23",
    consequences=COUNTING,
    services=MAIL_AND_WEB,
)
def forgets_who_waits(parts: Parts) -> Parts:
    class ForgetfulEngine(Engine):
        def _turn_away(self, sock: socket, why: Refusal, *, implicit: bool) -> None:
            if why is not Refusal.SERVICE_LIMIT:
                super()._turn_away(sock, why, implicit=implicit)
                return
            hit()
            self.waiting.append(sock)

        def __init__(self, *details: Any, **more: Any) -> None:
            super().__init__(*details, **more)
            self.waiting: list[socket] = []

    return replace(parts, engine=ForgetfulEngine)


@fault(
    "stays-full",
    "once it was full, a listener accepts nobody for five seconds",
    breaks="LIM-28",
    consequences=COUNTING,
    services=MAIL_AND_WEB,
)
def stays_full(parts: Parts) -> Parts:
    class SulkingEngine(Engine):
        def _turn_away(self, sock: socket, why: Refusal, *, implicit: bool) -> None:
            super()._turn_away(sock, why, implicit=implicit)
            if why is Refusal.SERVICE_LIMIT:
                hit()
                for listener in self.listeners.values():
                    if listener._resting is None:
                        self.ready.remove_reader(listener._sock.fileno())
                        listener._resting = self.loop.call_later(5.0, listener._resume)

    return replace(parts, engine=SulkingEngine)
