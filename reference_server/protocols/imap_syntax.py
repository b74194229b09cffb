"""Read the arguments of IMAP commands (RFC 3501 9) into the shapes of :mod:`~reference_server.protocols.imap_grammar`.

Owns: atoms, strings, literals, lists, numbers, dates, flags.  Knows no command and no state.  What is read has arrived
as a whole: a literal stands in the text as it came over the wire, ``{5}`` CRLF and its octets.

Whatever is wrong raises :class:`BadSyntax` with words for the client.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Final, TypeVar

from reference_server.protocols import imap_names
from reference_server.protocols.imap_grammar import LARGEST_NUMBER, Append, Change, Range, SequenceSet

T = TypeVar("T")

# RFC 3501 9: ATOM-CHAR is any CHAR but ( ) { SP CTL % * " \ and ]; an astring may have ] in it.
_ATOM: Final = re.compile(rb"[^\x00-\x20\x7f-\xff(){%*\"\\\]]+")
_ASTRING_ATOM: Final = re.compile(rb"[^\x00-\x20\x7f-\xff(){%*\"\\]+")
_LIST_ATOM: Final = re.compile(rb"[^\x00-\x20\x7f-\xff(){\"\\]+")
_WORD: Final = re.compile(rb"[A-Za-z0-9.+-]+")
_FLAG: Final = re.compile(rb"\\?[^\x00-\x20\x7f-\xff(){%*\"\\\]]+")
_QUOTED: Final = re.compile(rb'"((?:[^\x00\r\n"\\]|\\["\\])*)"')
_LITERAL: Final = re.compile(rb"\{([0-9]{1,10})\+?\}\r\n")
_NUMBER: Final = re.compile(rb"[0-9]{1,10}(?![0-9])")
_SEQUENCE_SET: Final = re.compile(rb"[0-9*:,]+")
_DATE_TIME: Final = re.compile(
    rb'"([ 0-9][0-9])-([A-Za-z]{3})-([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([0-9]{2})([0-9]{2})"'
)
_DATE: Final = re.compile(rb'(?:([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4})|"([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4})")')

_MONTHS: Final = (b"JAN", b"FEB", b"MAR", b"APR", b"MAY", b"JUN", b"JUL", b"AUG", b"SEP", b"OCT", b"NOV", b"DEC")
_SYSTEM_FLAGS: Final = {
    flag.upper().encode(): flag for flag in ("\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft")
}


class BadSyntax(Exception):
    """What the client wrote cannot be read; ``str()`` is fit to be shown to it."""


class Cursor:
    """A place in a command's text; reading moves it on."""

    __slots__ = ("at", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.at = 0

    @property
    def at_end(self) -> bool:
        return self.at >= len(self.text)

    def end(self) -> None:
        """Nothing may follow; a space is forgiven."""
        if self.text[self.at :].strip(b" "):
            raise BadSyntax("there is more than the command takes")

    def peek(self, octet: bytes) -> bool:
        """Whether this octet is next."""
        return self.text.startswith(octet, self.at)

    def skip(self, octet: bytes) -> bool:
        """Whether this octet was next; if so, it is read."""
        if not self.peek(octet):
            return False
        self.at += len(octet)
        return True

    def expect(self, octet: bytes) -> None:
        if not self.skip(octet):
            shown = "a space" if octet == b" " else octet.decode("ascii")
            raise BadSyntax(f"{shown} is missing")

    def take(self, pattern: re.Pattern[bytes], what: str) -> re.Match[bytes]:
        """What matches here.  Raises :class:`BadSyntax`, which says that ``what`` is wanted."""
        found = pattern.match(self.text, self.at)
        if found is None:
            raise BadSyntax(f"{what} is wanted")
        self.at = found.end()
        return found

    # ---- strings

    def atom(self) -> bytes:
        return self.take(_ATOM, "an atom")[0]

    def word(self) -> bytes:
        """A keyword of the grammar, in upper case."""
        return self.take(_WORD, "a word")[0].upper()

    def string(self) -> bytes:
        if self.peek(b"{"):
            size = int(self.take(_LITERAL, "a literal")[1])
            start = self.at
            self.at += size
            if self.at > len(self.text):
                raise BadSyntax("a literal is cut short")
            return self.text[start : self.at]
        quoted = self.take(_QUOTED, "a string")[1]
        return re.sub(rb"\\(.)", rb"\1", quoted) if b"\\" in quoted else quoted

    def astring(self) -> bytes:
        if self.peek(b'"') or self.peek(b"{"):
            return self.string()
        return self.take(_ASTRING_ATOM, "a name or a string")[0]

    def nstring(self) -> bytes | None:
        found = _ATOM.match(self.text, self.at)
        if found is not None and found[0].upper() == b"NIL":
            self.at = found.end()
            return None
        return self.string()

    def mailbox(self) -> str:
        """RFC 3501 5.1.3."""
        return _name(self.astring())

    def pattern(self) -> str:
        """What LIST looks for: a mailbox name in which * and % may be."""
        if self.peek(b'"') or self.peek(b"{"):
            return _name(self.string())
        return _name(self.take(_LIST_ATOM, "a pattern")[0])

    # ---- numbers and sets

    def number(self) -> int:
        number = int(self.take(_NUMBER, "a number")[0])
        if number > LARGEST_NUMBER:
            raise BadSyntax("a number has at most 32 bits")
        return number

    def sequence_set(self) -> SequenceSet:
        ranges: list[Range] = []
        for piece in self.take(_SEQUENCE_SET, "a set of numbers")[0].split(b","):
            first, colon, second = piece.partition(b":")
            one = _set_number(first)
            ranges.append((one, _set_number(second) if colon else one))
        return SequenceSet.of(ranges)

    # ---- lists, flags, dates

    def parenthesised(self, one: Callable[[], T], *, empty: bool = False) -> list[T]:
        """``(a b c)``."""
        self.expect(b"(")
        found: list[T] = []
        if empty and self.skip(b")"):
            return found
        while True:
            found.append(one())
            if self.skip(b")"):
                return found
            self.expect(b" ")

    def flag(self) -> str:
        """A flag that can be stored, in its usual spelling."""
        text = self.take(_FLAG, "a flag")[0]
        if not text.startswith(b"\\"):
            return text.decode("ascii")
        flag = _SYSTEM_FLAGS.get(text.upper())
        if flag is None:
            raise BadSyntax("that flag is not for clients to set")
        return flag

    def flags(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.parenthesised(self.flag, empty=True)))

    def date_time(self) -> datetime:
        """When a message came: ``" 7-Feb-1994 21:52:25 -0800"``, one digit of the day with a space before it."""
        found = self.take(_DATE_TIME, "a date with time and zone")
        try:
            offset = timedelta(hours=int(found[8]), minutes=int(found[9]))
            zone = timezone(-offset if found[7] == b"-" else offset)
            moment = datetime(
                int(found[3]), _month(found[2]), int(found[1]), int(found[4]), int(found[5]), int(found[6]), tzinfo=zone
            )
            return moment.astimezone(UTC)
        except (ValueError, OverflowError):
            raise BadSyntax("there is no such date") from None

    def date(self) -> date:
        """``1-Feb-1994``, in quotes or not."""
        found = self.take(_DATE, "a date")
        try:
            return date(int(found[3] or found[6]), _month(found[2] or found[5]), int(found[1] or found[4]))
        except ValueError:
            raise BadSyntax("there is no such date") from None


