"""Whether a message is what a client is looking for (RFC 3501 6.4.4).

Owns: what each search key means.  Knows no mailbox and no command: the octets of a message are asked for when a key
cannot be answered without them, and at most once.  Text is compared decoded (transfer encoding, character set, encoded
words) and without regard to case.
"""

from __future__ import annotations

import binascii
import email.utils
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from typing import Final, TypeAlias

from reference_server.mailstore import Message
from reference_server.protocols import imap_headers, imap_mime
from reference_server.protocols.imap_grammar import (
    All,
    And,
    Body,
    Comparison,
    Flag,
    Header,
    Not,
    Numbers,
    Or,
    Received,
    SearchKey,
    Sent,
    Size,
    Text,
    Uids,
)
from reference_server.protocols.imap_headers import Field
from reference_server.protocols.imap_mime import Part

_Readable: TypeAlias = tuple[bytes, str]
"""A field's name in lower case, and its value as people read it, without regard to case."""
_MAY_READ: Final = (And, Or, Not, Header, Sent, Body, Text)


class Candidate:
    """A message that may be what is looked for, and what of it has been read.

    ``largest`` and ``largest_uid`` are what ``*`` stands for; ``read`` gives the octets.
    """

    __slots__ = (
        "_body", "_fields", "_header", "_labels", "_octets", "_read", "_whole", "largest", "largest_uid", "message",
        "number",
    )  # fmt: skip

    def __init__(
        self, number: int, message: Message, largest: int, largest_uid: int, read: Callable[[], bytes]
    ) -> None:
        self.number = number
        self.message = message
        self.largest = largest
        self.largest_uid = largest_uid
        self._read = read
        self._octets: bytes | None = None
        self._whole: Part | None = None
        self._fields: tuple[_Readable, ...] | None = None
        self._header: str | None = None
        self._labels: str | None = None
        self._body: str | None = None

    @property
    def octets(self) -> bytes:
        if self._octets is None:
            self._octets = self._read()
        return self._octets

    @property
    def fields(self) -> tuple[_Readable, ...]:
        """Names and what people read of the fields."""
        if self._fields is None:
            self._fields = tuple(map(_readable, imap_headers.fields_in(self.octets)))
        return self._fields

    @property
    def header(self) -> str:
        """One field a line."""
        if self._header is None:
            self._header = _lines(self.fields)
        return self._header

    @property
    def body(self) -> str:
        """What people read of the body: the text parts, and the headers of messages within the message."""
        if self._body is None:
            self._body = "\n".join(_texts(self.octets, self._parsed()))
        return self._body

    @property
    def labels(self) -> str:
        """What the headers of the parts say, names of attachments among it."""
        if self._labels is None:
            self._labels = "\n".join(_labels(self._parsed()))
        return self._labels

    def sent(self) -> date | None:
        """The day in the Date field, whatever the zone; None where there is none that can be read."""
        written = next((text for name, text in self.fields if name == b"date"), "")
        try:
            parsed = email.utils.parsedate(written)
            return date(*parsed[:3]) if parsed else None
        except (ValueError, TypeError, IndexError, OverflowError):
            return None

    def _parsed(self) -> Part:
        if self._whole is None:
            self._whole = imap_mime.parse(self.octets)
        return self._whole


def matches(key: SearchKey, candidate: Candidate) -> bool:
    """Whether ``candidate`` is what ``key`` looks for.  What ``read`` raises is let through."""
    match key:
        case All():
            return True
        case And(keys):
            # Those that can be told without the octets first.
            quick = (matches(each, candidate) for each in keys if not isinstance(each, _MAY_READ))
            return all(quick) and all(matches(each, candidate) for each in keys if isinstance(each, _MAY_READ))
        case Or(one, other):
            if isinstance(one, _MAY_READ):
                one, other = other, one
            return matches(one, candidate) or matches(other, candidate)
        case Not(negated):
            return not matches(negated, candidate)
        case Flag(name, present):
            return _has_flag(candidate.message, name) == present
        case Size(larger, octets):
            return candidate.message.size > octets if larger else candidate.message.size < octets
        case Numbers(numbers):
            return numbers.contains(candidate.number, candidate.largest)
        case Uids(uids):
            return uids.contains(candidate.message.uid, candidate.largest_uid)
        case Received(op, day):
            return _compares(candidate.message.received.date(), op, day)
        case Sent(op, day):
            sent = candidate.sent()
            return sent is not None and _compares(sent, op, day)
        case Header(name, value):
            return _in_header(candidate, name.lower(), value.casefold())
        case Body(value):
            return value.casefold() in candidate.body
        case Text(value):
            wanted = value.casefold()
            return wanted in candidate.header or wanted in candidate.body or wanted in candidate.labels


def _has_flag(message: Message, name: str) -> bool:
    if name == "\\Recent":
        return message.recent
    # RFC 3501 2.3.2: flags, keywords too, are the same in any case.
    return name in message.flags or name.casefold() in {flag.casefold() for flag in message.flags}


def _compares(day: date, op: Comparison, wanted: date) -> bool:
    match op:
        case "before":
            return day < wanted
        case "on":
            return day == wanted
        case "since":
            return day >= wanted


def _in_header(candidate: Candidate, name: bytes, wanted: str) -> bool:
    return any(field == name and wanted in text for field, text in candidate.fields)


# ---- text


def _readable(field: Field) -> _Readable:
    return field.name, imap_headers.decoded(field.value).casefold()


def _lines(fields: Iterable[_Readable]) -> str:
    return "\n".join(f"{imap_headers.as_text(name)}: {text}" for name, text in fields)


def _texts(octets: bytes, part: Part) -> Iterator[str]:
    if part.message is not None:
        yield _lines(map(_readable, part.message.fields))
        yield from _texts(octets, part.message)
    elif part.children:
        for child in part.children:
            yield from _texts(octets, child)
    elif part.type in (b"TEXT", b"MESSAGE", b"MULTIPART"):
        yield _text(octets, part).casefold()


def _labels(part: Part) -> Iterator[str]:
    inside = part if part.message is None else part.message
    for child in inside.children:
        yield _lines(map(_readable, child.fields))
        yield from _labels(child)


def _text(octets: bytes, part: Part) -> str:
    body = octets[part.body : part.end]
    encoding = imap_headers.word_and_parameters(part.value(b"content-transfer-encoding") or b"")
    match encoding and encoding[0]:
        case b"BASE64":
            body = imap_headers.from_base64(body)
        case b"QUOTED-PRINTABLE":
            body = binascii.a2b_qp(body)
    charset = next((value for name, value in part.parameters if name == b"CHARSET"), b"utf-8")
    if charset.upper() in (b"US-ASCII", b"ASCII"):
        charset = b"utf-8"  # of which it is a part, and what is often meant
    return imap_headers.as_text(body, charset.decode("ascii", "replace"))
