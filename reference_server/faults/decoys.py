"""Decoys of refusals: legal ways to turn away whoever is one too many, or may not come in at all.

None of them may be taken for a fault.  ``consequences`` names what each tempts.  Those of greetings and of idle clocks
are in ``decoys_manners``.
"""

from __future__ import annotations

import socket as sockets
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from socket import socket
from struct import pack
from threading import Lock
from typing import Any

from reference_server.address_range import IPAddress
from reference_server.admission import Admission, Limits, Ticket
from reference_server.connection import Connection
from reference_server.faults.ledger import fault, hit
from reference_server.faults.limits import with_admission, with_connection
from reference_server.listener import Engine
from reference_server.server import Parts, Speaker
from reference_server.session import Actions, Close, Peer, Refusal, Security, Send
from reference_server.settings import Service

#: What is judged of a client that is one too many.
SURPLUS = "LIM-01 LIM-02 LIM-09 LIM-11 LIM-14 LIM-23 LIM-24 LIM-25 LIM-26 LIM-28 IMP-05"
#: And of one whose address is denied.
DENIAL = "LIM-10 ACL-02 ACL-04 ACL-06 ACL-07 ACL-10 ACL-11"

TurnAway = Callable[[Engine, socket, bool], None]


def _told_otherwise(parts: Parts, why: Refusal, turn_away: TurnAway) -> Parts:
    """Whoever is refused for that reason is turned away in another manner."""

    class OtherEngine(Engine):
        def _turn_away(self, sock: socket, reason: Refusal, *, implicit: bool) -> None:
            if reason is why:
                hit()
                turn_away(self, sock, implicit)
            else:
                super()._turn_away(sock, reason, implicit=implicit)

    return replace(parts, engine=OtherEngine)


def _reset(engine: Engine, sock: socket, implicit: bool) -> None:
    del engine, implicit
    sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, pack("ii", 1, 0))
    sock.close()


def _close(engine: Engine, sock: socket, implicit: bool) -> None:
    del engine, implicit
    sock.close()


