"""Search filters: how they come over the wire and what they say of an entry.

Owns: the ten kinds of filter (RFC 4511 4.5.1.7), three-valued logic, and how values are compared.  Knows no tree of
entries, no message and no session; an entry is a look-up from an attribute's name to its values.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from reference_server.protocols.ber import BerError, Content

#: Filters within filters; nobody means more, and each costs a frame of the stack.
MAX_DEPTH: Final = 32
#: Parts of a filter altogether.
MAX_PARTS: Final = 1024


class Subject(Protocol):
    """What a filter is held against.  Names of attributes are in lower case."""

    def values(self, attribute: str) -> Sequence[str] | None:
        """The values it has; None where no such attribute is known at all."""

    def in_name(self, attribute: str) -> Sequence[str]:
        """The values that stand in the entry's own name."""

    def everything(self) -> Iterable[str]:
        """All values of all attributes."""


#: RFC 4511 4.5.1.7: true, false, or undefined.
Truth: TypeAlias = bool | None

_SPACES: Final = re.compile(r" {2,}")


class Order(enum.Enum):
    """How a value is compared with the one that is asserted."""

    EQUAL = 0xA3
    AT_LEAST = 0xA5
    AT_MOST = 0xA6
    #: RFC 4511 4.5.1.7.6: a server without a better idea treats it as equality.
    ROUGHLY = 0xA8


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: Filter


@dataclass(frozen=True, slots=True)
class Present:
    attribute: str


@dataclass(frozen=True, slots=True)
class Comparison:
    order: Order
    attribute: str
    value: str


@dataclass(frozen=True, slots=True)
class Substrings:
    attribute: str
    first: str | None
    within: tuple[str, ...]
    last: str | None


@dataclass(frozen=True, slots=True)
class Extensible:
    """``rule`` or ``attribute`` may be missing, not both; ``in_name``: the parts of the entry's name count as well."""

    rule: str | None
    attribute: str | None
    value: str
    in_name: bool


Filter: TypeAlias = And | Or | Not | Present | Comparison | Substrings | Extensible

#: Matching rules that can be asked for by name or number (RFC 4517 4.2): all that our attributes have.
_RULES: dict[str, Callable[[str], str]] = {}


def _prepared(value: str) -> str:
    """RFC 4518 2, the part that matters here: composed, without regard to case and to how many spaces there are."""
    return _SPACES.sub(" ", unicodedata.normalize("NFKC", value).casefold().strip(" "))


def _exact(value: str) -> str:
    return _SPACES.sub(" ", value.strip(" "))


_RULES |= dict.fromkeys(("caseignorematch", "2.5.13.2"), _prepared)
_RULES |= dict.fromkeys(("caseignoreia5match", "1.3.6.1.4.1.1466.109.114.2"), _prepared)
_RULES |= dict.fromkeys(("caseexactmatch", "2.5.13.5"), _exact)


def read_filter(content: Content) -> Filter:
    """The next element of ``content`` as a filter.  Raises :class:`BerError`."""
    return _Reader().filter(content, MAX_DEPTH)


class _Reader:
    def __init__(self) -> None:
        self._left = MAX_PARTS

    def filter(self, content: Content, depth: int) -> Filter:
        self._left -= 1
        if depth == 0 or self._left < 0:
            raise BerError("a filter with too many parts or levels")
        tag, octets = content.element()
        inside = Content(octets)
        match tag:
            case 0xA0 | 0xA1:
                parts = []
                while not inside.at_end:
                    parts.append(self.filter(inside, depth - 1))
                # RFC 4526: no part at all is absolute true or false.
                return And(tuple(parts)) if tag == 0xA0 else Or(tuple(parts))
            case 0xA2:
                part = self.filter(inside, depth - 1)
                inside.done()
                return Not(part)
            case 0xA3 | 0xA5 | 0xA6 | 0xA8:
                attribute, value = inside.text(), _value(inside.octets())
                inside.done()
                return Comparison(Order(tag), attribute.lower(), value)
            case 0xA4:
                return self._substrings(inside)
            case 0x87:
                return Present(_text(octets).lower())
            case 0xA9:
                return _extensible(inside)
            case _:
                raise BerError(f"there is no filter with the tag {tag:#04x}")

    def _substrings(self, inside: Content) -> Substrings:
        attribute = inside.text().lower()
        pieces = inside.inside()
        inside.done()
        first: str | None = None
        last: str | None = None
        within: list[str] = []
        if pieces.at_end:
            raise BerError("a substring filter without a substring")
        while not pieces.at_end:
            self._left -= 1
            tag, octets = pieces.element()
            if last is not None or self._left < 0:
                raise BerError("substrings in the wrong order, or too many")
            match tag:
                case 0x80 if first is None and not within:
                    first = _value(octets)
                case 0x81:
                    within.append(_value(octets))
                case 0x82:
                    last = _value(octets)
                case _:
                    raise BerError("substrings in the wrong order")
        return Substrings(attribute, first, tuple(within), last)


