"""IMAP4rev1 as the suite speaks it (RFC 3501).

Owns: tags, tagged and untagged responses, STARTTLS, AUTHENTICATE, IDLE (RFC 2177) and the stages of an IMAP session.
Knows nothing of the reference server's parser.
"""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Callable, Mapping

from conformance.dialects.dialect import Credentials, Login, Malformed, NotServed, Stage
from conformance.wire import PATIENCE, Wire
from reference_server.settings import Service

_numbers = itertools.count(1)
_LITERAL = re.compile(rb"\{(\d+)\}\r\n$")
_MESSAGES = re.compile(rb"\* STATUS .*\(MESSAGES (\d+)\)", re.IGNORECASE)


def new_tag() -> bytes:
    """A tag that was not used before, on any connection: an answer to another session's command would show."""
    return b"t%d" % next(_numbers)


def read_response(wire: Wire, patience: float = PATIENCE) -> bytes:
    """One response with its literals, whole."""
    whole = wire.read_line(patience, "a response")
    while found := _LITERAL.search(whole):
        wanted = int(found[1])
        literal = b""
        while len(literal) < wanted:
            piece = wire.receive(expected="the rest of a literal")
            literal += piece
        # What came behind the literal belongs to the next line.
        wire.unread(literal[wanted:])
        whole += literal[:wanted] + wire.read_line(patience, "the end of a response")
    return whole


def ask(wire: Wire, command: bytes, *, shown: bytes | None = None) -> list[bytes]:
    """Send one command and read up to its tagged response: the untagged ones.

    Raises :class:`NotServed` for a tagged NO or BAD, or a BYE that ends the session.
    """
    tag = new_tag()
    wire.send(tag + b" " + command + b"\r\n", shown=None if shown is None else tag + b" " + shown + b"\r\n")
    return read_tagged(wire, tag, leaving=command.upper().startswith(b"LOGOUT"))


def read_tagged(wire: Wire, tag: bytes, *, leaving: bool = False) -> list[bytes]:
    """Responses up to the tagged one, which must be OK."""
    untagged: list[bytes] = []
    while True:
        response = read_response(wire)
        first, _, rest = response.partition(b" ")
        if first == tag:
            if rest[:2].upper() == b"OK":
                return untagged
            raise NotServed(response)
        if first not in (b"*", b"+"):
            raise Malformed(f"neither untagged nor the answer to {tag.decode()}: {response!r}")
        if rest[:3].upper() == b"BYE" and not leaving:
            raise NotServed(response)
        untagged.append(response)


def append(wire: Wire, message: bytes) -> None:
    """Put a message into INBOX (RFC 3501 6.3.11).  Raises :class:`NotServed`."""
    tag = new_tag()
    wire.send(tag + b" APPEND INBOX {%d}\r\n" % len(message))
    response = read_response(wire)
    if not response.startswith(b"+"):
        raise NotServed(response)
    wire.send(message + b"\r\n")
    read_tagged(wire, tag)


def begin_append(wire: Wire, octets: int) -> None:
    """Announce a message for INBOX; its text may come now.  Raises :class:`NotServed`."""
    _continued(wire, b"APPEND INBOX {%d}" % octets)


def begin_idle(wire: Wire) -> None:
    """Open INBOX and wait for news (RFC 2177).  Raises :class:`NotServed`."""
    ask(wire, b"SELECT INBOX")
    _continued(wire, b"IDLE")


def messages(wire: Wire) -> int:
    """How many messages INBOX has (RFC 3501 6.3.10).  Raises :class:`NotServed`."""
    for response in ask(wire, b"STATUS INBOX (MESSAGES)"):
        if found := _MESSAGES.search(response):
            return int(found[1])
    raise Malformed("STATUS was answered OK without a number")


def _continued(wire: Wire, command: bytes) -> None:
    wire.send(new_tag() + b" " + command + b"\r\n")
    response = read_response(wire)
    if not response.startswith(b"+"):
        raise NotServed(response)


def _nothing(wire: Wire, credentials: Credentials) -> None:
    del credentials
    IMAP().probe(wire)


def _after_login(wire: Wire, credentials: Credentials) -> None:
    IMAP().login(wire, credentials)


def _in_sasl(wire: Wire, credentials: Credentials) -> None:
    del credentials
    _continued(wire, b"AUTHENTICATE PLAIN")


def _in_literal(wire: Wire, credentials: Credentials) -> None:
    IMAP().login(wire, credentials)
    _continued(wire, b"APPEND INBOX {200}")
    wire.send(b"Subject: half a message\r\n\r\nand then nothing mo")


def _in_idle(wire: Wire, credentials: Credentials) -> None:
    IMAP().login(wire, credentials)
    begin_idle(wire)


def _login(wire: Wire, credentials: Credentials) -> bytes | None:
    secret = f'LOGIN "{credentials.login}" "{credentials.password}"'.encode()
    try:
        ask(wire, secret, shown=b"LOGIN <name> <password>")
    except NotServed as refusal:
        return refusal.reply
    return None


