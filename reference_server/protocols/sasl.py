"""The SASL exchanges by which a client gives name and password: PLAIN (RFC 4616) and LOGIN.

Owns: what is in the client's responses, base64 included, because SMTP, POP3 and IMAP wrap them all alike.
Knows nothing of replies, of TLS or of who has an account: the session decides whether a mechanism may be used
now, puts its protocol's ``334 `` or ``+ `` before a challenge, and asks the mail store about the credentials.

A session keeps an :class:`Exchange` from the command that names the mechanism to the first step that is not a
:class:`Challenge`:

    exchange = Exchange(mechanism)
    step = exchange.begin(initial)              # what stood behind the mechanism's name, or None
    while isinstance(step, Challenge):          # send step.text, read a line
        step = exchange.respond(line)
"""

from __future__ import annotations

import base64
import binascii
import enum
from dataclasses import dataclass
from typing import Final, TypeAlias

LINE_LIMIT: Final = 12288
"""RFC 4954 4: the longest line of an exchange, CRLF included, that a server needs to take."""


class Mechanism(enum.Enum):
    """The values are the names on the wire.  Both show the password to whoever sees the wire."""

    PLAIN = b"PLAIN"
    LOGIN = b"LOGIN"

    @classmethod
    def named(cls, name: bytes) -> Mechanism | None:
        """RFC 4422 3.1: names are upper case; every client writes as it likes, and no two differ by case."""
        return _BY_NAME.get(name.upper())


_BY_NAME: Final = {mechanism.value: mechanism for mechanism in Mechanism}


@dataclass(frozen=True, slots=True)
class Challenge:
    """The client is to answer this; ``text`` is base64 already and may be empty."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who the client says it is; whether that is true has still to be asked."""

    name: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials({self.name!r}, ...)"  # a password has no business in a log or a failing test


@dataclass(frozen=True, slots=True)
class Malformed:
    """The response is not what the mechanism prescribes; ``reason`` is fit to be shown to the client."""

    reason: str


@dataclass(frozen=True, slots=True)
class Denied:
    """Well-formed, but it asks for what nobody gets here: to act for somebody else (RFC 4616 2)."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The client gave up with ``*``."""


Step: TypeAlias = Challenge | Credentials | Malformed | Denied | Cancelled


class Exchange:
    """One attempt to authenticate, from the mechanism's name to its outcome."""

    __slots__ = ("_mechanism", "_name")

    def __init__(self, mechanism: Mechanism) -> None:
        self._mechanism = mechanism
        self._name: str | None = None

    def begin(self, initial: bytes | None) -> Step:
        """Start with the initial response as it stood on the command line (``=`` when empty), or None."""
        if initial is not None:
            return self._take(b"" if initial == b"=" else initial)
        return Challenge(b"") if self._mechanism is Mechanism.PLAIN else _ASK_NAME

    def respond(self, line: bytes) -> Step:
        """Go on with the client's line, without its CRLF."""
        if line == b"*":
            return Cancelled()
        return self._take(line)

    def _take(self, encoded: bytes) -> Step:
        try:
            response = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return Malformed("not base64")
        try:
            text = response.decode("utf-8")
        except UnicodeDecodeError:
            return Malformed("not UTF-8")
        match self._mechanism:
            case Mechanism.PLAIN:
                return _plain(text)
            case Mechanism.LOGIN:
                return self._login(text)

    def _login(self, text: str) -> Step:
        # LOGIN was never more than a draft (draft-murchison-sasl-login): a name, then a password, each bare.
        if not text or "\0" in text:
            return Malformed("empty, or with a NUL in it")
        if self._name is None:
            self._name = text
            return _ASK_PASSWORD
        return Credentials(self._name, text)


def _plain(text: str) -> Step:
    # RFC 4616 2: [authzid] NUL authcid NUL passwd; neither of the last two is empty or holds a NUL.
    parts = text.split("\0")
    if len(parts) != 3 or not parts[1] or not parts[2]:
        return Malformed("not the three fields of PLAIN")
    acting_for, name, password = parts
    if acting_for not in ("", name):
        return Denied()
    return Credentials(name, password)


_ASK_NAME: Final = Challenge(base64.b64encode(b"Username:"))
_ASK_PASSWORD: Final = Challenge(base64.b64encode(b"Password:"))
