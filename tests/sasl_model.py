"""What a SASL exchange comes to, for the models of the three sessions."""

from __future__ import annotations

import base64
import binascii
from typing import Literal, TypeAlias

Outcome: TypeAlias = Literal["challenge", "malformed", "cancelled", "denied"] | tuple[str, str]
"""Name and password, or what else the client's response leads to."""

FOUND = ("alice", "bob", "root", "sink")


def b64(text: str) -> bytes:
    return base64.b64encode(text.encode())


def is_right(credentials: tuple[str, str]) -> bool:
    """Whether the memory store lets them in."""
    name, password = credentials
    return name in FOUND and password == name[::-1]


class SaslModel:
    """One exchange; ``mechanism`` is ``PLAIN`` or ``LOGIN``, ``initial`` what stands behind it."""

    def __init__(self, mechanism: bytes) -> None:
        self.mechanism = mechanism
        self.name: str | None = None

    def begin(self, initial: bytes | None) -> Outcome:
        if initial is None:
            return "challenge"
        return self._take(b"" if initial == b"=" else initial)

    def respond(self, heard: bytes) -> Outcome:
        return "cancelled" if heard == b"*" else self._take(heard)

    def _take(self, encoded: bytes) -> Outcome:
        try:
            text = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, ValueError):
            return "malformed"
        fields = text.split("\0")
        if self.mechanism == b"PLAIN":
            if len(fields) != 3 or not fields[1] or not fields[2]:
                return "malformed"
            return (fields[1], fields[2]) if fields[0] in ("", fields[1]) else "denied"
        if len(fields) > 1 or not text:
            return "malformed"
        if self.name is None:
            self.name = text
            return "challenge"
        return self.name, text
