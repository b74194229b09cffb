"""One client's IMAP4rev1 conversation (RFC 3501), from the greeting to the farewell.

Owns: which command may come when (the table at the end is the state machine), logging in, IDLE, and the order of what
is said.  Deliberately knows no socket, no clock and no file: ``imap_input`` puts requests together, the modules
``imap_commands_...`` carry them out in jobs that the engine performs, ``imap_selected`` knows what the client sees of
its mailbox.

Extensions: IDLE (RFC 2177), NAMESPACE (2342), ID (2971), CHILDREN (3348), UNSELECT (3691), UIDPLUS (4315), SASL-IR
(4959), MOVE (6851), LITERAL+ (7888); response codes of RFC 5530.

Faults are told apart by whose they are.  What the peer writes wrongly is BAD, and many in a row end its patience with
BYE; what it may not have is NO; what fails on our side is NO [UNAVAILABLE].  A bug raises, and is the engine's to log.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from reference_server.mailstore import Account, MailStore
from reference_server.protocols import sasl
from reference_server.protocols.imap_commands import AFTER, ANY, BEFORE, ON_MAIL, OPEN, Read, State
from reference_server.protocols.imap_input import Continue, Fault, Rejected, Request, RequestReader
from reference_server.protocols.imap_selected import Answer, Client, Job, Outcome, Partly, carried_out
from reference_server.protocols.imap_syntax import BadSyntax, Cursor, id_arguments, login_arguments
from reference_server.protocols.lines import Flaw, Line
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
    Unwatch,
    Watch,
)

MAX_ERRORS: Final = 20
"""Replies of BAD in a row, after which the patience is over."""
MAX_FAILED_LOGINS: Final = 5


class Doing(enum.Enum):
    """What the session waits for."""

    LISTENING = "a request"
    LOGIN = "a response of a SASL exchange"
    VERIFYING = "a password is being checked"
    WORKING = "a request is being carried out"
    IDLING = "DONE, or something to tell"
    LOOKING = "what there is to tell to a client in IDLE is being looked up"
    OVER = "nothing, and nothing more will be said"


@dataclass(frozen=True, slots=True)
class _Then:
    """Lines (possibly none) and more actions: what ends a round of pipelined requests."""

    reply: bytes
    actions: tuple[Action, ...]


_Reply: TypeAlias = bytes | _Then

_ALWAYS: Final = b"IMAP4rev1 LITERAL+ SASL-IR IDLE NAMESPACE ID CHILDREN UNSELECT UIDPLUS MOVE"
_CONTINUE: Final = b"+ go ahead\r\n"
_STOPPING: Final = b"* BYE the server is shutting down\r\n"
_GONE: Final = b"* BYE the mailbox that was open has been deleted\r\n"
_BAD_LINE: Final = {
    Flaw.TOO_LONG: b"BAD the line is too long",
    Flaw.BARE_LF: b"BAD lines end with CR LF, not with LF alone",
}


def refusal(reason: Refusal) -> bytes:
    """What a client hears that is not let in, before the connection is closed (RFC 3501 7.1.5)."""
    match reason:
        case Refusal.DENIED | Refusal.BLOCKED:
            return b"* BYE this service is not open to your address\r\n"
        case Refusal.ADDRESS_LIMIT:
            return b"* BYE [LIMIT] too many connections from your address\r\n"
        case Refusal.SERVICE_LIMIT:
            return b"* BYE [UNAVAILABLE] too many connections, try again later\r\n"


class ImapSession:
    """See :class:`reference_server.session.Session` for what each event means."""

    __slots__ = (
        "_client", "_doing", "_errors", "_exchange", "_failed_logins", "_policy", "_reader", "_security",
        "_stirred", "_stopping", "_store", "_tag",
    )  # fmt: skip

    def __init__(self, policy: Policy, store: MailStore) -> None:
        self._policy = policy
        self._store = store
        self._reader = RequestReader()
        self._security: Security | None = None
        self._doing = Doing.LISTENING
        self._client: Client | None = None
        self._exchange: sasl.Exchange | None = None
        self._tag = b""
        self._errors = 0
        self._failed_logins = 0
        self._stirred = False
        self._stopping = False

    # ---- events

    @property
    def unfinished(self) -> bool:
        # A client in IDLE owes nothing, although its command has no reply yet.
        return self._doing is Doing.LOGIN or self._reader.unfinished

    def connected(self, peer: Peer, security: Security | None) -> Actions:
        del peer
        self._security = security
        hostname = self._policy.hostname.encode("ascii", "replace")
        return (Send(b"* OK [CAPABILITY %s] %s IMAP4rev1 ready\r\n" % (self._capabilities(), hostname)),)

    def received(self, data: bytes) -> Actions:
        if self._doing is Doing.OVER:
            return ()
        self._reader.feed(data)
        return self._advance([])

    def secured(self, security: Security) -> Actions:
        # RFC 3501 6.2.1: the client asks for the capabilities anew; nothing that it said in clear is known.
        self._security = security
        return ()

    def failed(self, error: Exception) -> Actions:
        if self._doing is Doing.LOOKING:
            self._doing = Doing.IDLING
            return self._bye(b"* BYE [UNAVAILABLE] the mailbox cannot be read\r\n")
        code = b"UNAVAILABLE" if isinstance(error, OSError) else b"SERVERBUG"
        what = b"logins cannot be checked" if self._doing is Doing.VERIFYING else b"that cannot be done"
        told = b"" if self._client is None or self._client.selected is None else self._client.selected.told()
        return self._resume(b"NO [%s] %s at the moment" % (code, what), told)

    def woken(self) -> Actions:
        if self._doing is not Doing.IDLING:
            return ()
        return (self._look(),)

    def idled(self) -> Actions:
        # RFC 3501 5.4, 7.1.5: autologout is announced.
        return self._bye(b"* BYE waited long enough, goodbye\r\n")

    def stopping(self) -> Actions:
        match self._doing:
            case Doing.VERIFYING | Doing.WORKING | Doing.LOOKING:
                self._stopping = True  # what is under way is still answered for
                return ()
            case Doing.OVER:
                return ()
        return self._bye(_STOPPING)

    def ended(self) -> None:
        self._end()

    # ---- the one place where requests become replies

    def _advance(self, replies: list[bytes]) -> Actions:
        while True:
            if self._errors >= MAX_ERRORS:
                replies.append(b"* BYE too many errors, goodbye\r\n")
                return self._bye(b"".join(replies))
            reply = self._next_reply()
            if reply is None:
                return (Send(b"".join(replies)),) if replies else ()
            if isinstance(reply, _Then):
                if reply.reply:
                    replies.append(reply.reply)
                return (Send(b"".join(replies)), *reply.actions) if replies else reply.actions
            replies.append(reply)

    def _next_reply(self) -> _Reply | None:
        match self._doing:
            case Doing.LOGIN:
                line = self._reader.line()
                return None if line is None else self._response(line)
            case Doing.IDLING:
                line = self._reader.line()
                return None if line is None else self._done(line)
        match self._reader.next():
            case None:
                return None
            case Continue.LITERAL:
                return _CONTINUE
            case Rejected(tag, fault):
                return self._rejected(tag, fault)
            case Request() as request:
                self._tag = request.tag
                return self._requested(request)

    def _requested(self, request: Request) -> _Reply:
        command = COMMANDS.get(request.verb)
        if command is None:
            return self._tagged(b"BAD there is no such command")
        if self._state not in command.states:
            return self._tagged(self._out_of_order(command))
        if not command.in_clear and self._policy.login_needs_tls and self._security is None:
            # RFC 3501 6.2.3; the client should not have sent a password, but it may not have.
            return self._tagged(b"NO [PRIVACYREQUIRED] logins need TLS here")
        try:
            if not command.takes_argument:
                Cursor(request.text).end()
            return command.run(self, request)
        except BadSyntax as fault:
            return self._tagged(b"BAD %s" % str(fault).encode("ascii", "replace"))

    def _out_of_order(self, command: Command) -> bytes:
        if self._state is State.NOT_AUTHENTICATED:
            return b"BAD log in first"
        return b"BAD you are logged in already" if command.states == BEFORE else b"BAD open a mailbox first"

    def _rejected(self, tag: bytes | None, fault: Fault | str) -> _Reply:
        self._tag = tag or b"*"
        words = (fault.value if isinstance(fault, Fault) else fault).encode("ascii")
        if fault is Fault.FLOOD:
            return _Then(b"", tuple(self._bye(b"* BYE %s\r\n" % words)))
        return self._tagged(b"%s %s" % (b"NO [LIMIT]" if fault is Fault.MESSAGE_TOO_LARGE else b"BAD", words))

    def _tagged(self, condition: bytes) -> bytes:
        self._errors = self._errors + 1 if condition.startswith(b"BAD") else 0
        return b"%s %s\r\n" % (self._tag, condition)

    @property
    def client(self) -> Client:
        """Who has logged in, for commands that come only after that."""
        assert self._client is not None
        return self._client

    @property
    def _state(self) -> State:
        if self._client is None:
            return State.NOT_AUTHENTICATED
        return State.AUTHENTICATED if self._client.selected is None else State.SELECTED

    # ---- work

    def work(self, job: Job, *, expunge: bool) -> _Then:
        """Have ``job`` carried out, and tell the client what else there is to tell."""
        assert self._client is not None
        self._doing = Doing.WORKING
        return _Then(b"", (Perform(partial(carried_out, self._client, job, expunge), self._worked),))

    def _worked(self, outcome: Outcome) -> Actions:
        assert self._client is not None
        if isinstance(outcome, Partly):
            lines = (Send(outcome.untagged),) if outcome.untagged else ()
            if self._stopping:
                return self._bye(outcome.untagged + _STOPPING)
            # What can be sent is sent, and others have their turn.
            return (*lines, Perform(outcome.rest, self._worked))
        if outcome.fatal:
            return self._bye(outcome.untagged + self._tagged(outcome.condition) + _GONE)
        return self._resume(outcome.condition, outcome.untagged)

    def _resume(self, condition: bytes, untagged: bytes = b"") -> Actions:
        """Go on after a job."""
        reply = untagged + self._tagged(condition)
        if self._stopping:
            return self._bye(reply + _STOPPING)
        self._doing = Doing.LISTENING
        return self._advance([reply])

    def _bye(self, farewell: bytes) -> Actions:
        self._end()
        return (Send(farewell), Close())

    def _end(self) -> None:
        self._doing = Doing.OVER
        self._client = None
        self._exchange = None
        self._reader.clear()

    # ---- commands in any state

    def capability(self, _request: Request) -> _Reply:
        return b"* CAPABILITY %s\r\n" % self._capabilities() + self._tagged(b"OK done")

    def noop(self, _request: Request) -> _Reply:
        if self._state is State.SELECTED:
            return self.work(partial(Answer, b"OK done"), expunge=True)
        return self._tagged(b"OK done")

    def id(self, request: Request) -> _Reply:
        id_arguments(Cursor(request.text))
        return b'* ID ("name" "listenspec")\r\n' + self._tagged(b"OK done")

    def logout(self, _request: Request) -> _Reply:
        return _Then(b"", tuple(self._bye(b"* BYE goodbye\r\n" + self._tagged(b"OK done"))))

    def _capabilities(self) -> bytes:
        if self._client is not None:
            return _ALWAYS
        words = [_ALWAYS]
        if self._security is None and self._policy.offers_tls:
            words.append(b"STARTTLS")
        # RFC 3501 6.2.3, 7.2.1: no mechanism is offered that would be refused.
        words.append(b"LOGINDISABLED" if self._policy.login_needs_tls and self._security is None else b"AUTH=PLAIN")
        return b" ".join(words)

    # ---- commands before the login

    def start_tls(self, _request: Request) -> _Reply:
        if self._security is not None:
            return self._tagged(b"BAD TLS is active already")
        if not self._policy.offers_tls:
            return self._tagged(b"BAD TLS is not available")
        # CVE-2011-0411: what came in clear behind the command must not be served inside TLS.
        self._reader.clear()
        return _Then(self._tagged(b"OK begin"), (StartTls(),))

    def login(self, request: Request) -> _Reply:
        return self._verify(*login_arguments(Cursor(request.text)))

    def authenticate(self, request: Request) -> _Reply:
        words = request.text.split(b" ")
        if len(words) > 2 or not words[0]:
            raise BadSyntax("AUTHENTICATE takes a mechanism and at most one response")
        if words[0].upper() != sasl.Mechanism.PLAIN.value:
            return self._tagged(b"NO PLAIN is the mechanism here")
        exchange = sasl.Exchange(sasl.Mechanism.PLAIN)
        return self._login_step(exchange, exchange.begin(words[1] if len(words) == 2 else None))

    def _response(self, line: Line) -> _Reply:
        exchange = self._exchange
        assert exchange is not None
        self._doing = Doing.LISTENING
        self._exchange = None
        if isinstance(line, Flaw):
            return self._tagged(_BAD_LINE[line])
        return self._login_step(exchange, exchange.respond(line))

    def _login_step(self, exchange: sasl.Exchange, step: sasl.Step) -> _Reply:
        match step:
            case sasl.Challenge(text):
                self._doing = Doing.LOGIN
                self._exchange = exchange
                return b"+ %s\r\n" % text
            case sasl.Credentials(name, password):
                return self._verify(name, password)
            case sasl.Malformed(reason):
                return self._tagged(b"BAD the response is %s" % reason.encode())
            case sasl.Cancelled():
                return self._tagged(b"BAD as you like")  # RFC 3501 6.2.2
            case sasl.Denied():
                return self._tagged(b"NO [AUTHORIZATIONFAILED] nobody can act for somebody else here")

    def _verify(self, name: str, password: str) -> _Reply:
        self._doing = Doing.VERIFYING
        return _Then(b"", (Perform(partial(self._store.authenticate, name, password), self._verified),))

    def _verified(self, account: Account | None) -> Actions:
        if account is not None:
            self._client = Client(self._store, account)
            self._reader.trusted = True
            return self._resume(b"OK [CAPABILITY %s] logged in" % self._capabilities())
        self._failed_logins += 1
        if self._failed_logins < MAX_FAILED_LOGINS:
            return (LoginFailed(), *self._resume(b"NO [AUTHENTICATIONFAILED] name or password is wrong"))
        denied = self._tagged(b"NO [AUTHENTICATIONFAILED] name or password is wrong")
        return (LoginFailed(), *self._bye(denied + b"* BYE too many failed logins, goodbye\r\n"))

    # ---- waiting for news

    def idle(self, _request: Request) -> _Reply:
        self._doing = Doing.IDLING
        if self._state is not State.SELECTED:
            return b"+ idling\r\n"
        # Looked at once more behind Watch: what came between the last look and now would wake nobody.
        return _Then(b"+ idling\r\n", (Watch(self._watch), self._look()))

    def _watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        assert self._client is not None

        def stir() -> None:
            self._stirred = True
            wake()

        return self._store.watch(self._client.account, stir)

    def _look(self) -> Perform:
        assert self._client is not None
        self._doing = Doing.LOOKING
        self._stirred = False
        return Perform(partial(carried_out, self._client, partial(Answer, b""), True), self._looked)

    def _looked(self, outcome: Outcome) -> Actions:
        assert isinstance(outcome, Answer)
        self._doing = Doing.IDLING
        if outcome.fatal:
            return self._bye(_GONE)
        if self._stopping:
            return self._bye(outcome.untagged + _STOPPING)
        news = (Send(outcome.untagged),) if outcome.untagged else ()
        if self._stirred:  # while the look was under way nobody would have woken us
            return (*news, self._look())
        return (*news, *self._advance([]))

    def _done(self, line: Line) -> _Reply:
        self._doing = Doing.LISTENING
        if isinstance(line, Flaw):
            reply = self._tagged(_BAD_LINE[line])
        elif line.upper() == b"DONE":
            reply = self._tagged(b"OK done")
        else:
            reply = self._tagged(b"BAD IDLE ends with DONE")
        if self._state is State.SELECTED:
            return _Then(reply, (Unwatch(), *self._advance([])))
        return reply


@dataclass(frozen=True, slots=True)
class Command:
    """When a command may come, and what it does then.

    ``in_clear``: whether it may come without TLS even where logins need TLS.
    """

    run: Callable[[ImapSession, Request], _Reply]
    states: tuple[State, ...]
    in_clear: bool = True
    takes_argument: bool = True


def _asks(read: Read, *, expunge: bool) -> Callable[[ImapSession, Request], _Reply]:
    """A command whose arguments ``read`` makes a job of."""

    def run(session: ImapSession, request: Request) -> _Reply:
        return session.work(read(session.client, request), expunge=expunge)

    return run


COMMANDS: Final[dict[bytes, Command]] = {
    b"CAPABILITY": Command(ImapSession.capability, ANY, takes_argument=False),
    b"NOOP": Command(ImapSession.noop, ANY, takes_argument=False),
    b"ID": Command(ImapSession.id, ANY),
    b"LOGOUT": Command(ImapSession.logout, ANY, takes_argument=False),
    b"STARTTLS": Command(ImapSession.start_tls, BEFORE, takes_argument=False),
    b"LOGIN": Command(ImapSession.login, BEFORE, in_clear=False),
    b"AUTHENTICATE": Command(ImapSession.authenticate, BEFORE, in_clear=False),
    b"IDLE": Command(ImapSession.idle, AFTER, takes_argument=False),
    b"CHECK": Command(ImapSession.noop, OPEN, takes_argument=False),
    **{verb: Command(_asks(each.read, expunge=each.expunge), each.states) for verb, each in ON_MAIL.items()},
}
