"""The servers that are measured, each in a process of its own on the loopback.

Owns: how each is started, told ready, cleaned and ended.  Knows nothing of what is measured.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
KEEPER = "keeper@bench.test"
"""The recipient whose mail is stored."""
SINK = "sink@bench.test"
"""The recipient whose mail is accepted and thrown away."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server as it is to be started; ``ours`` or aiosmtpd, on asyncio's own loop or on uvloop."""

    name: str
    ours: bool
    stores: bool
    uvloop: bool = False

    @property
    def recipient(self) -> str:
        return KEEPER if self.stores else SINK


@dataclass(slots=True)
class Running:
    """A contestant that listens."""

    contestant: Contestant
    process: subprocess.Popen[str]
    port: int
    mail: Path

    def stored(self) -> int:
        """How many messages lie there: proof that a server did what it was measured at."""
        return sum(1 for _ in os.scandir(self.mail / "new")) if (self.mail / "new").is_dir() else 0

    def memory(self) -> int:
        """Octets of the process's own memory that are in RAM (resident, without what is shared with files)."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text("ascii").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("this system does not tell how much memory a process has")


def has_uvloop() -> bool:
    """Whether uvloop is installed here."""
    return importlib.util.find_spec("uvloop") is not None


@contextlib.contextmanager
def running(contestant: Contestant, folder: Path) -> Iterator[Running]:
    """Start it with its data in a folder below ``folder``, and end it."""
    home = folder / contestant.name.replace(" ", "-").replace(",", "")
    home.mkdir()
    port = _free_port()
    if contestant.ours:
        command, mail = _our_command(contestant, home, port), home / "data" / "keeper"
    else:
        mail = home / "mail"
        command = [sys.executable, "-m", "benchmarks.aiosmtpd_server", str(port)]
        command += ["--mailbox", str(mail)] if contestant.stores else []
        command += ["--uvloop"] if contestant.uvloop else []
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    try:
        _await_ready(process, contestant)
        yield Running(contestant, process, port, mail)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        shutil.rmtree(home, ignore_errors=True)


def _our_command(contestant: Contestant, home: Path, port: int) -> list[str]:
    service = {
        "enabled": True, "bind": [HOST], "ports": [port], "max_connections": 0, "max_connections_per_ip": 0,
        "idle_timeout": 3600.0,
    }
    settings = {
        "hostname": "bench.test",
        "data": str(home / "data"),
        "accounts": [
            {"name": "keeper", "address": KEEPER, "password": "unused"},
            {"name": "sink", "address": SINK, "discard": True},
        ],
        "services": {
            "smtp": service,
            **{name: {"enabled": False} for name in ("imap", "pop3", "webmail", "ldap", "admin")},
        },
    }
    config = home / "settings.json"
    config.write_text(json.dumps(settings), "utf-8")
    command = [sys.executable, "-m", "reference_server", "--events", "--exit-with-stdin", str(config)]
    return command if contestant.uvloop else [*command, "--no-uvloop"]


def _await_ready(process: subprocess.Popen[str], contestant: Contestant) -> None:
    assert process.stdout is not None
    deadline = time.monotonic() + 30
    for line in process.stdout:
        if "ready" in line:
            return
        if time.monotonic() > deadline:
            break
    raise RuntimeError(f"{contestant.name} did not start (exit status {process.poll()})")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
