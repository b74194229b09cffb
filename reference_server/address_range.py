"""Ranges of client addresses, as people write them in ``allow`` and ``deny``.

Owns: the three notations (one address, a network, a range from first to last), what each of them covers, and
the normal form of an address.  Deliberately knows nothing of who is let in because of them (``admission``)
or of the rest of a configuration.

A range never covers more than what was written: whatever could be read in two ways is refused with the two
readings, because a restriction that is wider than its author thinks is worse than none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address

_PREFIX_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}", re.ASCII)
_MAPPED_BITS = 96
"""``::ffff:0:0/96`` holds the IPv4 addresses as IPv6 sockets see them (RFC 4291 2.5.5.2)."""


def normalise(address: IPAddress) -> IPAddress:
    """The address that is meant: ``::ffff:192.0.2.1`` is 192.0.2.1, whichever socket it came through."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@dataclass(frozen=True, slots=True)
class AddressRange:
    """All addresses from ``first`` to ``last``, both included and of one family.

    Raises ValueError when the two are of different families or the wrong way round.
    """

    first: IPAddress
    last: IPAddress

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", normalise(self.first))
        object.__setattr__(self, "last", normalise(self.last))
        if self.first.version != self.last.version:
            raise ValueError(f"{self.first} and {self.last} are of different families, IPv4 and IPv6")
        if int(self.first) > int(self.last):
            raise ValueError(f"the range is the wrong way round: {self.first} comes after {self.last}")

    def __contains__(self, address: IPAddress) -> bool:
        address = normalise(address)
        return address.version == self.first.version and int(self.first) <= int(address) <= int(self.last)

    def __str__(self) -> str:
        if self.first == self.last:
            return str(self.first)
        host_bits = (int(self.first) ^ int(self.last)).bit_length()
        if int(self.last) - int(self.first) == (1 << host_bits) - 1:
            return f"{self.first}/{self.first.max_prefixlen - host_bits}"
        return f"{self.first}-{self.last}"

    @classmethod
    def parse(cls, text: str) -> AddressRange:
        """Read ``10.0.0.5``, ``192.168.0.0/16``, ``172.16.0.1-172.16.0.99`` or the same in IPv6.

        Raises ValueError with the reason in plain words.
        """
        written = text.strip()
        if not written:
            raise ValueError("the range is empty; write an address, a network or first-last")
        if "*" in written:
            raise ValueError(f'wildcards are not understood in "{written}"; write a network such as 192.168.0.0/16')
        if "-" in written:
            first, _, last = written.partition("-")
            return cls(_address(first), _address(last))
        if "/" in written:
            return _network(written)
        address = _address(written)
        return cls(address, address)


def _address(text: str) -> IPAddress:
    written = text.strip()
    if "%" in written:
        raise ValueError(f'"{written}" names a network interface; a range is of addresses only')
    try:
        return ip_address(written)
    except ValueError:
        if re.search(r"(^|\.)0[0-9]", written):
            raise ValueError(
                f'"{written}" has leading zeros, which some programs read as octal numbers; leave them out'
            ) from None
        raise ValueError(f'"{written}" is not an IP address') from None


def _network(written: str) -> AddressRange:
    base_text, _, prefix_text = written.partition("/")
    base = _address(base_text)
    if not _PREFIX_LENGTH.fullmatch(prefix_text):
        raise ValueError(f'"{written}" needs a prefix length behind the slash, such as /16, and no mask')
    prefix = int(prefix_text)
    if prefix > base.max_prefixlen:
        raise ValueError(f'a prefix in "{written}" is at most {base.max_prefixlen} bits long')
    network = ip_network((int(base), prefix) if base.version == 4 else (base.packed, prefix), strict=False)
    if network.network_address != base:
        raise ValueError(
            f'"{written}" has address bits behind its prefix; write {network} for the network, or {base} for '
            "the one address"
        )
    if isinstance(base, IPv6Address) and base.ipv4_mapped is not None and prefix < _MAPPED_BITS:
        raise ValueError(f'"{written}" mixes IPv4 and IPv6 addresses; write one range for each')
    return AddressRange(network.network_address, network.broadcast_address)
