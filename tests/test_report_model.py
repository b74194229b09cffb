"""What results add up to, and their JSON form both ways."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conformance.report.model import Conformance, ReportError, Result, Run, Verdict, printable
from tests.report_samples import NASTY, broken, result, run, sound


def verdict_of(*found: tuple[str, str], troubles: tuple[str, ...] = ()) -> Conformance:
    """The verdict of a run with one result for each ``(level, verdict)``."""
    return run(
        *(result("LIM-01/imap/plain", Verdict(verdict), level=level) for level, verdict in found), troubles=troubles
    ).verdict


@pytest.mark.parametrize("settled", ["pass", "latitude"])
def test_a_run_conforms_when_every_must_that_was_examined_holds(settled: str) -> None:
    assert verdict_of(("MUST", "pass"), ("MUST", settled)) is Conformance.CONFORMANT


@pytest.mark.parametrize("verdict", ["not_offered", "not_assessable"])
def test_what_was_not_examined_does_not_stand_in_the_way(verdict: str) -> None:
    assert verdict_of(("MUST", "pass"), ("MUST", verdict)) is Conformance.CONFORMANT


@pytest.mark.parametrize("other", ["pass", "inconclusive", "error", "latitude", "not_offered"])
def test_one_must_that_failed_outweighs_everything_else(other: str) -> None:
    assert verdict_of(("MUST", other), ("MUST", "fail")) is Conformance.NON_CONFORMANT
    assert verdict_of(("MUST", "fail"), ("MUST", other), troubles=("a worker died",)) is Conformance.NON_CONFORMANT


@pytest.mark.parametrize("verdict", ["inconclusive", "error"])
def test_a_must_that_was_not_settled_leaves_the_run_incomplete(verdict: str) -> None:
    assert verdict_of(("MUST", "pass"), ("MUST", verdict)) is Conformance.INCOMPLETE


@pytest.mark.parametrize("level", ["SHOULD", "MAY"])
@pytest.mark.parametrize("verdict", list(Verdict))
def test_only_a_must_decides(level: str, verdict: str) -> None:
    assert verdict_of(("MUST", "pass"), (level, verdict)) is Conformance.CONFORMANT


def test_a_run_that_examined_nothing_is_never_green() -> None:
    assert verdict_of() is Conformance.INCOMPLETE
    assert verdict_of(("MUST", "not_offered"), ("MUST", "not_assessable")) is Conformance.INCOMPLETE
    assert verdict_of(("SHOULD", "pass")) is Conformance.INCOMPLETE


def test_a_run_in_which_something_else_went_wrong_is_never_green() -> None:
    assert verdict_of(("MUST", "pass"), troubles=("a check could not be loaded",)) is Conformance.INCOMPLETE


def test_exit_statuses_are_those_of_the_contract() -> None:
    assert {verdict: verdict.exit_status for verdict in Conformance} == {
        "conformant": 0, "non_conformant": 1, "incomplete": 3,
    }  # fmt: skip
    assert (sound().exit_status, broken().exit_status, run().exit_status) == (0, 1, 3)


def test_totals_name_every_verdict() -> None:
    assert sound().totals == {
        "pass": 4, "fail": 0, "latitude": 0, "not_offered": 0, "not_assessable": 0, "inconclusive": 0, "error": 0,
    }  # fmt: skip
    assert sum(broken().totals.values()) == len(broken().results)


@pytest.mark.parametrize("sample", [broken(), sound(), run(), run(troubles=("the driver lied",))])
def test_a_report_survives_the_way_through_json(sample: Run) -> None:
    assert Run.from_dict(json.loads(json.dumps(sample.to_dict()))) == sample


def test_the_json_form_has_the_keys_of_the_contract() -> None:
    document = broken().to_dict()
    assert list(document) == [
        "format", "suite", "target", "started", "duration", "verdict", "totals", "results",
    ]  # fmt: skip
    failed = next(found for found in document["results"] if found["id"] == "LIM-11/imap/implicit")
    assert list(failed) == [
        "id", "requirement", "level", "service", "channel", "check", "verdict",
        "expected", "actual", "duration", "transcript", "repro",
    ]  # fmt: skip
    assert failed["transcript"][-1] == {
        "at": 0.102, "connection": 1, "from": "server", "bytes": "b1 OK NOOP completed.\\r\\n", "tls": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"verdict": "maybe"}, "verdict: 'maybe' is not one of pass, fail,"),
        ({"id": 7}, "id: str is wanted, not 7"),
        ({"duration": "long"}, "duration: a number is wanted, not 'long'"),
        ({"duration": True}, "duration: a number is wanted, not True"),
        ({"transcript": {}}, "transcript: list is wanted"),
        ({"transcript": ["S: hello"]}, "transcript: an object is wanted, not 'S: hello'"),
        ({"transcript": [{"at": 1, "connection": True}]}, "connection: int is wanted, not True"),
    ],
)
def test_a_result_of_another_shape_is_refused_with_the_wrong_key(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ReportError) as refused:
        Result.from_dict({**result("LIM-01/imap/plain").to_dict(), **change})
    assert complaint in str(refused.value)


def test_a_result_without_its_requirement_is_refused() -> None:
    document = result("LIM-01/imap/plain").to_dict()
    del document["requirement"]
    with pytest.raises(ReportError, match="requirement: missing"):
        Result.from_dict(document)


@pytest.mark.parametrize(
    ("key", "value"), [("verdict", "conformant"), ("totals", {"pass": 99}), ("format", 2), ("results", None)]
)
def test_a_report_that_contradicts_itself_is_refused(key: str, value: object) -> None:
    with pytest.raises(ReportError, match=key):
        Run.from_dict({**broken().to_dict(), key: value})


def test_a_result_knows_the_words_of_its_requirement() -> None:
    assert result("LIM-11/imap/implicit").text.startswith("Plain and implicit TLS connections")
    assert result("LIM-99/imap/implicit").text == ""


def test_what_is_not_printable_is_escaped() -> None:
    shown = printable(NASTY + "\r\n\tÄ")
    assert shown.isprintable()
    assert shown.endswith("\\r\\n\\tÄ")
    assert shown.encode("utf-8")
