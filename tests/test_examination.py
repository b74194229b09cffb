"""Checks side by side: what may be, what must not, and what becomes of one that breaks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from inspect import signature
from typing import Any

import pytest

from conformance.check import Channel, Check, Mismatch
from conformance.examination import Examination, Examined
from conformance.report.model import Result, Verdict
from conformance.suite import Case
from conformance.transcript import Transcript
from reference_server.settings import Service

SOON = 10.0


class Doors:
    """A suite whose endpoints are nothing but names; remembers what was discarded."""

    def __init__(self) -> None:
        self.discarded: list[str] = []
        self.target = self

    def transcript(self) -> Transcript:
        return Transcript(())

    def endpoint(self, case: Case, transcript: Transcript) -> Any:
        del transcript

        class Door:
            name = case.id

            def close_all(self) -> None:
                pass

        return Door()

    def discard(self, scenario: str) -> None:
        self.discarded.append(scenario)

    def result(self, case: Case, error: BaseException | None, duration: float, transcript: Transcript | None) -> Result:
        del transcript
        verdict = Verdict.PASS if error is None else Verdict.FAIL if isinstance(error, Mismatch) else Verdict.ERROR
        return Result(
            id=case.id, requirement=case.check.requirement, level="MUST", service=case.service.value,
            channel=case.channel.value, check=case.check.name, verdict=verdict, expected="", actual="",
            reason="" if error is None else str(error), duration=duration, transcript=(), repro="",
        )  # fmt: skip


def a_check(
    function: Callable[..., None],
    scenario: str = "limited",
    service: Service = Service.SMTP,
    *,
    row: str = "LIM-01",
    also: tuple[str, ...] = (),
    watches: tuple[str, ...] = (),
) -> Examined:
    check = Check(row, scenario, (Channel.NONE,), None, frozenset(), watches, also, "test_x.py::test_y")
    return Examined(Case(check, service, Channel.NONE), function, tuple(signature(function).parameters))


def run(*examined: Examined) -> tuple[list[Result], Doors]:
    doors, results = Doors(), list[Result]()
    Examination(doors, results.append).run(examined)  # type: ignore[arg-type]
    return results, doors


def meeting() -> tuple[Callable[[Any], None], list[bool]]:
    """A check of which two must be under way at the same time to come to their end at once, and whether they met."""
    barrier, met = threading.Barrier(2), list[bool]()

    def wait(endpoint: Any) -> None:
        del endpoint
        try:
            barrier.wait(SOON)
            met.append(True)
        except threading.BrokenBarrierError:
            met.append(False)

    return wait, met


def test_checks_of_two_scenarios_run_beside_each_other() -> None:
    wait, met = meeting()
    run(a_check(wait, "limited"), a_check(wait, "unlimited"))
    assert met == [True, True]


def test_services_of_a_roomy_scenario_run_beside_each_other() -> None:
    wait, met = meeting()
    run(a_check(wait, "general", Service.SMTP), a_check(wait, "general", Service.POP3))
    assert met == [True, True]


@pytest.mark.parametrize(
    "others",
    [
        (("limited", Service.SMTP, ()), ("limited", Service.POP3, ())),
        (("general", Service.SMTP, ()), ("general", Service.SMTP, ())),
        (("limited", Service.SMTP, ()), ("unlimited", Service.SMTP, ("limited",))),
    ],
    ids=["one scenario", "one service of a roomy one", "a scenario that another check names as well"],
)
def test_what_shares_a_server_comes_one_after_the_other(others: Any) -> None:
    under_way, most = threading.Semaphore(1), list[bool]()

    def alone(endpoint: Any) -> None:
        del endpoint
        most.append(under_way.acquire(blocking=False))
        threading.Event().wait(0.05)
        under_way.release()

    results, _ = run(*(a_check(alone, scenario, service, also=also) for scenario, service, also in others))
    assert most == [True, True]
    assert len(results) == 2


def test_what_collects_observations_comes_last() -> None:
    order = list[str]()
    collecting = a_check(lambda: order.append("collecting"), "idle", watches=("silent",))
    run(collecting, a_check(lambda: order.append("asking"), "limited"))
    assert order == ["asking", "collecting"]


def test_a_check_that_fails_or_breaks_is_a_result_and_the_others_go_on() -> None:
    def fails(endpoint: Any) -> None:
        raise Mismatch("this", "that")

    def breaks(endpoint: Any) -> None:
        raise ZeroDivisionError("a mistake of ours")

    results, doors = run(
        a_check(fails, row="LIM-01"), a_check(breaks, row="LIM-02"), a_check(lambda: None, row="LIM-03")
    )
    assert {result.requirement: result.verdict for result in results} == {
        "LIM-01": Verdict.FAIL,
        "LIM-02": Verdict.ERROR,
        "LIM-03": Verdict.PASS,
    }
    assert doors.discarded == ["limited", "limited"]


def test_whoever_tells_results_may_break_and_is_heard() -> None:
    def told(result: Result) -> None:
        raise OSError("no space left on the device")

    with pytest.raises(OSError, match="no space"):
        Examination(Doors(), told).run([a_check(lambda: None)])  # type: ignore[arg-type]
