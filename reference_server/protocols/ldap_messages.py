"""LDAP messages: what a client can ask for, taken out of BER, and the answers, put into it.

Owns: RFC 4511 4.1 to 4.14 as far as the wire goes.  Knows no session, no entry and no password; whether something may
be asked for is :mod:`reference_server.protocols.ldap`'s.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from reference_server.protocols import ber
from reference_server.protocols.ber import BerError, Content, Tag
from reference_server.protocols.ldap_directory import Scope
from reference_server.protocols.ldap_filter import Filter, read_filter

START_TLS: Final = "1.3.6.1.4.1.1466.20037"
WHO_AM_I: Final = "1.3.6.1.4.1.4203.1.11.3"
NOTICE_OF_DISCONNECTION: Final = "1.3.6.1.4.1.1466.20036"
ALL_OPERATIONAL_ATTRIBUTES: Final = "1.3.6.1.4.1.4203.1.5.1"
ABSOLUTE_TRUE_FALSE: Final = "1.3.6.1.4.1.4203.1.5.3"

_MAX_INT: Final = 2**31 - 1


class Result(enum.IntEnum):
    """RFC 4511 appendix A.1, those that we have a use for."""

    SUCCESS = 0
    OPERATIONS_ERROR = 1
    PROTOCOL_ERROR = 2
    TIME_LIMIT_EXCEEDED = 3
    SIZE_LIMIT_EXCEEDED = 4
    COMPARE_FALSE = 5
    COMPARE_TRUE = 6
    AUTH_METHOD_NOT_SUPPORTED = 7
    UNAVAILABLE_CRITICAL_EXTENSION = 12
    CONFIDENTIALITY_REQUIRED = 13
    NO_SUCH_ATTRIBUTE = 16
    UNDEFINED_ATTRIBUTE_TYPE = 17
    NO_SUCH_OBJECT = 32
    INVALID_DN_SYNTAX = 34
    INVALID_CREDENTIALS = 49
    UNAVAILABLE = 52
    UNWILLING_TO_PERFORM = 53
    OTHER = 80


class Answer(enum.IntEnum):
    """Tags of the answers that carry a result (RFC 4511 4.1.9)."""

    BIND = 0x61
    SEARCH_DONE = 0x65
    MODIFY = 0x67
    ADD = 0x69
    DELETE = 0x6B
    RENAME = 0x6D
    COMPARE = 0x6F
    EXTENDED = 0x78


@dataclass(frozen=True, slots=True)
class Bind:
    """``password`` is None for every method but simple."""

    version: int
    name: str
    password: bytes | None


@dataclass(frozen=True, slots=True)
class Unbind:
    pass


@dataclass(frozen=True, slots=True)
class Search:
    """Limits in entries and seconds, 0 for none."""

    base: str
    scope: Scope
    size_limit: int
    time_limit: int
    types_only: bool
    filter: Filter
    attributes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compare:
    name: str
    attribute: str
    value: str


@dataclass(frozen=True, slots=True)
class Abandon:
    message: int


@dataclass(frozen=True, slots=True)
class Extended:
    name: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Update:
    """Anything that would change an entry; ``answer`` is what it is answered with."""

    answer: Answer


Request: TypeAlias = Bind | Unbind | Search | Compare | Abandon | Extended | Update

_UPDATES: Final = {0x66: Answer.MODIFY, 0x68: Answer.ADD, 0x4A: Answer.DELETE, 0x6C: Answer.RENAME}


@dataclass(frozen=True, slots=True)
class Message:
    """A request with its number, and whether a control that we do not have is essential to it (RFC 4511 4.1.11)."""

    number: int
    request: Request
    unavailable_control: str | None


def answer_to(request: Request) -> Answer | None:
    """What a request is answered with; None where it gets no answer."""
    match request:
        case Bind():
            return Answer.BIND
        case Search():
            return Answer.SEARCH_DONE
        case Compare():
            return Answer.COMPARE
        case Extended():
            return Answer.EXTENDED
        case Update(answer):
            return answer
        case Unbind() | Abandon():
            return None


def read_message(octets: bytes) -> Message:
    """A message from the content of its sequence.  Raises :class:`BerError`."""
    content = Content(octets)
    number = content.integer()
    if not 1 <= number <= _MAX_INT:
        # RFC 4511 4.1.1.1: zero is for what nobody has asked for.
        raise BerError(f"{number} is no number for a request")
    tag, operation = content.element()
    request = _request(tag, operation)
    control: str | None = None
    if content.peek() == 0xA0:
        control = _essential_control(content.inside(0xA0))
    return Message(number, request, control)


def _request(tag: int, operation: bytes) -> Request:
    inside = Content(operation)
    match tag:
        case 0x60:
            return _bind(inside)
        case 0x42:
            return Unbind()
        case 0x63:
            return _search(inside)
        case 0x6E:
            name, assertion = inside.text(), inside.inside()
            return Compare(name, assertion.text(), assertion.octets().decode(errors="surrogateescape"))
        case 0x50:
            return Abandon(int.from_bytes(operation, "big", signed=True))
        case 0x77:
            return _extended(inside)
        case _ if tag in _UPDATES:
            return Update(_UPDATES[tag])
        case _:
            raise BerError(f"there is no request with the tag {tag:#04x}")


def _bind(inside: Content) -> Bind:
    version, name = inside.integer(), inside.text()
    tag, credentials = inside.element()
    return Bind(version, name, credentials if tag == 0x80 else None)


def _search(inside: Content) -> Search:
    base = inside.text()
    scope, aliases = inside.integer(Tag.ENUMERATED), inside.integer(Tag.ENUMERATED)
    size, time = inside.integer(), inside.integer()
    if scope not in tuple(Scope) or not 0 <= aliases <= 3 or not 0 <= size <= _MAX_INT or not 0 <= time <= _MAX_INT:
        raise BerError("a search with a scope or limit that does not exist")
    types_only = inside.boolean()
    filter_ = read_filter(inside)
    attributes: list[str] = []
    listed = inside.inside()
    while not listed.at_end:
        attributes.append(listed.text())
    return Search(base, Scope(scope), size, time, types_only, filter_, tuple(attributes))


def _extended(inside: Content) -> Extended:
    try:
        name = inside.octets(0x80).decode("ascii")
    except UnicodeDecodeError:
        raise BerError("the name of an extension is a row of numbers") from None
    return Extended(name, inside.octets(0x81) if inside.peek() == 0x81 else None)


def _essential_control(controls: Content) -> str | None:
    essential: str | None = None
    while not controls.at_end:
        control = controls.inside()
        name = control.octets().decode("ascii", "replace")
        if control.peek() == Tag.BOOLEAN and control.boolean():
            essential = essential or name
    return essential


# -- answers -----------------------------------------------------------------------------------------------------------


def message(number: int, operation: bytes) -> bytes:
    """An operation in its envelope."""
    return ber.sequence((ber.integer(number), operation))


def result(
    number: int, answer: Answer, code: Result, diagnostic: str = "", *, matched: str = "", rest: bytes = b""
) -> bytes:
    """An answer with a result; ``rest`` is what stands behind it in the answers that have more."""
    parts = (ber.integer(code, Tag.ENUMERATED), ber.octets(matched), ber.octets(diagnostic), rest)
    return message(number, ber.sequence(parts, answer))


def extended_result(
    number: int, code: Result, diagnostic: str = "", *, name: str | None = None, value: bytes | None = None
) -> bytes:
    """The answer to an extended request (RFC 4511 4.12)."""
    rest = ber.octets(name, 0x8A) if name is not None else b""
    rest += ber.octets(value, 0x8B) if value is not None else b""
    return result(number, Answer.EXTENDED, code, diagnostic, rest=rest)


def notice_of_disconnection(code: Result, diagnostic: str) -> bytes:
    """RFC 4511 4.4.1: number zero, a name and no value; the end of the session follows."""
    return extended_result(0, code, diagnostic, name=NOTICE_OF_DISCONNECTION)


def entry(number: int, dn: str, attributes: Iterable[tuple[str, Sequence[str]]], *, types_only: bool) -> bytes:
    """One entry that a search has found."""
    listed = [
        ber.sequence(
            (ber.octets(name), ber.sequence(() if types_only else map(ber.octets, values), Tag.SET))
        )
        for name, values in attributes
    ]
    return message(number, ber.sequence((ber.octets(dn), ber.sequence(listed)), 0x64))
