"""How late the suite is itself."""

from __future__ import annotations

import sys
import threading
import time

from conformance.pulse import Pulse


def test_a_process_that_is_kept_from_running_is_late() -> None:
    pulse = Pulse().begin()
    began = time.monotonic()
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.3)  # whoever has the interpreter keeps it for that long
    try:
        until = time.monotonic() + 0.5
        busy = threading.Thread(target=lambda: [None for _ in iter(lambda: time.monotonic() < until, False)])
        busy.start()
        busy.join()
    finally:
        sys.setswitchinterval(before)
    assert pulse.lateness(began, time.monotonic()) > 0.1


def test_what_was_before_is_not_counted() -> None:
    pulse = Pulse().begin()
    now = time.monotonic()
    assert pulse.lateness(now - 3600, now - 3000) == 0.0
