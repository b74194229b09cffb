"""State safety when connections end (CLS): goodbyes, and that no reply is lost or given twice on the way there.

What becomes of mail when a connection ends is examined in ``test_endings_mail``.
"""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Callable, Mapping

from conformance.check import NO_CHANNEL, Channel, Inconclusive, Latitude, Mismatch, NotOffered, check
from conformance.dialects import imap, pop3, smtp
from conformance.dialects.dialect import Credentials, Malformed
from conformance.mail import arrived, keeper, newcomer, sign_in, takes_logins
from conformance.visit import Endpoint, Refusal, expecting
from conformance.watch import Seen
from conformance.wire import PATIENCE, Ended, Ending, Silent, Wire
from reference_server.settings import Service

Observed = Callable[..., Seen]

#: More than one, so that it is no chance, and far fewer than anybody takes for an attack.  No line of a header or of
#: HTTP among them: a server may take such a client for one that was led astray, and defend itself (Postfix does).
UNKNOWN_COMMANDS = (b"XYZZY", b"FROBNICATE all of it", b"REMEMBER <sender@example.org>")


@check("CLS-05", scenario="general")
def test_unknown_commands_end_no_session(endpoint: Endpoint) -> None:
    with endpoint.visit() as visit:
        for command in UNKNOWN_COMMANDS:
            with expecting(f"a reply of 5xx to {command.decode()!r}"):
                code, reply = smtp.ask(visit.wire, command)
            # RFC 5321 4.2.4: 500 for what is not known, 502 for what is not done here.
            if not 500 <= code <= 599:
                raise Mismatch(f"a reply of 5xx to {command.decode()!r}", repr(reply))
        with expecting("commands out of order to be refused in a session that lives on"):
            code, reply = smtp.ask(visit.wire, b"DATA")
            if not 500 <= code <= 599:
                raise Mismatch("DATA without a transaction to be refused with 5xx", repr(reply))
            smtp.demand(visit.wire, b"NOOP", 250)
            smtp.demand(visit.wire, b"RSET", 250)


# -- goodbyes --------------------------------------------------------------------------------------------------------


def _farewell_of_smtp(wire: Wire) -> None:
    with expecting("QUIT to be answered with 221"):
        smtp.demand(wire, b"QUIT", 221)


def _farewell_of_pop3(wire: Wire) -> None:
    with expecting("QUIT to be answered with +OK"):
        pop3.ask(wire, b"QUIT")


def _farewell_of_imap(wire: Wire) -> None:
    with expecting("LOGOUT to be answered with a tagged OK"):
        untagged = imap.ask(wire, b"LOGOUT")
    # RFC 3501 6.1.3: BYE comes before the tagged OK.
    if not any(response[:5].upper() == b"* BYE" for response in untagged):
        raise Mismatch("an untagged BYE before the OK of LOGOUT", repr(b"".join(untagged)))


FAREWELLS: Mapping[Service, Callable[[Wire], None]] = {
    Service.SMTP: _farewell_of_smtp,
    Service.POP3: _farewell_of_pop3,
    Service.IMAP: _farewell_of_imap,
}


@check("CLS-09", scenario="general", services=tuple(FAREWELLS))
def test_a_goodbye_is_answered_and_the_connection_closed(endpoint: Endpoint) -> None:
    """Before a login, after one, and, in SMTP, within a transaction."""
    visit = endpoint.visit()
    take_leave(endpoint, visit.wire, "before a login")
    if takes_logins(endpoint):
        take_leave(endpoint, sign_in(endpoint, keeper(endpoint)).wire, "after a login")
    if endpoint.service is Service.SMTP:
        wire = arrived(endpoint, keeper(endpoint)).wire
        with expecting("MAIL to be accepted"):
            smtp.demand(wire, b"MAIL FROM:<sender@example.org>", 250)
        take_leave(endpoint, wire, "within a transaction")


def take_leave(endpoint: Endpoint, wire: Wire, when: str) -> None:
    FAREWELLS[endpoint.service](wire)
    orderly = Ending.FIN if endpoint.channel is Channel.PLAIN else Ending.CLOSE_NOTIFY
    try:
        ending, said = wire.await_end(PATIENCE)
    except Silent as silence:
        raise Mismatch(f"the connection to be closed after a goodbye {when}", str(silence)) from None
    if said:
        raise Mismatch(f"nothing more after the answer to a goodbye {when}", repr(said))
    if ending is not orderly:
        raise Mismatch(f"{orderly} after a goodbye {when}", str(ending))
    wire.close()


