"""What a message is made of (RFC 2045, 2046), in the forms in which FETCH tells it (RFC 3501 6.4.5, 7.4.2).

Owns: where parts begin and end, octet for octet, which part a section names, ENVELOPE and BODYSTRUCTURE.  Knows no
mailbox and no command.  Whatever the message is, nothing here raises, and memory and time stay in proportion to its
length: what lies deeper than ``MAX_DEPTH``, or comes after ``MAX_PARTS``, is left in one piece.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from reference_server.protocols import imap_headers
from reference_server.protocols.imap_grammar import Section
from reference_server.protocols.imap_headers import Address, Field

MAX_PARTS: Final = 5000
MAX_DEPTH: Final = 50
"""Multiparts and messages within one another."""

_DELIMITER: Final = re.compile(rb"\n--([^\n]*+)")
_IN_QUOTES: Final = re.compile(rb"[\t\x20-\x7e]*+")
_MULTIPART: Final = b"MULTIPART"
_DEFAULT_TYPE: Final = (b"TEXT", b"PLAIN", ((b"CHARSET", b"US-ASCII"),))
_IN_DIGEST: Final = (b"MESSAGE", b"RFC822", ())
_UNSPLIT: Final = (b"APPLICATION", b"OCTET-STREAM", ())
# RFC 3501 9 (body-type-mpart): a multipart has at least one part.
_NO_PART: Final = b'("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 0 0)'


@dataclass(slots=True)
class Part:
    """One entity.  ``header``, ``body`` and ``end`` are offsets into the message; the empty line is of the header.

    ``type``, ``subtype`` and the names of ``parameters`` are in upper case; ``lines`` are those of the body.
    ``children`` are what a multipart holds, ``message`` is what a message/rfc822 holds.
    """

    header: int
    body: int
    end: int
    fields: tuple[Field, ...]
    type: bytes
    subtype: bytes
    parameters: tuple[tuple[bytes, bytes], ...]
    lines: int = 0
    children: list[Part] = field(default_factory=list)
    message: Part | None = None

    def value(self, name: bytes) -> bytes | None:
        """The value of a field of this part; ``name`` in lower case."""
        return imap_headers.first(self.fields, name)


# ---- taking apart


def parse(text: bytes) -> Part:
    """The message as a part, with all that lies in it."""
    return _Splitter(text).split()


class _Splitter:
    """One walk over the lines that begin with two hyphens; the parts that are open are on a stack."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._open: list[Part] = []
        self._boundaries: dict[int, bytes] = {}
        self._places: dict[bytes, list[int]] = {}
        self._parts = 0

    def split(self) -> Part:
        self._begin(0, digest=False)
        whole = self._open[0]
        for found in _DELIMITER.finditer(self._text):
            place, closing = self._opened_by(found[1])
            line = found.start() + 1
            if place is None or line < self._open[place].body:
                continue
            # RFC 2046 5.1.1: the line end before a delimiter is part of it.
            self._close_behind(place, found.start() - (self._text[found.start() - 1 : line] == b"\r\n"))
            if closing:
                self._forget_boundary(place)
            elif self._parts < MAX_PARTS:
                self._begin(min(found.end() + 1, len(self._text)), digest=self._open[place].subtype == b"DIGEST")
        self._close_behind(-1, len(self._text))
        return whole

    def _opened_by(self, hyphened: bytes) -> tuple[int | None, bool]:
        """The place on the stack of the multipart that this line, without ``--``, divides, and whether it ends it."""
        line = hyphened.rstrip()
        if places := self._places.get(line):
            return places[-1], False
        if line.endswith(b"--") and (places := self._places.get(line[:-2])):
            return places[-1], True
        return None, False

    def _begin(self, start: int, *, digest: bool) -> None:
        """A part begins here, and perhaps a message with its body."""
        while True:
            part = self._described(start, self._end_of_header(start), digest=digest)
            if self._open and self._open[-1].type == _MULTIPART:
                self._open[-1].children.append(part)
            elif self._open:
                self._open[-1].message = part
            self._open.append(part)
            self._parts += 1
            if part.type == _MULTIPART:
                self._remember_boundary(part)
            if not _is_message(part):
                return
            start, digest = part.body, False

    def _end_of_header(self, start: int) -> int:
        """Behind the empty line, or where the part ends without one."""
        text, at = self._text, start
        while at < len(text):
            end = text.find(b"\n", at) + 1 or len(text)
            line = text[at:end]
            if line in (b"\r\n", b"\n"):
                return end
            if line.startswith(b"--") and self._opened_by(line[2:])[0] is not None:
                return at
            at = end
        return at

    def _described(self, start: int, body: int, *, digest: bool) -> Part:
        fields = tuple(imap_headers.fields_in(self._text[start:body]))
        value = imap_headers.first(fields, b"content-type")
        # RFC 2046 5.1.5: in a digest, what says nothing of itself is a message.
        kind = (_IN_DIGEST if digest else _DEFAULT_TYPE) if value is None else imap_headers.media_type(value)
        part = Part(start, body, len(self._text), fields, *(kind or _DEFAULT_TYPE))
        if len(self._open) >= MAX_DEPTH and (part.type == _MULTIPART or _is_message(part)):
            part.type, part.subtype, part.parameters = _UNSPLIT
        return part

    def _close_behind(self, place: int, end: int) -> None:
        """What lies deeper than ``place`` ends here."""
        while len(self._open) > place + 1:
            part = self._open.pop()
            self._forget_boundary(len(self._open))
            # A header without an empty line has the line end before the delimiter; whatever it lies in has it, too.
            part.end = end = max(end, part.body)
            part.lines = self._text.count(b"\n", part.body, part.end)

    def _remember_boundary(self, part: Part) -> None:
        boundary = next((value for name, value in part.parameters if name == b"BOUNDARY"), b"").rstrip(b" \t")
        if boundary:
            place = len(self._open) - 1
            self._boundaries[place] = boundary
            self._places.setdefault(boundary, []).append(place)

    def _forget_boundary(self, place: int) -> None:
        boundary = self._boundaries.pop(place, None)
        if boundary is not None:
            self._places[boundary].pop()


