"""Put a client's lines and literals together into requests, within bounds.

Owns: where a request begins and ends on the wire (RFC 3501 2.2.1, 4.3, RFC 7888), and how much of one is kept.  Knows
no command but APPEND, whose message is the one literal that may be large, and sends nothing.

A size that a client announces is only ever compared; memory is taken for octets that have come.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from reference_server.protocols.imap_grammar import LARGEST_NUMBER, Append
from reference_server.protocols.imap_syntax import BadSyntax, append_prefix
from reference_server.protocols.lines import TAIL_LENGTH, Flaw, Line, LineReader

REQUEST_LIMIT: Final = 64 * 1024
"""Octets of a request, its literals included, without the message of APPEND."""
LITERAL_LIMIT_BEFORE_LOGIN: Final = 4096
"""Octets of a literal from somebody who has not logged in."""
MAX_MESSAGE: Final = 50 * 1024 * 1024
"""Octets of a message for APPEND."""
MAX_SKIPPED: Final = 2 * MAX_MESSAGE
"""Octets of a literal that was not asked for and is not wanted, which are read and thrown away."""

# RFC 3501 9: a tag is made of ASTRING-CHARs but without +.
_TAG: Final = re.compile(rb"[^\x00-\x20\x7f-\xff(){%*\"\\+]+(?= |\Z)")
_VERB: Final = re.compile(rb"[A-Za-z0-9]+")
_ANNOUNCED: Final = re.compile(rb"\{0*+([0-9]*+)(\+?)\}")
_DIGITS_AND_PLUS: Final = re.compile(rb"[0-9]+\+\}")


@dataclass(frozen=True, slots=True)
class Message:
    """What APPEND brings."""

    arguments: Append
    text: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """A command as it came: ``text`` is what follows the verb and its space, literals as on the wire.

    ``verb`` is in upper case, ``UID`` part of it.
    """

    tag: bytes
    verb: bytes
    text: bytes
    message: Message | None = None


class Fault(enum.Enum):
    """What was wrong with a request before anybody could look at its arguments."""

    NO_TAG = "a request begins with a tag and a command"
    TOO_LONG = "the request is too long"
    BARE_LF = "lines end with CR LF, not with LF alone"
    LITERAL_TOO_LARGE = "the literal is too large"
    MESSAGE_TOO_LARGE = "the message is too large"
    FLOOD = "the literal is too large to be skipped"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A request that is not carried out.  ``tag`` is None when it could not be read.

    After a ``FLOOD``, what the client goes on sending cannot be told from commands.
    """

    tag: bytes | None
    fault: Fault | str


class Continue(enum.Enum):
    """The client waits for leave to send a literal."""

    LITERAL = enum.auto()


Arrival: TypeAlias = Request | Rejected | Continue


@dataclass(frozen=True, slots=True)
class _Announced:
    """A literal that is to come: its size, whether the client waits for leave, octets of the announcement."""

    size: int
    waits: bool
    length: int


