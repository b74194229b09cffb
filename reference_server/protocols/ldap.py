"""One client's LDAP session (RFC 4511): the address book of those who have an account, to be read.

Owns: what may be asked for in which state, binding, StartTLS, and the notice before the session ends.  Knows no socket
and no clock, no BER beyond its messages, and not what an entry looks like.

Requests are carried out one after the other, so an Abandon always comes too late, which RFC 4511 4.11 allows, and none
is outstanding when StartTLS is asked for.  Time limits of searches are measured by a clock that is handed in.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Final

from reference_server.accounts import Account
from reference_server.mailstore import MailStore
from reference_server.protocols import ldap_messages as messages
from reference_server.protocols.ber import BerError, ElementReader
from reference_server.protocols.ldap_directory import (
    SUFFIX,
    BadName,
    Directory,
    Found,
    Outcome,
    Scope,
    parse_name,
    root_dse,
)
from reference_server.protocols.ldap_filter import holds
from reference_server.protocols.ldap_messages import (
    Abandon,
    Answer,
    Bind,
    Compare,
    Extended,
    Message,
    Result,
    Search,
    Unbind,
    Update,
)
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

MAX_MESSAGE: Final = 256 * 1024
"""Octets of a request; slapd takes as many from clients that it does not know."""
MAX_ENTRIES: Final = 1000
"""Entries that one search brings at most, however many are asked for."""
MAX_FAILED_BINDS: Final = 5
ENTRIES_AT_ONCE: Final = 100
"""Entries that are sent in one piece; before the next the client must have taken most of it."""

_OUTCOMES: Final = {outcome: Result(outcome.value) for outcome in Outcome}


def refusal(why: Refusal) -> bytes:
    """What a client hears that is not let in."""
    match why:
        case Refusal.DENIED:
            reason = "this service is not open to your address"
        case Refusal.ADDRESS_LIMIT:
            reason = "too many connections from your address"
        case Refusal.SERVICE_LIMIT:
            reason = "too many connections, try again later"
        case Refusal.BLOCKED:
            reason = "too many failed logins from your address"
    return messages.notice_of_disconnection(Result.UNAVAILABLE, reason)


class State(enum.Enum):
    OPEN = "the next request is carried out"
    BUSY = "a job is under way, and requests wait"
    OVER = "nothing more will be said"


class LdapSession:
    """See :class:`reference_server.session.Session` for what each event means."""

    __slots__ = (
        "_account", "_directory", "_failed_binds", "_now", "_policy", "_requests", "_security", "_state", "_stopping",
        "_store",
    )  # fmt: skip

    def __init__(self, policy: Policy, store: MailStore, now: Callable[[], float]) -> None:
        self._policy = policy
        self._store = store
        self._now = now
        self._directory = Directory(store)
        self._requests = ElementReader(MAX_MESSAGE)
        self._security: Security | None = None
        self._account: Account | None = None
        self._failed_binds = 0
        self._state = State.OPEN
        self._stopping = False

    # ---- events

    @property
    def unfinished(self) -> bool:
        return self._requests.pending

    def connected(self, peer: Peer, security: Security | None) -> Actions:
        del peer
        self._security = security
        return ()

    def received(self, data: bytes) -> Actions:
        if self._state is State.OVER:
            return ()
        self._requests.feed(data)
        return self._advance([])

    def secured(self, security: Security) -> Actions:
        # RFC 4513 3.1.2 leaves open who the client is now; nobody, until it says so under TLS.
        self._security = security
        self._account = None
        return ()

    def failed(self, error: Exception) -> Actions:
        del error
        return self._end(Result.OTHER, "something went wrong here")

    def woken(self) -> Actions:
        return ()

    def idled(self) -> Actions:
        return self._end(Result.UNAVAILABLE, "nothing was asked for too long")

    def stopping(self) -> Actions:
        if self._state is State.BUSY:
            self._stopping = True
            return ()
        if self._state is State.OVER:
            return ()
        return self._end(Result.UNAVAILABLE, "the server is shutting down")

    def ended(self) -> None:
        self._state = State.OVER
        self._requests.clear()

    # ---- the one place where requests become answers

    def _advance(self, answers: list[bytes]) -> Actions:
        while True:
            try:
                octets = self._requests.element()
                message = None if octets is None else messages.read_message(octets)
            except BerError as error:
                # RFC 4511 4.1.1, 5.1: nobody knows where the next message begins.
                return (*_sent(answers), *self._end(Result.PROTOCOL_ERROR, str(error)))
            if message is None:
                return _sent(answers)
            done = self._carry_out(message)
            if isinstance(done, bytes):
                answers.append(done)
            else:
                return (*_sent(answers), *done)

    def _carry_out(self, message: Message) -> bytes | tuple[Action, ...]:
        """The answer, or what ends this round of requests."""
        number, request = message.number, message.request
        if message.unavailable_control is not None:
            answer = messages.answer_to(request)
            if answer is not None:
                reason = f"the control {message.unavailable_control} is not available"
                return messages.result(number, answer, Result.UNAVAILABLE_CRITICAL_EXTENSION, reason)
        match request:
            case Bind():
                return self._bind(number, request)
            case Unbind():
                self.ended()
                return (Close(),)
            case Search():
                return self._search(number, request)
            case Compare():
                return self._compare(number, request)
            case Abandon():
                return b""
            case Extended():
                return self._extended(number, request)
            case Update(answer):
                return messages.result(number, answer, Result.UNWILLING_TO_PERFORM, "the book is only read here")

    def _resume(self, *said: bytes) -> Actions:
        """Go on after a job."""
        self._state = State.OPEN
        if self._stopping:
            return (*_sent(said), *self._end(Result.UNAVAILABLE, "the server is shutting down"))
        return self._advance(list(said))

    def _end(self, code: Result, reason: str) -> tuple[Action, ...]:
        self.ended()
        return (Send(messages.notice_of_disconnection(code, reason)), Close())

    # ---- requests

    def _bind(self, number: int, bind: Bind) -> bytes | tuple[Action, ...]:
        # RFC 4513 4: whoever binds is nobody until it has succeeded.
        self._account = None
        answer = partial(messages.result, number, Answer.BIND)
        if bind.version != 3:
            return answer(Result.PROTOCOL_ERROR, "only version 3 is spoken here")
        if bind.password is None:
            return answer(Result.AUTH_METHOD_NOT_SUPPORTED, "only simple bind is offered")
        if not bind.password:
            if bind.name:  # RFC 4513 5.1.2: many a program takes a success for a login
                return answer(Result.UNWILLING_TO_PERFORM, "a name without a password proves nothing")
            return answer(Result.SUCCESS)
        if self._policy.login_needs_tls and self._security is None:
            # RFC 4513 6.3.1; said whether or not the password is right.
            return answer(Result.CONFIDENTIALITY_REQUIRED, "logins need TLS here")
        try:
            person = self._directory.person(parse_name(bind.name))
        except BadName as error:
            return answer(Result.INVALID_DN_SYNTAX, str(error))
        self._state = State.BUSY
        # A name that does not exist costs as much as one that does.
        name = "" if person is None else person.name
        password = bind.password.decode(errors="surrogateescape")
        return (Perform(partial(self._store.authenticate, name, password), partial(self._bound, number)),)

    def _bound(self, number: int, account: Account | None) -> Actions:
        if account is not None:
            self._account = account
            return self._resume(messages.result(number, Answer.BIND, Result.SUCCESS))
        self._failed_binds += 1
        answer = messages.result(number, Answer.BIND, Result.INVALID_CREDENTIALS, "name or password is wrong")
        if self._failed_binds < MAX_FAILED_BINDS:
            return (LoginFailed(), *self._resume(answer))
        return (LoginFailed(), Send(answer), *self._end(Result.UNAVAILABLE, "too many failed binds"))

    def _search(self, number: int, search: Search) -> bytes | tuple[Action, ...]:
        if not search.base and search.scope is Scope.BASE:
            return self._root_dse(number, search)
        # RFC 4511 4.5.1.4: the server's own limit holds where the client sets none or a higher one.
        most = min(search.size_limit or MAX_ENTRIES, MAX_ENTRIES)
        base = search.base or SUFFIX  # below the root there is one tree; some address books ask for it so
        self._state = State.BUSY
        job = partial(self._find, base, search, most)
        return (Perform(job, partial(self._found, number, search)),)

    def _find(self, base: str, search: Search, most: int) -> Found | BadName:
        """Runs where it may block: there may be many accounts."""
        until = self._now() + search.time_limit
        in_time = (lambda: self._now() < until) if search.time_limit else (lambda: True)
        try:
            return self._directory.search(base, search.scope, search.filter, most=most, in_time=in_time)
        except BadName as error:
            return error

    def _found(self, number: int, search: Search, found: Found | BadName) -> Actions:
        done = partial(messages.result, number, Answer.SEARCH_DONE)
        if isinstance(found, BadName):
            return self._resume(done(Result.INVALID_DN_SYNTAX, str(found)))
        entries = (
            messages.entry(number, entry.dn, entry.selected(search.attributes), types_only=search.types_only)
            for entry in found.entries
        )
        return self._tell(entries, done(_OUTCOMES[found.outcome], matched=found.matched))

    def _tell(self, entries: Iterator[bytes], last: bytes) -> Actions:
        """Some entries, and the rest when the client has taken them."""
        piece = b"".join(islice(entries, ENTRIES_AT_ONCE))
        if not piece:
            return self._resume(last)
        return (Send(piece), Perform(_nothing, lambda _: self._tell(entries, last)))

    def _root_dse(self, number: int, search: Search) -> bytes:
        # RFC 4512 5.1: StartTLS stands there only while it can be had.
        extensions = [messages.WHO_AM_I]
        if self._policy.offers_tls and self._security is None:
            extensions.insert(0, messages.START_TLS)
        features = (messages.ALL_OPERATIONAL_ATTRIBUTES, messages.ABSOLUTE_TRUE_FALSE)
        entry = root_dse(extensions=extensions, features=features)
        told = b""
        if holds(search.filter, entry):
            told = messages.entry(number, "", entry.selected(search.attributes), types_only=search.types_only)
        return told + messages.result(number, Answer.SEARCH_DONE, Result.SUCCESS)

    def _compare(self, number: int, compare: Compare) -> bytes:
        answer = partial(messages.result, number, Answer.COMPARE)
        try:
            found = self._directory.compare(compare.name, compare.attribute, compare.value)
        except BadName as error:
            return answer(Result.INVALID_DN_SYNTAX, str(error))
        return answer(_OUTCOMES[found.outcome], matched=found.matched)

    def _extended(self, number: int, request: Extended) -> bytes | tuple[Action, ...]:
        extension = EXTENSIONS.get(request.name)
        if extension is None:
            return messages.extended_result(number, Result.PROTOCOL_ERROR, "there is no such extension here")
        return extension(self, number, request.value)

    def start_tls(self, number: int, value: bytes | None) -> bytes | tuple[Action, ...]:
        answer = partial(messages.extended_result, number, name=messages.START_TLS)
        if self._security is not None:
            return answer(Result.OPERATIONS_ERROR, "TLS is active already")  # RFC 4513 3.1.1
        if not self._policy.offers_tls:
            return answer(Result.PROTOCOL_ERROR, "TLS is not offered here")  # RFC 4511 4.14.2
        if value is not None:
            return answer(Result.PROTOCOL_ERROR, "StartTLS has no value")
        # What came in clear behind the request must not be served inside TLS.
        self._requests.clear()
        return (Send(answer(Result.SUCCESS)), StartTls())

    def who_am_i(self, number: int, value: bytes | None) -> bytes:
        """RFC 4532: the authorization identity, empty for nobody."""
        if value is not None:
            return messages.extended_result(number, Result.PROTOCOL_ERROR, "Who am I? has no value")
        identity = b"" if self._account is None else b"u:" + self._account.name.encode()
        return messages.extended_result(number, Result.SUCCESS, value=identity)


EXTENSIONS: Final[dict[str, Callable[[LdapSession, int, bytes | None], bytes | tuple[Action, ...]]]] = {
    messages.START_TLS: LdapSession.start_tls,
    messages.WHO_AM_I: LdapSession.who_am_i,
}


def _nothing() -> None:
    """What is waited for is only that the client reads."""


def _sent(answers: list[bytes] | tuple[bytes, ...]) -> tuple[Action, ...]:
    octets = b"".join(answers)
    return (Send(octets),) if octets else ()
