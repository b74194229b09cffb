"""The suite's side of a driver: a process that is started, believed as far as it deserves, and stopped.

Owns: running ``DRIVER describe`` and ``DRIVER run SCENARIO.json``, reading what they print within deadlines,
asking for a reload, and leaving no process behind.  Everything that can go wrong with a driver ends as one
`DriverError` whose message says what it did.  Deliberately knows nothing of what a scenario means, beyond
which ports it asks for.

A driver runs in a session of its own and carries a mark in its environment, so that whatever it starts can be
found again.  Its stdin is a pipe that only this process holds: when the suite dies in whatever way, the pipe
closes and the driver stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import shlex
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeAlias

from conformance import procfs
from conformance.contract import (
    ContractError,
    Description,
    Event,
    Ready,
    Reloaded,
    Unsupported,
    read_description,
    read_event,
)

Scenario: TypeAlias = Mapping[str, Any]
"""A server configuration as the contract's section 1 has it in JSON."""

DESCRIBE_WITHIN = 15.0
READY_WITHIN = 30.0
RELOADED_WITHIN = 10.0
STOPPED_WITHIN = 10.0
"""Seconds; the last is what the contract allows a driver."""

_GRACE = 0.3
"""Seconds in which what a driver stopped may still be on its way out."""

_MARK = "LISTENSPEC_RUN"
_LONGEST_LINE = 1 << 20
_INVENTED = "answer_only_on_thursdays"


class DriverError(Exception):
    """The driver, not the server that it drives, did something wrong; the message says what."""


def describe(command: Sequence[str], *, within: float = DESCRIBE_WITHIN) -> Description:
    """Ask a driver what its server has; raises DriverError when it does not say so in ``within`` seconds."""
    running = _Running.start([*command, "describe"])
    try:
        running.close_stdin()
        printed = running.all_lines(within)
        status = running.wait(STOPPED_WITHIN)
    finally:
        leftovers = running.kill()
    if status is None:
        raise running.error(f"printed its description and did not end within {STOPPED_WITHIN:g} s")
    if status != 0:
        raise running.error(f"ended with {_status(status)}")
    if leftovers:
        raise running.error(f"left processes behind: {leftovers}")
    text = b"\n".join(printed).decode("utf-8", "replace")
    try:
        return read_description(text)
    except ContractError as error:
        raise running.error(f"printed {_excerpt(text)}, which the contract does not allow: {error}") from None


def is_believable(
    command: Sequence[str],
    scenario: Scenario | None = None,
    *,
    folder: Path,
    within: float = READY_WITHIN,
) -> bool:
    """Ask for a setting that nobody has: a driver that is ready for that is ready for anything.

    The invented setting goes into each service of ``scenario``; without one, into the first service that the
    driver describes.  Returns True when the driver answered ``unsupported`` or refused to run; raises
    DriverError when it said ``ready``.
    """
    if scenario is None:
        scenario = _smallest_scenario(describe(command), folder)
    services = {name: {**tables, _INVENTED: True} for name, tables in scenario["services"].items()}
    try:
        answer = DriverProcess.start(
            command, {**scenario, "services": services}, folder, within=within, check_listening=False
        )
    except DriverRefused:
        return True
    if isinstance(answer, Unsupported):
        return True
    with contextlib.suppress(DriverError):  # how it stops is not what has to be told
        answer.stop()
    raise DriverError(
        f"{shlex.join(command)} said ready to the setting {_INVENTED!r}, which does not exist: "
        "it must answer unsupported to whatever it does not know"
    )


def _smallest_scenario(description: Description, folder: Path) -> Scenario:
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    if not description.services:
        raise DriverError(f"the driver of {description.name} describes no service")
    service = min(description.services)
    return {
        "format": 1,
        "hostname": "mail.example.test",
        "data": str(data),
        "services": {
            service.value: {"enabled": True, "bind": ["127.0.0.1"], "ports": procfs.free_ports(1)},
        },
    }


class DriverRefused(DriverError):
    """The driver ended by itself, with a status other than 0, before it was ready."""