def _is_message(part: Part) -> bool:
    return part.type == b"MESSAGE" and part.subtype in (b"RFC822", b"GLOBAL")


# ---- sections


def section(text: bytes, whole: Part, wanted: Section) -> bytes | None:
    """The octets that ``wanted`` names in ``text``, which is the message ``whole``; None where nothing is named so."""
    message: Part | None = whole
    if wanted.parts:
        part = _part(whole, wanted.parts)
        if part is None:
            return None
        if not wanted.text:
            return text[part.body : part.end]
        if wanted.text == "MIME":
            return text[part.header : part.body]
        message = part.message  # RFC 3501 6.4.5: HEADER and TEXT are those of a message within the message
    if message is None:
        return None
    match wanted.text:
        case "HEADER":
            return text[message.header : message.body]
        case "TEXT":
            return text[message.body : message.end]
        case "HEADER.FIELDS" | "HEADER.FIELDS.NOT":
            names = {name.lower() for name in wanted.fields}
            chosen = wanted.text == "HEADER.FIELDS"
            return _some_fields(message, names, chosen=chosen, text=text)
    return text[message.header : message.end]


def _part(whole: Part, numbers: Sequence[int]) -> Part | None:
    inside = _inside(whole)
    part = None
    for number in numbers:
        if number > len(inside):
            return None
        part = inside[number - 1]
        inside = part.children if part.message is None else _inside(part.message)
    return part


def _inside(message: Part) -> list[Part]:
    # RFC 3501 6.4.5: every message has a part 1, if only its body.
    return message.children if message.type == _MULTIPART else [message]


def _some_fields(message: Part, names: set[bytes], *, chosen: bool, text: bytes) -> bytes:
    kept = b"".join(found.raw for found in message.fields if (found.name in names) == chosen)
    # RFC 3501 6.4.5: the empty line is there, unless the message has none.
    length = sum(len(found.raw) for found in message.fields)
    return kept + text[message.header + length : message.body]


