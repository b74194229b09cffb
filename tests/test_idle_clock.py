"""Whose time is up: never before it is, and never much later, whatever the others do."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from reference_server.idle import PATIENCE, IdleClock


def test_a_client_that_says_nothing_is_overdue_when_its_time_is_up_and_not_before() -> None:
    clock: IdleClock[str] = IdleClock(2.0)
    clock.heard("anne", 10.0)
    assert clock.due() == 12.0
    assert clock.overdue(11.999) == []
    assert clock.overdue(12.0) == ["anne"]


def test_whoever_is_heard_begins_again_and_puts_nobody_else_off() -> None:
    clock: IdleClock[str] = IdleClock(2.0)
    clock.heard("anne", 0.0)
    clock.heard("bert", 0.5)
    for moment in (1.0, 1.5, 2.0):
        clock.heard("anne", moment)
    assert clock.due() == 2.5
    assert clock.overdue(2.5) == ["bert"]


def test_no_time_passes_while_the_server_is_at_work() -> None:
    clock: IdleClock[str] = IdleClock(2.0)
    clock.heard("anne", 0.0)
    clock.rest("anne")
    assert clock.due() is None
    assert clock.overdue(100.0) == []
    clock.heard("anne", 100.0)
    assert clock.overdue(102.0) == ["anne"]


def test_a_request_that_never_ends_is_overdue_although_its_client_is_busy() -> None:
    clock: IdleClock[str] = IdleClock(1.0)
    end = PATIENCE * 1.0
    moment = 0.0
    while moment < end:
        clock.heard("anne", moment)
        clock.owes("anne", moment)
        assert clock.overdue(moment) == []
        moment += 0.5
    clock.heard("anne", end)
    assert clock.overdue(end) == ["anne"]


def test_a_request_that_is_complete_is_owed_no_more() -> None:
    clock: IdleClock[str] = IdleClock(1.0)
    clock.owes("anne", 0.0)
    clock.owes_nothing("anne")
    clock.heard("anne", 10.5)
    assert clock.overdue(11.0) == []


def test_who_has_gone_is_never_overdue() -> None:
    clock: IdleClock[str] = IdleClock(1.0)
    clock.heard("anne", 0.0)
    clock.owes("anne", 0.0)
    clock.forget("anne")
    assert clock.overdue(1000.0) == []
    assert clock.due() is None


def test_another_time_out_holds_for_those_who_are_there() -> None:
    clock: IdleClock[str] = IdleClock(100.0)
    clock.heard("anne", 0.0)
    clock.timeout = 2.0
    assert clock.overdue(2.0) == ["anne"]


def test_without_a_time_out_nobody_is_ever_due() -> None:
    clock: IdleClock[str] = IdleClock(math.inf)
    clock.heard("anne", 0.0)
    clock.owes("anne", 0.0)
    assert clock.due() is None
    assert clock.overdue(1e12) == []


steps = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["heard", "rest", "forget"]), st.floats(0, 3)))


@given(steps)
def test_it_agrees_with_a_plain_list_of_last_signs_of_life(steps: list[tuple[str, str, float]]) -> None:
    clock: IdleClock[str] = IdleClock(2.0)
    last: dict[str, float] = {}
    now = 0.0
    for client, what, pause in steps:
        now += pause
        if what == "heard":
            clock.heard(client, now)
            last[client] = now
        else:
            clock.rest(client) if what == "rest" else clock.forget(client)
            last.pop(client, None)
        assert set(clock.overdue(now)) == {who for who, moment in last.items() if moment + 2.0 <= now}
        assert clock.due() == (min(last.values()) + 2.0 if last else None)
