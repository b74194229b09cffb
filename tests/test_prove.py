"""The proof that checks can fail, itself on trial: what it accepts, what it complains about, what it chooses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conformance.check import Check, all_checks
from conformance.drivers.warm import Warm
from conformance.suite import Selection, Suite
from reference_server.faults.ledger import FAULTS, Fault
from tests import proof as judge
from tests.proof import Proof, ledger, unproved
from tests.prove import QUIETLY, SLOW, chosen, concerned_by, every_result, in_turn, main, part, prove, warm_process

Result = dict[str, Any]


@pytest.fixture(scope="module")
def every() -> dict[str, Check]:
    return every_result()


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    with warm_process() as warm:
        yield warm


def result(id_: str, verdict: str, level: str = "MUST", **more: str) -> Result:
    requirement, service, channel = id_.split("/")
    return {
        "id": id_,
        "requirement": requirement,
        "level": level,
        "service": service,
        "channel": channel,
        "check": f"test_any.py::test_{requirement}",
        "verdict": verdict,
        **more,
    }


def a_fault(breaks: str = "LIM-02", consequences: str = "", services: tuple[str, ...] = ("smtp", "imap")) -> Fault:
    model = FAULTS["no-limit"]
    return replace(
        model, name="any", breaks=tuple(breaks.split()), consequences=tuple(consequences.split()), services=services
    )


CAUGHT = result("LIM-02/imap/plain", "fail", actual="four were served")


def complaints(fault: Fault, *results: Result, hits: int = 1) -> list[str]:
    return Proof(fault, list(results), hits).complaints()


# --- What a fault must show ---------------------------------------------------------------------------------------


def test_a_fault_that_is_found_for_its_reason_is_proved() -> None:
    assert complaints(a_fault(), CAUGHT, result("LIM-01/imap/plain", "pass")) == []


@pytest.mark.parametrize("verdict", ["pass", "latitude", "inconclusive", "not_assessable", "not_offered", "error"])
def test_nothing_but_a_failure_shows_a_must_broken(verdict: str) -> None:
    told = complaints(a_fault(), result("LIM-02/imap/plain", verdict, reason="so it was"))
    assert told[0] == f"LIM-02 was not caught ({verdict}: so it was)"


def test_each_requirement_that_it_breaks_must_be_seen_to_fail() -> None:
    assert complaints(a_fault("LIM-02 LIM-19"), CAUGHT) == ["LIM-19 was not caught: there is no such result"]


def test_a_should_may_be_declined_instead() -> None:
    declined = result("LIM-24/smtp/plain", "latitude", "SHOULD")
    assert complaints(a_fault("LIM-24"), declined) == []


def test_a_failure_of_a_service_that_is_right_does_not_count() -> None:
    told = complaints(a_fault(services=("pop3",)), CAUGHT)
    assert told == ["LIM-02 was not caught: there is no such result"]


IN_BOTH = ("imap", "webmail")


def test_a_defect_of_webmail_must_be_seen_there() -> None:
    told = complaints(a_fault(services=IN_BOTH), CAUGHT, result("LIM-02/webmail/plain", "pass"))
    assert told == ["LIM-02 was not caught in webmail"]


@pytest.mark.parametrize("verdict", ["inconclusive", "not_offered"])
def test_unless_nobody_can_say_whether_it_is_there(verdict: str) -> None:
    assert complaints(a_fault(services=IN_BOTH), CAUGHT, result("LIM-02/webmail/plain", verdict)) == []


def test_it_need_not_be_seen_in_all_channels_there() -> None:
    seen, unseen = result("LIM-02/webmail/implicit", "fail"), result("LIM-02/webmail/plain", "pass")
    assert complaints(a_fault(services=IN_BOTH), CAUGHT, seen, unseen) == []


def test_a_defect_that_was_never_met_proves_nothing() -> None:
    assert complaints(a_fault(), CAUGHT, hits=0) == ["the defect was never met"]


def test_no_other_must_may_fail() -> None:
    told = complaints(a_fault(), CAUGHT, result("PRT-01/imap/plain", "fail", actual="nobody there"))
    assert told == ["PRT-01/imap/plain failed as well: nobody there"]


@pytest.mark.parametrize("declared", ["PRT-01", "PRT", "IDL PRT-01"])
def test_a_declared_consequence_may_fail(declared: str) -> None:
    assert complaints(a_fault(consequences=declared), CAUGHT, result("PRT-01/imap/plain", "fail")) == []


def test_a_should_may_fail_beside_it() -> None:
    assert complaints(a_fault(), CAUGHT, result("LIM-24/smtp/plain", "fail", "SHOULD")) == []


def test_an_error_is_never_part_of_a_proof() -> None:
    told = complaints(a_fault(consequences="PRT"), CAUGHT, result("PRT-01/imap/plain", "error", reason="KeyError: 1"))
    assert told == ["PRT-01/imap/plain: error: KeyError: 1"]


def test_trouble_of_the_run_is_told() -> None:
    proof = Proof(a_fault(), [CAUGHT], 1, ["a server did not stop"])
    assert proof.complaints() == ["trouble: a server did not stop"]


# --- What a decoy must show ---------------------------------------------------------------------------------------


def test_a_decoy_fails_nothing() -> None:
    assert complaints(a_fault("", "LIM-02"), result("LIM-02/imap/plain", "pass")) == []


@pytest.mark.parametrize("level", ["MUST", "SHOULD"])
def test_a_failure_of_what_a_decoy_tempts_is_a_wrong_check(level: str) -> None:
    told = complaints(a_fault("", "LIM-02"), result("LIM-02/imap/plain", "fail", level, actual="refused"))
    assert told == ["LIM-02/imap/plain failed as well: refused"]


def test_a_decoy_of_which_nothing_was_judged_proves_nothing() -> None:
    told = complaints(a_fault("", "LIM-02 PRT"), result("LIM-02/imap/plain", "inconclusive", reason="busy"))
    assert told == [
        "nothing of LIM-02 was judged (inconclusive: busy)",
        "nothing of PRT was judged: there is no such result",
    ]


# --- Another try --------------------------------------------------------------------------------------------------


def test_what_could_not_be_told_is_asked_once_more() -> None:
    assert Proof(a_fault(), [result("LIM-02/imap/plain", "inconclusive")], 1).deserves_another_try
    assert Proof(a_fault("", "LIM"), [result("LIM-02/imap/plain", "inconclusive")], 1).deserves_another_try


@pytest.mark.parametrize(
    "results",
    [
        [CAUGHT],
        [result("LIM-02/imap/plain", "pass")],
        [result("LIM-02/imap/plain", "inconclusive"), result("PRT-01/imap/plain", "fail")],
        [result("LIM-02/imap/plain", "inconclusive"), result("PRT-01/imap/plain", "error")],
        [],
    ],
)
def test_a_verdict_is_never_asked_for_twice(results: list[Result]) -> None:
    assert not Proof(a_fault(), results, 1).deserves_another_try


# --- The whole ----------------------------------------------------------------------------------------------------


def _checks(*requirements: str) -> dict[str, Check]:
    return {f"{row}/imap/plain": Check(row, "general", name=f"test_any.py::test_{row}") for row in requirements}


def test_a_check_that_no_fault_trips_is_named() -> None:
    proofs = [Proof(a_fault(), [CAUGHT], 1), Proof(a_fault("LIM-01"), [result("LIM-01/imap/plain", "pass")], 1)]
    assert unproved(proofs, _checks("LIM-01", "LIM-02")) == ["no fault trips LIM-01 (test_any.py::test_LIM-01)"]


def test_a_check_that_failed_beside_another_s_fault_is_not_proved() -> None:
    proof = Proof(a_fault(consequences="LIM"), [CAUGHT, result("LIM-01/imap/plain", "fail")], 1)
    assert unproved([proof], _checks("LIM-01", "LIM-02")) == ["no fault trips LIM-01 (test_any.py::test_LIM-01)"]


def test_of_two_checks_of_a_requirement_each_needs_a_fault() -> None:
    checks = {**_checks("LIM-02"), "LIM-02/imap/implicit": Check("LIM-02", "general", name="test_any.py::test_other")}
    assert unproved([Proof(a_fault(), [CAUGHT], 1)], checks) == ["no fault trips LIM-02 (test_any.py::test_other)"]


@pytest.fixture(autouse=True)
def exempt(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Nothing is exempt, but what a test exempts."""
    monkeypatch.setattr(judge, "EXEMPT", {})

    def exempt(requirement: str) -> None:
        monkeypatch.setattr(judge, "EXEMPT", {requirement: "there is nothing to judge it by"})

    return exempt