class DriverProcess:
    """One run of a driver: a server that is ready under one scenario until it is stopped.

    Use it as a context manager, or call `stop`.  Not meant for several threads at once.
    """

    def __init__(self, running: _Running, path: Path, ready: Ready) -> None:
        self._running = running
        self._path = path
        self.ready = ready

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        scenario: Scenario | Path,
        folder: Path,
        *,
        within: float = READY_WITHIN,
        check_listening: bool = True,
    ) -> DriverProcess | Unsupported:
        """Run a driver with a scenario and wait until it is ready or says that it cannot.

        ``scenario`` is written to ``folder``, unless it is the path of a file already.  ``check_listening``
        compares the ports that it asks for with those that are open; it is of no use where the suite itself
        occupies one.  Raises DriverError, with no process left behind; `DriverRefused`, one of its kinds,
        when the driver ended by itself with a status other than 0.
        """
        if isinstance(scenario, Path):
            path, asked = scenario, json.loads(scenario.read_bytes())
        else:
            path, asked = folder / "scenario.json", scenario
            _write(path, scenario)
        running = _Running.start([*command, "run", str(path)])
        try:
            event = running.event(within)
            match event:
                case Ready():
                    if check_listening and (missing := _not_listening(asked)):
                        raise running.error(f"said ready, but nobody listens on {missing}")
                    running.watch(event.pids)
                    return cls(running, path, event)
                case Unsupported():
                    status = running.wait(STOPPED_WITHIN)
                    if status is None:
                        raise running.error(f"said unsupported and did not end within {STOPPED_WITHIN:g} s")
                    if status != 0:
                        raise running.error(f"said unsupported and ended with {_status(status)}, not 0")
                case Reloaded():
                    raise running.error("said reloaded before it was ready")
        except BaseException:
            running.kill()
            raise
        if leftovers := running.kill():
            raise running.error(f"said unsupported and left processes behind: {leftovers}")
        return event

    @property
    def pid(self) -> int:
        """The driver's own process."""
        return self._running.process.pid

    @property
    def stderr(self) -> str:
        """The last lines that the driver and its server wrote to stderr."""
        return self._running.last_words()

    @property
    def running(self) -> bool:
        """Whether the driver has not ended by itself."""
        return self._running.process.poll() is None

    def is_deaf(self, scenario: Scenario) -> bool:
        """Whether not one of the ports that ``scenario`` asks for is open."""
        wanted = {
            port
            for service in scenario["services"].values()
            for port in (*service.get("ports", ()), *service.get("implicit_tls_ports", ()))
        }
        return procfs.AVAILABLE and not wanted & {port for _, port in procfs.listening()}

    def reload(self, scenario: Scenario, *, within: float = RELOADED_WITHIN) -> Reloaded:
        """Replace the scenario and have it read again.

        Raises DriverError when the driver does not answer ``reloaded`` within ``within`` seconds; a refusal
        is an answer.
        """
        self._running.forget_lines()  # the answer to an earlier request may have come too late
        _write(self._path, scenario)
        self._running.signal(signal.SIGHUP)
        event = self._running.event(within)
        if not isinstance(event, Reloaded):
            raise self._running.error(f"answered {event.event} to SIGHUP, not reloaded")
        return event

    def close_stdin(self) -> None:
        """What happens when the suite is gone; the driver has to stop then."""
        self._running.close_stdin()

    def stop(self, *, within: float = STOPPED_WITHIN) -> None:
        """End the driver and whatever it started.

        Raises DriverError when the driver had to be killed, did not end with status 0 or left processes
        behind; none of them is left when it does.  A second call does nothing.
        """
        if self._running.stopped:
            return
        self._running.signal(signal.SIGTERM)
        self._running.close_stdin()
        status = self._running.wait(within)
        leftovers = self._running.kill()
        if status is None:
            raise self._running.error(f"did not end within {within:g} s of SIGTERM and was killed")
        if status != 0:
            raise self._running.error(f"ended with {_status(status)}, not 0")
        if leftovers:
            raise self._running.error(f"ended and left processes behind, which were killed: {leftovers}")

    def __enter__(self) -> DriverProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except DriverError:
            # What happened first is what has to be told; the processes are gone all the same.
            if error is None:
                raise


