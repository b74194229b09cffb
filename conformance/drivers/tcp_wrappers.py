"""TCP wrappers: a service's ``allow`` and ``deny`` in the words of /etc/hosts.allow (hosts_access(5)).

Owns: which lines a list of addresses, networks and ranges becomes, and the file that has to be there for a private
one to be mounted over it.  Which server reads it, and how, is known to that server's driver.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path

from conformance.drivers import confine
from conformance.drivers.asked import AskedService, UnsupportedSetting
from conformance.drivers.listeners import networks

HOSTS_ALLOW = Path("/etc/hosts.allow")
"""The library reads no other file."""


def usable() -> bool:
    """Whether a server can be given a file of its own, in a mount namespace."""
    return HOSTS_ALLOW.exists() and confine.mounts_allowed()


def lines(service: AskedService, daemon: str) -> Iterator[str]:
    """The lines for one service, which the library knows as ``daemon``; the first that matches decides.

    Raises UnsupportedSetting for what is no address, network or range.
    """
    # One network a line: the library reads lines of at most 2047 characters (hosts_options(5) for DENY).
    for pattern in _patterns(service, "deny"):
        yield f"{daemon} : {pattern} : DENY"
    if service.allow:
        for pattern in _patterns(service, "allow"):
            yield f"{daemon} : {pattern} : ALLOW"
        yield f"{daemon} : ALL : DENY"
    else:
        yield f"{daemon} : ALL : ALLOW"


def _patterns(service: AskedService, key: str) -> Iterator[str]:
    for text in service.allow if key == "allow" else service.deny:
        try:
            covered = networks(text)
        except ValueError as error:
            raise UnsupportedSetting(f"services.{service.name}.{key}", str(error)) from None
        for network in covered:
            if isinstance(network, ipaddress.IPv6Network):
                yield f"[{network.network_address}]/{network.prefixlen}"
            elif network.prefixlen == 32:
                yield str(network.network_address)  # the library does not understand /255.255.255.255
            else:
                yield f"{network.network_address}/{network.netmask}"