def test_what_cannot_be_judged_here_may_be_exempt(exempt: Callable[[str], None]) -> None:
    exempt("LIM-02")
    proof = Proof(a_fault(), [result("LIM-02/imap/plain", "not_assessable")], 1)
    assert proof.complaints() == []
    assert unproved([proof], _checks("LIM-02")) == []


@pytest.mark.parametrize("verdict", ["pass", "latitude"])
def test_where_it_is_judged_nothing_is_exempt(exempt: Callable[[str], None], verdict: str) -> None:
    exempt("LIM-02")
    proof = Proof(a_fault(), [result("LIM-02/imap/plain", verdict)], 1)
    assert proof.complaints() == [f"LIM-02 was not caught ({verdict})"]
    assert unproved([proof], _checks("LIM-02")) == ["no fault trips LIM-02 (test_any.py::test_LIM-02)"]


def test_not_to_know_is_no_exemption(exempt: Callable[[str], None]) -> None:
    exempt("LIM-02")
    assert complaints(a_fault(), result("LIM-02/imap/plain", "inconclusive")) == [
        "LIM-02 was not caught (inconclusive)"
    ]


def test_an_exemption_without_a_check_is_out_of_date(exempt: Callable[[str], None]) -> None:
    exempt("LIM-99")
    assert unproved([Proof(a_fault(), [CAUGHT], 1)], _checks("LIM-02")) == ["LIM-99 is exempt and has no check"]


