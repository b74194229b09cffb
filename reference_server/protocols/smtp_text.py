"""The text of a message on its way in: where it ends, what is taken off it, what is put before it.

Owns: the one end there is, CRLF dot CRLF; the dots that protect lines; trace headers.  Knows no session, no
recipient and no store.

Where texts end is where messages get smuggled: if two servers disagree about it, the second one sees commands
in what the first one took for text.  So a bare LF or a bare CR never ends a line here, and a dot is only ever
something special between CRLFs (RFC 5321 2.3.8, 4.1.1.4).  Once the end is certain, bare LFs become CRLFs,
the line ends that the store asks for: whoever uploads a Unix text file loses nothing, and as nothing is
relayed, nobody behind us can read another end into it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

_END: Final = b"\r\n.\r\n"
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")


class IncomingText:
    """A text being received.  Keeps what has arrived, unless nobody wants it.

    ``most`` is in octets, counted after the protecting dots are off, and bounds what is ever kept.
    """

    __slots__ = ("_held", "_kept", "_most", "_size")

    def __init__(self, most: int, *, keep: bool) -> None:
        self._most = most
        # The CRLF of the DATA line counts as the one before a dot: an empty text is a dot alone.
        self._held = b"\r\n"
        self._kept: bytearray | None = bytearray() if keep else None
        self._size = 0

    def feed(self, data: bytes) -> bytes | None:
        """Add what was received; None until the text has ended, then what was received behind it."""
        window = self._held + data
        end = window.find(_END)
        if end < 0:
            # The last four octets may be the beginning of the end; everything before them is text.
            self._held = window[-4:]
            self._add(window[:-4])
            return None
        self._held = b""
        self._add(window[: end + 2])
        return window[end + 5 :]

    @property
    def too_large(self) -> bool:
        """Whether the text went beyond ``most``; known for certain once it has ended."""
        if self._kept is None:
            return self._size > self._room
        return len(self._kept) - 2 - self._kept.count(b"\r\n.") > self._most

    def text(self) -> bytes:
        """The text without the dots that protected its lines, all lines ended by CRLF."""
        assert self._kept is not None
        # RFC 5321 4.5.2: only at the beginning of a line, and only the first one.
        text = bytes(self._kept).replace(b"\r\n.", b"\r\n")[2:]
        if text.count(b"\n") != text.count(b"\r\n"):
            text = _BARE_LF.sub(b"\r\n", text)
        return text

    @property
    def _room(self) -> int:
        # Dots can add a third at the very most: lines of one dot, four octets on the wire for three.
        return self._most + self._most // 3 + 2

    def _add(self, octets: bytes) -> None:
        self._size += len(octets)
        if self._kept is not None:
            if self._size > self._room:
                self._kept = None  # it will be refused; no need to keep it
            else:
                self._kept += octets


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a message came from and who took it.

    ``protocol`` is one of RFC 3848's names; ``recipient`` is only given when there is just one, so that
    nobody learns of the others.  Every word comes from the grammar: none can bring a line end of its own.
    """

    sender: str
    client: str
    address: str
    hostname: str
    protocol: str
    recipient: str | None

    def headers(self) -> bytes:
        """``Return-Path`` and ``Received`` (RFC 5321 4.4), to stand before the text, dated now."""
        named = f"\r\n\tfor <{self.recipient}>" if self.recipient else ""
        tag = "IPv6:" if ":" in self.address else ""
        return (
            f"Return-Path: <{self.sender}>\r\n"
            f"Received: from {self.client} ([{tag}{self.address}])\r\n"
            f"\tby {self.hostname} with {self.protocol}{named};\r\n"
            f"\t{format_datetime(datetime.now(UTC))}\r\n"
        ).encode("ascii", "replace")
