"""Header fields of messages as IMAP looks at them (RFC 5322, 2045, 2047, 2183, 2231), however badly they are written.

Owns: where fields begin and end, octet for octet, and what is in the structured ones: parameters and addresses.  Knows
no message as a whole and no IMAP response.  Nothing here raises, and everything takes time in proportion to the length
of what is read: the octets are those of whoever wrote the mail.
"""

from __future__ import annotations

import binascii
import codecs
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_FIELD: Final = re.compile(rb"[^\n]*+(?:\n|\Z)(?:[ \t][^\n]*+(?:\n|\Z))*+")
_FOLD: Final = re.compile(rb"\r?\n[ \t]")
_TOKEN: Final = rb"[^\x00-\x20\x7f()<>@,;:\\\"/\[\]?=]+"
_TYPE: Final = re.compile(rb"\s*+(" + _TOKEN + rb")\s*+/\s*+(" + _TOKEN + rb")\s*+(?=;|\Z)")
_WORD: Final = re.compile(rb"\s*+(" + _TOKEN + rb")")
_PARAMETER: Final = re.compile(rb';\s*+([^\s=;"]++)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"?|([^;\s]*+))', re.DOTALL)
_PIECE: Final = re.compile(rb"([^*]+)\*(0|[1-9][0-9]{0,3})(\*?)")
_NOT_IN_EXTENDED: Final = re.compile(rb"[^!#$&+\-.0-9A-Z^_`a-z{|}~]")
_COMMENTED: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?|\\.|[()]|[^"\\()]++', re.DOTALL)
_LEXEME: Final = re.compile(
    rb'"(?P<quoted>(?:[^"\\]|\\.)*+)"?|(?P<literal>\[[^\[\]]*+\]?)|(?P<special>[()<>@,;:.])|(?P<space>[ \t\r\n]++)'
    rb'|(?P<atom>(?:[^"\[()<>@,;:. \t\r\n\\]|\\.)++)|(?P<stray>\\)',
    re.DOTALL,
)
_PAIR: Final = re.compile(rb"\\(.)", re.DOTALL)
_ENCODED_WORD: Final = re.compile(rb"=\?([A-Za-z0-9_.:+-]{1,40})(?:\*[A-Za-z0-9-]*)?\?([BbQq])\?([^? \t]*)\?=")
_BETWEEN_ENCODED: Final = re.compile(rb"(\?=)[ \t\r\n]++(?==\?[A-Za-z0-9_.:+*-]{1,60}\?[BbQq]\?)")
_ORDINARY_CHARSET: Final = re.compile(
    r"ascii|utf-(?:7|8|8-sig|16|32)(?:-[lb]e)?|iso8859-\d+|cp\d+|koi8-\w+|gb\w+|big5\w*|euc_\w+|shift_jis\w*"
    r"|iso2022_\w+|mac-\w+|tis-620|hz|johab|ptcp154|kz1048|hp-roman8"
)


@dataclass(frozen=True, slots=True)
class Field:
    """``name`` is in lower case, empty where there is none; ``raw`` is the field as it stands, line ends included."""

    name: bytes
    raw: bytes

    @property
    def value(self) -> bytes:
        """What stands behind the colon, unfolded (RFC 5322 2.2.3); a tab at a fold becomes a space."""
        return _FOLD.sub(b" ", self.raw[self.raw.find(b":") + 1 :]).strip()


@dataclass(frozen=True, slots=True)
class Address:
    """RFC 3501 7.4.2.  A group begins with one that has a mailbox (its name) only, and ends with one that has nothing.

    Of any other, mailbox and host are there, if only as empty strings.
    """

    name: bytes | None = None
    route: bytes | None = None
    mailbox: bytes | None = None
    host: bytes | None = None


def fields_in(header: bytes) -> Iterator[Field]:
    """The fields one by one, up to the empty line."""
    at = 0
    while at < len(header):
        found = _FIELD.match(header, at)
        assert found is not None
        raw = found[0]
        if raw in (b"\r\n", b"\n"):
            return
        name, colon, _ = raw.partition(b":")
        yield Field(name.rstrip(b" \t").lower() if colon else b"", raw)
        at = found.end()


def first(fields: Sequence[Field], name: bytes) -> bytes | None:
    """The value of the first field of that name."""
    return next((field.value for field in fields if field.name == name), None)


# ---- fields with parameters


def media_type(value: bytes) -> tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...]] | None:
    """Type, subtype and parameters of Content-Type; None where it cannot be read.  Names are in upper case."""
    plain = _without_comments(value)
    found = _TYPE.match(plain)
    if found is None:
        return None
    return found[1].upper(), found[2].upper(), _parameters(plain, found.end())


