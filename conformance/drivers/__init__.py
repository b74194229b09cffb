"""Drivers: each runs one implementation as the contract says, as a program of its own.

Owns: the names under which the drivers that ship with the suite are known, and having the one that is run by the dozen
quickly.  Imports none of them: a driver is a command, whoever wrote it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

_MODULES = {
    "reference": "conformance.drivers.reference",
    "dovecot": "conformance.drivers.dovecot",
    "postfix": "conformance.drivers.postfix",
    "slapd": "conformance.drivers.slapd",
    "nginx": "conformance.drivers.nginx",
}

#: What the reference server and its driver import.
OF_SERVERS = (
    "conformance.drivers.reference",
    "reference_server.__main__",
    "reference_server.faults.__main__",
    "reference_server.web.webmail",
    "reference_server.web.admin",
)

NAMES: tuple[str, ...] = tuple(_MODULES)
"""The targets that can be asked for by name."""


def command(name: str) -> list[str]:
    """The command line of the driver of that name; raises KeyError when there is none."""
    # -P: a file in the current directory that is called like a module must not take its place.
    return [sys.executable, "-P", "-m", _MODULES[name]]


@contextlib.contextmanager
def prepared(name: str) -> Iterator[list[str]]:
    """The command line of that driver for a whole examination; raises KeyError when there is none.

    The reference server is forked from a process that has been started once (:mod:`conformance.drivers.warm`).
    """
    if name == "reference":
        from conformance.drivers.warm import Warm  # a program of its own, too

        with Warm(OF_SERVERS) as warm:
            yield warm.command(_MODULES[name])
    else:
        yield command(name)