# ---- ENVELOPE


def envelope(text: bytes) -> bytes:
    """ENVELOPE of a message."""
    return _envelope(tuple(imap_headers.fields_in(text)))


def _envelope(fields: Sequence[Field]) -> bytes:
    def told(name: bytes) -> bytes:
        return _nstring(imap_headers.first(fields, name))

    def who(name: bytes) -> list[Address]:
        value = b", ".join(found.value for found in fields if found.name == name)
        return imap_headers.addresses(value)

    author = who(b"from")
    return b"(%s)" % b" ".join(
        (
            told(b"date"),
            told(b"subject"),
            _addresses(author),
            # RFC 3501 7.4.2: where these are missing or empty, the server puts From there.
            _addresses(who(b"sender") or author),
            _addresses(who(b"reply-to") or author),
            _addresses(who(b"to")),
            _addresses(who(b"cc")),
            _addresses(who(b"bcc")),
            told(b"in-reply-to"),
            told(b"message-id"),
        )
    )


def _addresses(found: Iterable[Address]) -> bytes:
    each = [
        b"(%s)" % b" ".join(map(_nstring, (address.name, address.route, address.mailbox, address.host)))
        for address in found
    ]
    return b"(%s)" % b"".join(each) if each else b"NIL"


# ---- BODYSTRUCTURE


def body_structure(part: Part, *, extended: bool) -> bytes:
    """BODYSTRUCTURE, or BODY where not ``extended``."""
    if part.type == _MULTIPART:
        inside = b"".join(body_structure(child, extended=extended) for child in part.children) or _NO_PART
        more = b" %s %s" % (_parameters(part.parameters), _extension(part)) if extended else b""
        return b"(%s %s%s)" % (inside, _string(part.subtype), more)
    encoding = imap_headers.word_and_parameters(part.value(b"content-transfer-encoding") or b"")
    pieces = [
        _string(part.type),
        _string(part.subtype),
        _parameters(part.parameters),
        _nstring(part.value(b"content-id")),
        _nstring(part.value(b"content-description")),
        _string(encoding[0] if encoding else b"7BIT"),
        b"%d" % (part.end - part.body),
    ]
    if part.message is not None:
        pieces += [_envelope(part.message.fields), body_structure(part.message, extended=extended)]
    if part.message is not None or part.type == b"TEXT":
        pieces.append(b"%d" % part.lines)
    if extended:
        pieces += [_nstring(part.value(b"content-md5")), _extension(part)]
    return b"(%s)" % b" ".join(pieces)


def _extension(part: Part) -> bytes:
    """Disposition, language and location."""
    disposition = imap_headers.word_and_parameters(part.value(b"content-disposition") or b"")
    languages = imap_headers.words(part.value(b"content-language") or b"")
    return b" ".join(
        (
            b"(%s %s)" % (_string(disposition[0]), _parameters(disposition[1])) if disposition else b"NIL",
            b"(%s)" % b" ".join(map(_string, languages)) if languages else b"NIL",
            _nstring(part.value(b"content-location")),
        )
    )


def _parameters(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"(%s)" % b" ".join(_string(piece) for pair in pairs for piece in pair) if pairs else b"NIL"


def _nstring(value: bytes | None) -> bytes:
    return b"NIL" if value is None else _string(value)


def _string(value: bytes) -> bytes:
    if _IN_QUOTES.fullmatch(value):
        return b'"%s"' % value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return literal(value)


def literal(octets: bytes) -> bytes:
    """Any octets, as they are sent.

    RFC 3501 9 (CHAR8): NUL is the one that may not be sent.  A message can have it, from SMTP or from another program,
    and is sent with 0x80 in its place: one octet for one, so that sizes and offsets hold, and no letter of UTF-8.
    """
    return b"{%d}\r\n%s" % (len(octets), octets.replace(b"\0", b"\x80"))