def word_and_parameters(value: bytes) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]] | None:
    """The same for fields that begin with one word: Content-Disposition, Content-Transfer-Encoding."""
    plain = _without_comments(value)
    found = _WORD.match(plain)
    return None if found is None else (found[1].upper(), _parameters(plain, found.end()))


def words(value: bytes) -> list[bytes]:
    """Words with commas between, as in Content-Language."""
    return [word for piece in _without_comments(value).split(b",") if (word := piece.strip())]


def _parameters(plain: bytes, at: int) -> tuple[tuple[bytes, bytes], ...]:
    found = _PARAMETER.finditer(plain, at)
    return _joined([(match[1].upper(), match[3] if match[2] is None else _unquoted(match[2])) for match in found])


def _joined(pairs: list[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    """The parameters with their continuations put together, which RFC 2231 6 wants of IMAP servers.

    What has a character set stays encoded and keeps the ``*`` at its name.
    """
    if not any(name.endswith((b"*0", b"*0*")) for name, _ in pairs):
        return tuple(pairs)
    written = {name for name, _ in pairs}
    pieces: dict[bytes, dict[int, int]] = {}
    for place, (name, _) in enumerate(pairs):
        if piece := _PIECE.fullmatch(name):
            pieces.setdefault(piece[1], {}).setdefault(int(piece[2]), place)
    gone: set[int] = set()
    whole: dict[int, tuple[bytes, bytes]] = {}
    for base, places in pieces.items():
        if 0 not in places:
            continue
        encoded = pairs[places[0]][0].endswith(b"*")
        if (base + b"*" if encoded else base) in written:
            continue
        chain = [places[number] for number in _in_a_row(places)]
        values = [
            _NOT_IN_EXTENDED.sub(lambda octet: b"%%%02X" % ord(octet[0]), pairs[place][1])
            if encoded and not pairs[place][0].endswith(b"*")
            else pairs[place][1]
            for place in chain
        ]
        gone.update(chain)
        whole[min(chain)] = (base + b"*" if encoded else base, b"".join(values))
    return tuple(whole.get(place, pair) for place, pair in enumerate(pairs) if place in whole or place not in gone)


def _in_a_row(numbers: Container[int]) -> Iterator[int]:
    """0, 1, 2 and so on, up to the first that is missing."""
    number = 0
    while number in numbers:
        yield number
        number += 1


def _without_comments(value: bytes) -> bytes:
    if b"(" not in value:
        return value
    kept: list[bytes] = []
    depth = 0
    for lexeme in _COMMENTED.finditer(value):
        piece = lexeme[0]
        if piece == b"(":
            depth += 1
        elif piece == b")" and depth:
            depth -= 1
        elif not depth:
            kept.append(piece)
    return b"".join(kept)


def _unquoted(text: bytes) -> bytes:
    return _PAIR.sub(rb"\1", text) if b"\\" in text else text


# ---- addresses


class _Reading:
    """An address field that is being read: what was found, and the pieces of the address under way.

    Space and comments between two pieces are one ``b" "``.
    """

    __slots__ = ("angle", "closed", "comment", "found", "group", "pieces")

    def __init__(self) -> None:
        self.found: list[Address] = []
        self.group = False
        self._next()

    def _next(self) -> None:
        self.pieces: list[bytes] = []
        self.angle: list[bytes] | None = None
        self.closed = False
        self.comment: bytes | None = None

    def word(self, text: bytes) -> None:
        if self.angle is None:
            self.pieces.append(text)
        elif not self.closed:  # what stands behind > belongs to nothing
            self.angle.append(text)

    def space(self) -> None:
        if self.angle is None and self.pieces[-1:] != [b" "]:
            self.pieces.append(b" ")

    def mark(self, mark: bytes) -> None:
        match mark:
            case b"<" if self.angle is None:
                self.angle = []
            case b">":
                self.closed = True
            case b"," if not self._in_route():
                self.end()
            case b";":
                self.end()
                self.end_group()
            case b":" if self.angle is None:
                self.found.append(Address(mailbox=self._phrase() or b""))
                self.group = True
                self._next()
            case _:
                self.word(mark)

    def end(self) -> None:
        """A comma, or the end."""
        if self.angle is not None:
            route, spec = _route_and_spec(self.angle)
            self.found.append(Address(self._phrase() or self.comment, route, *_mailbox_and_host(spec)))
        elif b"@" in self.pieces:
            spec = [piece for piece in self.pieces if piece != b" "]
            self.found.append(Address(self.comment, None, *_mailbox_and_host(spec)))
        elif phrase := self._phrase():
            # One word may be a mailbox of this host; several are rather the name of somebody without an address.
            named = b" " in phrase
            self.found.append(Address(phrase, None, b"", b"") if named else Address(self.comment, None, phrase, b""))
        self._next()

    def end_group(self) -> None:
        if self.group:
            self.found.append(Address())
        self.group = False

    def _phrase(self) -> bytes | None:
        return b"".join(self.pieces).strip() or None

    def _in_route(self) -> bool:
        return self.angle is not None and not self.closed and self.angle[:1] == [b"@"] and b":" not in self.angle


def addresses(value: bytes) -> list[Address]:
    """Who is named in From, To and their like."""
    reading = _Reading()
    comment: list[bytes] = []
    depth = 0
    for lexeme in _LEXEME.finditer(value):
        text = lexeme[0]
        special = lexeme.lastgroup == "special"
        if special and (text == b"(" or (text == b")" and depth)):
            depth += 1 if text == b"(" else -1
            if not depth:
                reading.comment = b"".join(comment[1:]).strip() or reading.comment
                comment.clear()
                reading.space()
                continue
        if depth:
            comment.append(_unquoted(text))
        elif special:
            reading.mark(text)
        elif lexeme.lastgroup == "space":
            reading.space()
        else:
            quoted = lexeme["quoted"]
            reading.word(text if quoted is None else _unquoted(quoted))
    reading.end()
    reading.end_group()
    return reading.found


def _route_and_spec(pieces: list[bytes]) -> tuple[bytes | None, list[bytes]]:
    # RFC 5322 4.4 (obs-route): <@one,@two:somebody@three>
    if pieces[:1] == [b"@"] and b":" in pieces:
        colon = pieces.index(b":")
        return b"".join(pieces[:colon]), pieces[colon + 1 :]
    return None, pieces


def _mailbox_and_host(pieces: list[bytes]) -> tuple[bytes, bytes]:
    if b"@" not in pieces:
        return b"".join(pieces).strip(), b""
    at = len(pieces) - 1 - pieces[::-1].index(b"@")
    return b"".join(pieces[:at]), b"".join(pieces[at + 1 :])


# ---- text that people read


def as_text(octets: bytes, charset: str = "utf-8") -> str:
    """Decoded; what cannot be is replaced, and an unknown character set is taken for Latin-1."""
    try:
        name = codecs.lookup(charset).name
        # Only what is meant for mail: Python has codecs that are slow on purpose-made input, or warn.
        if _ORDINARY_CHARSET.fullmatch(name):
            return octets.decode(name, "replace")
    except (LookupError, ValueError, UnicodeError):
        pass
    return octets.decode("latin-1")


def decoded(value: bytes) -> str:
    """A field's value with its encoded words (RFC 2047) decoded; other octets are taken for UTF-8."""
    if b"=?" not in value:
        return as_text(value)
    value = _BETWEEN_ENCODED.sub(rb"\1", value)  # RFC 2047 6.2: the space between two encoded words is not shown
    pieces: list[str] = []
    at = 0
    for word in _ENCODED_WORD.finditer(value):
        pieces.append(as_text(value[at : word.start()]))
        text = word[3].replace(b"_", b" ") if word[2] in b"Qq" else word[3]
        octets = binascii.a2b_qp(text) if word[2] in b"Qq" else from_base64(text)
        pieces.append(as_text(octets, word[1].decode("ascii")))
        at = word.end()
    return "".join([*pieces, as_text(value[at:])])


def from_base64(text: bytes) -> bytes:
    """What is readable of it; RFC 2045 6.8 has octets outside the alphabet ignored."""
    letters = re.sub(rb"[^A-Za-z0-9+/]+", b"", text)
    letters = letters[: len(letters) - (len(letters) % 4 == 1)]
    return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))
