"""A program that is forked from the warm process instead of started: ``python -I -S warm_start.py SOCKET WORD ...``.

Owns: being a process where the suite wants to start a driver.  It passes signals on, ends as the server ends, and takes
the server with it when it is killed.  Imports next to nothing: that is the point of it.
"""

from __future__ import annotations

import array
import os
import select
import signal
import sys
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket


def main(path: str, words: list[str]) -> int:
    """Have ``words`` run with our output and environment; the exit status."""
    wire = socket(AF_UNIX, SOCK_STREAM)
    wire.connect(path)
    request = "\0".join([str(len(words)), *words, *(f"{name}={value}" for name, value in os.environ.items())]).encode(
        errors="surrogateescape"
    )
    # Not our own standard input: its end must not overtake a signal that was sent to us before it.
    theirs, stdin = os.pipe()
    wire.sendmsg([len(request).to_bytes(4, "big")], [(SOL_SOCKET, SCM_RIGHTS, array.array("i", [theirs, 1, 2]))])
    wire.sendall(request)
    os.close(theirs)
    child = int.from_bytes(_exactly(wire), "big")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: _pass_on(child, number))
    _await_end_of_stdin(wire, stdin)
    return int.from_bytes(_exactly(wire), "big")


def _await_end_of_stdin(wire: socket, stdin: int) -> None:
    while True:
        ready, _, _ = select.select([0, wire.fileno()], [], [])
        if wire.fileno() in ready:
            return
        if not os.read(0, 4096):
            os.close(stdin)
            return


def _pass_on(child: int, number: int) -> None:
    try:
        os.kill(child, number)
    except ProcessLookupError:
        return  # it has just ended, and we are about to hear of it


def _exactly(wire: socket) -> bytes:
    octets = b""
    while len(octets) < 4:
        more = wire.recv(4 - len(octets))
        if not more:
            raise SystemExit("the warm process has ended")
        octets += more
    return octets


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
