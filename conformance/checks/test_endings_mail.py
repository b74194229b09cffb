"""State safety when connections end (CLS): mail is removed, delivered or stored only if that was asked for entirely."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from conformance import mail
from conformance.check import NO_CHANNEL, Channel, Inconclusive, Mismatch, NotAssessable, check
from conformance.dialects import NotServed, pop3
from conformance.dialects.dialect import Malformed
from conformance.visit import Endpoint, expecting
from conformance.watch import Seen
from conformance.watches_mail import HALF_TEXT, STOCK, delete_first, half_append
from conformance.wire import PATIENCE, Ended, Silent, Wire

Observed = Callable[..., Seen]

#: A record of TLS that nobody can decrypt.
GARBAGE = b"\x17\x03\x03\x00\x20" + b"\xff" * 32


def _bad_record(wire: Wire) -> None:
    wire.send_raw(GARBAGE)


#: How a client can go without a word; the last two are broken endings where there is TLS.
ENDINGS: Mapping[str, Callable[[Wire], None]] = {"FIN": Wire.finish, "RST": Wire.reset}
TLS_ENDINGS: Mapping[str, Callable[[Wire], None]] = {
    "close_notify": Wire.close,
    "FIN without close_notify": Wire.finish,
    "RST": Wire.reset,
    "a broken record": _bad_record,
}


def endings(endpoint: Endpoint) -> Mapping[str, Callable[[Wire], None]]:
    """The ways to go that there are through the channel."""
    return ENDINGS if endpoint.channel is Channel.PLAIN else TLS_ENDINGS


def gone(wire: Wire) -> bytes:
    """What the server still said to a client that has gone."""
    try:
        return wire.await_end(PATIENCE)[1]
    except Silent:
        return b""
    finally:
        wire.close()


def require_mail(seen: Seen, lost: bool) -> None:
    """As many messages as there had to be."""
    if seen.not_counted is not None:
        raise NotAssessable(f"{seen.title}: {seen.not_counted}")
    if seen.mail_trouble is not None:
        raise Inconclusive(f"{seen.title}: {seen.mail_trouble}")
    if seen.mail is None:
        # Whatever else went wrong there is judged elsewhere.
        raise Inconclusive(f"{seen.title}: {seen.trouble or 'no mail was counted'}")
    expected, found = seen.mail
    if found < expected if lost else found > expected:
        raise Mismatch(f"{seen.title}: {expected} messages", f"{found}")


def was_ended(seen: Seen) -> bool:
    """Whether there is a time-out at all; that it ends the connection is judged elsewhere."""
    if seen.not_offered is not None:
        return False
    seen.require()
    if seen.after is None:
        raise Inconclusive(f"{seen.title}: the connection was not ended, so that nothing is shown")
    return True


# -- POP3 ------------------------------------------------------------------------------------------------------------


@check("CLS-01", scenario="general", watches=("deleted",))
def test_only_quit_removes_messages(endpoint: Endpoint, observed: Observed) -> None:
    """What is marked and not confirmed stays, however the session ends; QUIT removes it."""
    account = mail.keeper(endpoint)
    stock = mail.stock(endpoint, account, STOCK)
    for name, leave in endings(endpoint).items():
        wire = mail.sign_in(endpoint, account).wire
        with expecting("DELE to be answered"):
            delete_first(wire)
        leave(wire)
        gone(wire)
        require_all(endpoint, stock, f"after DELE and {name}")
    visit = mail.sign_in(endpoint, account)
    with expecting("DELE and QUIT to be answered"):
        delete_first(visit.wire)
        pop3.ask(visit.wire, b"QUIT")
    gone(visit.wire)
    left = mail.count(endpoint, account)
    if left != stock - 1:
        raise Mismatch(f"{stock - 1} of {stock} messages after DELE and QUIT", f"{left}")
    seen = observed("deleted")
    if was_ended(seen):
        require_mail(seen, lost=True)


def require_all(endpoint: Endpoint, stock: int, when: str) -> None:
    left = mail.count(endpoint, mail.keeper(endpoint))
    if left < stock:
        raise Mismatch(f"{stock} messages {when}", f"{left}")


@check("CLS-01", scenario="restarted", channels=NO_CHANNEL, watches=("restart",))
def test_a_stop_removes_no_messages(endpoint: Endpoint, observed: Observed) -> None:
    del endpoint
    require_mail(observed("restart"), lost=True)


@check("CLS-02", scenario="general")
def test_quit_before_a_login_removes_nothing(endpoint: Endpoint) -> None:
    """Nor with a name, a wrong password or DELE in front of it."""
    account = mail.keeper(endpoint)
    stock = mail.stock(endpoint, account, STOCK)
    user = b"USER " + account.login.encode()
    attempts = [(), (user,), (user, b"DELE 1")]
    if endpoint.channel is Channel.PLAIN:
        # Once: many servers take seconds to refuse a password.
        attempts.append((user, b"PASS not the password", b"DELE 1"))
    for before in attempts:
        visit = endpoint.visit()
        for command in before:
            answer(visit.wire, command)
        with expecting("QUIT to be answered with +OK"):
            pop3.ask(visit.wire, b"QUIT")
        gone(visit.wire)
    require_all(endpoint, stock, "after QUIT before a login")


def answer(wire: Wire, command: bytes) -> None:
    """Say something that may be refused."""
    try:
        pop3.ask(wire, command)
    except NotServed:
        return
    except (Ended, Silent, Malformed) as error:
        raise Inconclusive(f"{command!r} before a login: {error}") from None


@check("CLS-11", scenario="general", watches=("deleted",))
def test_the_lock_goes_with_its_session(endpoint: Endpoint, observed: Observed) -> None:
    """A maildrop can be had again within the release time, however the session before has ended."""
    account = mail.keeper(endpoint)
    mail.sign_in(endpoint, account).goodbye()
    for name, leave in endings(endpoint).items():
        wire = mail.sign_in(endpoint, account).wire
        leave(wire)
        try:
            mail.sign_in(endpoint, account).goodbye()
        except mail.Locked as reply:
            raise Mismatch(
                f"a new login within {endpoint.release:g} s of {name}", f"it is still refused: {reply}"
            ) from None
        gone(wire)
    seen = observed("deleted")
    if was_ended(seen):
        require_free(endpoint, seen, "an idle session was ended")


@check("CLS-11", scenario="restarted", channels=NO_CHANNEL, watches=("restart",))
def test_the_lock_goes_with_the_server(endpoint: Endpoint, observed: Observed) -> None:
    require_free(endpoint, observed("restart"), "the server was stopped and started again")


def require_free(endpoint: Endpoint, seen: Seen, when: str) -> None:
    if seen.locked is not None:
        raise Mismatch(f"a new login within {endpoint.release:g} s after {when}", f"it is refused: {seen.locked}")
    if seen.mail is None:
        raise Inconclusive(f"{seen.title}: {seen.mail_trouble or 'nobody signed in'}")


# -- SMTP ------------------------------------------------------------------------------------------------------------


@check("CLS-03", scenario="general", watches=("cut_text",))
def test_a_text_without_its_end_is_not_delivered(endpoint: Endpoint, observed: Observed) -> None:
    account = mail.keeper(endpoint)
    unseen: NotAssessable | None = None
    before = 0
    try:
        before = mail.count(endpoint, account)
    except NotAssessable as reason:
        unseen = reason
    for name, leave in endings(endpoint).items():
        with expecting("a message to be begun"):
            wire = mail.begun(endpoint, account).wire
            wire.send(HALF_TEXT)
        leave(wire)
        require_not_accepted(gone(wire), name)
    seen = observed("cut_text")
    idle = seen.failure is not None or was_ended(seen)
    require_not_accepted(seen.said, "silence")
    if unseen is not None:
        raise unseen
    if more := mail.surplus(endpoint, account, before):
        raise Mismatch("nothing delivered of what was cut short", f"{more} messages more than were sent to their end")
    if idle:
        require_mail(seen, lost=False)


def require_not_accepted(said: bytes, when: str) -> None:
    if said.startswith(b"2") and not said.startswith(b"221"):
        raise Mismatch(f"a text without its end not to be accepted after {when}", repr(said))


@check("CLS-03", scenario="restarted", channels=NO_CHANNEL, watches=("restart",))
def test_a_stop_delivers_no_text_without_its_end(endpoint: Endpoint, observed: Observed) -> None:
    del endpoint
    seen = observed("restart")
    for guest in seen.guests:
        if guest.in_request:
            require_not_accepted(guest.said, "the server was stopped")
    require_mail(seen, lost=False)


@check("CLS-04", scenario="idle", watches=("cut_text",))
def test_the_rest_of_a_text_is_not_taken_for_commands(endpoint: Endpoint, observed: Observed) -> None:
    """Once the time for a text is over, the connection is closed: what still comes would be read as commands."""
    del endpoint
    observed("cut_text").require_closed()


# -- IMAP ------------------------------------------------------------------------------------------------------------


@check("CLS-06", scenario="general", watches=("cut_append",))
def test_half_a_literal_is_not_stored(endpoint: Endpoint, observed: Observed) -> None:
    account = mail.keeper(endpoint)
    before = mail.count(endpoint, account)
    for name, leave in endings(endpoint).items():
        wire = mail.sign_in(endpoint, account).wire
        with expecting(f"APPEND to be begun, for it to end with {name}"):
            half_append(wire)
        leave(wire)
        gone(wire)
    if more := mail.surplus(endpoint, account, before):
        raise Mismatch("nothing stored of what was cut short", f"{more} messages more than came to their end")
    seen = observed("cut_append")
    if was_ended(seen):
        require_mail(seen, lost=False)


@check("CLS-06", scenario="restarted", channels=NO_CHANNEL, watches=("restart",))
def test_a_stop_stores_no_half_of_a_literal(endpoint: Endpoint, observed: Observed) -> None:
    del endpoint
    require_mail(observed("restart"), lost=False)
