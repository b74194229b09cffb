"""What an observer can make of what it saw: late, in time, or not to be told."""

from __future__ import annotations

import pytest

from conformance.check import Inconclusive, Mismatch
from conformance.transcript import Transcript
from conformance.watch import Seen
from conformance.wire import Ending


def seen(after: float | None = None, *, watched: float = 0.0, lateness: float = 0.0, starved: float = 0.0) -> Seen:
    """Of a time-out of 2 s with 1 s of slack."""
    return Seen("idle", 2.0, 1.0, Transcript(()), after, watched, Ending.FIN, b"", lateness, starved)


@pytest.mark.parametrize("after", [1.9, 2.0, 3.0])
def test_an_end_in_time_is_in_time(after: float) -> None:
    seen(after).require_in_time()
    assert not seen(after).undecided


def test_an_end_too_early_or_too_late_is_the_servers_fault() -> None:
    with pytest.raises(Mismatch, match=r"at least 1\.90 s"):
        seen(1.8).require_in_time()
    with pytest.raises(Mismatch, match=r"within 3\.00 s"):
        seen(3.1).require_in_time()
    with pytest.raises(Mismatch, match=r"still open after 3\.50 s"):
        seen(watched=3.5).require_in_time()


def test_time_for_which_a_server_was_kept_from_running_is_not_held_against_it() -> None:
    seen(3.4, starved=0.5).require_in_time()
    with pytest.raises(Mismatch, match="ended only after"):
        seen(3.6, starved=0.5).require_in_time()
    with pytest.raises(Mismatch, match="still open"):
        seen(watched=4.1, starved=0.5).require_in_time()


@pytest.mark.parametrize("late", [seen(3.1, lateness=0.2), seen(3.9, lateness=0.3), seen(watched=3.5, lateness=0.5)])
def test_an_observer_that_was_late_itself_cannot_tell_and_looks_again(late: Seen) -> None:
    with pytest.raises(Inconclusive):
        late.require_in_time()
    assert late.undecided


def test_where_no_end_was_looked_for_nothing_is_undecided() -> None:
    assert not seen(lateness=5.0).undecided


def test_what_was_settled_is_not_undecided() -> None:
    failed = seen(3.5, lateness=0.5)
    failed.failure = ("this", "that")
    assert not failed.undecided


def test_a_client_that_learns_late_of_its_connection_does_not_find_the_server_early() -> None:
    late = seen(1.85)
    late.unsure = 0.1
    late.require_in_time()
    late.unsure = 0.01
    with pytest.raises(Mismatch, match=r"ended after 1\.85 s"):
        late.require_in_time()
