"""SMTP as the suite speaks it (RFC 5321).

Owns: replies, EHLO, STARTTLS (RFC 3207), AUTH (RFC 4954) and the stages of an SMTP session.  Knows nothing of
the reference server's parser.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from conformance.dialects.dialect import Credentials, Malformed, NotServed, Stage
from conformance.wire import PATIENCE, Wire
from reference_server.settings import Service

CLIENT_NAME = b"client.example.test"


def read_reply(wire: Wire, patience: float = PATIENCE) -> tuple[int, bytes]:
    """A whole reply, all its lines (RFC 5321 4.2.1): its code and its octets."""
    whole = b""
    while True:
        line = wire.read_line(patience, "a reply")
        whole += line
        if len(line) < 3 or not line[:3].isdigit() or line[3:4] not in (b" ", b"-", b"\r", b"\n"):
            raise Malformed(f"not an SMTP reply line: {line!r}")
        if line[3:4] != b"-":
            return int(line[:3]), whole


def ask(wire: Wire, command: bytes, *, shown: bytes | None = None) -> tuple[int, bytes]:
    """Send one command and read its reply."""
    wire.send(command + b"\r\n", shown=None if shown is None else shown + b"\r\n")
    return read_reply(wire)


def demand(wire: Wire, command: bytes, *codes: int, shown: bytes | None = None) -> bytes:
    """Send one command whose reply must have one of ``codes``.  Raises :class:`NotServed`."""
    code, reply = ask(wire, command, shown=shown)
    if code not in codes:
        raise NotServed(reply)
    return reply


def _after_login(wire: Wire, credentials: Credentials) -> None:
    SMTP().login(wire, credentials)


def _in_text(wire: Wire, credentials: Credentials) -> None:
    demand(wire, b"MAIL FROM:<sender@example.org>", 250)
    demand(wire, b"RCPT TO:<" + credentials.address.encode() + b">", 250)
    demand(wire, b"DATA", 354)
    wire.send(b"Subject: half a message\r\n\r\nand then nothing mo")


def _in_sasl(wire: Wire, credentials: Credentials) -> None:
    del credentials
    demand(wire, b"AUTH LOGIN", 334)


def _nothing(wire: Wire, credentials: Credentials) -> None:
    del credentials
    SMTP().probe(wire)


class SMTP:
    """The dialect of SMTP."""

    service = Service.SMTP
    stages: Mapping[str, Stage] = {
        "after_command": Stage("after a command", "before_login", _nothing),
        "after_login": Stage("signed in", "after_login", _after_login),
        "in_text": Stage("in the text of a message", "before_login", _in_text),
        "in_sasl": Stage("in an AUTH exchange", "before_login", _in_sasl),
    }

    def greeting(self, wire: Wire, patience: float) -> bytes:
        code, reply = read_reply(wire, patience)
        if code != 220:
            raise NotServed(reply)
        return reply

    def act(self, wire: Wire) -> None:
        demand(wire, b"EHLO " + CLIENT_NAME, 250)

    def capabilities(self, wire: Wire) -> frozenset[str]:
        reply = demand(wire, b"EHLO " + CLIENT_NAME, 250)
        lines = reply.decode("ascii", "backslashreplace").upper().splitlines()
        return frozenset(line[4:].strip() for line in lines[1:])

    def offers_tls(self, wire: Wire) -> bool:
        return "STARTTLS" in self.capabilities(wire)

    def ask_tls(self, wire: Wire) -> bytes | None:
        code, reply = ask(wire, b"STARTTLS")
        return None if code == 220 else reply

    def probe(self, wire: Wire) -> None:
        code, reply = ask(wire, b"NOOP")
        # A policy such as 530 is still an answer; 421 is the end of the service (RFC 5321 3.8).
        if code == 421 or code >= 600:
            raise NotServed(reply)

    def begin(self, wire: Wire) -> None:
        wire.send(b"NOO")

    def login(self, wire: Wire, credentials: Credentials) -> None:
        secret = f"\0{credentials.login}\0{credentials.password}".encode()
        demand(wire, b"AUTH PLAIN " + base64.b64encode(secret), 235, shown=b"AUTH PLAIN <credentials>")

    def goodbye(self, wire: Wire) -> None:
        demand(wire, b"QUIT", 221)

    def is_farewell(self, said: bytes) -> bool:
        return b"421" in (line[:3] for line in said.splitlines())

    def ask_much(self, wire: Wire) -> bytes:
        del wire
        return (b"EHLO " + CLIENT_NAME + b"\r\n") * 2000
