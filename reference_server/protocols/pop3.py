"""One client's POP3 conversation (RFC 1939, 2449), from the greeting to the farewell.

Owns: which command may come when (the table at the end is the state machine), what is marked as deleted, the
form of every reply.  Deliberately knows no socket, no clock and no file: the maildrop is the store's, and its
slow work is handed to the engine as ``Perform``.

Extensions: STLS (RFC 2595), AUTH PLAIN and LOGIN (5034), TOP, UIDL, PIPELINING, RESP-CODES (2449),
AUTH-RESP-CODE (3206).  Messages are removed by QUIT in the TRANSACTION state and by nothing else: whatever
else ends the session, the maildrop is released as it was found.

Faults are told apart by whose they are.  What the peer writes wrongly or may not have is a bare ``-ERR`` and
counts towards the patience that ends the session; what fails on our side is ``-ERR [SYS/TEMP]`` and does not.
A bug raises, and is the engine's to log.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from reference_server.mailstore import DropMessage, Maildrop, MailStore, MessageGone
from reference_server.protocols import sasl
from reference_server.protocols.lines import Flaw, Line, LineReader
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

COMMAND_LIMIT: Final = 255
"""RFC 2449 4: octets of a command line, CRLF included.  Lines of a SASL exchange have their own limit."""
MAX_ERRORS: Final = 20
"""Faults of the peer since the login (or the greeting), after which the patience is over."""
MAX_FAILED_LOGINS: Final = 5


class State(enum.Enum):
    AUTHORIZATION = "nobody has logged in"
    LOGIN = "a SASL exchange waits for the client"
    TRANSACTION = "the maildrop is ours"
    OPENING = "a password is being checked and a maildrop claimed"
    READING = "a message is being read from disk"
    UPDATE = "what was marked is being removed"
    OVER = "nothing more will be said"


class _Denial(enum.Enum):
    """Why a login fails."""

    WRONG = enum.auto()
    IN_USE = enum.auto()


@dataclass(frozen=True, slots=True)
class _Then:
    """A reply (possibly none) and one more action: what ends a round of pipelined commands."""

    reply: bytes
    action: Action


_Outcome: TypeAlias = bytes | _Then

_BAD_LINE: Final = {
    Flaw.TOO_LONG: b"-ERR the line is too long\r\n",
    Flaw.BARE_LF: b"-ERR lines end with CR LF, not with LF alone\r\n",
}
_NO_SUCH_MESSAGE: Final = b"-ERR no such message\r\n"
_STOPPING: Final = b"-ERR [SYS/TEMP] the server is shutting down\r\n"


def refusal(reason: Refusal) -> bytes:
    """What a client hears that is not let in, before the connection is closed."""
    match reason:
        case Refusal.DENIED:
            return b"-ERR [SYS/PERM] this service is not open to your address\r\n"
        case Refusal.ADDRESS_LIMIT:
            return b"-ERR [SYS/TEMP] too many connections from your address\r\n"
        case Refusal.SERVICE_LIMIT:
            return b"-ERR [SYS/TEMP] too many connections, try again later\r\n"
        case Refusal.BLOCKED:
            return b"-ERR [SYS/TEMP] too many failed logins from your address\r\n"


class Pop3Session:
    """See :class:`reference_server.session.Session` for what each event means."""

    __slots__ = (
        "_deleted", "_drop", "_errors", "_exchange", "_failed_logins", "_lines", "_policy", "_security",
        "_state", "_stopping", "_store", "_user",
    )  # fmt: skip

    def __init__(self, policy: Policy, store: MailStore) -> None:
        self._policy = policy
        self._store = store
        self._lines = LineReader(COMMAND_LIMIT)
        self._security: Security | None = None
        self._state = State.AUTHORIZATION
        self._user: str | None = None
        self._exchange: sasl.Exchange | None = None
        self._drop: Maildrop | None = None
        self._deleted: set[int] | None = None
        self._errors = 0
        self._failed_logins = 0
        self._stopping = False

    # ---- events

    @property
    def unfinished(self) -> bool:
        return self._state is State.LOGIN or self._lines.pending

    def connected(self, peer: Peer, security: Security | None) -> Actions:
        del peer
        self._security = security
        # No timestamp in angle brackets: APOP would need the password in clear on our side.
        return (Send(b"+OK %s POP3 ready\r\n" % self._policy.hostname.encode("ascii", "replace")),)

    def received(self, data: bytes) -> Actions:
        if self._state is State.OVER:
            return ()
        self._lines.feed(data)
        return self._advance([])

    def secured(self, security: Security) -> Actions:
        # RFC 2595 4: still in AUTHORIZATION, with nothing that was said in clear.
        self._security = security
        self._state = State.AUTHORIZATION
        self._user = None
        return ()

    def failed(self, error: Exception) -> Actions:
        match self._state:
            case State.OPENING:
                return self._resume(State.AUTHORIZATION, b"-ERR [SYS/TEMP] the maildrop cannot be opened\r\n")
            case State.UPDATE:
                return self._farewell(b"-ERR [SYS/TEMP] the marked messages could not be removed\r\n")
        if isinstance(error, MessageGone):
            return self._resume(State.TRANSACTION, b"-ERR another session has removed this message\r\n")
        return self._resume(State.TRANSACTION, b"-ERR [SYS/TEMP] the message cannot be read\r\n")

    def woken(self) -> Actions:
        return ()

    def idled(self) -> Actions:
        # RFC 1939 3: the time-out closes without a response and without entering UPDATE.
        self._end()
        return ()

    def stopping(self) -> Actions:
        match self._state:
            case State.OPENING | State.READING | State.UPDATE:
                self._stopping = True  # what is under way is still answered for
                return ()
            case State.OVER:
                return ()
        self._end()
        return (Send(_STOPPING),)

    def ended(self) -> None:
        self._end()

    # ---- the one place where lines become replies

    def _advance(self, replies: list[bytes]) -> Actions:
        while (line := self._lines.line()) is not None:
            outcome = self._line_arrived(line)
            if isinstance(outcome, _Then):
                if outcome.reply:
                    replies.append(outcome.reply)
                return (Send(b"".join(replies)), outcome.action) if replies else (outcome.action,)
            replies.append(outcome)
            if outcome[0] == 0x2D:  # "-"
                self._errors += 1
                if self._errors >= MAX_ERRORS:
                    replies[-1] = b"-ERR too many errors, goodbye\r\n"
                    return self._farewell(b"".join(replies))
        return (Send(b"".join(replies)),) if replies else ()

    def _line_arrived(self, line: Line) -> _Outcome:
        if self._state is State.LOGIN:
            return self._response(line)
        if isinstance(line, Flaw):
            return _BAD_LINE[line]
        verb, _, rest = line.partition(b" ")
        command = COMMANDS.get(verb) or COMMANDS.get(verb.upper())
        if command is None:
            return b"-ERR no such command\r\n"
        if self._state not in command.states:
            if self._state is State.TRANSACTION:
                return b"-ERR you are logged in already\r\n"
            return b"-ERR log in first\r\n"
        if not command.in_clear and self._policy.login_needs_tls and self._security is None:
            # RFC 2595 2.3; said to USER already, before the password is on the wire.
            return b"-ERR logins need TLS here\r\n"
        if not command.takes_argument and rest.strip(b" "):
            return b"-ERR this command has no arguments\r\n"
        return command.run(self, rest)

    def _resume(self, state: State, reply: bytes) -> Actions:
        """Go on after a job."""
        self._state = state
        if self._stopping:
            return self._farewell(reply + _STOPPING)
        return self._advance([reply])

    def _farewell(self, reply: bytes) -> Actions:
        self._end()
        return (Send(reply), Close())

    def _end(self) -> None:
        """Give the maildrop back as it is, and read nothing more."""
        self._state = State.OVER
        if self._drop is not None:
            self._drop.release()
        self._drop = None
        self._deleted = None
        self._exchange = None
        self._lines.clear()

    # ---- commands in either state

    def capa(self, _rest: bytes) -> _Outcome:
        words = [b"+OK", b"TOP", b"UIDL", b"RESP-CODES", b"AUTH-RESP-CODE", b"PIPELINING"]
        if self._security is not None or not self._policy.login_needs_tls:
            words += [b"USER", b"SASL PLAIN LOGIN"]
        if self._security is None and self._policy.offers_tls and self._state is State.AUTHORIZATION:
            words.append(b"STLS")
        return b"\r\n".join([*words, b"EXPIRE NEVER", b"IMPLEMENTATION listenspec", b".", b""])

    def quit(self, _rest: bytes) -> _Outcome:
        if self._drop is not None and self._deleted:
            # RFC 1939 6: this is the one way into UPDATE.
            self._state = State.UPDATE
            return _Then(b"", Perform(partial(self._drop.remove, sorted(self._deleted)), self._updated))
        self._end()
        return _Then(b"+OK goodbye\r\n", Close())

    def _updated(self, _result: object) -> Actions:
        return self._farewell(b"+OK removed what was marked, goodbye\r\n")

    # ---- commands in AUTHORIZATION

    def stls(self, _rest: bytes) -> _Outcome:
        if self._security is not None:
            return b"-ERR TLS is active already\r\n"
        if not self._policy.offers_tls:
            return b"-ERR TLS is not available\r\n"
        # What came in clear behind the command must not be served inside TLS.
        self._user = None
        self._lines.clear()
        return _Then(b"+OK ready for TLS\r\n", StartTls())

    def user(self, rest: bytes) -> _Outcome:
        self._user = None
        try:
            name = rest.strip(b" ").decode("utf-8")
        except UnicodeDecodeError:
            return b"-ERR that is not UTF-8\r\n"
        if not name:
            return b"-ERR USER wants a name\r\n"
        self._user = name
        return b"+OK now the password\r\n"  # whether there is such an account is not told

    def password(self, rest: bytes) -> _Outcome:
        name, self._user = self._user, None
        if name is None:
            return b"-ERR say USER first\r\n"
        if not rest:
            return b"-ERR PASS wants a password\r\n"
        # RFC 1939 7: spaces are part of the password.  What is not UTF-8 cannot be anybody's.
        return self._open(name, rest.decode("utf-8", "replace"))

    def auth(self, rest: bytes) -> _Outcome:
        words = rest.split()
        if not words:  # older than RFC 5034, and clients still ask so
            return b"+OK\r\nPLAIN\r\nLOGIN\r\n.\r\n"
        mechanism = sasl.Mechanism.named(words[0])
        if mechanism is None or len(words) > 2:
            return b"-ERR PLAIN and LOGIN are the mechanisms here, with at most one response\r\n"
        exchange = sasl.Exchange(mechanism)
        return self._login_step(exchange, exchange.begin(words[1] if len(words) == 2 else None))

    def _response(self, line: Line) -> _Outcome:
        exchange = self._exchange
        assert exchange is not None
        self._state = State.AUTHORIZATION
        self._exchange = None
        self._lines.limit = COMMAND_LIMIT
        if isinstance(line, Flaw):
            return _BAD_LINE[line]
        return self._login_step(exchange, exchange.respond(line))

    def _login_step(self, exchange: sasl.Exchange, step: sasl.Step) -> _Outcome:
        match step:
            case sasl.Challenge(text):
                self._state = State.LOGIN
                self._exchange = exchange
                self._lines.limit = sasl.LINE_LIMIT
                return b"+ %s\r\n" % text
            case sasl.Credentials(name, password):
                return self._open(name, password)
            case sasl.Malformed(reason):
                return b"-ERR %s\r\n" % reason.encode()
            case sasl.Cancelled():
                return b"-ERR as you like\r\n"
            case sasl.Denied():
                return b"-ERR [AUTH] nobody can act for somebody else here\r\n"

    def _open(self, name: str, password: str) -> _Outcome:
        self._state = State.OPENING
        return _Then(b"", Perform(partial(self._claim, name, password), self._opened))

    def _claim(self, name: str, password: str) -> _Denial | None:
        """Runs where it may block.  The claim is kept at once, so that ``ended`` finds it in any case."""
        account = self._store.authenticate(name, password)
        if account is None:
            return _Denial.WRONG
        self._drop = self._store.claim_maildrop(account)
        return _Denial.IN_USE if self._drop is None else None

    def _opened(self, denial: _Denial | None) -> Actions:
        match denial:
            case None:
                self._errors = 0
                self._deleted = set()
                return self._resume(State.TRANSACTION, b"+OK %s\r\n" % self._summary())
            case _Denial.IN_USE:
                return self._resume(
                    State.AUTHORIZATION, b"-ERR [IN-USE] another session has this maildrop\r\n"
                )
            case _Denial.WRONG:
                self._failed_logins += 1
                if self._failed_logins >= MAX_FAILED_LOGINS:
                    return (LoginFailed(), *self._farewell(b"-ERR [AUTH] too many failed logins, goodbye\r\n"))
                denied = self._resume(State.AUTHORIZATION, b"-ERR [AUTH] name or password is wrong\r\n")
                return (LoginFailed(), *denied)

    # ---- commands in TRANSACTION

    def stat(self, _rest: bytes) -> _Outcome:
        present = self._present()
        return b"+OK %d %d\r\n" % (len(present), sum(message.size for message in present))

    def scan(self, rest: bytes) -> _Outcome:
        return self._listing(rest, lambda message: b"%d %d\r\n" % (message.number, message.size))

    def uidl(self, rest: bytes) -> _Outcome:
        return self._listing(
            rest, lambda message: b"%d %s\r\n" % (message.number, message.unique_id.encode("ascii"))
        )

    def retr(self, rest: bytes) -> _Outcome:
        message = self._message(rest)
        return _NO_SUCH_MESSAGE if message is None else self._read(message, None)

    def top(self, rest: bytes) -> _Outcome:
        number, _, count = rest.strip(b" ").partition(b" ")
        lines = _number(count.strip(b" "))
        if lines is None:
            return b"-ERR TOP wants a message and a number of lines\r\n"
        message = self._message(number)
        return _NO_SUCH_MESSAGE if message is None else self._read(message, lines)

    def dele(self, rest: bytes) -> _Outcome:
        message = self._message(rest)
        if message is None:
            return _NO_SUCH_MESSAGE
        assert self._deleted is not None
        self._deleted.add(message.number)
        return b"+OK marked, QUIT will remove it\r\n"

    def rset(self, _rest: bytes) -> _Outcome:
        assert self._deleted is not None
        self._deleted.clear()
        return b"+OK %s\r\n" % self._summary()

    def noop(self, _rest: bytes) -> _Outcome:
        return b"+OK\r\n"

    def _present(self) -> list[DropMessage]:
        assert self._drop is not None
        assert self._deleted is not None
        return [message for message in self._drop.messages if message.number not in self._deleted]

    def _message(self, rest: bytes) -> DropMessage | None:
        """The message that the client names, unless it is marked as deleted (RFC 1939 5)."""
        assert self._drop is not None
        assert self._deleted is not None
        number = _number(rest.strip(b" "))
        if number is None or not 1 <= number <= len(self._drop.messages) or number in self._deleted:
            return None
        return self._drop.messages[number - 1]

    def _listing(self, rest: bytes, show: Callable[[DropMessage], bytes]) -> bytes:
        if rest.strip(b" "):
            message = self._message(rest)
            return _NO_SUCH_MESSAGE if message is None else b"+OK " + show(message)
        return b"".join([b"+OK\r\n", *map(show, self._present()), b".\r\n"])

    def _read(self, message: DropMessage, lines: int | None) -> _Outcome:
        assert self._drop is not None
        self._state = State.READING
        return _Then(b"", Perform(partial(_reading, self._drop, message, lines), self._has_read))

    def _has_read(self, reply: bytes) -> Actions:
        return self._resume(State.TRANSACTION, reply)

    def _summary(self) -> bytes:
        present = self._present()
        return b"%d messages (%d octets)" % (len(present), sum(message.size for message in present))


def _number(text: bytes) -> int | None:
    return int(text) if text.isdigit() and len(text) <= 10 else None


def _reading(drop: Maildrop, message: DropMessage, lines: int | None) -> bytes:
    """The whole reply to RETR (or to TOP, with ``lines``).  Runs where it may block."""
    text = drop.read(message.number)
    if lines is None:
        first = b"+OK %d octets\r\n" % message.size
    else:
        first = b"+OK\r\n"
        text = _top_of(text, lines)
    return first + _multi_line(text)


def _top_of(text: bytes, lines: int) -> bytes:
    """The header, the empty line and as many lines of the body (RFC 1939 7)."""
    end = 2 if text.startswith(b"\r\n") else text.find(b"\r\n\r\n") + 4
    if end == 3:  # a header and nothing else
        return text
    for _ in range(lines):
        line_end = text.find(b"\r\n", end)
        if line_end < 0:
            return text
        end = line_end + 2
    return text[:end]


def _multi_line(text: bytes) -> bytes:
    """RFC 1939 3: a dot at the beginning of a line is doubled, a line of one dot ends it all."""
    stuffed = text.replace(b"\r\n.", b"\r\n..")
    if stuffed.startswith(b"."):
        stuffed = b"." + stuffed
    if stuffed and not stuffed.endswith(b"\r\n"):
        stuffed += b"\r\n"
    return stuffed + b".\r\n"


@dataclass(frozen=True, slots=True)
class Command:
    """When a command may come, and what it does then.

    ``in_clear``: whether it may come without TLS even where logins need TLS.
    """

    run: Callable[[Pop3Session, bytes], _Outcome]
    states: tuple[State, ...]
    in_clear: bool = True
    takes_argument: bool = True


_BEFORE: Final = (State.AUTHORIZATION,)
_AFTER: Final = (State.TRANSACTION,)

COMMANDS: Final[dict[bytes, Command]] = {
    b"CAPA": Command(Pop3Session.capa, _BEFORE + _AFTER, takes_argument=False),
    b"QUIT": Command(Pop3Session.quit, _BEFORE + _AFTER, takes_argument=False),
    b"STLS": Command(Pop3Session.stls, _BEFORE, takes_argument=False),
    b"USER": Command(Pop3Session.user, _BEFORE, in_clear=False),
    b"PASS": Command(Pop3Session.password, _BEFORE, in_clear=False),
    b"AUTH": Command(Pop3Session.auth, _BEFORE, in_clear=False),
    b"STAT": Command(Pop3Session.stat, _AFTER, takes_argument=False),
    b"LIST": Command(Pop3Session.scan, _AFTER),
    b"UIDL": Command(Pop3Session.uidl, _AFTER),
    b"RETR": Command(Pop3Session.retr, _AFTER),
    b"TOP": Command(Pop3Session.top, _AFTER),
    b"DELE": Command(Pop3Session.dele, _AFTER),
    b"RSET": Command(Pop3Session.rset, _AFTER, takes_argument=False),
    b"NOOP": Command(Pop3Session.noop, _AFTER, takes_argument=False),
}
