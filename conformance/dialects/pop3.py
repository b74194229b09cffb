"""POP3 as the suite speaks it (RFC 1939, RFC 2449).

Owns: status lines, CAPA, STLS (RFC 2595), AUTH (RFC 5034) and the stages of a POP3 session.  Knows nothing of the
reference server's parser.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping

from conformance.dialects.dialect import Credentials, Login, Malformed, NotServed, Stage
from conformance.wire import PATIENCE, Wire
from reference_server.settings import Service


def read_status(wire: Wire, patience: float = PATIENCE) -> bytes:
    """A status line.  Raises :class:`NotServed` when it is ``-ERR``."""
    line = wire.read_line(patience, "a status line")
    if line.startswith(b"+OK"):
        return line
    if line.startswith(b"-ERR"):
        raise NotServed(line)
    raise Malformed(f"not a POP3 status line: {line!r}")


def ask(wire: Wire, command: bytes, *, shown: bytes | None = None) -> bytes:
    """Send one command and read its status line.  Raises :class:`NotServed` for ``-ERR``."""
    wire.send(command + b"\r\n", shown=None if shown is None else shown + b"\r\n")
    return read_status(wire)


def ask_lines(wire: Wire, command: bytes) -> list[bytes]:
    """Send one command with a multi-line answer and read it up to its lone dot (RFC 1939 3)."""
    ask(wire, command)
    lines: list[bytes] = []
    while (line := wire.read_line(expected="a line of the answer").rstrip(b"\r\n")) != b".":
        lines.append(line[1:] if line.startswith(b".") else line)
    return lines


def messages(wire: Wire) -> int:
    """How many messages the maildrop has, without those that this session has marked (RFC 1939 5)."""
    status = ask(wire, b"STAT")
    words = status.split()
    if len(words) < 3 or not words[1].isdigit():
        raise Malformed(f"not an answer to STAT: {status!r}")
    return int(words[1])


def _nothing(wire: Wire, credentials: Credentials) -> None:
    del credentials
    POP3().probe(wire)


def _after_login(wire: Wire, credentials: Credentials) -> None:
    POP3().login(wire, credentials)


def _in_sasl(wire: Wire, credentials: Credentials) -> None:
    del credentials
    wire.send(b"AUTH PLAIN\r\n")
    line = wire.read_line(expected="a challenge")
    if not line.startswith(b"+"):
        raise NotServed(line)


def _user_pass(wire: Wire, credentials: Credentials) -> bytes | None:
    # A server may refuse USER and still take the password.
    with contextlib.suppress(NotServed):
        ask(wire, b"USER " + credentials.login.encode())
    try:
        ask(wire, b"PASS " + credentials.password.encode(), shown=b"PASS <password>")
    except NotServed as refusal:
        return refusal.reply
    return None


def _auth(mechanism: bytes, *, at_once: bool = False) -> Login:
    """AUTH (RFC 5034), with the first answer in the command itself or when it is asked for."""

    def login(wire: Wire, credentials: Credentials) -> bytes | None:
        name, password = credentials.login.encode(), credentials.password.encode()
        answers = [b"\0" + name + b"\0" + password] if mechanism == b"PLAIN" else [name, password]
        encoded = [base64.b64encode(answer) for answer in answers]
        command = b"AUTH " + mechanism
        if at_once:
            wire.send(command + b" " + encoded.pop(0) + b"\r\n", shown=command + b" <credentials>\r\n")
        else:
            wire.send(command + b"\r\n")
        line = wire.read_line(expected="a challenge")
        for answer in encoded:
            if not line.startswith(b"+ ") and line.rstrip() != b"+":
                break
            wire.send(answer + b"\r\n", shown=b"<credentials>\r\n")
            line = wire.read_line(expected="a challenge")
        return None if line.startswith(b"+OK") else line

    return login


class POP3:
    """The dialect of POP3."""

    service = Service.POP3
    greets = True
    stages: Mapping[str, Stage] = {
        "after_command": Stage("after a command", "before_login", _nothing),
        "after_login": Stage("signed in", "after_login", _after_login),
        "in_sasl": Stage("in an AUTH exchange", "before_login", _in_sasl),
    }
    tls_command = b"STLS"
    stray = b"STRAY\r\n"
    turned_down = b""
    logins: Mapping[str, Login] = {
        "USER": _user_pass,
        "SASL PLAIN": _auth(b"PLAIN"),
        "SASL PLAIN (at once)": _auth(b"PLAIN", at_once=True),
        "SASL LOGIN": _auth(b"LOGIN"),
    }

    def greeting(self, wire: Wire, patience: float) -> bytes:
        return read_status(wire, patience)

    def sentences(self, said: bytes) -> list[bytes]:
        return said.splitlines()

    def act(self, wire: Wire) -> None:
        ask_lines(wire, b"CAPA")

    def capabilities(self, wire: Wire) -> frozenset[str]:
        return frozenset(line.decode("ascii", "backslashreplace").upper() for line in ask_lines(wire, b"CAPA"))

    def offers_tls(self, wire: Wire) -> bool:
        return "STLS" in self.capabilities(wire)

    def ask_tls(self, wire: Wire, spelling: bytes | None = None, behind: bytes = b"") -> bytes | None:
        wire.send((spelling or self.tls_command) + b"\r\n" + behind)
        try:
            read_status(wire)
        except NotServed as refusal:
            return refusal.reply
        return None

    def offered_logins(self, wire: Wire) -> frozenset[str]:
        offered = set()
        for words in (line.split() for line in self.capabilities(wire)):
            if words[:1] == ["USER"]:
                offered.add("USER")
            elif words[:1] == ["SASL"]:
                offered |= {f"SASL {mechanism}" for mechanism in words[1:]} & self.logins.keys()
        return frozenset(offered)

    def is_signed_in(self, wire: Wire, credentials: Credentials) -> bool:
        del credentials
        try:
            ask(wire, b"STAT")
        except NotServed:
            return False
        return True

    def probe(self, wire: Wire) -> None:
        # NOOP belongs to the TRANSACTION state (RFC 1939 5); CAPA is answered in both (RFC 2449 5).
        ask_lines(wire, b"CAPA")

    def begin(self, wire: Wire) -> None:
        wire.send(b"CAP")

    def login(self, wire: Wire, credentials: Credentials) -> None:
        ask(wire, b"USER " + credentials.login.encode())
        ask(wire, b"PASS " + credentials.password.encode(), shown=b"PASS <password>")

    def goodbye(self, wire: Wire) -> None:
        ask(wire, b"QUIT")

    def is_farewell(self, said: bytes) -> bool:
        return any(line.startswith(b"-ERR") for line in said.splitlines())

    def ask_much(self, wire: Wire, credentials: Credentials) -> bytes:
        del wire, credentials
        return b"CAPA\r\n" * 9000