@check("CLS-12", scenario="restarted", channels=NO_CHANNEL, watches=("restart",))
def test_open_sessions_are_told_of_a_shutdown(observed: Observed, endpoint: Endpoint) -> None:
    seen = observed("restart")
    if not seen.guests:
        raise Inconclusive(f"nobody was there when the server stopped: {seen.mail_trouble or seen.trouble}")
    for guest in seen.guests:
        if guest.in_request or endpoint.dialect.is_farewell(guest.said):
            continue
        told = f"{guest.title}: {guest.said!r} and {guest.ending}"
        if endpoint.service is Service.IMAP:
            raise Mismatch("BYE when the server stops", told)
        raise Latitude(f"without a farewell when the server stops, {told}")


# -- what is on its way ----------------------------------------------------------------------------------------------

#: What is pipelined around a login, command by command, and how each reply begins.
Round = list[tuple[bytes, bytes]]


def _around_auth_of_smtp(account: Credentials) -> Round:
    login = b"AUTH PLAIN " + _plain(account)
    behind = [(b"MAIL FROM:<sender@example.org>", b"250"), (b"RSET", b"250"), (b"NOOP", b"250"), (b"QUIT", b"221")]
    return [(b"NOOP", b"250"), (login, b"235"), *behind]


def _around_pass(account: Credentials) -> Round:
    login = [b"USER " + account.login.encode(), b"PASS " + account.password.encode()]
    return [(command, b"+OK") for command in (*login, b"STAT", b"NOOP", b"RSET", b"QUIT")]


def _around_auth_of_pop3(account: Credentials) -> Round:
    return [(command, b"+OK") for command in (b"AUTH PLAIN " + _plain(account), b"STAT", b"NOOP", b"RSET", b"QUIT")]


def _around_login(account: Credentials) -> Round:
    return _tagged(f'LOGIN "{account.login}" "{account.password}"'.encode())


def _around_authenticate(account: Credentials) -> Round:
    return _tagged(b"AUTHENTICATE PLAIN " + _plain(account))


def _tagged(login: bytes) -> Round:
    commands = (b"NOOP", login, b"NOOP", b"STATUS INBOX (MESSAGES)", b"NOOP", b"LOGOUT")
    return [(tag + b" " + command, tag + b" OK") for command in commands for tag in (imap.new_tag(),)]


def _plain(account: Credentials) -> bytes:
    return base64.b64encode(f"\0{account.login}\0{account.password}".encode())


#: By service, what goes around each way of signing in, by the name that it has in capabilities.
ROUNDS: Mapping[Service, Mapping[str, Callable[[Credentials], Round]]] = {
    Service.SMTP: {"AUTH PLAIN": _around_auth_of_smtp},
    Service.POP3: {"USER": _around_pass, "SASL PLAIN": _around_auth_of_pop3},
    Service.IMAP: {"LOGIN": _around_login, "AUTH=PLAIN": _around_authenticate},
}


def rounds(endpoint: Endpoint, first: int) -> list[tuple[str, Round]]:
    """One round a way of signing in, each of an account of its own; ``first`` is the number of the first of them."""
    accounts = (newcomer(endpoint, number) for number in itertools.count(first))
    return [(name, around(next(accounts))) for name, around in ROUNDS[endpoint.service].items()]


def _reply_of_smtp(wire: Wire) -> bytes:
    return smtp.read_reply(wire)[1]


def _reply_of_pop3(wire: Wire) -> bytes:
    return wire.read_line()


def _reply_of_imap(wire: Wire) -> bytes:
    while (response := imap.read_response(wire)).startswith(b"* "):
        pass
    return response


READERS: Mapping[Service, Callable[[Wire], bytes]] = {
    Service.SMTP: _reply_of_smtp,
    Service.POP3: _reply_of_pop3,
    Service.IMAP: _reply_of_imap,
}


def require_pipelining(endpoint: Endpoint, wire: Wire) -> None:
    """RFC 3501 5.5 lets every client pipeline; elsewhere it must have been offered (RFC 2920, RFC 2449 6.6)."""
    if endpoint.service is not Service.IMAP and "PIPELINING" not in endpoint.dialect.capabilities(wire):
        raise NotOffered("pipelining is not advertised")


@check("CLS-10", scenario="general", services=tuple(ROUNDS))
def test_a_half_close_behind_commands_costs_no_reply(endpoint: Endpoint) -> None:
    """A login and commands behind it in one segment, and then the client has nothing more to say."""
    with endpoint.visit() as visit:
        require_pipelining(endpoint, visit.wire)
        name, around = rounds(endpoint, 0)[0]
        # Without the goodbye: the close is to come by itself.
        wire, around = visit.wire, around[:-1]
        if endpoint.service is Service.SMTP and not offers_at_once(endpoint, wire, name):
            around = [each for each in around if not each[0].startswith(b"AUTH")]
        send_round(wire, around)
        wire.notify_close()
        wire.finish()
        for number, (_, beginning) in enumerate(around):
            try:
                reply = READERS[endpoint.service](wire)
            except Ended as end:
                raise Latitude(f"closed at once: {number} of {len(around)} replies came, then {end}") from None
            except (Silent, Malformed) as error:
                raise Mismatch(f"{len(around)} replies, or a close", f"{number}, and then {error}") from None
            require_reply(reply, beginning, number)
        try:
            wire.await_end(PATIENCE)
        except Silent as silence:
            raise Mismatch("the connection to be closed behind the last reply", str(silence)) from None


