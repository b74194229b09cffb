"""Who is signed in at a web interface, and since when.

Owns: visits, their unguessable names and tokens, and when they end.  Knows no request, no page and no password.
Called from several threads.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from reference_server.accounts import Account

IDLE: Final = 1800.0
"""Seconds after which somebody who does nothing is signed out."""
MOST: Final = 10_000
"""Visits that are kept; whoever was seen longest ago makes room."""


@dataclass(slots=True)
class Visit:
    """One browser.  ``key`` is its cookie; ``token`` comes with every form and is asked for at every change."""

    key: str
    token: str
    account: Account | None
    seen: float
    #: Told on the next page, once.
    notice: str = ""


class Visits:
    """All visits to one interface.  ``now`` gives seconds that only ever grow."""

    def __init__(self, now: Callable[[], float], *, idle: float = IDLE, most: int = MOST) -> None:
        self._now = now
        self._idle = idle
        self._most = most
        self._visits: OrderedDict[str, Visit] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, account: Account | None = None) -> Visit:
        """A visit with a name that nobody has had."""
        visit = Visit(secrets.token_urlsafe(32), secrets.token_urlsafe(32), account, self._now())
        with self._lock:
            self._visits[visit.key] = visit
            while len(self._visits) > self._most:
                self._visits.popitem(last=False)
        return visit

    def find(self, key: str) -> Visit | None:
        """The visit of that name, if it has not ended; it is seen now."""
        with self._lock:
            visit = self._visits.get(key)
            if visit is None:
                return None
            now = self._now()
            if now - visit.seen > self._idle:
                del self._visits[key]
                return None
            visit.seen = now
            self._visits.move_to_end(key)
            return visit

    def sign_in(self, visit: Visit, account: Account) -> Visit:
        """Another visit in its place: a name that was known before the login is worth nothing after it."""
        self.end(visit)
        return self.begin(account)

    def end(self, visit: Visit) -> None:
        """Signed out."""
        with self._lock:
            self._visits.pop(visit.key, None)
