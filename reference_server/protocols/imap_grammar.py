"""What IMAP commands speak of, once they have been read: sequence sets, sections, search keys, fetch items.

Owns: the shapes in which a command's arguments are handed on, and the arithmetic of sequence sets.  Knows nothing of
how these are spelled on the wire (:mod:`~reference_server.protocols.imap_syntax` does), of mailboxes or of messages.
"""

from __future__ import annotations

import datetime
import enum
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

LARGEST_NUMBER: Final = 0xFFFF_FFFF
"""RFC 3501 9: numbers, UIDs and sizes have 32 bits."""

Range: TypeAlias = tuple[int | None, int | None]
"""Both ends, in any order; None is ``*``."""


@dataclass(frozen=True, slots=True)
class SequenceSet:
    """Message numbers or UIDs, such as ``1:3,7,9:*``.  ``*`` is the largest in use, whatever that is when asked.

    ``fixed``: ranges without ``*``, ascending and apart.  ``tails``: the smallest and the largest ``n`` of all ``n:*``
    (of which ``*:n`` is one); None without any.  ``last``: whether ``*`` stands alone.
    """

    fixed: tuple[tuple[int, int], ...] = ()
    tails: tuple[int, int] | None = None
    last: bool = False

    @classmethod
    def of(cls, ranges: Iterable[Range]) -> SequenceSet:
        """The union of ranges."""
        fixed: list[tuple[int, int]] = []
        ends: list[int] = []
        last = False
        for one, other in ranges:
            if one is not None and other is not None:
                fixed.append((min(one, other), max(one, other)))
            elif one is None and other is None:
                last = True
            else:
                ends.append(one or other or 1)
        return cls(_merged(fixed), (min(ends), max(ends)) if ends else None, last)

    @property
    def largest_named(self) -> int:
        """The largest number that is written in the set, 0 when there is none but ``*``."""
        return max(self.fixed[-1][1] if self.fixed else 0, self.tails[1] if self.tails else 0)

    def contains(self, number: int, largest: int) -> bool:
        """Whether ``number`` is in the set while ``largest`` is the largest in use."""
        if _within(self.fixed, number) or (self.last and number == largest):
            return True
        return self.tails is not None and any(min(end, largest) <= number <= max(end, largest) for end in self.tails)

    def resolved(self, largest: int) -> tuple[tuple[int, int], ...]:
        """Ascending ranges that do not touch, with ``*`` replaced by ``largest``."""
        ranges = list(self.fixed)
        if self.last:
            ranges.append((largest, largest))
        if self.tails:
            # RFC 3501 9 (seq-range): n:* and *:n are the same, also when n is beyond what * stands for.
            ranges.extend((min(end, largest), max(end, largest)) for end in self.tails)
        return _merged(ranges) if len(ranges) > len(self.fixed) else self.fixed

    def numbers(self, largest: int) -> list[int]:
        """Those of 1 to ``largest`` that are in the set, ascending."""
        return [
            number for low, high in self.resolved(largest) for number in range(max(low, 1), min(high, largest) + 1)
        ]


def _merged(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _within(ranges: tuple[tuple[int, int], ...], number: int) -> bool:
    place = bisect_right(ranges, (number, LARGEST_NUMBER)) - 1
    return place >= 0 and ranges[place][0] <= number <= ranges[place][1]


def as_set(numbers: Iterable[int]) -> bytes:
    """Ascending numbers as a sequence set on the wire; RFC 4315 wants UIDs so."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return b",".join(b"%d" % low if low == high else b"%d:%d" % (low, high) for low, high in ranges)


# ---- what to fetch

SectionText: TypeAlias = Literal["", "HEADER", "HEADER.FIELDS", "HEADER.FIELDS.NOT", "TEXT", "MIME"]


@dataclass(frozen=True, slots=True)
class Section:
    """What stands in the brackets of ``BODY[...]`` (RFC 3501 6.4.5); without anything, the whole message."""

    parts: tuple[int, ...] = ()
    text: SectionText = ""
    fields: tuple[bytes, ...] = ()


class Item(enum.Enum):
    """What FETCH can be asked for without brackets; the values are the names on the wire."""

    UID = b"UID"
    FLAGS = b"FLAGS"
    INTERNALDATE = b"INTERNALDATE"
    SIZE = b"RFC822.SIZE"
    ENVELOPE = b"ENVELOPE"
    BODY = b"BODY"
    BODYSTRUCTURE = b"BODYSTRUCTURE"


@dataclass(frozen=True, slots=True)
class BodySection:
    """Octets of a message.  ``label`` is what the response calls them, ``partial`` their first one and how many.

    ``peek``: without setting ``\\Seen``.
    """

    section: Section
    label: bytes
    peek: bool = False
    partial: tuple[int, int] | None = None


FetchItem: TypeAlias = Item | BodySection

# ---- what to search for

Comparison: TypeAlias = Literal["before", "on", "since"]


@dataclass(frozen=True, slots=True)
class All:
    """Every message."""


@dataclass(frozen=True, slots=True)
class And:
    """All of these."""

    keys: tuple[SearchKey, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One of these, or both."""

    one: SearchKey
    other: SearchKey


@dataclass(frozen=True, slots=True)
class Not:
    """Not this."""

    key: SearchKey


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag or keyword is set, or is not; ``\\Recent`` is one of them here."""

    name: str
    present: bool = True


@dataclass(frozen=True, slots=True)
class Header:
    """A header field is there, and ``value`` is somewhere in it (in any case when empty)."""

    field: bytes
    value: str


@dataclass(frozen=True, slots=True)
class Body:
    """``value`` is somewhere in the body."""

    value: str


@dataclass(frozen=True, slots=True)
class Text:
    """``value`` is somewhere in the header or the body."""

    value: str


@dataclass(frozen=True, slots=True)
class Size:
    """Larger, or smaller, than so many octets."""

    larger: bool
    octets: int


@dataclass(frozen=True, slots=True)
class Received:
    """The internal date, without regard to time and zone."""

    op: Comparison
    date: datetime.date


@dataclass(frozen=True, slots=True)
class Sent:
    """The Date field, without regard to time and zone."""

    op: Comparison
    date: datetime.date


@dataclass(frozen=True, slots=True)
class Numbers:
    """Message numbers."""

    numbers: SequenceSet


@dataclass(frozen=True, slots=True)
class Uids:
    """UIDs."""

    uids: SequenceSet


SearchKey: TypeAlias = All | And | Or | Not | Flag | Header | Body | Text | Size | Received | Sent | Numbers | Uids

# ---- what to change


class Change(enum.Enum):
    """What STORE does with the flags that it names."""

    REPLACE = b"FLAGS"
    ADD = b"+FLAGS"
    REMOVE = b"-FLAGS"


@dataclass(frozen=True, slots=True)
class Append:
    """What comes before the message in APPEND; ``received`` None is now."""

    mailbox: str
    flags: tuple[str, ...] = ()
    received: datetime.datetime | None = None
