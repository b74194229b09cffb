"""The driver of the reference server that comes with the suite.

Owns: what the reference server is declared to have, and becoming it.  For a run the driver turns into the
server itself: one process, so that nothing stands between the suite's signals and the server, and killing the
one kills the other.  The server prints the events of a run on its own.  It is known here by its command lines
only, and run in this very interpreter: a suite starts dozens of servers, and most of their start is Python's.

    python -m conformance.drivers.reference [--fault NAME] describe | run SCENARIO.json
"""

from __future__ import annotations

import gc
import io
import json
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conformance.drivers.asked import BadScenario, UnsupportedSetting, read, refuse_what_is_not_offered
from conformance.drivers.program import say

_OFFERS = [
    "bind",
    "ports",
    "max_connections",
    "max_connections_per_ip",
    "idle_timeout",
    "explicit_tls",
    "implicit_tls",
    "certificate",
    "require_tls_for_login",
    "restrictions",
    "reload",
    "seed_inbox",
]

#: The library that sets the clock of one program alone, where it is installed.
_FAKETIME = "/usr/lib/*/faketime/libfaketimeMT.so.1"

_DEFAULT_IDLE_TIMEOUT = {"smtp": 300, "pop3": 600, "imap": 1800, "webmail": 300, "ldap": 300, "admin": 300}
"""Seconds; what its settings say where nothing is configured."""


_LOGINS: dict[str, dict[str, Any]] = {
    "webmail": {"path": "/login", "scheme": "form"},
    "admin": {"path": "/login", "scheme": "form"},
    "ldap": {"base_dn": "o=mail", "user_dn": "uid={name},ou=people,o=mail"},
}


def describe() -> dict[str, Any]:
    """What the reference server has, as the contract wants it told."""
    from importlib import metadata  # 20 ms that a run does without

    return {"name": "listenspec reference server", "version": metadata.version("listenspec"), **_declared()}


def _declared() -> dict[str, Any]:
    offers = [*_OFFERS, *(["wall_clock"] if _faketime() is not None else [])]
    return {
        "format": 1,
        "services": {
            name: {
                "offers": offers,
                "limit": {"scope": "service", "surplus": "reply", "recovery": 0.1},
                "per_ip": {"stage": "connect", "scope": "service"},
                "idle_timeout_min": 0.05,
                "idle_timeout_step": 0.001,
                "defaults": {"idle_timeout": seconds},
                "login": _LOGINS.get(name, {"by": "name"}),
            }
            for name, seconds in _DEFAULT_IDLE_TIMEOUT.items()
        },
    }


def main(arguments: list[str]) -> int:
    """Run the driver program; does not return from a run that the server takes over."""
    match arguments:
        case ["--fault", name, *rest] if rest:
            module, words = "reference_server.faults", [name]
        case rest:
            module, words = "reference_server", []
    match rest:
        case ["describe"] if words:
            return _describe_faulty(words[0])
        case ["describe"]:
            print(json.dumps(describe(), indent=1))
            return 0
        case ["run", path]:
            status = _refuses(Path(path))
            if status is None:
                _set_its_clock(Path(path), arguments)
            return _become(module, [*words, "--events", "--exit-with-stdin", path]) if status is None else status
        case _:
            print(f"usage: python -m {__spec__.name} [--fault NAME] describe | run SCENARIO.json", file=sys.stderr)
            return 2


def _describe_faulty(fault: str) -> int:
    """A server that is wrong on purpose may also be described otherwise; only it knows."""
    sys.stdin = io.StringIO(json.dumps(describe()))
    return _become("reference_server.faults", [fault, "--describe"])


def _refuses(path: Path) -> int | None:
    """Look at the scenario; the exit status when there is nothing to be done, None when all is offered."""
    try:
        refuse_what_is_not_offered(read(path), _declared())
    except UnsupportedSetting as refusal:
        say("unsupported", setting=refusal.setting, reason=refusal.reason)
        return 0
    except BadScenario as error:
        print(error, file=sys.stderr)
        return 1
    return None


def _set_its_clock(path: Path, arguments: list[str]) -> None:
    """Where the scenario wants a wall clock that can be set, begin again as a program that has one."""
    named = read(path).get("wall_clock")
    file = str(path.resolve().parent / named) if named else None
    if file is None or os.environ.get("FAKETIME_TIMESTAMP_FILE") == file:
        return
    library = _faketime()
    assert library is not None, "it is offered only where it is installed"
    environment = {
        **os.environ,
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": file,
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    words = [sys.executable, "-m", "conformance.drivers.reference", *arguments]
    os.execve(sys.executable, words, environment)  # noqa: S606  (this very program, without a shell)


def _faketime() -> str | None:
    import glob

    return next(iter(sorted(glob.glob(_FAKETIME))), None)


def _become(program: str, words: Sequence[str]) -> int:
    """Run another program in place of this one; its exit status."""
    # Nothing that is made while a server is read in is ever thrown away: no use in looking for it meanwhile.  The
    # server looks again from when it listens.
    gc.disable()
    # Nor in looking through every installed package for something that would watch how settings are read.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    sys.argv[1:] = words
    try:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
