"""Drivers: each runs one implementation as the contract says, as a program of its own.

Owns: the names under which the drivers that ship with the suite are known.  Imports none of them: a driver is
a command, whoever wrote it.
"""

from __future__ import annotations

import sys

_MODULES = {
    "reference": "conformance.drivers.reference",
    "dovecot": "conformance.drivers.dovecot",
    "postfix": "conformance.drivers.postfix",
    "slapd": "conformance.drivers.slapd",
}

NAMES: tuple[str, ...] = tuple(_MODULES)
"""The targets that can be asked for by name."""


def command(name: str) -> list[str]:
    """The command line of the driver of that name; raises KeyError when there is none."""
    # -P: a file in the current directory that is called like a module must not take its place.
    return [sys.executable, "-P", "-m", _MODULES[name]]
