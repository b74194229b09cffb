"""What becomes of mail when a client's time is up, and when the server stops with clients in the middle of things.

Owns: the acts of those clients.  Knows no requirement; :mod:`conformance.watches` says where they happen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from conformance import mail
from conformance.check import Inconclusive, Mismatch, NotAssessable
from conformance.dialects import NotServed, imap, pop3
from conformance.dialects.dialect import Malformed
from conformance.visit import Endpoint, Visit
from conformance.watch import Guest, Seen, Watcher
from conformance.wire import PATIENCE, Ended, Silent, Wire
from reference_server.settings import Service

#: Messages that are there before anything is done to them.
STOCK = 2
#: A text with whole lines, which ends in the middle of what would be its end.
HALF_TEXT = b"From: sender@example.org\r\nSubject: half\r\n\r\na whole line, and then\r\n."
#: What comes behind the silence: the rest of the text, of lines that would be commands at another place.
REST = b" dot.\r\nNOOP\r\nRSET\r\nEHLO client.example.test\r\n"
#: How long the server may take to answer what must not be answered (seconds).
ANSWERED_WITHIN = 1.0


def delete_first(wire: Wire) -> None:
    """Mark a message as deleted.  Raises :class:`NotServed`."""
    pop3.ask(wire, b"DELE 1")


def half_append(wire: Wire) -> None:
    """Begin to append a message that is longer than what comes of it."""
    imap.begin_append(wire, len(HALF_TEXT) + 200)
    wire.send(HALF_TEXT)


# -- idle ------------------------------------------------------------------------------------------------------------


def deleted(watcher: Watcher) -> None:
    """A message is marked as deleted, and then the client falls silent."""
    endpoint, account = watcher.endpoint, watcher.endpoint.credentials
    stock = mail.stock(endpoint, account, STOCK)
    visit = mail.sign_in(endpoint, account)
    delete_first(visit.wire)
    watcher.fall_silent(visit.wire)
    _count(watcher.seen, stock, lambda: mail.count(endpoint, account))


def cut_text(watcher: Watcher) -> None:
    """A client falls silent within a text; whatever the server then does, the rest follows."""
    endpoint, account = watcher.endpoint, watcher.endpoint.credentials
    before = _before(watcher.seen, endpoint)
    wire = mail.begun(endpoint, account).wire
    wire.send(HALF_TEXT)
    watcher.fall_silent(wire)
    if watcher.seen.after is None:
        answer = _answer_to_the_rest(wire)
        if answer:
            watcher.seen.failure = (
                "the rest of a text not to be taken for commands",
                f"after {watcher.seen.said!r} it was answered with {answer!r}",
            )
        wire.close()
    _count(watcher.seen, 0, lambda: mail.surplus(endpoint, account, before))


def _answer_to_the_rest(wire: Wire) -> bytes:
    answer = b""
    try:
        wire.send(REST)
        while True:
            answer += wire.receive(ANSWERED_WITHIN)
    except (Ended, Silent):
        return answer


def cut_append(watcher: Watcher) -> None:
    """A client falls silent within the literal of APPEND."""
    endpoint, account = watcher.endpoint, watcher.endpoint.credentials
    before = _before(watcher.seen, endpoint)
    visit = mail.sign_in(endpoint, account)
    half_append(visit.wire)
    watcher.fall_silent(visit.wire)
    _count(watcher.seen, 0, lambda: mail.surplus(endpoint, account, before))


def _before(seen: Seen, *doors: Endpoint) -> int:
    """How many messages there are; where nobody can look, that is noted and nothing is counted later."""
    try:
        return sum(mail.count(door, mail.keeper(door)) for door in doors)
    except NotAssessable as reason:
        seen.not_counted = str(reason)
        return 0


def _count(seen: Seen, expected: int, counted: Callable[[], int]) -> None:
    if seen.not_counted is not None:
        return
    try:
        seen.mail = expected, counted()
    except mail.Locked as reply:
        seen.locked = seen.mail_trouble = str(reply)
    except (Inconclusive, NotAssessable, Mismatch, NotServed, Malformed, Ended, Silent) as error:
        seen.mail_trouble = str(error)


# -- a stop ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Seat:
    """Where a guest sits."""

    guest: Guest
    visit: Visit


def _signed_in(endpoint: Endpoint) -> Visit:
    return mail.sign_in(endpoint, mail.keeper(endpoint)) if mail.takes_logins(endpoint) else endpoint.visit()


def _has_deleted(endpoint: Endpoint) -> Visit:
    visit = _signed_in(endpoint)
    delete_first(visit.wire)
    return visit


def _in_text(endpoint: Endpoint) -> Visit:
    visit = mail.begun(endpoint, mail.keeper(endpoint))
    visit.wire.send(HALF_TEXT)
    return visit


def _in_append(endpoint: Endpoint) -> Visit:
    visit = _signed_in(endpoint)
    half_append(visit.wire)
    return visit


def _in_idle(endpoint: Endpoint) -> Visit:
    visit = _signed_in(endpoint)
    if "IDLE" in endpoint.dialect.capabilities(visit.wire):
        imap.begin_idle(visit.wire)
    return visit


def _logged_in(endpoint: Endpoint) -> Visit:
    visit = endpoint.visit()
    visit.login()
    return visit


def _in_request(endpoint: Endpoint) -> Visit:
    visit = endpoint.visit()
    endpoint.dialect.begin(visit.wire)
    return visit


_GUESTS: Mapping[Service, tuple[tuple[str, bool, Callable[[Endpoint], Visit]], ...]] = {
    Service.SMTP: (
        ("greeted", False, Endpoint.visit),
        ("signed in", False, _signed_in),
        ("within a text", True, _in_text),
    ),
    Service.POP3: (("with a message marked as deleted", False, _has_deleted),),
    Service.IMAP: (
        ("greeted", False, Endpoint.visit),
        ("signed in", False, _signed_in),
        ("in IDLE", False, _in_idle),
        ("within a literal", True, _in_append),
    ),
    Service.LDAP: (
        ("served", False, Endpoint.visit),
        ("bound", False, _logged_in),
        ("within a message", True, _in_request),
    ),
    Service.WEBMAIL: (("served", False, Endpoint.visit), ("within a request", True, _in_request)),
    Service.ADMIN: (("served", False, Endpoint.visit), ("within a request", True, _in_request)),
}
#: Services that could change mail.
_WITH_MAIL = (Service.SMTP, Service.POP3, Service.IMAP)


@contextlib.contextmanager
def guests(seen: Seen, endpoint: Endpoint) -> Iterator[None]:
    """Inside, the server is stopped and started again: what the guests of the service heard, and what became of mail.

    None of it is a judgement about starting.
    """
    seats: list[_Seat] = []
    doors = [endpoint.through(channel) for channel in endpoint.channels]
    before: list[int] = []
    try:
        for door in doors:
            if door.service in _WITH_MAIL:
                before.append(_stocked(seen, door))
            for title, in_request, arrive in _GUESTS[endpoint.service]:
                seats.append(_Seat(Guest(f"{title} ({door.channel})", in_request), arrive(door)))
    except (Inconclusive, NotAssessable, Mismatch, NotServed, Malformed, Ended, Silent) as error:
        seen.mail_trouble = f"not everybody was there when the server stopped: {error}"
    yield
    for seat in seats:
        try:
            seat.guest.ending, seat.guest.said = seat.visit.wire.await_end(PATIENCE)
        except Silent as silence:
            seen.mail_trouble = f"{seat.guest.title}: {silence}"
        seat.visit.close()
        seen.guests.append(seat.guest)
    if seen.mail_trouble is None and endpoint.service in _WITH_MAIL:
        _count(seen, sum(before) if endpoint.service is Service.POP3 else 0, lambda: _found(doors, before))


def _stocked(seen: Seen, door: Endpoint) -> int:
    if door.service is Service.POP3:
        return mail.stock(door, mail.keeper(door), STOCK)
    return _before(seen, door)


def _found(doors: list[Endpoint], before: list[int]) -> int:
    """The messages that are there (POP3), or those that should not be."""
    accounts = [(door, mail.keeper(door), had) for door, had in zip(doors, before, strict=True)]
    if doors[0].service is Service.POP3:
        return sum(mail.count(door, account) for door, account, _ in accounts)
    return sum(mail.surplus(door, account, had) for door, account, had in accounts)