def _declared(surplus: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def describe(description: dict[str, Any]) -> dict[str, Any]:
        for table in description["services"].values():
            table["limit"]["surplus"] = surplus
        return description

    return describe


# -- one too many ----------------------------------------------------------------------------------------------------


@fault("resets-surplus-clients", "a surplus client is accepted and reset", consequences=SURPLUS)
def resets_surplus_clients(parts: Parts) -> Parts:
    return _told_otherwise(parts, Refusal.SERVICE_LIMIT, _reset)


@fault(
    "closes-on-surplus-clients",
    "a surplus client is accepted and closed without a word, as declared",
    consequences=SURPLUS,
    describe=_declared("close"),
)
def closes_on_surplus_clients(parts: Parts) -> Parts:
    return _told_otherwise(parts, Refusal.SERVICE_LIMIT, _close)


_WORDY = {
    Service.SMTP: b"421-4.3.2 mail.example.test\r\n421-4.3.2 has a full house\r\n421 4.3.2 Please come back later\r\n",
    Service.POP3: b"-ERR [SYS/TEMP] Maximum number of connections exceeded\r\n",
    Service.IMAP: b"* bye [UNAVAILABLE] Maximum number of connections exceeded\r\n",
}


@fault(
    "refuses-in-other-words",
    "a surplus client hears more lines, enhanced codes and small letters than from the right server",
    consequences=SURPLUS,
)
def refuses_in_other_words(parts: Parts) -> Parts:
    def refusal(words: bytes, usual: Callable[[Refusal], bytes], why: Refusal) -> bytes:
        if why is not Refusal.SERVICE_LIMIT:
            return usual(why)
        hit()
        return words

    speakers = {
        service: Speaker(speaker.session, partial(refusal, _WORDY[service], speaker.refusal))
        if service in _WORDY
        else speaker
        for service, speaker in parts.speakers.items()
    }
    return replace(parts, speakers=speakers)


class _OnlyRefuses:
    """A session that says one thing and takes leave."""

    __slots__ = ("_words",)
    unfinished = False

    def __init__(self, words: bytes) -> None:
        self._words = words

    def connected(self, peer: Peer, security: Security | None) -> Actions:
        del peer, security
        return (Send(self._words), Close())

    def secured(self, security: Security) -> Actions:
        del security
        return ()

    def received(self, data: bytes) -> Actions:
        del data
        return ()

    def failed(self, error: Exception) -> Actions:
        del error
        return ()

    def woken(self) -> Actions:
        return ()

    def idled(self) -> Actions:
        return ()

    def stopping(self) -> Actions:
        return ()

    def ended(self) -> None:
        return


def _refuses_inside_tls(why: Refusal, parts: Parts) -> Parts:
    class SecretiveEngine(Engine):
        def _turn_away(self, sock: socket, reason: Refusal, *, implicit: bool) -> None:
            if reason is not why or not implicit or len(self.connections) > 200:
                super()._turn_away(sock, reason, implicit=implicit)
                return
            hit()
            address = self.peer.address
            ticket = Ticket(Admission(Limits()), address)
            ticket._admission = None  # a place of no admission
            session = _OnlyRefuses(self.behaviour.refusal(reason))
            connection = Connection(self, sock, self.peer, ticket, session, implicit=True)
            self.connections.add(connection)
            connection.begin()

        def let_in(self, sock: socket, peer: Peer, *, implicit: bool) -> None:
            self.peer = peer
            super().let_in(sock, peer, implicit=implicit)

    return replace(parts, engine=SecretiveEngine)


@fault(
    "refuses-surplus-clients-inside-tls",
    "on the implicit port a surplus client is told why, behind the handshake",
    consequences=SURPLUS,
)
def refuses_surplus_clients_inside_tls(parts: Parts) -> Parts:
    return _refuses_inside_tls(Refusal.SERVICE_LIMIT, parts)


def _has_left(sock: socket) -> bool:
    with suppress(BlockingIOError):
        return not sock.recv(1, sockets.MSG_PEEK)
    return False


@fault(
    "leaves-surplus-clients-waiting",
    "a surplus client waits as in the backlog, and is served when somebody leaves, as declared",
    consequences=SURPLUS + " LIM-03 LIM-04 LIM-05 LIM-08 LIM-19",
    describe=_declared("queue"),
)
def leaves_surplus_clients_waiting(parts: Parts) -> Parts:
    class QueueingEngine(Engine):
        def __init__(self, *details: Any, **more: Any) -> None:
            super().__init__(*details, **more)
            self.waiting: deque[tuple[socket, Peer, bool]] = deque()

        def let_in(self, sock: socket, peer: Peer, *, implicit: bool) -> None:
            self.peer = peer
            super().let_in(sock, peer, implicit=implicit)

        def _turn_away(self, sock: socket, why: Refusal, *, implicit: bool) -> None:
            if why is not Refusal.SERVICE_LIMIT:
                super()._turn_away(sock, why, implicit=implicit)
                return
            hit()
            self.waiting.append((sock, self.peer, implicit))

        def left(self, connection: Connection) -> None:
            super().left(connection)
            self.loop.call_soon(self._next)

        def _next(self) -> None:
            while self.waiting and self.admission.count < self.admission.limits.connections:
                sock, peer, implicit = self.waiting.popleft()
                try:
                    if not _has_left(sock):
                        self.let_in(sock, peer, implicit=implicit)
                        continue
                except OSError:
                    pass  # reset while it waited
                sock.close()

    return replace(parts, engine=QueueingEngine)


# -- too many of one address -----------------------------------------------------------------------------------------


class _AddressedAdmission(Admission):
    """Lets in as many of one address as there is room for, and counts who signs in."""

    def __init__(self, limits: Limits) -> None:
        self._lock = Lock()
        self._signed_in: dict[IPAddress, int] = {}
        super().__init__(limits)

    def change(self, limits: Limits) -> None:
        self.per_address = limits.per_address
        super().change(replace(limits, per_address=0))

    def sign_in(self, address: IPAddress) -> bool:
        with self._lock:
            if self._signed_in.get(address, 0) >= self.per_address > 0:
                hit()
                return False
            self._signed_in[address] = self._signed_in.get(address, 0) + 1
            return True

    def sign_out(self, address: IPAddress) -> None:
        with self._lock:
            self._signed_in[address] -= 1


class _Desk:
    """The mail store as one client sees it: who has too many colleagues is not who it says it is."""

    def __init__(self, store: Any, admission: _AddressedAdmission, address: IPAddress) -> None:
        self._store = store
        self._admission = admission
        self._address = address
        self._inside = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def authenticate(self, name: str, password: str) -> Any:
        account = self._store.authenticate(name, password)
        if account is None or not self._admission.sign_in(self._address):
            return None
        self._inside = True
        return account

    def claim_maildrop(self, account: Any) -> Any:
        drop = self._store.claim_maildrop(account)
        if drop is None:
            self.leave()  # somebody else has it, and the login is refused
        return drop

    def leave(self) -> None:
        if self._inside:
            self._inside = False
            self._admission.sign_out(self._address)


def _counts_at_login(description: dict[str, Any]) -> dict[str, Any]:
    """Only of services whose sessions are signed in: it has no others."""
    description["services"] = {name: description["services"][name] for name in ("smtp", "pop3", "imap")}
    for table in description["services"].values():
        table["per_ip"]["stage"] = "login"
    return description


@fault(
    "counts-addresses-at-login",
    "how many connections one address may have is counted when a client signs in, as declared",
    consequences="LIM-15 LIM-16 LIM-17",
    describe=_counts_at_login,
)
def counts_addresses_at_login(parts: Parts) -> Parts:
    class SignedInConnection(Connection):
        __slots__ = ()

        def begin(self) -> None:
            session: Any = self.session
            session._store = _Desk(session._store, self.engine.admission, self.peer.address)  # type: ignore[arg-type]
            super().begin()

        def _let_go(self) -> None:
            if self.ticket is not None:
                session: Any = self.session
                session._store.leave()
            super()._let_go()

    return with_connection(with_admission(parts, _AddressedAdmission), SignedInConnection)


# -- denied ----------------------------------------------------------------------------------------------------------


@fault("resets-denied-clients", "a client from a denied address is reset", consequences=DENIAL + " ACL-14 IMP-06")
def resets_denied_clients(parts: Parts) -> Parts:
    return _told_otherwise(parts, Refusal.DENIED, _reset)


@fault("closes-on-denied-clients", "a client from a denied address hears nothing", consequences=DENIAL + " ACL-14")
def closes_on_denied_clients(parts: Parts) -> Parts:
    return _told_otherwise(parts, Refusal.DENIED, _close)


@fault(
    "denies-inside-tls",
    "on the implicit port a client from a denied address is told why, behind the handshake",
    consequences=DENIAL + " ACL-14 IMP-06",
)
def denies_inside_tls(parts: Parts) -> Parts:
    return _refuses_inside_tls(Refusal.DENIED, parts)


_NO = {
    Service.SMTP: b"554 5.7.1 no SMTP service here for you\r\n",
    Service.POP3: b"-ERR go away\r\n",
    Service.IMAP: b"* BYE go away\r\n",
}


@fault(
    "denies-in-other-words",
    "a client from a denied address hears 554 at SMTP, and -ERR or BYE without a code elsewhere",
    consequences=DENIAL,
)
def denies_in_other_words(parts: Parts) -> Parts:
    def refusal(words: bytes, usual: Callable[[Refusal], bytes], why: Refusal) -> bytes:
        if why is not Refusal.DENIED:
            return usual(why)
        hit()
        return words

    speakers = {
        service: Speaker(speaker.session, partial(refusal, _NO[service], speaker.refusal))
        if service in _NO
        else speaker
        for service, speaker in parts.speakers.items()
    }
    return replace(parts, speakers=speakers)


class _SaysNoUntilQuit(_OnlyRefuses):
    """RFC 5321 3.1: whoever opens with 554 waits for QUIT and answers 503 to all else."""

    __slots__ = ()

    def connected(self, peer: Peer, security: Security | None) -> Actions:
        del peer, security
        return (Send(self._words),)

    def received(self, data: bytes) -> Actions:
        actions: list[Send | Close] = []
        for line in data.upper().splitlines():
            if line.strip() == b"QUIT":
                return [*actions, Send(b"221 2.0.0 bye\r\n"), Close()]
            actions.append(Send(b"503 5.7.1 no service here\r\n"))
        return actions


@fault(
    "denies-with-554-until-quit",
    "an SMTP client from a denied address hears 554, and 503 to whatever it says before QUIT",
    consequences=DENIAL,
    services=("smtp",),
)
def denies_with_554_until_quit(parts: Parts) -> Parts:
    class PatientEngine(Engine):
        def let_in(self, sock: socket, peer: Peer, *, implicit: bool) -> None:
            self.peer = peer
            super().let_in(sock, peer, implicit=implicit)

        def _turn_away(self, sock: socket, why: Refusal, *, implicit: bool) -> None:
            if self.name != "smtp" or why is not Refusal.DENIED:
                super()._turn_away(sock, why, implicit=implicit)
                return
            hit()
            ticket = Ticket(Admission(Limits()), self.peer.address)
            ticket._admission = None  # a place of no admission
            session = _SaysNoUntilQuit(_NO[Service.SMTP])
            connection = Connection(self, sock, self.peer, ticket, session, implicit=implicit)
            self.connections.add(connection)
            connection.begin()

    return replace(parts, engine=PatientEngine)
