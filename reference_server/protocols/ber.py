"""The Basic Encoding Rules as far as LDAP uses them: definite lengths, low tag numbers, nothing else.

Owns: cutting a stream of octets into top-level elements, taking an element apart, and putting one together, within
bounds of size that are checked before anything is kept (RFC 4511 5.1).  Knows no message, no filter and no entry.

An element is its tag, one octet with class and form, its length and its content.  The forms that BER allows and
RFC 4511 5.1 takes away (indefinite lengths) are errors, as are tags of more than one octet, which LDAP has none of.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

#: Octets that a length may have behind its first: 4 GiB are beyond every limit, and some clients always send four.
_LENGTH_OCTETS: Final = 4


class Tag(enum.IntEnum):
    """Universal tags (X.690 8), constructed where the type is."""

    BOOLEAN = 0x01
    INTEGER = 0x02
    OCTET_STRING = 0x04
    NULL = 0x05
    ENUMERATED = 0x0A
    SEQUENCE = 0x30
    SET = 0x31


class BerError(ValueError):
    """The octets are not what they must be; ``str()`` says in which way."""


class ElementReader:
    """Cuts what a client sends into whole top-level elements.

    ``limit`` bounds an element's content (octets).  An element that announces more is an error as soon as its length
    is there, and nothing of its content is waited for.
    """

    __slots__ = ("_buffer", "_limit", "_tag")

    def __init__(self, limit: int, tag: int = Tag.SEQUENCE) -> None:
        self._limit = limit
        self._tag = tag
        self._buffer = bytearray()

    @property
    def pending(self) -> bool:
        """Whether anything is there that has not been taken."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._buffer += data

    def clear(self) -> None:
        """Forget everything that was received and not taken."""
        self._buffer.clear()

    def element(self) -> bytes | None:
        """The content of the next element, or None while it is incomplete.  Raises :class:`BerError`."""
        buffer = self._buffer
        if not buffer:
            return None
        if buffer[0] != self._tag:
            raise BerError(f"a message begins with {self._tag:#04x}, not with {buffer[0]:#04x}")
        header = _length(buffer, 1)
        if header is None:
            return None
        length, start = header
        if length > self._limit:
            raise BerError(f"a message of {length} octets; {self._limit} are taken at most")
        if len(buffer) < start + length:
            return None
        content = bytes(buffer[start : start + length])
        del buffer[: start + length]
        return content


class Content:
    """The content of a constructed element, read from front to back.  Every method raises :class:`BerError`."""

    __slots__ = ("_at", "_octets")

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = 0

    @property
    def at_end(self) -> bool:
        """Whether everything has been read."""
        return self._at >= len(self._octets)

    def peek(self) -> int | None:
        """The tag of the next element; None at the end."""
        return None if self.at_end else self._octets[self._at]

    def element(self) -> tuple[int, bytes]:
        """The next element, whatever it is: its tag and content."""
        if self.at_end:
            raise BerError("something is missing at the end")
        tag = self._octets[self._at]
        if tag & 0x1F == 0x1F:
            raise BerError("a tag of more than one octet")
        header = _length(self._octets, self._at + 1)
        if header is None:
            raise BerError("a length that is cut off")
        length, start = header
        if start + length > len(self._octets):
            raise BerError("an element is longer than the one around it")
        self._at = start + length
        return tag, self._octets[start : start + length]

    def expect(self, tag: int) -> bytes:
        """The content of the next element, which must have this tag."""
        found, content = self.element()
        if found != tag:
            raise BerError(f"{tag:#04x} was expected, {found:#04x} was found")
        return content

    def integer(self, tag: int = Tag.INTEGER) -> int:
        """A number of at most 32 bits: all that LDAP has (RFC 4511 4.1.1, ``maxInt``)."""
        content = self.expect(tag)
        if not 1 <= len(content) <= 5:
            raise BerError(f"a number of {len(content)} octets")
        return int.from_bytes(content, "big", signed=True)

    def boolean(self, tag: int = Tag.BOOLEAN) -> bool:
        """True for whatever is not zero: some clients send 0x01 where RFC 4511 5.1 wants 0xFF."""
        content = self.expect(tag)
        if len(content) != 1:
            raise BerError(f"a boolean of {len(content)} octets")
        return content != b"\x00"

    def octets(self, tag: int = Tag.OCTET_STRING) -> bytes:
        """An octet string."""
        return self.expect(tag)

    def text(self, tag: int = Tag.OCTET_STRING) -> str:
        """An octet string that must be UTF-8 (RFC 4511 4.1.2)."""
        try:
            return self.expect(tag).decode()
        except UnicodeDecodeError:
            raise BerError("text that is not UTF-8") from None

    def inside(self, tag: int = Tag.SEQUENCE) -> Content:
        """The content of the next element, to be read in turn."""
        return Content(self.expect(tag))

    def done(self) -> None:
        """Nothing may be left.  Only for elements that cannot be extended (RFC 4511 4)."""
        if not self.at_end:
            raise BerError("more than there should be")


def _length(octets: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """The length that begins there and where the content begins; None while octets are missing."""
    if at >= len(octets):
        return None
    first = octets[at]
    if first < 0x80:
        return first, at + 1
    count = first & 0x7F
    if not 1 <= count <= _LENGTH_OCTETS:
        raise BerError("an indefinite length" if count == 0 else f"a length of {count} octets")
    if at + 1 + count > len(octets):
        return None
    return int.from_bytes(octets[at + 1 : at + 1 + count], "big"), at + 1 + count


def element(tag: int, content: bytes) -> bytes:
    """An element with the shortest length there is."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def sequence(parts: Iterable[bytes], tag: int = Tag.SEQUENCE) -> bytes:
    """Elements in another."""
    return element(tag, b"".join(parts))


def integer(number: int, tag: int = Tag.INTEGER) -> bytes:
    """A number in as few octets as it takes."""
    return element(tag, number.to_bytes((number + (number < 0)).bit_length() // 8 + 1, "big", signed=True))


def boolean(true: bool, tag: int = Tag.BOOLEAN) -> bytes:
    """RFC 4511 5.1: true is 0xFF."""
    return element(tag, b"\xff" if true else b"\x00")


def octets(content: bytes | str, tag: int = Tag.OCTET_STRING) -> bytes:
    """An octet string; text as UTF-8."""
    return element(tag, content.encode() if isinstance(content, str) else content)
