"""SMTP as the suite speaks it (RFC 5321).

Owns: replies, EHLO, STARTTLS (RFC 3207), AUTH (RFC 4954) and the stages of an SMTP session.  Knows nothing of
the reference server's parser.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from conformance.dialects.dialect import Credentials, Login, Malformed, NotServed, Stage
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


def begin_text(wire: Wire, credentials: Credentials) -> None:
    """Begin a message to the account, up to where its text may come.  Raises :class:`NotServed`."""
    demand(wire, b"MAIL FROM:<sender@example.org>", 250)
    demand(wire, b"RCPT TO:<" + credentials.address.encode() + b">", 250, 251)
    demand(wire, b"DATA", 354)


def _in_text(wire: Wire, credentials: Credentials) -> None:
    begin_text(wire, credentials)
    wire.send(b"Subject: half a message\r\n\r\nand then nothing mo")


def _in_sasl(wire: Wire, credentials: Credentials) -> None:
    del credentials
    demand(wire, b"AUTH LOGIN", 334)


def _nothing(wire: Wire, credentials: Credentials) -> None:
    del credentials
    SMTP().probe(wire)


def _auth(mechanism: bytes, *, at_once: bool = False) -> Login:
    """AUTH (RFC 4954), with the first answer in the command itself or when it is asked for."""

    def login(wire: Wire, credentials: Credentials) -> bytes | None:
        name, password = credentials.login.encode(), credentials.password.encode()
        answers = [b"\0" + name + b"\0" + password] if mechanism == b"PLAIN" else [name, password]
        encoded = [base64.b64encode(answer) for answer in answers]
        command = b"AUTH " + mechanism
        if at_once:
            code, reply = ask(wire, command + b" " + encoded.pop(0), shown=command + b" <credentials>")
        else:
            code, reply = ask(wire, command)
        for answer in encoded:
            if code != 334:
                break
            code, reply = ask(wire, answer, shown=b"<credentials>")
        return None if code == 235 else reply

    return login


class SMTP:
    """The dialect of SMTP."""

    service = Service.SMTP
    greets = True
    stages: Mapping[str, Stage] = {
        "after_command": Stage("after a command", "before_login", _nothing),
        "after_login": Stage("signed in", "after_login", _after_login),
        "in_text": Stage("in the text of a message", "before_login", _in_text),
        "in_sasl": Stage("in an AUTH exchange", "before_login", _in_sasl),
    }
    tls_command = b"STARTTLS"
    stray = b"STRAY\r\n"
    turned_down = b""
    logins: Mapping[str, Login] = {
        "AUTH PLAIN": _auth(b"PLAIN", at_once=True),
        "AUTH PLAIN (in two steps)": _auth(b"PLAIN"),
        "AUTH LOGIN": _auth(b"LOGIN"),
        "AUTH LOGIN (name at once)": _auth(b"LOGIN", at_once=True),
    }

    def greeting(self, wire: Wire, patience: float) -> bytes:
        code, reply = read_reply(wire, patience)
        if code != 220:
            raise NotServed(reply)
        return reply

    def sentences(self, said: bytes) -> list[bytes]:
        return [line for line in said.splitlines() if line[3:4] != b"-"]

    def act(self, wire: Wire) -> None:
        demand(wire, b"EHLO " + CLIENT_NAME, 250)

    def capabilities(self, wire: Wire) -> frozenset[str]:
        reply = demand(wire, b"EHLO " + CLIENT_NAME, 250)
        lines = reply.decode("ascii", "backslashreplace").upper().splitlines()
        return frozenset(line[4:].strip() for line in lines[1:])

    def offers_tls(self, wire: Wire) -> bool:
        return "STARTTLS" in self.capabilities(wire)

    def ask_tls(self, wire: Wire, spelling: bytes | None = None, behind: bytes = b"") -> bytes | None:
        wire.send((spelling or self.tls_command) + b"\r\n" + behind)
        code, reply = read_reply(wire)
        return None if code == 220 else reply

    def offered_logins(self, wire: Wire) -> frozenset[str]:
        # Some also say it as it was before there was a standard: AUTH=LOGIN.
        words = (line.replace("AUTH=", "AUTH ", 1).split() for line in self.capabilities(wire))
        return (
            frozenset(f"AUTH {mechanism}" for line in words if line[:1] == ["AUTH"] for mechanism in line[1:])
            & self.logins.keys()
        )

    def is_signed_in(self, wire: Wire, credentials: Credentials) -> bool:
        # RFC 4954 4: whoever is signed in already gets 503.
        try:
            self.login(wire, credentials)
        except NotServed as refusal:
            return refusal.reply.startswith(b"503")
        return False

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

    def ask_much(self, wire: Wire, credentials: Credentials) -> bytes:
        del wire, credentials
        return (b"EHLO " + CLIENT_NAME + b"\r\n") * 10_000