def _authenticate(mechanism: bytes, answers: Callable[[Credentials], tuple[bytes, ...]]) -> Login:
    """AUTHENTICATE with each answer sent when it is asked for (RFC 3501 6.2.2)."""

    def login(wire: Wire, credentials: Credentials) -> bytes | None:
        tag = new_tag()
        wire.send(tag + b" AUTHENTICATE " + mechanism + b"\r\n")
        try:
            for answer in answers(credentials):
                response = read_response(wire)
                if not response.startswith(b"+"):
                    return response
                wire.send(base64.b64encode(answer) + b"\r\n", shown=b"<credentials>\r\n")
            read_tagged(wire, tag)
        except NotServed as refusal:
            return refusal.reply
        return None

    return login


def _plain_at_once(wire: Wire, credentials: Credentials) -> bytes | None:
    """With the initial response of RFC 4959; a server without that says BAD."""
    command = b"AUTHENTICATE PLAIN "
    try:
        ask(wire, command + base64.b64encode(_plain(credentials)[0]), shown=command + b"<credentials>")
    except NotServed as refusal:
        return refusal.reply
    return None


def _plain(credentials: Credentials) -> tuple[bytes, ...]:
    return (f"\0{credentials.login}\0{credentials.password}".encode(),)


def _name_and_password(credentials: Credentials) -> tuple[bytes, ...]:
    return credentials.login.encode(), credentials.password.encode()


class IMAP:
    """The dialect of IMAP4rev1."""

    service = Service.IMAP
    greets = True
    stages: Mapping[str, Stage] = {
        "after_command": Stage("after a command", "before_login", _nothing),
        "after_login": Stage("signed in", "after_login", _after_login),
        "in_sasl": Stage("in an AUTHENTICATE exchange", "before_login", _in_sasl),
        "in_literal": Stage("in a literal of APPEND", "after_login", _in_literal),
        "in_idle": Stage("in IDLE", "imap_idle", _in_idle),
    }
    tls_command = b"STARTTLS"
    stray = b"stray NOOP\r\n"
    turned_down = b""
    logins: Mapping[str, Login] = {
        "LOGIN": _login,
        "AUTH=PLAIN": _authenticate(b"PLAIN", _plain),
        "AUTH=PLAIN (SASL-IR)": _plain_at_once,
        "AUTH=LOGIN": _authenticate(b"LOGIN", _name_and_password),
    }

    def greeting(self, wire: Wire, patience: float) -> bytes:
        line = read_response(wire, patience)
        if line[:5].upper() == b"* BYE":
            raise NotServed(line)
        if line[:4].upper() != b"* OK" and line[:9].upper() != b"* PREAUTH":
            raise Malformed(f"not an IMAP greeting: {line!r}")
        return line

    def sentences(self, said: bytes) -> list[bytes]:
        return said.splitlines()

    def act(self, wire: Wire) -> None:
        ask(wire, b"CAPABILITY")

    def capabilities(self, wire: Wire) -> frozenset[str]:
        for response in ask(wire, b"CAPABILITY"):
            words = response.decode("ascii", "backslashreplace").upper().split()
            if words[:2] == ["*", "CAPABILITY"]:
                return frozenset(words[2:])
        raise Malformed("CAPABILITY was answered OK without a list")

    def offers_tls(self, wire: Wire) -> bool:
        return "STARTTLS" in self.capabilities(wire)

    def ask_tls(self, wire: Wire, spelling: bytes | None = None, behind: bytes = b"") -> bytes | None:
        tag = new_tag()
        wire.send(tag + b" " + (spelling or self.tls_command) + b"\r\n" + behind)
        try:
            read_tagged(wire, tag)
        except NotServed as refusal:
            return refusal.reply
        return None

    def offered_logins(self, wire: Wire) -> frozenset[str]:
        words = self.capabilities(wire)
        # RFC 3501 6.2.3: LOGIN goes without saying, unless it is said that it does not.
        return (words & self.logins.keys()) | (frozenset() if "LOGINDISABLED" in words else frozenset({"LOGIN"}))

    def is_signed_in(self, wire: Wire, credentials: Credentials) -> bool:
        del credentials
        try:
            ask(wire, b"SELECT INBOX")
        except NotServed:
            return False
        return True

    def probe(self, wire: Wire) -> None:
        ask(wire, b"NOOP")

    def begin(self, wire: Wire) -> None:
        wire.send(new_tag() + b" NOO")

    def login(self, wire: Wire, credentials: Credentials) -> None:
        secret = f'LOGIN "{credentials.login}" "{credentials.password}"'.encode()
        ask(wire, secret, shown=b"LOGIN <name> <password>")

    def goodbye(self, wire: Wire) -> None:
        ask(wire, b"LOGOUT")

    def is_farewell(self, said: bytes) -> bool:
        # RFC 3501 7.1.5
        return any(line[:5].upper() == b"* BYE" for line in said.splitlines())

    def ask_much(self, wire: Wire, credentials: Credentials) -> bytes:
        del wire, credentials
        return b"".join(b"m%d CAPABILITY\r\n" % number for number in range(6500))
