"""Faults of how connections end: mail that is touched unasked, locks that stay, replies that are lost or doubled."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from reference_server.connection import Connection
from reference_server.faults.ledger import fault, hit
from reference_server.faults.limits import with_connection
from reference_server.faults.meddling import Meddler, meddled, with_speakers
from reference_server.mailstore import MailStore
from reference_server.protocols.imap import ImapSession
from reference_server.protocols.lines import Line
from reference_server.protocols.pop3 import Pop3Session, State, _Denial
from reference_server.protocols.smtp import SmtpSession
from reference_server.protocols.smtp import State as SmtpState
from reference_server.server import Parts
from reference_server.session import Action, Actions, Close, Perform, Policy, Send
from reference_server.settings import Service

#: What goes through LOGOUT and QUIT where it looks at mail.
GOODBYES = "PRT IMP-01 IMP-14 CLS-01 CLS-02 CLS-09 CLS-13 CLS-14 TLS-11"
#: A login with everything in one line, or the line that ends it, and what stands behind it.
LOGIN: Final = re.compile(
    rb"(?P<login>.*?(?:^AUTH PLAIN [^\r\n]+|^PASS [^\r\n]+|^\S+ LOGIN [^\r\n]+|^\S+ AUTHENTICATE PLAIN [^\r\n]+)\r\n)"
    rb"(?P<behind>.+)",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
#: Longer than any release time that is declared (seconds).
LONG_HELD: Final = 10.0


def with_session(parts: Parts, service: Service, kind: Callable[[Policy, Any], Any]) -> Parts:
    """The same server with another kind of session in one service."""
    return with_speakers(parts, lambda _, speaker: replace(speaker, session=kind), (service,))


# -- POP3: what is removed ---------------------------------------------------------------------------------------------


class _Removing(Pop3Session):
    """Can remove what is marked, at any time."""

    def update(self) -> None:
        if self._drop is not None and self._deleted:
            hit()
            self._drop.remove(sorted(self._deleted))


@fault(
    "removes-at-dele",
    "POP3 removes a message at DELE, before the client has confirmed it with QUIT",
    breaks="CLS-01",
    services=("pop3",),
)
def removes_at_dele(parts: Parts) -> Parts:
    class Hasty(_Removing):
        def _line_arrived(self, line: Line) -> Any:
            outcome = super()._line_arrived(line)
            if isinstance(line, bytes) and line.upper().startswith(b"DELE"):
                self.update()
            return outcome

    return with_session(parts, Service.POP3, Hasty)


@fault(
    "removes-when-the-client-is-gone",
    "POP3 enters UPDATE when the connection drops",
    breaks="CLS-01",
    services=("pop3",),
)
def removes_when_the_client_is_gone(parts: Parts) -> Parts:
    class Hasty(_Removing):
        def ended(self) -> None:
            self.update()
            super().ended()

    return with_session(parts, Service.POP3, Hasty)


@fault(
    "removes-after-a-reset",
    "POP3 enters UPDATE when the connection is reset, and at no other end",
    breaks="CLS-01",
    services=("pop3",),
)
def removes_after_a_reset(parts: Parts) -> Parts:
    class Hasty(Connection):
        def abort(self) -> None:
            if isinstance(self.session, _Removing):
                self.session.update()
            super().abort()

    return with_session(with_connection(parts, Hasty), Service.POP3, _Removing)


@fault(
    "removes-when-idle",
    "POP3 enters UPDATE when it ends an idle session",
    breaks="CLS-01",
    services=("pop3",),
)
def removes_when_idle(parts: Parts) -> Parts:
    class Hasty(_Removing):
        def idled(self) -> Actions:
            self.update()
            return super().idled()

    return with_session(parts, Service.POP3, Hasty)


@fault(
    "removes-at-a-stop",
    "POP3 enters UPDATE when the server stops",
    breaks="CLS-01",
    services=("pop3",),
)
def removes_at_a_stop(parts: Parts) -> Parts:
    class Hasty(_Removing):
        def stopping(self) -> Actions:
            self.update()
            return super().stopping()

    return with_session(parts, Service.POP3, Hasty)


@fault(
    "quit-before-login-removes",
    "QUIT removes the first message of whoever was named with USER, login or not",
    breaks="CLS-02",
    services=("pop3",),
)
def quit_before_login_removes(parts: Parts) -> Parts:
    class Trusting(Pop3Session):
        def _line_arrived(self, line: Line) -> Any:
            if line == b"QUIT" and self._state is State.AUTHORIZATION and self._user:
                account = self._store.named(self._user)
                drop = self._store.claim_maildrop(account) if account is not None else None
                if drop is not None:
                    hit()
                    drop.remove([message.number for message in drop.messages[:1]])
                    drop.release()
            return super()._line_arrived(line)

    return with_session(parts, Service.POP3, Trusting)


# -- POP3: the lock ----------------------------------------------------------------------------------------------------


@fault(
    "keeps-the-lock-after-a-reset",
    "the maildrop of a client whose connection was reset stays locked for ever",
    breaks="CLS-11",
    consequences="CLS-01 CLS-02",
    services=("pop3",),
)
def keeps_the_lock_after_a_reset(parts: Parts) -> Parts:
    class Forgetful(Connection):
        def abort(self) -> None:
            session = self.session
            if isinstance(session, Pop3Session) and session._drop is not None:
                hit()
                session._drop = None
            super().abort()

    return with_connection(parts, Forgetful)


@fault(
    "holds-the-lock-for-long",
    f"the maildrop of a client that goes without QUIT stays locked for {LONG_HELD:g} s",
    breaks="CLS-11",
    consequences="CLS-01 CLS-02",
    services=("pop3",),
)
def holds_the_lock_for_long(parts: Parts) -> Parts:
    class Slow(Pop3Session):
        def ended(self) -> None:
            drop, self._drop = self._drop, None
            if drop is not None:
                hit()
                timer = threading.Timer(LONG_HELD, drop.release)
                timer.daemon = True
                timer.start()
            super().ended()

    return with_session(parts, Service.POP3, Slow)


@fault(
    "lock-survives-a-stop",
    "the lock on a maildrop is a file, and whoever had it when the server stopped has it for ever",
    breaks="CLS-11",
    consequences="CLS-01",
    services=("pop3",),
)
def lock_survives_a_stop(parts: Parts) -> Parts:
    class Stale(Pop3Session):
        _name = ""

        def _lock(self, name: str) -> Path:
            return self._store._root / f"{name}.lock"

        def _claim(self, name: str, password: str) -> Any:
            if self._lock(name).exists():
                return _Denial.IN_USE
            self._name = name
            return super()._claim(name, password)

        def stopping(self) -> Actions:
            if self._drop is not None:
                hit()
                self._lock(self._name).touch()
            return super().stopping()

    return with_session(parts, Service.POP3, Stale)


# -- SMTP: what is delivered -------------------------------------------------------------------------------------------


class _Delivering(SmtpSession):
    """Can deliver what it has of a text, at any time."""

    _store: MailStore

    def deliver_half(self) -> None:
        if self._state is SmtpState.TEXT and self._text is not None and self._recipients:
            hit()
            self._store.deliver(tuple(self._recipients.values()), self._text.text() + b"\r\n")


@fault(
    "delivers-when-the-client-is-gone",
    "what has come of a text is delivered when the connection drops",
    breaks="CLS-03",
    services=("smtp",),
)
def delivers_when_the_client_is_gone(parts: Parts) -> Parts:
    class Hasty(_Delivering):
        def ended(self) -> None:
            self.deliver_half()
            super().ended()

    return with_session(parts, Service.SMTP, Hasty)


@fault(
    "delivers-when-idle",
    "what has come of a text is delivered when the time for it is over",
    breaks="CLS-03",
    services=("smtp",),
)
def delivers_when_idle(parts: Parts) -> Parts:
    class Hasty(_Delivering):
        def idled(self) -> Actions:
            self.deliver_half()
            return super().idled()

    return with_session(parts, Service.SMTP, Hasty)


@fault(
    "delivers-at-a-stop",
    "what has come of a text is delivered when the server stops",
    breaks="CLS-03",
    services=("smtp",),
)
def delivers_at_a_stop(parts: Parts) -> Parts:
    class Hasty(_Delivering):
        def stopping(self) -> Actions:
            self.deliver_half()
            return super().stopping()

    return with_session(parts, Service.SMTP, Hasty)


@fault(
    "goes-on-after-a-text-time-out",
    "when the time for a text is over, 451 is said and what comes next is taken for commands",
    breaks="CLS-04",
    consequences="IDL CLS-03",
    services=("smtp",),
)
def goes_on_after_a_text_time_out(parts: Parts) -> Parts:
    class Patient(Connection):
        def idled(self) -> None:
            session = self.session
            if isinstance(session, SmtpSession) and session._state is SmtpState.TEXT:
                hit()
                session._state = SmtpState.READY
                session._reset()
                self._send(b"451 4.4.2 the text took too long\r\n")
                self.engine.heard(self)
            else:
                super().idled()

    return with_connection(parts, Patient)


@fault(
    "hangs-up-on-unknown-commands",
    "the connection is closed behind the reply to an unknown command",
    breaks="CLS-05",
    consequences="EXP TLS ROB",
    services=("smtp",),
)
def hangs_up_on_unknown_commands(parts: Parts) -> Parts:
    class Offended(Meddler):
        def passed_on(self, actions: Actions) -> Actions:
            actions = super().passed_on(actions)
            if any(isinstance(action, Send) and b"500 5.5.1" in action.data for action in actions):
                hit()
                return [*actions, Close()]
            return actions

    return meddled(parts, Offended, (Service.SMTP,))


# -- IMAP: what is stored ----------------------------------------------------------------------------------------------


@fault(
    "stores-half-a-literal",
    "what has come of a message in APPEND is stored when the session ends",
    breaks="CLS-06",
    services=("imap",),
)
def stores_half_a_literal(parts: Parts) -> Parts:
    class Hoarder(ImapSession):
        def _end(self) -> None:
            message = self._reader._message
            if message and self._client is not None:
                hit()
                self._store.deliver([self._client.account], bytes(message) + b"\r\n")
            super()._end()

    return with_session(parts, Service.IMAP, Hoarder)


# -- goodbyes ----------------------------------------------------------------------------------------------------------


@fault(
    "leaves-without-a-word",
    "QUIT and LOGOUT close the connection without a reply",
    breaks="CLS-09",
    consequences=GOODBYES,
)
def leaves_without_a_word(parts: Parts) -> Parts:
    class Curt(Meddler):
        def hears(self, data: bytes) -> bytes | Actions:
            if re.fullmatch(rb"(QUIT|\S+ LOGOUT)\r\n", data, re.IGNORECASE):
                hit()
                return [Close()]
            return data

    return meddled(parts, Curt)


@fault(
    "logs-out-without-bye",
    "LOGOUT is answered with a tagged OK alone",
    breaks="CLS-09",
    services=("imap",),
)
def logs_out_without_bye(parts: Parts) -> Parts:
    class Curt(Meddler):
        def says(self, octets: bytes) -> bytes:
            if b"* BYE goodbye\r\n" in octets:
                hit()
            return octets.replace(b"* BYE goodbye\r\n", b"")

    return meddled(parts, Curt, (Service.IMAP,))


@fault(
    "stays-after-a-goodbye",
    "QUIT is answered, and the connection stays open",
    breaks="CLS-09",
    consequences=GOODBYES + " IDL LIM",
    services=("smtp",),
)
def stays_after_a_goodbye(parts: Parts) -> Parts:
    class Lingerer(Meddler):
        def _passed_on(self, action: Action) -> Action:
            if isinstance(action, Close):
                hit()
                return Send(b"")
            return super()._passed_on(action)

    return meddled(parts, Lingerer, (Service.SMTP,))


@fault(
    "stops-without-a-farewell",
    "when the server stops, open sessions are closed without a word",
    breaks="CLS-12",
    services=("smtp", "imap"),
)
def stops_without_a_farewell(parts: Parts) -> Parts:
    class Curt(Meddler):
        def stopping(self) -> Actions:
            hit()
            return [action for action in super().stopping() if not isinstance(action, Send)]

    return meddled(parts, Curt, (Service.SMTP, Service.IMAP))


# -- what is on its way ------------------------------------------------------------------------------------------------


@fault(
    "closes-at-a-half-close",
    "a client that has nothing more to say is closed at once, whatever was still to be answered",
    breaks="CLS-10",
)
def closes_at_a_half_close(parts: Parts) -> Parts:
    class Curt(Connection):
        def _work_done(self, work: Perform, result: Any, error: Exception | None) -> None:
            if self.ticket is not None and self._tls is None and self._has_finished():
                hit()
                self.abort()
            super()._work_done(work, result, error)

        def _has_finished(self) -> bool:
            try:
                return self._sock.recv(1, socket.MSG_PEEK) == b""
            except OSError:
                return False

    return with_connection(parts, Curt)


@fault(
    "closes-without-lingering",
    "the connection is closed while octets of the client's are unread: a reset, which costs it the last replies",
    breaks="CLS-13",
    consequences="LIM-26 EXP-11",
)
def closes_without_lingering(parts: Parts) -> Parts:
    class Abrupt(Connection):
        def _close_our_side(self) -> None:
            hit()
            self._end()

    return with_connection(parts, Abrupt)


@fault(
    "runs-pipelined-commands-twice",
    "what is pipelined behind a login is carried out twice: by whoever took the login, and by whoever took over",
    breaks="CLS-14",
    consequences="CLS-10",
)
def runs_pipelined_commands_twice(parts: Parts) -> Parts:
    class Twice(Meddler):
        def hears(self, data: bytes) -> bytes | Actions:
            found = LOGIN.match(data)
            if found is None:
                return data
            hit()
            first, end, rest = found["behind"].partition(b"\r\n")
            return found["login"] + 2 * (first + end) + rest

    return meddled(parts, Twice)


@fault(
    "drops-what-is-pipelined",
    "what is pipelined behind a login is thrown away",
    breaks="CLS-14",
    consequences="CLS-10",
    services=("imap",),
)
def drops_what_is_pipelined(parts: Parts) -> Parts:
    class Careless(Meddler):
        def hears(self, data: bytes) -> bytes | Actions:
            found = LOGIN.match(data)
            if found is None:
                return data
            hit()
            return found["login"]

    return meddled(parts, Careless, (Service.IMAP,))
