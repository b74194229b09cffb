"""How late this process is with what it wants to do in time.

Owns: a beat that is measured, as long as somebody watches clients.  An observer notices the end of a connection when
its thread may run: not before the machine lets the process, and not before the other threads let go of the interpreter.
What it takes for the server's lateness may be its own.
"""

from __future__ import annotations

import threading
import time
from typing import Self

#: Seconds between two beats.
BEAT = 0.02


class Pulse:
    """The beat, from :meth:`begin` on until the process ends."""

    def __init__(self) -> None:
        self._worst: dict[int, float] = {}
        self._due = time.monotonic()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def begin(self) -> Self:
        """Begin to measure, where it has not begun."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)
                self._thread.start()
        return self

    def lateness(self, since: float, until: float) -> float:
        """The longest that a beat between these monotonic times was late (seconds)."""
        overdue = until - self._due if self._due >= since else 0.0
        return max(overdue, *(self._worst.get(second, 0.0) for second in range(int(since), int(until) + 1)))

    def _beat(self) -> None:
        while True:
            due = self._due = time.monotonic() + BEAT
            time.sleep(BEAT)
            now = time.monotonic()
            for second in range(int(due), int(now) + 1):
                self._worst[second] = max(self._worst.get(second, 0.0), now - due)


PULSE = Pulse()
