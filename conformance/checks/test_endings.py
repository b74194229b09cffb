"""State safety when connections end (CLS): goodbyes, and that no reply is lost or given twice on the way there.

What becomes of mail when a connection ends is examined in ``test_endings_mail``.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping

from conformance.check import NO_CHANNEL, Channel, Inconclusive, Latitude, Mismatch, NotOffered, check
from conformance.dialects import imap, pop3, smtp
from conformance.dialects.dialect import Malformed
from conformance.mail import keeper, sign_in
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
    wire = sign_in(endpoint, keeper(endpoint)).wire
    take_leave(endpoint, wire, "after a login")
    if endpoint.service is Service.SMTP:
        wire = sign_in(endpoint, keeper(endpoint)).wire
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
    seen.require()
    for guest in seen.guests:
        if guest.in_request or endpoint.dialect.is_farewell(guest.said):
            continue
        told = f"{guest.title}: {guest.said!r} and {guest.ending}"
        if endpoint.service is Service.IMAP:
            raise Mismatch("BYE when the server stops", told)
        raise Latitude(f"without a farewell when the server stops, {told}")


# -- what is on its way ----------------------------------------------------------------------------------------------

#: Commands before a login, the login, and commands behind it that show whether it was accepted.
Round = Callable[[Endpoint], tuple[list[bytes], list[bytes]]]


def _round_of_smtp(endpoint: Endpoint) -> tuple[list[bytes], list[bytes]]:
    secret = base64.b64encode(f"\0{keeper(endpoint).login}\0{keeper(endpoint).password}".encode())
    commands = [b"NOOP", b"AUTH PLAIN " + secret, b"MAIL FROM:<sender@example.org>", b"RSET", b"NOOP", b"QUIT"]
    return commands, [b"250", b"235", b"250", b"250", b"250", b"221"]


def _round_of_pop3(endpoint: Endpoint) -> tuple[list[bytes], list[bytes]]:
    account = keeper(endpoint)
    login = [b"USER " + account.login.encode(), b"PASS " + account.password.encode()]
    return [*login, b"STAT", b"NOOP", b"RSET", b"QUIT"], [b"+OK"] * 6


def _round_of_imap(endpoint: Endpoint) -> tuple[list[bytes], list[bytes]]:
    account = keeper(endpoint)
    login = f'LOGIN "{account.login}" "{account.password}"'.encode()
    commands = [b"NOOP", login, b"NOOP", b"STATUS INBOX (MESSAGES)", b"NOOP", b"LOGOUT"]
    tags = [imap.new_tag() for _ in commands]
    return [tag + b" " + command for tag, command in zip(tags, commands, strict=True)], [tag + b" OK" for tag in tags]


ROUNDS: Mapping[Service, Round] = {
    Service.SMTP: _round_of_smtp,
    Service.POP3: _round_of_pop3,
    Service.IMAP: _round_of_imap,
}


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
        commands, expected = ROUNDS[endpoint.service](endpoint)
        # Without the goodbye: the close is to come by itself.
        wire, commands, expected = visit.wire, commands[:-1], expected[:-1]
        send_round(endpoint, wire, commands)
        wire.notify_close()
        wire.finish()
        for number, beginning in enumerate(expected):
            try:
                reply = READERS[endpoint.service](wire)
            except Ended as end:
                raise Latitude(f"closed at once: {number} of {len(expected)} replies came, then {end}") from None
            except (Silent, Malformed) as error:
                raise Mismatch(f"{len(expected)} replies, or a close", f"{number}, and then {error}") from None
            require_reply(reply, beginning, number)
        try:
            wire.await_end(PATIENCE)
        except Silent as silence:
            raise Mismatch("the connection to be closed behind the last reply", str(silence)) from None


@check("CLS-14", scenario="general", services=tuple(ROUNDS))
def test_commands_around_a_login_are_carried_out_once(endpoint: Endpoint) -> None:
    with endpoint.visit() as visit:
        require_pipelining(endpoint, visit.wire)
        commands, expected = ROUNDS[endpoint.service](endpoint)
        send_round(endpoint, visit.wire, commands)
        for number, beginning in enumerate(expected):
            with expecting(f"{len(expected)} replies to as many commands (this is number {number + 1})"):
                reply = READERS[endpoint.service](visit.wire)
            require_reply(reply, beginning, number)
        try:
            _, behind = visit.wire.await_end(PATIENCE)
        except Silent as silence:
            raise Mismatch("the connection to be closed after the goodbye", str(silence)) from None
        if behind:
            raise Mismatch(f"{len(expected)} replies to as many commands", f"more came: {behind!r}")


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


def send_round(endpoint: Endpoint, wire: Wire, commands: list[bytes]) -> None:
    secret = keeper(endpoint).password.encode()
    hidden = [b"<login>" if secret in command or command.startswith(b"AUTH") else command for command in commands]
    wire.send(b"\r\n".join([*commands, b""]), shown=b"\r\n".join([*hidden, b""]))


def require_reply(reply: bytes, beginning: bytes, number: int) -> None:
    if not reply.upper().startswith(beginning.upper()):
        raise Mismatch(f"reply number {number + 1} to begin with {beginning.decode()!r}", repr(reply))
