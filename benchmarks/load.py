"""Mail as fast as a server takes it: Postfix's ``smtp-source``, or a sender of our own where that is missing.

Owns: the clients.  Both send EHLO (HELO), MAIL, RCPT, DATA and the text one after the other, wait for each reply, and
keep so many sessions going at once.  ``python -m benchmarks.load`` is our own sender as a program.
"""

from __future__ import annotations

import argparse
import os
import selectors
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field

SMTP_SOURCE = shutil.which("smtp-source", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/libexec/postfix")
OCTETS = 1024


@dataclass(frozen=True, slots=True)
class Load:
    """How mail is sent: ``sessions`` at once, on kept connections or each message on one of its own."""

    program: str
    sessions: int
    kept: bool

    def send(self, messages: int, host: str, port: int, recipient: str) -> float:
        """Send so many; seconds that it took.  Raises RuntimeError when the server refuses anything."""
        if self.program == "smtp-source":
            assert SMTP_SOURCE is not None
            command = [SMTP_SOURCE, *(["-d"] if self.kept else []), "-s", str(self.sessions), "-m", str(messages)]
            command += ["-l", str(OCTETS), "-f", "from@bench.test", "-t", recipient, f"inet:{host}:{port}"]
        else:
            command = [sys.executable, "-m", "benchmarks.load", *(["--kept"] if self.kept else [])]
            command += [str(self.sessions), str(messages), host, str(port), recipient]
        before = time.perf_counter()
        outcome = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        seconds = time.perf_counter() - before
        if outcome.returncode != 0 or "fatal" in outcome.stderr:
            raise RuntimeError(f"{self.program} failed: {outcome.stderr.strip() or outcome.returncode}")
        return seconds


@dataclass(slots=True)
class _Sender:
    """One session: what is to be said, and at which line we are."""

    selector: selectors.BaseSelector
    address: tuple[str, int]
    script: tuple[bytes, ...]
    again: int
    budget: list[int]
    step: int = 0
    heard: bytearray = field(default_factory=bytearray)
    socket: socket.socket = field(init=False)

    def connect(self) -> None:
        self.step = 0
        self.socket = socket.create_connection(self.address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.selector.register(self.socket, selectors.EVENT_READ, self)

    def hear(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            self.selector.unregister(self.socket)
            self.socket.close()
            if self.step <= len(self.script):
                raise RuntimeError("the server hung up")
            if self.budget[0] > 0:
                self.budget[0] -= 1
                self.connect()
            return
        self.heard += data
        # A reply is over with a line that has a space behind its code.
        last = self.heard.rstrip(b"\r\n").rpartition(b"\n")[2]
        if not self.heard.endswith(b"\n") or last[3:4] == b"-":
            return
        if self.heard[:1] not in b"23":
            raise RuntimeError(f"the server said {bytes(self.heard)!r}")
        self.heard.clear()
        self._speak()

    def _speak(self) -> None:
        if self.step == len(self.script) - 1 and self.again and self.budget[0] > 0:
            self.budget[0] -= 1
            self.step = self.again
        if self.step < len(self.script):
            self.socket.sendall(self.script[self.step])
        self.step += 1


def send(sessions: int, messages: int, host: str, port: int, recipient: str, *, kept: bool) -> None:
    """Our own sender.  Raises RuntimeError when the server refuses anything."""
    text = b"Subject: load\r\n\r\n"
    text += (b"y" * 76 + b"\r\n") * ((OCTETS - len(text)) // 78)
    script = (
        b"EHLO bench.test\r\n", b"MAIL FROM:<from@bench.test>\r\n", b"RCPT TO:<%s>\r\n" % recipient.encode(),
        b"DATA\r\n", text + b".\r\n", b"QUIT\r\n",
    )
    budget = [messages]
    with selectors.DefaultSelector() as selector:
        for _ in range(min(sessions, messages)):
            budget[0] -= 1
            _Sender(selector, (host, port), script, 1 if kept else 0, budget).connect()
        while selector.get_map():
            for key, _ in selector.select(30):
                sender: _Sender = key.data
                sender.hear()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kept", action="store_true")
    parser.add_argument("sessions", type=int)
    parser.add_argument("messages", type=int)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("recipient")
    options = parser.parse_args()
    send(options.sessions, options.messages, options.host, options.port, options.recipient, kept=options.kept)
