"""A process that has read everything already, and forks servers from then on.

Owns: how the reference server is had by the dozen.  To start Python and read its modules costs a server a third of a
second, which is more than most checks cost; an examination runs forty servers, and the proof of the ledger thousands.
What runs in a child is the same code that runs from the command line, from the first word of its arguments to the exit
status, in a process of its own.

    python -m conformance.drivers.warm SOCKET MODULE ...        reads these and serves until its standard input ends

A program is the name of a module with a function ``main``, which is called with the words behind it.

A request is its length (4 octets, big-endian), with three descriptors for the standard streams; then, separated by
NUL: the number of words, the words, the environment.  The answer is the child's process id, and later its exit status,
4 octets each.  Who hangs up before that has the child killed.
"""

from __future__ import annotations

import array
import gc
import importlib
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

BEGINS_WITHIN = 60.0


class Warm:
    """The process, for as long as it is used as a context; ``modules`` are the names of those that it reads."""

    def __init__(self, modules: Iterable[str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="listenspec-warm-")
        self._path = str(Path(self._folder.name) / "socket")
        command = [sys.executable, "-P", "-m", "conformance.drivers.warm", self._path, *modules]
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(root)},
        )

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("the warm process did not begin")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(BEGINS_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()

    def command(self, *words: str) -> list[str]:
        """The command line of a program that is forked here: a module's name, and words for its ``main``."""
        return [sys.executable, "-I", "-S", str(Path(__file__).with_name("warm_start.py")), self._path, *words]

    def run(self, words: Sequence[str], environment: Mapping[str, str], output: int, within: float) -> int | None:
        """Run ``words`` to their end, ``output`` being stdout and stderr; the exit status, None after too long."""
        told = "\0".join([str(len(words)), *words, *(f"{key}={value}" for key, value in environment.items())])
        request = told.encode(errors="surrogateescape")
        with socket.socket(socket.AF_UNIX) as wire, open(os.devnull, "rb") as nothing:
            wire.settimeout(within)
            wire.connect(self._path)
            socket.send_fds(wire, [len(request).to_bytes(4, "big")], [nothing.fileno(), output, output])
            wire.sendall(request)
            try:
                _exactly(wire, 4)
                return int.from_bytes(_exactly(wire, 4), "big")
            except TimeoutError:
                return None


def _exactly(wire: socket.socket, count: int) -> bytes:
    octets = b""
    while len(octets) < count:
        more = wire.recv(count - len(octets))
        if not more:
            raise EOFError("the other side has hung up")
        octets += more
    return octets


# -- the process itself ----------------------------------------------------------------------------------------------


def _read(modules: Sequence[str]) -> None:
    """Import what children would import otherwise, each for itself."""
    # Nor do they look through every installed package for something that would watch how settings are read.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    gc.disable()
    for name in modules:
        importlib.import_module(name)
    with suppress(ImportError):
        importlib.import_module("uvloop")
    gc.enable()


@dataclass(frozen=True, slots=True)
class _Child:
    pid: int
    watched: int
    wire: socket.socket

    def ended(self) -> None:
        """Tell its exit status to whoever asked for it."""
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        with suppress(OSError):
            self.wire.sendall((code if code >= 0 else 128 - code).to_bytes(4, "big"))
        os.close(self.watched)
        self.wire.close()


def main(path: str, modules: Sequence[str]) -> None:
    """Serve until standard input ends."""
    _read(modules)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(128)
    gc.freeze()
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)
    print("ready", flush=True)
    children: set[_Child] = set()
    while True:
        for key, _ in selector.select():
            match key.data:
                case None if key.fd == 0:
                    for child in children:
                        os.kill(child.pid, signal.SIGKILL)
                    return
                case None:
                    child = _fork(listener.accept()[0])
                    children.add(child)
                    for number in (child.watched, child.wire.fileno()):
                        selector.register(number, selectors.EVENT_READ, child)
                case _Child() as child:
                    if key.fd != child.watched:  # the other side has nothing more to say: it has hung up
                        os.kill(child.pid, signal.SIGKILL)
                    for number in (child.watched, child.wire.fileno()):
                        selector.unregister(number)
                    children.remove(child)
                    child.ended()
                    break  # what else was reported may be about the same child


def _fork(wire: socket.socket) -> _Child:
    wire.settimeout(BEGINS_WITHIN)
    length, received, _, _ = socket.recv_fds(wire, 4, 3)
    streams = array.array("i", received)
    count, *told = _exactly(wire, int.from_bytes(length, "big")).decode(errors="surrogateescape").split("\0")
    words, environment = told[: int(count)], dict(each.partition("=")[::2] for each in told[int(count) :])
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            status = _become(words, environment, streams)
        finally:
            os._exit(status)
    for number in streams:
        os.close(number)
    wire.sendall(pid.to_bytes(4, "big"))
    return _Child(pid, os.pidfd_open(pid), wire)


def _become(words: Sequence[str], environment: Mapping[str, str], streams: Sequence[int]) -> int:
    """In the child: be as a program that has just been started.  Its exit status."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    # Everybody else's connections; what is left of them in memory is never looked at.
    os.closerange(3, 1 << 16)
    os.environ.clear()
    os.environ.update(environment)
    random.seed()
    sys.argv = ["listenspec"]
    try:
        return int(importlib.import_module(words[0]).main(list(words[1:])))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
