"""Who has guessed passwords for too long, and is not let in for a while.

Owns: how many logins from each client address have failed lately, and which addresses are blocked until when.
Deliberately has no clock of its own: every moment is handed in, in seconds that only ever grow.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

from reference_server.address_range import IPAddress

#: Addresses that are remembered; whoever failed longest ago makes room.
MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Patience:
    """``failures`` from one address within ``window`` seconds block it for ``block`` seconds; 0 failures: never."""

    failures: int = 0
    window: float = 300.0
    block: float = 900.0


class Guard:
    """The memory of one service, whatever port or channel a login came by."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self._failed: OrderedDict[IPAddress, deque[float]] = OrderedDict()
        self._blocked: OrderedDict[IPAddress, float] = OrderedDict()

    def failed(self, address: IPAddress, now: float) -> bool:
        """A login from there has failed: whether the address is blocked by it."""
        if not self.patience.failures:
            return False
        moments = self._failed.setdefault(address, deque(maxlen=self.patience.failures))
        if moments.maxlen != self.patience.failures:
            moments = self._failed[address] = deque(moments, maxlen=self.patience.failures)
        moments.append(now)
        self._failed.move_to_end(address)
        while len(self._failed) > MOST:
            self._failed.popitem(last=False)
        if len(moments) < self.patience.failures or now - moments[0] > self.patience.window:
            return False
        del self._failed[address]
        self._blocked[address] = now + self.patience.block
        while len(self._blocked) > MOST:
            self._blocked.popitem(last=False)
        return True

    def blocks(self, address: IPAddress, now: float) -> bool:
        """Whether the address is blocked just now."""
        if not self._blocked:
            return False
        until = self._blocked.get(address)
        if until is None:
            return False
        if now < until and self.patience.failures:
            return True
        del self._blocked[address]
        return False
