"""Whose time is up.

Owns: since when each client has been silent, and since when it has owed the rest of a request.  Deliberately has no
clock of its own: every moment is handed in, in seconds that only ever grow, and nobody is woken by it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

#: A request that the client has begun must be complete after so many time-outs, however busily it trickles.
PATIENCE = 10

Client = TypeVar("Client")


class IdleClock(Generic[Client]):
    """The silences of all clients of one service.

    All have the same time-out, so whoever was heard of longest ago is always the next whose time is up: the order in
    which they were heard of is all there is to keep, and hearing of one costs the same however many there are.
    """

    def __init__(self, timeout: float) -> None:
        #: Seconds of silence after which a client's time is up, ``math.inf`` for never; may be changed at any moment,
        #: for everybody.
        self.timeout = timeout
        self._heard: OrderedDict[Client, float] = OrderedDict()
        self._owing: OrderedDict[Client, float] = OrderedDict()

    def heard(self, client: Client, now: float) -> None:
        """The client is new, or has said something: its time begins again."""
        self._heard[client] = now
        self._heard.move_to_end(client)

    def rest(self, client: Client) -> None:
        """The server is at work for the client: no time passes until ``heard`` is told again."""
        self.forget(client)

    def owes(self, client: Client, now: float) -> None:
        """The client has begun a request and not completed it.  Counts from the first time this is told."""
        self._owing.setdefault(client, now)

    def owes_nothing(self, client: Client) -> None:
        """The client's last request is complete."""
        if self._owing:
            self._owing.pop(client, None)

    def forget(self, client: Client) -> None:
        """The client is gone."""
        self._heard.pop(client, None)
        self._owing.pop(client, None)

    def heard_at(self, client: Client) -> float | None:
        """Since when it has been silent; None while the server is at work for it."""
        return self._heard.get(client)

    def __len__(self) -> int:
        return len(self._heard)

    def __iter__(self) -> Iterator[Client]:
        return iter(list(self._heard))

    def due(self) -> float | None:
        """The earliest moment at which somebody's time may be up; None while there is nobody."""
        moments = []
        if self._heard:
            moments.append(next(iter(self._heard.values())) + self.timeout)
        if self._owing:
            moments.append(next(iter(self._owing.values())) + PATIENCE * self.timeout)
        return min((moment for moment in moments if moment < math.inf), default=None)

    def overdue(self, now: float) -> list[Client]:
        """All whose time is up, those who were heard of longest ago first.  Never anybody before their time."""
        late: dict[Client, None] = {}
        for since, patience in ((self._heard, self.timeout), (self._owing, PATIENCE * self.timeout)):
            for client, moment in since.items():
                if moment + patience > now:
                    break
                late[client] = None
        return list(late)
