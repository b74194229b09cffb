"""The listeners that a scenario asks for: which they are, and whether they can be had.

Owns: the addresses behind a bind list, finding a port taken before a server is started on it, and the addresses
that an IP restriction stands for.  Deliberately knows nothing of any server's configuration, and connects to nobody.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import TypeAlias

from conformance import procfs
from conformance.drivers.asked import Asked
from conformance.drivers.program import DriverFailed

Listener: TypeAlias = tuple[procfs.IPAddress, int]
Network: TypeAlias = IPv4Network | IPv6Network


def wanted(asked: Asked) -> frozenset[Listener]:
    """Every address and port on which somebody listens when the scenario is in force.

    ``*`` is both wildcards, where the kernel speaks IPv6.  Raises DriverFailed for a host name without address.
    """
    return frozenset(
        (address, port)
        for service in asked.services
        for port in (*service.ports, *service.implicit_tls_ports)
        for name in service.bind
        for address in _resolved(name, service.name)
    )


def _resolved(name: str, service: str) -> set[procfs.IPAddress]:
    if name == "*":
        return {IPv4Address(0), IPv6Address(0)} if procfs.has_ipv6() else {IPv4Address(0)}
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise DriverFailed(f"services.{service}.bind: {name}: {error.strerror}") from None
    return {ip_address(address[0]) for *_, address in found}


def require_free(asked: Asked, ours: frozenset[Listener] = frozenset()) -> None:
    """Raise DriverFailed for a port that somebody else holds; ``ours`` are open already, by right."""
    for address, port in sorted(wanted(asked) - ours, key=str):
        others = procfs.listening() - ours
        if any(port == taken and _meet(address, other) for other, taken in others):
            raise DriverFailed(f"port {port} on {address} is in use already")


def _meet(one: procfs.IPAddress, other: procfs.IPAddress) -> bool:
    """Whether two listeners on one port would be in each other's way.  Ours on :: are for IPv6 alone."""
    if one.version != other.version:
        return other.version == 6 and other.is_unspecified  # a stranger's may be for both
    return one == other or one.is_unspecified or other.is_unspecified


def foreign(asked: Asked) -> list[str]:
    """The addresses of the scenario on which this machine cannot listen, for a server that does not name them."""
    found = []
    for address in sorted({address for address, _ in wanted(asked)}, key=str):
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((str(address), 0))
            except OSError:
                found.append(str(address))
    return found


def require_searchable(folder: Path, server: str) -> None:
    """Let all of a server's users come as far as ``folder``; raises DriverFailed where they cannot.

    Concerns only who is root, since nobody else's servers run as several users.
    """
    if os.geteuid() != 0:
        return
    folder.chmod(0o755)
    for parent in folder.resolve().parents:
        if not parent.stat().st_mode & stat.S_IXOTH:
            raise DriverFailed(f"{parent}: {server}'s users cannot pass here: chmod o+x {parent}")


def networks(text: str) -> list[Network]:
    """The networks that one entry of ``allow`` or ``deny`` covers exactly: an address, a network or a range.

    Raises ValueError when it is none of these.
    """
    if "-" not in text:
        return [ipaddress.ip_network(text)]
    first, last = (ip_address(end.strip()) for end in text.split("-", 1))
    if isinstance(first, IPv4Address) and isinstance(last, IPv4Address):
        return [*ipaddress.summarize_address_range(first, last)]
    if isinstance(first, IPv6Address) and isinstance(last, IPv6Address):
        return [*ipaddress.summarize_address_range(first, last)]
    raise ValueError(f"{text}: one end is IPv4 and the other IPv6")