@check("CLS-14", scenario="general", services=tuple(ROUNDS))
def test_commands_around_a_login_are_carried_out_once(endpoint: Endpoint) -> None:
    """Whatever way of signing in is offered: each command has one reply, in its order, and nothing comes behind."""
    tried = 0
    for name, around in rounds(endpoint, 1):
        with endpoint.visit() as visit:
            require_pipelining(endpoint, visit.wire)
            if offers_at_once(endpoint, visit.wire, name):
                require_once(endpoint, visit.wire, name, around)
                tried += 1
    if not tried:
        raise NotOffered("no way to sign in with one command is offered")


def offers_at_once(endpoint: Endpoint, wire: Wire, name: str) -> bool:
    """Whether a way of signing in is offered, with its answer in the command itself where it is one of SASL."""
    with expecting("a list of capabilities"):
        offered = name in endpoint.dialect.offered_logins(wire)
        at_once = name != "AUTH=PLAIN" or "SASL-IR" in endpoint.dialect.capabilities(wire)
    return offered and at_once


def require_once(endpoint: Endpoint, wire: Wire, name: str, around: Round) -> None:
    send_round(wire, around)
    for number, (_, beginning) in enumerate(around):
        with expecting(f"{len(around)} replies to as many commands around {name} (this is number {number + 1})"):
            reply = READERS[endpoint.service](wire)
        require_reply(reply, beginning, number)
    try:
        _, behind = wire.await_end(PATIENCE)
    except Silent as silence:
        raise Mismatch("the connection to be closed after the goodbye", str(silence)) from None
    if behind:
        raise Mismatch(f"{len(around)} replies to as many commands around {name}", f"more came: {behind!r}")


#: Commands whose answers fill a window of the client's; the goodbye; and more than any server reads at once.
Flood = tuple[bytes, bytes, bytes]
FLOODS: Mapping[Service, Flood] = {
    Service.SMTP: (b"EHLO client.example.test\r\n" * 40, b"QUIT\r\n", b"221"),
    Service.POP3: (b"CAPA\r\n" * 40, b"QUIT\r\n", b"+OK"),
    Service.IMAP: (b"c CAPABILITY\r\n" * 40, b"bye LOGOUT\r\n", b"bye OK"),
}
BEHIND = b"NOOP and more that nobody wants\r\n" * 50_000
WINDOW = 2048


@check("CLS-13", scenario="general", services=tuple(FLOODS))
def test_the_last_reply_survives_what_is_sent_behind_it(endpoint: Endpoint) -> None:
    """A goodbye behind commands whose answers wait to be read, and before much that the server will not read.

    Whoever closes while octets are unread sends RST, which costs the client all that it has not got yet.
    """
    commands, goodbye, expected = FLOODS[endpoint.service]
    outcome = endpoint.attempt(receive_buffer=WINDOW)
    if isinstance(outcome, Refusal):
        raise Inconclusive(f"no session: {outcome}")
    wire = outcome.wire
    require_pipelining(endpoint, wire)
    wire.pour(commands + goodbye + BEHIND)
    try:
        _, said = wire.await_end(PATIENCE)
    except Silent as silence:
        raise Mismatch("the connection to be closed after a goodbye", str(silence)) from None
    last = said.splitlines()[-1:]
    if not last or not last[0].upper().startswith(expected.upper()):
        raise Mismatch(
            f"the answer to a goodbye ({expected.decode()}), whatever the client sent behind it",
            f"the end after {len(said)} octets, of which the last were {said[-80:]!r}",
        )


def send_round(wire: Wire, around: Round) -> None:
    login = re.compile(rb"(AUTH|PASS|\S+ LOGIN|\S+ AUTHENTICATE) .*", re.IGNORECASE)
    shown = b"".join(login.sub(rb"\1 <credentials>", command) + b"\r\n" for command, _ in around)
    wire.send(b"".join(command + b"\r\n" for command, _ in around), shown=shown)


def require_reply(reply: bytes, beginning: bytes, number: int) -> None:
    if not reply.upper().startswith(beginning.upper()):
        raise Mismatch(f"reply number {number + 1} to begin with {beginning.decode()!r}", repr(reply))
