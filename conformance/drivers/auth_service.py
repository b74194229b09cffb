"""An authentication service for servers that leave passwords to Dovecot's: PLAIN and LOGIN, from a file.

Owns: the part of Dovecot's authentication protocol (version 1.1) that Postfix speaks, and a process of its own that
serves it.  Starting a whole Dovecot for this would cost a package and more time than Postfix takes.  Deliberately
knows nothing of Postfix, and decides nothing but whether a name and a password belong together.

Source: "Dovecot Authentication Protocol v1.1" (auth-protocol.txt in Dovecot's documentation).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import selectors
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

from conformance.drivers import confine

_MECHANISMS = ("PLAIN", "LOGIN")
_LONGEST_LINE = 16_384
"""Octets; AUTH_REQUEST_MAX_LENGTH of Dovecot's is of this order."""


def start(place: Path, passwords: Path) -> int:
    """Serve at the Unix socket ``place`` in a child process; returns its pid, for `os.waitpid`.

    ``passwords`` holds a JSON object, names to passwords, and is read anew for every attempt.  The child serves
    until it is killed, or its parent has ended.  The socket is open when this returns.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        place.unlink(missing_ok=True)
        listener.bind(str(place))
        place.chmod(0o666)
        listener.listen(128)
        parent = os.getpid()
        child = os.fork()
        if child != 0:
            return child
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # a terminal sends them to everybody
                signal.signal(number, signal.SIG_IGN)
            confine.die_with(parent)
            nothing = os.open(os.devnull, os.O_RDWR)
            for inherited in (0, 1, 2):
                os.dup2(nothing, inherited)
            _serve(listener, passwords)
        finally:
            os._exit(1)


def _serve(listener: socket.socket, passwords: Path) -> None:
    clients: dict[int, tuple[socket.socket, Conversation]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == listener.fileno():
                    connection, _ = listener.accept()
                    clients[connection.fileno()] = connection, Conversation(passwords)
                    selector.register(connection, selectors.EVENT_READ)
                    connection.sendall(greeting(os.getpid(), connection.fileno()))
                    continue
                connection, conversation = clients[key.fd]
                if not _served(connection, conversation):
                    selector.unregister(connection)
                    del clients[key.fd]
                    connection.close()


def _served(connection: socket.socket, conversation: Conversation) -> bool:
    """Answer what has come in; False at the end of the connection."""
    try:
        heard = connection.recv(_LONGEST_LINE)
        for reply in conversation.hear(heard):
            connection.sendall(reply)
    except (ConnectionError, ValueError):
        return False
    return bool(heard)


def greeting(process: int, connection: int) -> bytes:
    """What the service says first; both numbers are for the client's log."""
    lines = [
        "VERSION\t1\t1",
        *(f"MECH\t{mechanism}\tplaintext" for mechanism in _MECHANISMS),
        f"SPID\t{process}",
        f"CUID\t{connection}",
        f"COOKIE\t{os.urandom(16).hex()}",
        "DONE",
    ]
    return "".join(line + "\n" for line in lines).encode()


class Conversation:
    """One connection of a client, which may have several attempts under way, each with a number of its own."""

    def __init__(self, passwords: Path) -> None:
        self._passwords = passwords
        self._input = b""
        self._answers: dict[str, tuple[str, list[str]]] = {}
        """For each attempt that is not complete its mechanism and what the user has answered."""

    def hear(self, octets: bytes) -> Iterator[bytes]:
        """The replies to what came in; raises ValueError when it is not the protocol."""
        self._input += octets
        while b"\n" in self._input:
            line, self._input = self._input.split(b"\n", 1)
            if reply := self._reply(line.decode("utf-8", "surrogateescape").split("\t")):
                yield ("\t".join(reply) + "\n").encode()
        if len(self._input) > _LONGEST_LINE:
            raise ValueError("a line without end")

    def _reply(self, words: list[str]) -> tuple[str, ...] | None:
        match words:
            case ["AUTH", number, mechanism, *parameters] if mechanism in _MECHANISMS:
                self._answers[number] = mechanism, []
                # Everything behind resp= is the answer, and it comes last.
                response = next((each[5:] for each in parameters if each.startswith("resp=")), None)
                return self._continue(number, response)
            case ["AUTH", number, *_]:
                return "FAIL", number, "reason=Unknown mechanism"
            case ["CONT", number, response] if number in self._answers:
                return self._continue(number, response)
            case ["CONT", number, *_]:
                return "FAIL", number, "reason=Nothing to continue"
            case ["CANCEL", number]:
                self._answers.pop(number, None)
        return None  # VERSION and CPID need no reply

    def _continue(self, number: str, response: str | None) -> tuple[str, ...]:
        mechanism, answers = self._answers[number]
        try:
            if response is not None:
                answers.append(base64.b64decode(response, validate=True).decode())
        except (binascii.Error, UnicodeDecodeError):
            del self._answers[number]
            return "FAIL", number, "reason=Not base64"
        if (credentials := _credentials(mechanism, answers)) is None:
            prompt = "" if mechanism == "PLAIN" else ("Username:", "Password:")[len(answers)]
            return "CONT", number, base64.b64encode(prompt.encode()).decode()
        del self._answers[number]
        name, password = credentials
        known = json.loads(self._passwords.read_bytes())
        if name not in known or known[name] != password:
            return "FAIL", number
        return "OK", number, f"user={name}"


def _credentials(mechanism: str, answers: list[str]) -> tuple[str, str] | None:
    """Name and password, as soon as all answers are there."""
    if mechanism == "LOGIN":
        return (answers[0], answers[1]) if len(answers) == 2 else None
    if not answers:
        return None
    # RFC 4616 2: [authzid] NUL authcid NUL passwd; nobody here may act for somebody else.
    authzid, _, rest = answers[0].partition("\0")
    name, _, password = rest.partition("\0")
    return ("", "") if authzid not in ("", name) else (name, password)
