"""The real server as a process, with every service and channel, for tests that talk to it from outside."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from certs import Authority
from conformance.procfs import free_ports

SOON = 10.0
SERVICES = ("smtp", "pop3", "imap")
CHANNELS = ("plain", "explicit", "implicit")
PASSWORD = "open sesame"


@dataclass(frozen=True, slots=True)
class Post:
    """Where a service is to be had through one channel."""

    host: str
    port: int
    channel: str


class MailServer:
    """A server run as a driver runs it."""

    def __init__(self, folder: Path, document: dict[str, Any], under: Sequence[str] = ()) -> None:
        """``under``: a program that runs it."""
        self.file = folder / "settings.json"
        self.document = document
        self.write(document)
        self.process = subprocess.Popen(
            [*under, sys.executable, "-m", "reference_server", "--events", "--exit-with-stdin", str(self.file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def write(self, document: dict[str, Any]) -> None:
        """Put settings where a reload finds them."""
        self.file.write_text(json.dumps(document))

    def event(self) -> dict[str, Any]:
        """The next thing that it tells its driver."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        found: dict[str, Any] = json.loads(line)
        return found

    def reload(self, **services: Any) -> dict[str, Any]:
        """Have it take on other settings for some services; None switches one off."""
        self.document = {**self.document, "services": {**self.document["services"], **services}}
        self.write({**self.document, "services": {k: v for k, v in self.document["services"].items() if v}})
        self.process.send_signal(signal.SIGHUP)
        return self.event()

    def port(self, service: str, channel: str = "plain") -> int:
        """The first port of a service for that channel."""
        key = "implicit_tls_ports" if channel == "implicit" else "ports"
        number: int = self.document["services"][service][key][0]
        return number

    def post(self, service: str, channel: str) -> Post:
        """Where a client is to go, by the name that the certificate is for."""
        return Post("localhost", self.port(service, channel), channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            said = self.process.communicate(timeout=SOON)[1]
        finally:
            self.process.kill()
        if details[0] is None:
            assert "Traceback" not in said, said


def settings(folder: Path, *, services: Sequence[str] = SERVICES, **common: Any) -> dict[str, Any]:
    """Services on every channel, on free ports of the loopback; ``common`` goes into each service's table."""
    authority = Authority.create()
    chain, key = authority.issue().write(folder / "certificate")
    (folder / "root.pem").write_bytes(authority.root_pem)
    ports = iter(free_ports(2 * len(services)))
    return {
        "format": 1,
        "hostname": "mail.example.test",
        "data": str(folder / "data"),
        "certificates": {"main": {"chain": str(chain), "key": str(key)}},
        "accounts": [{"name": "alice", "password": PASSWORD, "address": "alice@example.test"}],
        "services": {
            name: {
                "bind": ["localhost"],
                "ports": [next(ports)],
                "implicit_tls_ports": [next(ports)],
                "idle_timeout": 60,
                "certificate": "main",
                "explicit_tls": True,
                **common,
            }
            for name in services
        },
    }