class _Running:
    """A process with its pipes read by threads, and everything that it started."""

    def __init__(self, process: subprocess.Popen[bytes], command: Sequence[str], mark: str) -> None:
        self.process = process
        self.stopped = False
        self._command = command
        self._mark = f"{_MARK}={mark}".encode()
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._said: deque[bytes] = deque(maxlen=20)
        self._watched: dict[int, int] = {}
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read_lines, args=(process.stdout,), daemon=True),
            threading.Thread(target=self._read_words, args=(process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @classmethod
    def start(cls, command: Sequence[str]) -> _Running:
        mark = secrets.token_hex(8)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env={**os.environ, _MARK: mark},
            )
        except OSError as error:
            raise DriverError(f"{command[0]}: cannot be started: {error.strerror}") from None
        return cls(process, command, mark)

    def _read_lines(self, pipe: IO[bytes]) -> None:
        with pipe:
            while line := pipe.readline(_LONGEST_LINE):
                self._lines.put(line.removesuffix(b"\n"))
        self._lines.put(None)

    def _read_words(self, pipe: IO[bytes]) -> None:
        with pipe:
            while line := pipe.readline(4096):
                self._said.append(line.rstrip())

    def event(self, within: float) -> Event:
        """The next event; raises DriverError when there is none, or something else."""
        try:
            line = self._lines.get(timeout=within)
        except queue.Empty:
            raise self.error(f"hung: it printed nothing within {within:g} s") from None
        if line is None:
            status = self.wait(1.0)
            if status is None:
                raise self.error("closed its output and goes on")
            if status == 0:
                raise self.error("ended with status 0 without a word")
            raise self.error(f"died with {_status(status)}", DriverRefused)
        text = line.decode("utf-8", "replace")
        try:
            return read_event(text)
        except ContractError as error:
            raise self.error(f"printed {_excerpt(text)}, which the contract does not allow: {error}") from None

    def forget_lines(self) -> None:
        """Drop what it has printed so far, except that it has closed its output."""
        with contextlib.suppress(queue.Empty):
            while self._lines.get_nowait() is not None:
                pass
            self._lines.put(None)

    def all_lines(self, within: float) -> list[bytes]:
        """Everything it prints until it closes its output."""
        until = time.monotonic() + within
        lines: list[bytes] = []
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise self.error(f"hung: it did not finish within {within:g} s") from None
            if line is None:
                return lines
            lines.append(line)

    def wait(self, within: float) -> int | None:
        """Its exit status, or None when it still runs."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            return None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def watch(self, pids: Sequence[int]) -> None:
        """Remember processes that the driver named, by pid and start time."""
        for pid in pids:
            if found := procfs.process(pid):
                self._watched[pid] = found.started

    def _leftovers(self) -> list[procfs.Process]:
        return [
            found
            for found in procfs.processes()
            if found.runs
            and found.pid != os.getpid()
            and (
                found.session == self.process.pid
                or self._watched.get(found.pid) == found.started
                or self._mark in procfs.environment(found.pid)
            )
        ]

    def kill(self) -> str:
        """End all that still runs; says what that was, the driver itself apart."""
        self.stopped = True
        leftovers = self._leftovers()
        grace = time.monotonic() + _GRACE
        while leftovers and self.process.poll() is not None and time.monotonic() < grace:
            time.sleep(0.01)  # they may be about to end: /proc has no event to wait for
            leftovers = self._leftovers()
        told = ", ".join(f"{each.name} ({each.pid})" for each in leftovers if each.pid != self.process.pid)
        until = time.monotonic() + 5.0
        if self.process.poll() is None:  # else the id of its group may belong to somebody else by now
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        while leftovers and time.monotonic() < until:
            for each in leftovers:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(each.pid, signal.SIGKILL)
            self.wait(0.02)
            leftovers = self._leftovers()
        self.wait(1.0)
        self.close_stdin()
        for reader in self._readers:
            reader.join(1.0)
        return told

    def last_words(self) -> str:
        """The last lines of stderr."""
        return b"\n".join(self._said).decode("utf-8", "replace")

    def error(self, what: str, kind: type[DriverError] = DriverError) -> DriverError:
        """A `DriverError` that names the command, what it did and what it said last."""
        if self.process.poll() is not None:
            self._readers[1].join(1.0)  # its last words may still be in the pipe
        words = self.last_words().strip()
        return kind(f"{shlex.join(self._command)}: {what}" + (f"; stderr: {words}" if words else ""))


def _not_listening(scenario: Scenario) -> str:
    """The ports that a scenario asks for and nobody has open, as text."""
    if not procfs.AVAILABLE:
        return ""
    opened = {port for _, port in procfs.listening()}
    missing = [
        f"{port} ({name})"
        for name, service in scenario.get("services", {}).items()
        if service.get("enabled", True)
        for port in (*service.get("ports", ()), *service.get("implicit_tls_ports", ()))
        if port not in opened
    ]
    return ", ".join(missing)


def _write(path: Path, scenario: Scenario) -> None:
    """Replace a scenario file in one step: a driver never reads half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(scenario, indent=1))
    draft.replace(path)


def _status(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "...")