# ---- arguments of single commands


def login_arguments(cursor: Cursor) -> tuple[str, str]:
    """Name and password; RFC 3501 knows US-ASCII only, but what people have is UTF-8."""
    name = cursor.astring()
    cursor.expect(b" ")
    password = cursor.astring()
    cursor.end()
    try:
        return name.decode("utf-8"), password.decode("utf-8")
    except UnicodeDecodeError:
        raise BadSyntax("name and password are UTF-8") from None


def id_arguments(cursor: Cursor) -> None:
    """RFC 2971 3.1: what the client says of itself, which is of no use here."""
    if cursor.peek(b"("):
        cursor.parenthesised(cursor.nstring, empty=True)
    else:
        cursor.nstring()
    cursor.end()


def append_prefix(text: bytes) -> Append:
    """What stands between ``APPEND`` and the literal with the message, its last space included."""
    cursor = Cursor(text)
    mailbox = cursor.mailbox()
    cursor.expect(b" ")
    flags: tuple[str, ...] = ()
    received = None
    if cursor.peek(b"("):
        flags = cursor.flags()
        cursor.expect(b" ")
    if cursor.peek(b'"'):
        received = cursor.date_time()
        cursor.expect(b" ")
    if not cursor.at_end:
        raise BadSyntax("APPEND takes a message as a literal")
    return Append(mailbox, flags, received)


def store_arguments(cursor: Cursor) -> tuple[SequenceSet, Change, bool, tuple[str, ...]]:
    """Which messages, what to do, whether silently, with which flags."""
    messages = cursor.sequence_set()
    cursor.expect(b" ")
    word = cursor.word()
    silent = word.endswith(b".SILENT")
    try:
        change = Change(word.removesuffix(b".SILENT"))
    except ValueError:
        raise BadSyntax("FLAGS, +FLAGS or -FLAGS is wanted") from None
    cursor.expect(b" ")
    if cursor.peek(b"("):
        flags = cursor.flags()
    else:
        found = [cursor.flag()]
        while cursor.skip(b" "):
            found.append(cursor.flag())
        flags = tuple(dict.fromkeys(found))
    cursor.end()
    return messages, change, silent, flags


def _name(wire: bytes) -> str:
    try:
        return imap_names.decoded(wire)
    except imap_names.BadName as error:
        raise BadSyntax(str(error)) from None


def _set_number(text: bytes) -> int | None:
    if text == b"*":
        return None
    if not text.isdigit() or len(text) > 10 or not 1 <= int(text) <= LARGEST_NUMBER:
        raise BadSyntax("a set of numbers has numbers from 1 on, and *")
    return int(text)


def _month(name: bytes) -> int:
    return _MONTHS.index(name.upper()) + 1
