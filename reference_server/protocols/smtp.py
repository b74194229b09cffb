"""One client's SMTP conversation (RFC 5321), from the greeting to the farewell.

Owns: which command may come when (the table at the end is the state machine), the transaction being put
together, and every reply.  Deliberately knows no socket, no clock and no file: ``smtp_grammar`` reads paths
and parameters, ``smtp_text`` receives texts, ``sasl`` asks for passwords, and the store keeps the mail; its
slow work is handed to the engine as ``Perform``.

Extensions: STARTTLS (RFC 3207), AUTH PLAIN and LOGIN (4954), PIPELINING (2920), 8BITMIME (6152), SIZE (1870),
ENHANCEDSTATUSCODES (2034).  Mail is accepted for accounts of this server only; nothing is relayed.

Faults are told apart by whose they are.  What the peer wrote wrongly is 500 to 504 and 555; what it may not
have or do is 53x and 55x; both count towards the patience that ends in 421.  What fails on our side is 45x
and never counts.  A bug raises, and is the engine's to log.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from reference_server.mailstore import Account, MailStore
from reference_server.protocols import sasl
from reference_server.protocols.lines import Flaw, Line, LineReader
from reference_server.protocols.smtp_grammar import BadSyntax, client_name, mail_argument, rcpt_argument
from reference_server.protocols.smtp_recipients import no_recipient, recipient
from reference_server.protocols.smtp_text import IncomingText, Trace
from reference_server.session import (
    Action,
    Actions,
    Close,
    LoginFailed,
    Peer,
    Perform,
    Policy,
    Refusal,
    Security,
    Send,
    StartTls,
)

COMMAND_LIMIT: Final = 512
"""RFC 5321 4.5.3.1.4: octets of a command line, CRLF included, unless an extension asks for more."""
MAX_SIZE: Final = 50 * 1024 * 1024
"""Octets of a text that are accepted at most (announced as SIZE)."""
MAX_RECIPIENTS: Final = 1000
"""Recipients of one message; RFC 5321 4.5.3.1.8 wants at least 100."""
MAX_ERRORS: Final = 20
"""Replies of 5xx since the last accepted message, after which the patience is over."""
MAX_FAILED_LOGINS: Final = 5


class State(enum.Enum):
    START = "nobody has said HELO or EHLO"
    READY = "between transactions"
    MAIL = "a sender is known"
    RCPT = "a recipient is known, too"
    TEXT = "the text is being received"
    LOGIN = "a SASL exchange waits for the client"
    VERIFYING = "a password is being checked"
    DELIVERING = "a message is being written to disk"
    OVER = "nothing more will be said"


#: Looked up for every line.  On the class itself that would cost as much as the rest of the line (Python 3.11).
_START, _READY, _MAIL, _RCPT, _TEXT, _LOGIN, _VERIFYING, _DELIVERING, _OVER = State


@dataclass(frozen=True, slots=True)
class _Then:
    """A reply (possibly none) and one more action: what ends a round of pipelined commands."""

    reply: bytes
    action: Action


_Outcome: TypeAlias = bytes | _Then

_DELIVERED: Final = b"250 2.0.0 accepted and kept\r\n"
_EXTENSIONS: Final = b"250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE %d\r\n250 ENHANCEDSTATUSCODES\r\n" % MAX_SIZE
_BAD_LINE: Final = {
    Flaw.TOO_LONG: b"500 5.5.2 the line is too long\r\n",
    Flaw.BARE_LF: b"500 5.5.2 lines end with CR LF, not with LF alone\r\n",
}
_BAD_RESPONSE: Final = {
    Flaw.TOO_LONG: b"500 5.5.6 the line is too long\r\n",
    Flaw.BARE_LF: b"501 5.5.2 lines end with CR LF, not with LF alone\r\n",
}


def refusal(reason: Refusal) -> bytes:
    """What a client hears that is not let in, before the connection is closed (RFC 5321 3.8)."""
    match reason:
        case Refusal.DENIED:
            return b"421 4.7.0 this service is not open to your address\r\n"
        case Refusal.ADDRESS_LIMIT:
            return b"421 4.7.0 too many connections from your address\r\n"
        case Refusal.SERVICE_LIMIT:
            return b"421 4.3.2 too many connections, try again later\r\n"
        case Refusal.BLOCKED:
            return b"421 4.7.0 too many failed logins from your address\r\n"


class SmtpSession:
    """See :class:`reference_server.session.Session` for what each event means."""

    __slots__ = (
        "_account", "_client", "_errors", "_exchange", "_extended", "_failed_logins", "_lines", "_peer",
        "_policy", "_recipients", "_security", "_sender", "_state", "_stopping", "_store", "_text",
    )  # fmt: skip

    def __init__(self, policy: Policy, store: MailStore) -> None:
        self._policy = policy
        self._store = store
        self._lines = LineReader(sasl.LINE_LIMIT)
        self._peer: Peer  # known from ``connected`` on, which comes before anything else
        self._security: Security | None = None
        self._state = _START
        self._client = ""
        self._extended = False
        self._account: Account | None = None
        self._exchange: sasl.Exchange | None = None
        self._sender = ""
        self._recipients: dict[str, Account] | None = None
        self._text: IncomingText | None = None
        self._errors = 0
        self._failed_logins = 0
        self._stopping = False

    # ---- events

    @property
    def unfinished(self) -> bool:
        return self._state in (_TEXT, _LOGIN) or self._lines.pending

    def connected(self, peer: Peer, security: Security | None) -> Actions:
        self._peer = peer
        self._security = security
        return (Send(b"220 %s ESMTP ready\r\n" % self._hostname),)

    def received(self, data: bytes) -> Actions:
        if self._state is _OVER:
            return ()
        self._lines.feed(data)
        return self._advance([])

    def secured(self, security: Security) -> Actions:
        # RFC 3207 4.2: what the client said in clear, its name included, is forgotten.
        self._security = security
        self._state = _START
        self._client = ""
        self._extended = False
        self._account = None
        return ()

    def failed(self, error: Exception) -> Actions:
        if self._state is _VERIFYING:
            return self._resume(b"454 4.7.0 logins cannot be checked at the moment\r\n")
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return self._resume(b"452 4.3.1 no room for this message at the moment\r\n")
        return self._resume(b"451 4.3.0 the message could not be kept, try again later\r\n")

    def woken(self) -> Actions:
        return ()

    def idled(self) -> Actions:
        self._end()
        return (Send(b"421 4.4.2 %s has waited long enough, goodbye\r\n" % self._hostname),)

    def stopping(self) -> Actions:
        if self._state in (_VERIFYING, _DELIVERING):
            self._stopping = True  # a message that is being kept is still answered for first
            return ()
        if self._state is _OVER:
            return ()
        self._end()
        return (self._stop_farewell(),)

    def ended(self) -> None:
        self._end()

    # ---- the one place where lines become replies

    def _advance(self, replies: list[bytes]) -> Actions:
        lines = self._lines
        while True:
            if self._state is _TEXT:
                outcome = self._text_arrived()
                if outcome is None:
                    break
            else:
                line = lines.line()
                if line is None:
                    break
                outcome = self._line_arrived(line)
            if isinstance(outcome, _Then):
                if outcome.reply:
                    replies.append(outcome.reply)
                return self._with_replies(replies, outcome.action)
            if outcome[0] == 0x35:  # "5"
                self._errors += 1
                if self._errors >= MAX_ERRORS:
                    self._end()
                    replies.append(b"421 4.7.0 %s has seen too many errors, goodbye\r\n" % self._hostname)
                    return self._with_replies(replies, Close())
            replies.append(outcome)
        if not replies:
            return ()
        return (Send(replies[0] if len(replies) == 1 else b"".join(replies)),)

    def _line_arrived(self, line: Line) -> _Outcome:
        if self._state is _LOGIN:
            return self._response(line)
        if isinstance(line, Flaw):
            return _BAD_LINE[line]
        verb, _, rest = line.partition(b" ")
        command = COMMANDS.get(verb) or COMMANDS.get(verb.upper())
        if command is None:
            return b"500 5.5.1 no such command\r\n"
        if len(line) + 2 > command.longest:
            return _BAD_LINE[Flaw.TOO_LONG]
        if self._state not in command.states:
            return self._out_of_order()
        if not command.in_clear and self._policy.login_needs_tls and self._security is None:
            # RFC 4954 6; said before the password is asked for, as nothing can take it back.
            return b"538 5.7.11 logins need TLS here\r\n"
        if not command.takes_argument and rest and not rest.isspace():
            return b"501 5.5.4 this command has no arguments\r\n"
        try:
            return command.run(self, rest)
        except BadSyntax as fault:
            return fault.reply

    def _out_of_order(self) -> bytes:
        match self._state:
            case State.START:
                return b"503 5.5.1 say EHLO or HELO first\r\n"
            case State.READY:
                return b"503 5.5.1 say MAIL first\r\n"
            case State.MAIL:
                return b"503 5.5.1 say RCPT first, this transaction has no recipient\r\n"
            case _:
                return b"503 5.5.1 not within a transaction\r\n"

    def _with_replies(self, replies: list[bytes], action: Action) -> Actions:
        return (Send(b"".join(replies)), action) if replies else (action,)

    def _resume(self, reply: bytes) -> Actions:
        """Go on after a job."""
        self._state = _READY
        if self._stopping:
            self._end()
            return (Send(reply), self._stop_farewell(), Close())
        return self._advance([reply])

    # ---- commands

    def greet_extended(self, rest: bytes) -> _Outcome:
        self._introduce(rest)
        self._extended = True
        hidden = self._account is not None or (self._policy.login_needs_tls and self._security is None)
        # RFC 3207 4.2: STARTTLS is not announced once TLS is there.
        starttls = b"" if self._security or not self._policy.offers_tls else b"250-STARTTLS\r\n"
        auth = b"" if hidden else b"250-AUTH PLAIN LOGIN\r\n"
        return b"250-%s\r\n%s%s" % (self._hostname, starttls, auth) + _EXTENSIONS

    def greet(self, rest: bytes) -> _Outcome:
        self._introduce(rest)
        self._extended = False
        return b"250 %s\r\n" % self._hostname

    def start_tls(self, _rest: bytes) -> _Outcome:
        if self._security is not None:
            return b"503 5.5.1 TLS is active already\r\n"
        if not self._policy.offers_tls:
            return b"454 4.7.0 TLS is not available\r\n"
        self._reset()
        # RFC 3207 4.2, CVE-2011-0411: what came in clear behind the command must not be served inside TLS.
        self._lines.clear()
        return _Then(b"220 2.0.0 ready for TLS\r\n", StartTls())

    def auth(self, rest: bytes) -> _Outcome:
        if self._account is not None:
            return b"503 5.5.1 you are logged in already\r\n"
        words = rest.split()
        if not 1 <= len(words) <= 2:
            return b"501 5.5.4 AUTH wants a mechanism and at most one response\r\n"
        mechanism = sasl.Mechanism.named(words[0])
        if mechanism is None:
            return b"504 5.5.4 PLAIN and LOGIN are the mechanisms here\r\n"
        exchange = sasl.Exchange(mechanism)
        return self._login_step(exchange, exchange.begin(words[1] if len(words) == 2 else None))

    def mail(self, rest: bytes) -> _Outcome:
        envelope = mail_argument(rest)
        if envelope.size > MAX_SIZE:  # RFC 1870 6.1: before a single octet of it is sent
            return b"552 5.3.4 the message is too large\r\n"
        self._sender = envelope.sender.text
        self._state = _MAIL
        return b"250 2.1.0 sender ok\r\n"

    def rcpt(self, rest: bytes) -> _Outcome:
        path = rcpt_argument(rest)
        account = recipient(self._store, self._policy.hostname, path)
        if account is None:
            return no_recipient(self._store, self._policy.hostname, path, logged_in=self._account is not None)
        if self._recipients is None:
            self._recipients = {}
        elif len(self._recipients) >= MAX_RECIPIENTS and account.name not in self._recipients:
            # RFC 5321 4.5.3.1.10: the client sends the rest in another transaction.
            return b"452 4.5.3 too many recipients\r\n"
        self._recipients[account.name] = account
        self._state = _RCPT
        return b"250 2.1.5 recipient ok\r\n"

    def data(self, _rest: bytes) -> _Outcome:
        assert self._recipients
        keep = not all(account.discard for account in self._recipients.values())
        self._text = IncomingText(MAX_SIZE, keep=keep)
        self._state = _TEXT
        return b"354 send the text, and a line with only a dot after it\r\n"

    def rset(self, _rest: bytes) -> _Outcome:
        self._reset()
        return b"250 2.0.0 ok\r\n"

    def noop(self, _rest: bytes) -> _Outcome:
        return b"250 2.0.0 ok\r\n"

    def vrfy(self, rest: bytes) -> _Outcome:
        if not rest.strip():
            return b"501 5.5.4 VRFY wants a name\r\n"
        # RFC 5321 7.3: who has an account is nobody's business before there is mail for them.
        return b"252 2.1.5 not verified, but mail for an account here is accepted\r\n"

    def expn(self, _rest: bytes) -> _Outcome:
        return b"502 5.5.1 there are no lists here\r\n"

    def help(self, _rest: bytes) -> _Outcome:
        return b"214 2.0.0 EHLO HELO MAIL RCPT DATA RSET NOOP VRFY AUTH STARTTLS HELP QUIT\r\n"

    def quit(self, _rest: bytes) -> _Outcome:
        self._end()
        return _Then(b"221 2.0.0 %s goodbye\r\n" % self._hostname, Close())

    # ---- logging in

    def _response(self, line: Line) -> _Outcome:
        exchange = self._exchange
        assert exchange is not None
        self._state = _READY
        self._exchange = None
        if isinstance(line, Flaw):
            return _BAD_RESPONSE[line]
        return self._login_step(exchange, exchange.respond(line))

    def _login_step(self, exchange: sasl.Exchange, step: sasl.Step) -> _Outcome:
        match step:
            case sasl.Challenge(text):
                self._state = _LOGIN
                self._exchange = exchange
                return b"334 %s\r\n" % text
            case sasl.Credentials(name, password):
                self._state = _VERIFYING
                return _Then(b"", Perform(partial(self._store.authenticate, name, password), self._verified))
            case sasl.Malformed(reason):
                return b"501 5.5.2 %s\r\n" % reason.encode()
            case sasl.Cancelled():
                return b"501 5.7.0 as you like\r\n"
            case sasl.Denied():
                return b"535 5.7.8 nobody can act for somebody else here\r\n"

    def _verified(self, account: Account | None) -> Actions:
        if account is not None:
            self._account = account
            return self._resume(b"235 2.7.0 logged in\r\n")
        self._failed_logins += 1
        if self._failed_logins < MAX_FAILED_LOGINS:
            return (LoginFailed(), *self._resume(b"535 5.7.8 name or password is wrong\r\n"))
        self._end()
        farewell = b"421 4.7.0 %s has seen too many failed logins, goodbye\r\n" % self._hostname
        return (LoginFailed(), Send(farewell), Close())

    # ---- the transaction

    def _introduce(self, rest: bytes) -> None:
        name = client_name(rest)
        if name is None:
            raise BadSyntax(b"501 5.5.4 a domain or an address in brackets is wanted\r\n")
        self._client = name
        self._state = _READY
        self._reset()  # RFC 5321 4.1.4: as if RSET had been said

    def _text_arrived(self) -> _Outcome | None:
        text = self._text
        assert text is not None
        assert self._recipients is not None
        data = self._lines.take()
        behind = text.feed(data) if data else None
        if behind is None:
            return None
        if behind:
            self._lines.feed(behind)
        accounts = tuple(self._recipients.values())
        sender = self._sender
        self._state = _READY
        self._reset()
        if text.too_large:
            return b"552 5.3.4 the message is too large\r\n"
        if all(account.discard for account in accounts):
            self._errors = 0
            return _DELIVERED
        self._state = _DELIVERING
        only = accounts[0].address if len(accounts) == 1 else None
        trace = Trace(
            sender, self._client, str(self._peer.address), self._policy.hostname, self._transmission, only
        )
        return _Then(b"", Perform(partial(_deliver, self._store, accounts, trace, text), self._delivered))

    def _delivered(self, _result: object) -> Actions:
        self._errors = 0
        return self._resume(_DELIVERED)

    def _reset(self) -> None:
        if self._state in (_MAIL, _RCPT):
            self._state = _READY
        self._sender = ""
        self._recipients = None
        self._text = None

    # ---- small things

    def _end(self) -> None:
        """Nothing half-received survives, and nothing more is read."""
        self._state = _OVER
        self._sender = ""
        self._recipients = None
        self._text = None
        self._exchange = None
        self._lines.clear()

    def _stop_farewell(self) -> Send:
        return Send(b"421 4.3.2 %s is shutting down\r\n" % self._hostname)

    @property
    def _hostname(self) -> bytes:
        return self._policy.hostname.encode("ascii", "replace")

    @property
    def _transmission(self) -> str:
        # RFC 3848: the S is for TLS, the A for a login.
        if not self._extended:
            return "SMTP"
        return "ESMTP" + ("S" if self._security else "") + ("A" if self._account else "")


def _deliver(store: MailStore, accounts: tuple[Account, ...], trace: Trace, text: IncomingText) -> None:
    """Runs where it may block: the message is whole, and on return it is on the disk."""
    store.deliver(accounts, trace.headers() + text.text())


@dataclass(frozen=True, slots=True)
class Command:
    """When a command may come, and what it does then.

    ``in_clear``: whether it may come without TLS even where logins need TLS.  ``longest``: octets of its
    line, CRLF included.
    """

    run: Callable[[SmtpSession, bytes], _Outcome]
    states: tuple[State, ...]
    in_clear: bool = True
    takes_argument: bool = True
    longest: int = COMMAND_LIMIT


_ANY: Final = (_START, _READY, _MAIL, _RCPT)

COMMANDS: Final[dict[bytes, Command]] = {
    b"MAIL": Command(SmtpSession.mail, (_READY,),
                     # RFC 1870 3, RFC 6152 2 and RFC 4954 3 make room for their parameters.
                     longest=COMMAND_LIMIT + 26 + 17 + 500),
    b"RCPT": Command(SmtpSession.rcpt, (_MAIL, _RCPT)),
    b"DATA": Command(SmtpSession.data, (_RCPT,), takes_argument=False),
    b"EHLO": Command(SmtpSession.greet_extended, _ANY),
    b"HELO": Command(SmtpSession.greet, _ANY),
    b"STARTTLS": Command(SmtpSession.start_tls, _ANY, takes_argument=False),
    # RFC 4954 4: not within a transaction; its line may be as long as any of the exchange.
    b"AUTH": Command(SmtpSession.auth, (_READY,), in_clear=False, longest=sasl.LINE_LIMIT),
    b"RSET": Command(SmtpSession.rset, _ANY, takes_argument=False),
    b"NOOP": Command(SmtpSession.noop, _ANY),
    b"VRFY": Command(SmtpSession.vrfy, _ANY),
    b"EXPN": Command(SmtpSession.expn, _ANY),
    b"HELP": Command(SmtpSession.help, _ANY),
    b"QUIT": Command(SmtpSession.quit, _ANY, takes_argument=False),
}  # fmt: skip
