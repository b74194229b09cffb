"""Decoys of manners: legal ways to greet, to answer and to take leave that are not this server's own.

None of them may be taken for a fault.  ``consequences`` names what each tempts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reference_server.connection import Connection
from reference_server.faults.ledger import changed, fault, hit
from reference_server.faults.limits import with_connection
from reference_server.server import Parts, Speaker
from reference_server.session import Actions, Peer, Policy, Security, Send
from reference_server.settings import Service

IDLE = "IDL-01 IDL-02 IDL-04 IDL-07 IDL-22 IDL-23"


def _with_sessions(parts: Parts, methods: Mapping[Service, dict[str, Any]]) -> Parts:
    """Other sessions for some services: the usual ones with these methods in place of theirs."""

    def other(service: Service, speaker: Speaker) -> Speaker:
        def session(policy: Policy, store: Any) -> Any:
            usual: Any = speaker.session(policy, store)
            kind = kinds.get(service) or type("Other", (type(usual),), {"__slots__": (), **methods[service]})
            kinds[service] = kind
            return kind(policy, store)

        return Speaker(session, speaker.refusal)

    kinds: dict[Service, Any] = {}
    speakers = {
        service: other(service, speaker) if service in methods else speaker
        for service, speaker in parts.speakers.items()
    }
    return replace(parts, speakers=speakers)


# -- how it takes leave ----------------------------------------------------------------------------------------------


def _leaving(words: bytes) -> dict[str, Any]:
    def idled(self: Any) -> Actions:
        hit()
        self._end()
        return (Send(words),) if words else ()

    return {"idled": idled}


@fault(
    "ends-idle-smtp-in-silence",
    "an idle SMTP client is ended without 421",
    consequences=IDLE + " IDL-14",
    services=("smtp",),
)
def ends_idle_smtp_in_silence(parts: Parts) -> Parts:
    return _with_sessions(parts, {Service.SMTP: _leaving(b"")})


@fault(
    "takes-leave-in-other-words",
    "an idle client hears 421 in two lines with enhanced codes, -ERR, or BYE in small letters",
    consequences=IDLE + " IDL-13 IDL-14 IDL-15",
)
def takes_leave_in_other_words(parts: Parts) -> Parts:
    return _with_sessions(
        parts,
        {
            Service.SMTP: _leaving(b"421-4.4.2 mail.example.test\r\n421 4.4.2 Error: timeout exceeded\r\n"),
            Service.POP3: _leaving(b"-ERR Disconnected for inactivity.\r\n"),
            Service.IMAP: _leaving(b"* ok [ALERT] Your time is up\r\n* bye Disconnected for inactivity.\r\n"),
        },
    )


@fault(
    "ends-idle-clients-late",
    "an idle client is ended when four fifths of the tolerance are over",
    consequences=IDLE + " IDL-03 IDL-05 IDL-06 IDL-08 IDL-10 IDL-24 LIM-08 IMP-07",
    change=lambda settings: changed(
        settings,
        idle_timeout=lambda table: table.idle_timeout
        and table.idle_timeout + 0.8 * max(1.0, table.idle_timeout / 4),
    ),
)
def ends_idle_clients_late(parts: Parts) -> Parts:
    return parts


# -- how it greets ---------------------------------------------------------------------------------------------------

#: Seconds.
DELAY = 2.0


@fault(
    "greets-late",
    "an SMTP client is greeted two seconds after it has come",
    consequences="PRT-01 LIM-01 LIM-02 IDL-24",
    services=("smtp",),
)
def greets_late(parts: Parts) -> Parts:
    class ReservedConnection(Connection):
        __slots__ = ()

        def _tell(self, event: Any, *details: Any) -> bool:
            # Where the time-out is no longer than that, nobody would ever be greeted.
            if event != self.session.connected or self.engine.name != "smtp" or self.engine.clock.timeout < 4 * DELAY:
                return super()._tell(event, *details)
            hit()
            self.engine.loop.call_later(DELAY, self._greet, event, details)
            return False

        def _greet(self, event: Any, details: Any) -> None:
            super()._tell(event, *details)

    return with_connection(parts, ReservedConnection)


def _smtp_connected(self: Any, peer: Peer, security: Security | None) -> Actions:
    hit()
    self._peer = peer
    self._security = security
    return (
        Send(b"220-mail.example.test ESMTP\r\n220-STARTTLS is welcome here, 421 times over\r\n"),
        Send(b"220 \r\n"),
    )


def _smtp_line_arrived(self: Any, line: Any) -> Any:
    outcome = super(type(self), self)._line_arrived(line)
    match outcome:
        case bytes() if outcome.startswith(b"250-mail.example.test\r\n"):  # EHLO
            prose = b"250-mail.example.test Hello! Say STARTTLS, AUTH PLAIN or nothing at all\r\n250-X-ODD  =421\r\n"
            return prose + outcome.partition(b"\r\n")[2]
        case b"250 mail.example.test\r\n":  # HELO
            return b"250-mail.example.test Hello!\r\n250-It is a nice day.\r\n250 \r\n"
    return outcome


def _pop3_connected(self: Any, peer: Peer, security: Security | None) -> Actions:
    del peer
    hit()
    self._security = security
    return (Send(b"+OK\r\n"),)


def _imap_connected(self: Any, peer: Peer, security: Security | None) -> Actions:
    del peer
    hit()
    self._security = security
    return (Send(b"* OK [ALERT] * BYE is not what this says\r\n"),)


@fault(
    "greets-in-other-words",
    "SMTP greets and answers EHLO and HELO with lines of prose, POP3 with no word behind +OK, IMAP with an alert",
    consequences="PRT-01 PRT-03 LIM-01 LIM-02 IDL-04 EXP-03 IMP-01 IMP-10",
)
def greets_in_other_words(parts: Parts) -> Parts:
    return _with_sessions(
        parts,
        {
            Service.SMTP: {"connected": _smtp_connected, "_line_arrived": _smtp_line_arrived},
            Service.POP3: {"connected": _pop3_connected},
            Service.IMAP: {"connected": _imap_connected},
        },
    )
