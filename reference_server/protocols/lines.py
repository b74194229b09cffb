"""Cut what a client sends into lines, within bounds.

Owns: the octets that a session has received and not yet used, and the rule that a line ends with CRLF.  Knows
no command, no state and no reply: an over-long or wrongly ended line is reported, and the session says what
it thinks of that in its own protocol.

Whole lines that arrive in one piece are found by one search and copied once.  A line that arrives octet by
octet costs its length, not the square of it: what has been searched is put aside and never searched again.
Of an unfinished line never more than one piece beyond ``limit`` octets is kept, however long it becomes.
"""

from __future__ import annotations

import enum
from typing import Final, TypeAlias


class Flaw(enum.Enum):
    """What can be wrong with a line as a line."""

    TOO_LONG = "longer than the limit; the rest of it, up to its end, is skipped without being kept"
    BARE_LF = "ended by LF alone, which ends no line in any of our protocols"


Line: TypeAlias = bytes | Flaw

_CR: Final = 0x0D
TAIL_LENGTH: Final = 64
"""Octets that are kept of the end of a flawed line."""


class LineReader:
    """Everything that was received and not yet used, taken out by lines or by octets.

    ``limit`` is in octets, the line end included, and may be changed between two lines.
    """

    __slots__ = ("_at", "_begun", "_data", "_skipping", "_tail", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._data = b""
        self._at = 0
        self._begun: bytearray | None = None
        self._skipping = False
        self._tail = b""

    @property
    def pending(self) -> bool:
        """Whether anything is there that has not been taken: a line begun, or more."""
        return self._begun is not None or self._skipping or self._at < len(self._data)

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._data = data if self._at >= len(self._data) else self._data[self._at :] + data
        self._at = 0

    def line(self) -> Line | None:
        """The next line without its CRLF, what is wrong with it, or None while it is incomplete.

        An over-long line is reported once, as soon as it is known to be one.
        """
        data, start = self._data, self._at
        end = data.find(b"\n", start)
        if end < 0:
            return self._put_aside(data[start:])
        self._at = end + 1
        if self._begun is not None or self._skipping:
            return self._complete(data[start : end + 1])
        if end - start < self.limit and end > start and data[end - 1] == _CR:
            return data[start : end - 1]
        self._tail = data[max(start, end + 1 - TAIL_LENGTH) : end + 1]
        return Flaw.TOO_LONG if end - start >= self.limit else Flaw.BARE_LF

    def tail(self) -> bytes | None:
        """How the line ends of which a flaw was just reported, its CR LF included: at most ``TAIL_LENGTH`` octets.

        None while its end has not come.  For protocols in which a line's end says what comes behind it.
        """
        if not self._skipping:
            return self._tail
        start = self._at
        end = self._data.find(b"\n", start)
        if end < 0:
            self._put_aside(self._data[start:])
            return None
        self._at = end + 1
        self._skipping = False
        self._keep_tail(self._data[start : end + 1])
        return self._tail

    def take(self, most: int | None = None) -> bytes:
        """Up to ``most`` octets (all, if None) of what is there, whatever they are: a literal, a text.

        Only to be asked for where a line ended, so that no part of one has been put aside.
        """
        assert self._begun is None
        assert not self._skipping
        start = self._at
        end = len(self._data) if most is None else min(start + most, len(self._data))
        self._at = end
        return self._data[start:end]

    def clear(self) -> None:
        """Forget everything that was received and not taken."""
        self._data = b""
        self._at = 0
        self._begun = None
        self._skipping = False
        self._tail = b""

    def _put_aside(self, rest: bytes) -> Line | None:
        self._data = b""
        self._at = 0
        if not rest:
            return None
        if self._skipping:
            self._keep_tail(rest)
            return None
        if self._begun is None:
            self._begun = bytearray(rest)
        else:
            self._begun += rest
        if len(self._begun) < self.limit:
            return None
        self._tail = bytes(self._begun[-TAIL_LENGTH:])
        self._begun = None
        self._skipping = True
        return Flaw.TOO_LONG

    def _keep_tail(self, more: bytes) -> None:
        self._tail = (self._tail + more[-TAIL_LENGTH:])[-TAIL_LENGTH:]

    def _complete(self, end: bytes) -> Line | None:
        """The line that was begun earlier has its LF now."""
        if self._skipping:
            self._skipping = False  # it was reported when it became too long
            return self.line()
        assert self._begun is not None
        line = bytes(self._begun) + end
        self._begun = None
        if len(line) <= self.limit and line.endswith(b"\r\n"):
            return line[:-2]
        self._tail = line[-TAIL_LENGTH:]
        return Flaw.TOO_LONG if len(line) > self.limit else Flaw.BARE_LF
