"""How late the suite is itself."""

from __future__ import annotations

import time

from conformance.pulse import Pulse


def test_a_process_that_is_kept_from_running_is_late() -> None:
    pulse = Pulse().begin()
    began = time.monotonic()
    sum(range(10_000_000))  # nobody else has the interpreter meanwhile
    assert pulse.lateness(began, time.monotonic()) > 0.1


def test_what_was_before_is_not_counted() -> None:
    pulse = Pulse().begin()
    now = time.monotonic()
    assert pulse.lateness(now - 3600, now - 3000) == 0.0
