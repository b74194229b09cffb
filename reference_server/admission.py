"""Who may come in: address ranges, a share for each client address, one limit for the service.

Owns: the count of those who are in, and the decision about whoever knocks, taken in one step so that no burst can
overshoot it.  Deliberately knows nothing of sockets, ports, TLS or time: every listener of a service asks the same
Admission, which is what makes its limit one limit.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from reference_server.address_range import AddressRange, IPAddress, normalise
from reference_server.session import Refusal


class Ranges:
    """Addresses that are in any of a list of ranges; a look-up among thousands takes about a microsecond."""

    __slots__ = ("_any", "_bounds")

    def __init__(self, ranges: Iterable[AddressRange]) -> None:
        self._bounds: dict[int, tuple[list[int], list[int]]] = {}
        for version in (4, 6):
            spans = sorted((int(r.first), int(r.last)) for r in ranges if r.first.version == version)
            firsts: list[int] = []
            lasts: list[int] = []
            for first, last in spans:
                if lasts and first <= lasts[-1] + 1:
                    lasts[-1] = max(lasts[-1], last)
                else:
                    firsts.append(first)
                    lasts.append(last)
            self._bounds[version] = (firsts, lasts)
        self._any = any(firsts for firsts, _ in self._bounds.values())

    def __bool__(self) -> bool:
        return self._any

    def __contains__(self, address: IPAddress) -> bool:
        firsts, lasts = self._bounds[address.version]
        if not firsts:
            return False
        number = int(address)
        place = bisect_right(firsts, number) - 1
        return place >= 0 and number <= lasts[place]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a service's settings say about who may come in.  Zero connections: no limit.  No ``allow``: everyone."""

    connections: int = 0
    per_address: int = 0
    allow: tuple[AddressRange, ...] = ()
    deny: tuple[AddressRange, ...] = ()


class Ticket:
    """One client's place.  Given back once, however often somebody tries."""

    __slots__ = ("_address", "_admission")

    def __init__(self, admission: Admission, address: IPAddress) -> None:
        self._admission: Admission | None = admission
        self._address = address

    def give_back(self) -> None:
        """The client is gone; its place is free at once."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._leave(self._address)


class Admission:
    """The door of one service, whatever port, address or channel it is reached by."""

    def __init__(self, limits: Limits) -> None:
        self._inside: dict[IPAddress, int] = {}
        self._count = 0
        self.change(limits)

    def change(self, limits: Limits) -> None:
        """Other limits from now on; those who are in stay in, and keep being counted."""
        self.limits = limits
        self._allow = Ranges(limits.allow)
        self._deny = Ranges(limits.deny)

    @property
    def count(self) -> int:
        """How many are in."""
        return self._count

    def admit(self, address: IPAddress) -> Ticket | Refusal:
        """A place for the client at ``address``, or the reason why there is none.

        Deny beats allow.  Ranges come first, so that a denied client learns nothing about how full it is.
        """
        address = normalise(address)
        if address in self._deny or (self._allow and address not in self._allow):
            return Refusal.DENIED
        share = self._inside.get(address, 0)
        if share >= self.limits.per_address > 0:
            return Refusal.ADDRESS_LIMIT
        if self._count >= self.limits.connections > 0:
            return Refusal.SERVICE_LIMIT
        self._inside[address] = share + 1
        self._count += 1
        return Ticket(self, address)

    def _leave(self, address: IPAddress) -> None:
        self._count -= 1
        share = self._inside[address] - 1
        if share:
            self._inside[address] = share
        else:
            del self._inside[address]