def test_the_ledger_says_who_found_what() -> None:
    decoy = replace(a_fault("", "LIM-02"), name="odd", description="it is odd, and legal")
    text = ledger(
        [
            Proof(a_fault(consequences="PRT"), [CAUGHT, result("PRT-01/imap/plain", "fail")], 1),
            Proof(decoy, [result("LIM-02/imap/plain", "pass")], 1),
        ]
    )
    assert f"| any | {FAULTS['no-limit'].description} | LIM-02 (1) | PRT-01 |" in text
    assert "| odd | it is odd, and legal | LIM-02 |" in text
    assert "| LIM-02 | any |" in text
    assert "1 faults, 1 decoys." in text


# --- What is run --------------------------------------------------------------------------------------------------


def test_all_that_a_fault_breaks_is_run_wherever_the_defect_is(every: dict[str, Check]) -> None:
    for fault in FAULTS.values():
        rows = set(fault.breaks)
        wanted = {id_ for id_ in every if id_.split("/")[0] in rows and id_.split("/")[1] in fault.services}
        assert wanted <= set(chosen(fault, every)), fault.name


def test_a_result_is_that_of_one_check_only() -> None:
    suite = Suite.create("reference", None, Selection())
    try:
        checks = Counter(case.id for check in all_checks() for case in suite.cases(check))
    finally:
        suite.close()
    assert [id_ for id_, count in checks.items() if count > 1] == []


def test_a_decoy_is_run_against_all_that_it_tempts(every: dict[str, Check]) -> None:
    decoy = a_fault("", "LIM-02 EXP", ("imap",))
    wanted = {id_ for id_ in every if id_.startswith(("LIM-02/imap", "EXP-")) and "/imap/" in id_}
    assert wanted
    assert wanted <= set(chosen(decoy, every))


def test_every_fault_breaks_something_that_is_examined_in_its_services(every: dict[str, Check]) -> None:
    for fault in FAULTS.values():
        for row in fault.breaks:
            assert any(id_.startswith(tuple(f"{row}/{service}/" for service in fault.services)) for id_ in every), (
                f"{fault.name}: no result of {row} in {fault.services}"
            )


def test_something_else_is_run_as_well_and_the_same_each_time(every: dict[str, Check]) -> None:
    fault = FAULTS["no-limit"]
    others = [id_ for id_ in chosen(fault, every) if id_.split("/")[0] not in fault.breaks]
    assert len(others) > 10
    assert chosen(fault, every) == chosen(fault, every)
    assert len(set(chosen(fault, every))) == len(chosen(fault, every))


def test_a_changed_module_of_faults_concerns_its_faults(every: dict[str, Check]) -> None:
    found = concerned_by(["reference_server/faults/refusals.py"], every)
    assert "refuses-imap-with-no" in found
    assert all(FAULTS[name].build.__module__ == "reference_server.faults.refusals" for name in found)


def test_a_changed_module_of_checks_concerns_the_faults_it_must_find(every: dict[str, Check]) -> None:
    found = concerned_by(["conformance/checks/test_ports.py"], every)
    assert "first-port-only" in found
    assert "never-idle" not in found


def test_a_change_of_the_ledger_concerns_all(every: dict[str, Check]) -> None:
    assert concerned_by(["reference_server/faults/ledger.py"], every) == list(FAULTS)
    assert concerned_by(["README.md", "tests/test_ports.py"], every) == []


def test_parts_make_the_whole() -> None:
    names = list(FAULTS)
    parts = [part(names, f"{number}/7") for number in range(7)]
    assert sorted(name for each in parts for name in each) == sorted(names)
    assert part(names, "commits/7") in parts


def test_when_time_is_short_it_is_short_for_others_each_time() -> None:
    names = list(FAULTS)
    turns = [in_turn(names, number) for number in range(len(names))]
    assert all(sorted(turn) == sorted(names) for turn in turns)
    assert len({turn[0] for turn in turns}) > len(names) // 8
    assert in_turn([], 3) == []


def test_slow_faults_exist() -> None:
    assert set(SLOW) | QUIETLY <= set(FAULTS)


# --- Real ones ----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_a_real_fault_is_proved(every: dict[str, Check], warm: Warm) -> None:
    proof = prove(FAULTS["refuses-imap-with-no"], every, warm)
    assert proof.complaints() == []
    assert proof.failed("LIM-25")


@pytest.mark.timeout(120)
def test_a_real_decoy_is_taken_for_what_it_is(every: dict[str, Check], warm: Warm) -> None:
    assert prove(FAULTS["resets-surplus-clients"], every, warm).complaints() == []


def test_there_must_be_such_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["no-such-fault"])
    assert "there is no fault no-such-fault" in capsys.readouterr().err


@pytest.mark.timeout(120)
def test_what_there_is_no_time_for_is_named_and_the_ledger_stays(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = tmp_path / "ledger.md"
    monkeypatch.setattr("tests.prove.LEDGER", kept)
    assert main(["no-limit", "never-idle", "--seconds", "0"]) == 0
    assert "no time for no-limit, never-idle" in capsys.readouterr().out
    assert not kept.exists()