def _extensible(inside: Content) -> Extensible:
    rule = inside.text(0x81) if inside.peek() == 0x81 else None
    attribute = inside.text(0x82).lower() if inside.peek() == 0x82 else None
    value = _value(inside.octets(0x83))
    in_name = inside.boolean(0x84) if inside.peek() == 0x84 else False
    inside.done()
    if rule is None and attribute is None:
        raise BerError("an extensible match with neither rule nor attribute")
    return Extensible(rule, attribute, value, in_name)


def _text(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise BerError("text that is not UTF-8") from None


def _value(octets: bytes) -> str:
    # A value that is no text equals none of ours; that is no reason to end the session.
    return octets.decode(errors="surrogateescape")


def holds(filter_: Filter, entry: Subject) -> Truth:
    """What the filter says of an entry."""
    match filter_:
        case And(parts):
            return _all(holds(part, entry) for part in parts)
        case Or(parts):
            return _not(_all(_not(holds(part, entry)) for part in parts))
        case Not(part):
            return _not(holds(part, entry))
        case Present(attribute):
            known = entry.values(attribute)
            return None if known is None else bool(known)
        case Comparison(order, attribute, value):
            return _compare(order, entry.values(attribute), _prepared(value))
        case Substrings(attribute):
            known = entry.values(attribute)
            return None if known is None else any(_has_substrings(filter_, each) for each in known)
        case Extensible():
            return _matches(filter_, entry)


def _matches(filter_: Extensible, entry: Subject) -> Truth:
    prepare = _prepared if filter_.rule is None else _RULES.get(filter_.rule.lower())
    if prepare is None:
        return None  # RFC 4511 4.5.1.7.7: a rule that is not known
    if filter_.attribute is None:
        candidates = [*entry.everything()]
    else:
        known = entry.values(filter_.attribute)
        if known is None:
            return None
        candidates = [*known, *(entry.in_name(filter_.attribute) if filter_.in_name else ())]
    value = prepare(filter_.value)
    return any(prepare(each) == value for each in candidates)


def equal(one: str, other: str) -> bool:
    """As the equality rule of all our attributes has it: without regard to case."""
    return _prepared(one) == _prepared(other)


def _compare(order: Order, known: Sequence[str] | None, value: str) -> Truth:
    if known is None:
        return None
    match order:
        case Order.EQUAL | Order.ROUGHLY:
            return any(_prepared(each) == value for each in known)
        case Order.AT_LEAST:
            return any(_prepared(each) >= value for each in known)
        case Order.AT_MOST:
            return any(_prepared(each) <= value for each in known)


def _has_substrings(filter_: Substrings, value: str) -> bool:
    text = _prepared(value)
    if filter_.first is not None:
        first = _prepared(filter_.first)
        if not text.startswith(first):
            return False
        text = text[len(first) :]
    if filter_.last is not None:
        last = _prepared(filter_.last)
        if not text.endswith(last):
            return False
        text = text[: len(text) - len(last)]
    for each in filter_.within:
        piece = _prepared(each)
        _, found, text = text.partition(piece) if piece else ("", "yes", text)
        if not found:
            return False
    return True


def _not(truth: Truth) -> Truth:
    return None if truth is None else not truth


def _all(truths: Iterable[Truth]) -> Truth:
    undefined = False
    for truth in truths:
        if truth is False:
            return False
        undefined = undefined or truth is None
    return None if undefined else True
