"""The protocol of a driver program: ``describe`` and ``run``, signals, stdin, events, exit statuses.

Owns: what every driver does in the same way.  A driver brings an `Implementation` and gives it to `main`.
Deliberately knows nothing of any server and nothing of the suite.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from conformance.drivers.asked import (
    Asked,
    BadScenario,
    JsonObject,
    UnsupportedSetting,
    read,
    refuse_what_is_not_offered,
    understand,
)


class DriverFailed(Exception):
    """The driver cannot go on; the message is for people."""


class Implementation(Protocol):
    """A server that can be put under test."""

    def describe(self) -> JsonObject:
        """What the contract wants to be described, as JSON; works where the server is not installed."""

    def start(self, asked: Asked) -> JsonObject:
        """Start the server and return when every listener accepts.

        Returns what the ready event carries besides.  Raises UnsupportedSetting when it cannot do what is
        asked, DriverFailed when it does not start.
        """

    def reload(self, asked: Asked) -> None:
        """Put new settings into force; raises UnsupportedSetting or DriverFailed when the old ones stay."""

    def death(self) -> str | None:
        """How the server ended by itself, or None while it runs."""

    def stop(self) -> None:
        """End every process that was started; safe at any time, and more than once."""


def say(event: str, **more: Any) -> None:
    """Print one event."""
    print(json.dumps({"event": event, **more}), flush=True)


def main(implementation: Implementation, arguments: list[str]) -> int:
    """Run the driver program with its arguments; returns its exit status."""
    match arguments:
        case ["describe"]:
            print(json.dumps(implementation.describe(), indent=1))
            return 0
        case ["run", path]:
            return _run(implementation, Path(path))
        case _:
            print("usage: DRIVER describe | run SCENARIO.json", file=sys.stderr)
            return 2


def _run(implementation: Implementation, path: Path) -> int:
    occurrences = _Occurrences()
    try:
        try:
            more = implementation.start(_asked(implementation, path))
        except UnsupportedSetting as refusal:
            say("unsupported", setting=refusal.setting, reason=refusal.reason)
            return 0
        say("ready", **more)
        while (what := occurrences.next()) != "stop":
            if what == "reload":
                _reload(implementation, path)
            elif (death := implementation.death()) is not None:
                raise DriverFailed(death)
    except (BadScenario, DriverFailed) as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0  # nobody listens any more
    finally:
        implementation.stop()
    return 0


def _asked(implementation: Implementation, path: Path) -> Asked:
    document = read(path)
    refuse_what_is_not_offered(document, implementation.describe())
    return understand(document, path)


def _reload(implementation: Implementation, path: Path) -> None:
    try:
        implementation.reload(_asked(implementation, path))
    except (UnsupportedSetting, BadScenario, DriverFailed) as error:
        say("reloaded", error=str(error))
    else:
        say("reloaded")


class _Occurrences:
    """What a running driver waits for: signals, the end of stdin, the end of a child.

    Signals reach the loop through a pipe, in the order in which they came, whatever the driver is just doing.
    """

    def __init__(self) -> None:
        self._wakeup, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, _only_wake)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        # /dev/null would end at once; only a pipe, a socket or a terminal has somebody at its other end.
        with suppress(OSError, ValueError):
            mode = os.fstat(0).st_mode
            if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(0):
                self._selector.register(0, selectors.EVENT_READ)
        self._pending: list[str] = []

    def next(self) -> str:
        """Wait for the next: ``stop``, ``reload``, or ``child`` when some child process has changed."""
        while not self._pending:
            for key, _ in self._selector.select():
                if key.fd == 0:
                    if not os.read(0, 4096):
                        return "stop"
                    continue
                for number in os.read(self._wakeup, 512):
                    self._pending.append(_MEANING[signal.Signals(number)])
        return self._pending.pop(0)


_MEANING = {
    signal.SIGTERM: "stop",
    signal.SIGINT: "stop",
    signal.SIGHUP: "reload",
    signal.SIGCHLD: "child",
}


def _only_wake(_number: int, _frame: object) -> None:
    """The wakeup pipe tells; a signal must not interrupt what the driver is doing."""