class RequestReader:
    """What the client has sent and nobody has dealt with.

    ``trusted``: whether the client has logged in, after which it may send larger literals.
    """

    __slots__ = ("_begun", "_flawed", "_lines", "_message", "_prefix", "_rejected", "_skipping", "_wanted", "trusted")

    def __init__(self) -> None:
        self._lines = LineReader(REQUEST_LIMIT)
        self.trusted = False
        self._begun: bytearray | None = None
        self._wanted = 0
        self._message: bytearray | None = None
        self._prefix: Append | None = None
        self._skipping = 0
        self._flawed = False
        self._rejected: Rejected | None = None

    @property
    def unfinished(self) -> bool:
        """Whether a request has begun that is not complete."""
        return self._begun is not None or self._rejected is not None or self._lines.pending

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._lines.feed(data)

    def line(self) -> Line | None:
        """A line that is no request: a response to a challenge, DONE."""
        return self._lines.line()

    def clear(self) -> None:
        """Forget everything that was received."""
        self._lines.clear()
        self._forget()

    def next(self) -> Arrival | None:
        """The next thing to be dealt with; None while more octets are needed for that."""
        while True:
            if self._rejected is not None:
                return self._rest_of_rejected(self._rejected)
            if self._wanted and not self._literal_arrived():
                return None
            line = self._lines.line()
            if line is None:
                return None
            arrival = self._line_arrived(line)
            if arrival is not None:
                return arrival

    # ---- lines

    def _line_arrived(self, line: Line) -> Arrival | None:
        if isinstance(line, Flaw):
            self._rejected = self._reject(Fault.TOO_LONG if line is Flaw.TOO_LONG else Fault.BARE_LF)
            self._flawed = True
            return None
        announced = _announced(line)
        if self._message is not None:
            return self._message_ended(line, announced)
        if self._begun is None:
            if announced is None:
                return _request(line)
            self._begun = bytearray()
        self._begun += line
        if len(self._begun) > REQUEST_LIMIT:
            return self._refuse_literal(announced, Fault.TOO_LONG)
        if announced is None:
            begun = bytes(self._begun)
            self._forget()
            return _request(begun)
        return self._literal_announced(announced)

    def _message_ended(self, line: bytes, announced: _Announced | None) -> Arrival | None:
        assert self._begun is not None
        assert self._message is not None
        assert self._prefix is not None
        if line:
            return self._refuse_literal(announced, "nothing can follow the message")
        request = _request(bytes(self._begun))
        message = Message(self._prefix, bytes(self._message))
        self._forget()
        if isinstance(request, Rejected):
            return request
        return Request(request.tag, request.verb, request.text, message)

    # ---- literals

    def _literal_announced(self, announced: _Announced) -> Arrival | None:
        assert self._begun is not None
        size = announced.size
        request = _request(bytes(self._begun))
        if isinstance(request, Rejected):
            return self._refuse_literal(announced, request.fault)
        before = request.text[: -announced.length]
        if self.trusted and request.verb == b"APPEND" and before:
            # The literal in first place is the mailbox's name, the one in second place the message.
            if size > MAX_MESSAGE:
                return self._refuse_literal(announced, Fault.MESSAGE_TOO_LARGE)
            try:
                self._prefix = append_prefix(before)
            except BadSyntax as fault:
                return self._refuse_literal(announced, str(fault))
            self._message = bytearray()
        elif size > REQUEST_LIMIT - len(self._begun) or not (self.trusted or size <= LITERAL_LIMIT_BEFORE_LOGIN):
            return self._refuse_literal(announced, Fault.LITERAL_TOO_LARGE)
        else:
            self._begun += b"\r\n"
        self._wanted = size
        return Continue.LITERAL if announced.waits else None

    def _literal_arrived(self) -> bool:
        octets = self._lines.take(self._wanted)
        self._wanted -= len(octets)
        if self._message is not None:
            self._message += octets
        else:
            assert self._begun is not None
            self._begun += octets
        return not self._wanted

    def _refuse_literal(self, announced: _Announced | None, fault: Fault | str) -> Rejected | None:
        rejected = self._reject(fault)
        if announced is None or announced.waits:
            return rejected  # a client that asks for leave and gets none sends nothing
        return self._skip(rejected, announced.size)

    def _rest_of_rejected(self, rejected: Rejected) -> Rejected | None:
        """Skip what still belongs to a request that is refused: literals that come unasked, and lines behind them."""
        while True:
            if self._skipping:
                self._skipping -= len(self._lines.take(self._skipping))
                if self._skipping:
                    return None
            if self._flawed:
                # However long or wrongly ended a line is: what it announces at its end is no command.
                tail = self._lines.tail()
                if tail is None:
                    return None
                self._flawed = False
                announced = _announced_in(tail)
            else:
                line = self._lines.line()
                if line is None:
                    return None
                if isinstance(line, Flaw):
                    self._flawed = True
                    continue
                announced = _announced(line)
            if announced is None or announced.waits:
                self._rejected = None
                return rejected
            flood = self._skip(rejected, announced.size)
            if flood is not None:
                return flood

    def _skip(self, rejected: Rejected, size: int) -> Rejected | None:
        # RFC 7888 4: the client sends the literal in any case; it must not be taken for commands.
        if size > (MAX_SKIPPED if self.trusted else LITERAL_LIMIT_BEFORE_LOGIN):
            self._rejected = None
            return Rejected(rejected.tag, Fault.FLOOD)
        self._rejected = rejected
        self._skipping = size
        return None

    # ---- small things

    def _reject(self, fault: Fault | str) -> Rejected:
        tag = None
        if self._begun is not None and (found := _TAG.match(self._begun)):
            tag = found[0]
        self._forget()
        return Rejected(tag, fault)

    def _forget(self) -> None:
        self._begun = None
        self._wanted = 0
        self._message = None
        self._prefix = None
        self._skipping = 0
        self._flawed = False
        self._rejected = None


def _announced(line: bytes) -> _Announced | None:
    """The literal that a line ends with, if any (RFC 3501 4.3, RFC 7888 3)."""
    if not line.endswith(b"}"):
        return None
    start = line.rfind(b"{")
    found = _ANNOUNCED.fullmatch(line, start) if start >= 0 else None
    if found is None or found[0][1:2] in (b"+", b"}"):
        return None
    # What has more digits than a size can have is too large whatever they are.
    size = int(found[1] or b"0") if len(found[1]) <= 20 else 10**20
    return _Announced(size, not found[2], len(line) - start)


def _announced_in(tail: bytes) -> _Announced | None:
    """The same for the tail of a flawed line, in which the bracket may not be seen any more."""
    end = tail.rstrip(b"\r\n")
    if len(tail) == TAIL_LENGTH and _DIGITS_AND_PLUS.fullmatch(end):
        return _Announced(10**20, waits=False, length=len(end))
    return _announced(end)


def _request(text: bytes) -> Request | Rejected:
    tag = _TAG.match(text)
    if tag is None:
        return Rejected(None, Fault.NO_TAG)
    verb = _VERB.match(text, tag.end() + 1)
    if verb is None:
        return Rejected(tag[0], Fault.NO_TAG)
    rest = text[verb.end() :]
    name = verb[0].upper()
    if name == b"UID" and rest.startswith(b" ") and (second := _VERB.match(rest, 1)):
        # RFC 3501 6.4.8: what follows is another command, the messages of which are named by UID.
        name, rest = b"UID " + second[0].upper(), rest[second.end() :]
    if rest and not rest.startswith(b" "):
        return Rejected(tag[0], "a space is wanted behind the command")
    return Request(tag[0], name, rest[1:])


assert MAX_MESSAGE < LARGEST_NUMBER
