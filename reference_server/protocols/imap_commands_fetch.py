"""FETCH (RFC 3501 6.4.5, 7.4.2): what the client wants to know of messages, and their octets.

Owns: the form of the response, and when ``\\Seen`` is set.  Knows no state and no connection; what is in a message is
:mod:`~reference_server.protocols.imap_mime`'s.  A FETCH of many messages goes out in pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final

from reference_server.mailstore import Message, MessageGone
from reference_server.protocols import imap_mime
from reference_server.protocols.imap_commands_messages import MESSAGES_AT_ONCE, SOME_ARE_GONE
from reference_server.protocols.imap_grammar import BodySection, FetchItem, Item, Section, SequenceSet
from reference_server.protocols.imap_input import Request
from reference_server.protocols.imap_selected import Answer, Client, Job, Outcome, Partly, Selected
from reference_server.protocols.imap_syntax import Cursor
from reference_server.protocols.imap_syntax_messages import fetch_items

OCTETS_AT_ONCE: Final = 1 << 18
"""With so many octets to be sent, they are sent, and others have their turn."""

OCTETS_TO_SPARE: Final = 1 << 20
"""A response about one message may be so much longer than twice the message: what is told at once is in memory at once,
and nobody needs the same octets over and over."""

_OF_THE_TEXT: Final = (Item.ENVELOPE, Item.BODY, Item.BODYSTRUCTURE)
_WHOLE: Final = Section()
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def fetch(client: Client, request: Request, *, by_uid: bool = False) -> Job:
    cursor = Cursor(request.text)
    which = cursor.sequence_set()
    cursor.expect(b" ")
    items = fetch_items(cursor)
    cursor.end()
    if by_uid and Item.UID not in items:
        items = (Item.UID, *items)  # RFC 3501 6.4.8: whether or not it was asked for
    return partial(_fetch, client.opened, which, by_uid, items)


def _fetch(opened: Selected, which: SequenceSet, by_uid: bool, items: Sequence[FetchItem]) -> Outcome:
    opened.refresh(expunge=False)
    return _fetch_some(opened, opened.chosen(which, by_uid=by_uid), items, gone=False)


def _fetch_some(
    opened: Selected, left: list[tuple[int, Message]], items: Sequence[FetchItem], *, gone: bool
) -> Outcome:
    octets = 0
    changed: dict[int, Message] = {}
    sees = not opened.read_only and any(isinstance(item, BodySection) and not item.peek for item in items)
    for place, (number, message) in enumerate(left):
        if place >= MESSAGES_AT_ONCE or octets >= OCTETS_AT_ONCE:
            opened.retell(changed)
            return Partly(opened.told(), partial(_fetch_some, opened, left[place:], items, gone=gone))
        try:
            seen = _seen(opened, message) if sees else message
            line = _response(opened, number, seen, items, with_flags=seen is not message)
        except MessageGone:
            gone = True
            continue
        except _TooMuch:
            opened.retell(changed)
            return Answer(b"NO [LIMIT] that is more than twice the message")
        if seen is not message:
            changed[number] = seen
        opened.tell(line)
        octets += len(line)
    opened.retell(changed)
    return SOME_ARE_GONE if gone else Answer(b"OK done")


def _seen(opened: Selected, message: Message) -> Message:
    if "\\Seen" in message.flags:
        return message
    return opened.mailbox.store_flags(message.uid, add=("\\Seen",))


class _TooMuch(Exception):
    """The response about one message would be too long."""


def _response(
    opened: Selected, number: int, message: Message, items: Sequence[FetchItem], *, with_flags: bool
) -> bytes:
    text = b""
    if any(isinstance(item, BodySection) or item in _OF_THE_TEXT for item in items):
        text = opened.mailbox.read(message.uid)
    part: imap_mime.Part | None = None
    values: list[bytes] = []
    left = 2 * len(text) + OCTETS_TO_SPARE
    for item in items:
        if part is None and _looks_inside(item):
            part = imap_mime.parse(text)
        match item:
            case Item.UID:
                values.append(b"UID %d" % message.uid)
            case Item.FLAGS:
                values.append(b"FLAGS " + opened.flags_of(message))
                with_flags = False
            case Item.INTERNALDATE:
                values.append(b"INTERNALDATE " + _date_time(message.received))
            case Item.SIZE:
                values.append(b"RFC822.SIZE %d" % message.size)
            case Item.ENVELOPE:
                values.append(b"ENVELOPE " + imap_mime.envelope(text))
            case Item.BODY | Item.BODYSTRUCTURE:
                assert part is not None
                structure = imap_mime.body_structure(part, extended=item is Item.BODYSTRUCTURE)
                values.append(item.value + b" " + structure)
            case BodySection(section):
                octets = text if part is None or section == _WHOLE else imap_mime.section(text, part, section)
                values.append(item.label + b" " + _octets(octets, item.partial))
                left -= len(values[-1])
                if left < 0:
                    raise _TooMuch
    if with_flags:
        # RFC 3501 6.4.5: that \Seen was set by this is told at once.
        values.append(b"FLAGS " + opened.flags_of(message))
    return b"* %d FETCH (%s)\r\n" % (number, b" ".join(values))


def _looks_inside(item: FetchItem) -> bool:
    """Whether the structure of the message has to be known for it."""
    if isinstance(item, BodySection):
        return item.section != _WHOLE
    return item in (Item.BODY, Item.BODYSTRUCTURE)


def _octets(octets: bytes | None, wanted: tuple[int, int] | None) -> bytes:
    """As a literal, or NIL where there is nothing of that name."""
    if octets is None:
        return b"NIL"
    if wanted is not None:
        first, most = wanted
        octets = octets[first : first + most]
    return imap_mime.literal(octets)


def _date_time(moment: datetime) -> bytes:
    """RFC 3501 9 (date-time): the day with a space, the month in English whatever the locale is."""
    month = _MONTHS[moment.month - 1]
    return f'"{moment.day:2d}-{month}-{moment:%Y %H:%M:%S %z}"'.encode("ascii")
