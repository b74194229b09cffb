"""The event file: complete line by line while a run lasts, and refused when the run did not end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conformance.report.events import EventWriter, read_events
from conformance.report.model import ReportError, Run
from tests.report_samples import broken, run, sound


def write(path: Path, whole: Run, *, finish: bool = True) -> Path:
    """The events of ``whole``, as a run writes them."""
    with EventWriter(path, whole.target, whole.started) as events:
        for result in whole.results:
            events.result(result)
        if finish:
            events.finish(whole)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.mark.parametrize("sample", [broken(), sound(), run(), run(troubles=("the driver\nlied",))])
def test_a_finished_run_reads_back_as_it_was(sample: Run, path: Path) -> None:
    found = read_events(write(path, sample))
    assert found.to_dict() == {**sample.to_dict(), "suite": found.to_dict()["suite"]}


def test_each_result_is_in_the_file_as_soon_as_it_was_told(path: Path) -> None:
    whole = sound()
    with EventWriter(path, whole.target, whole.started) as events:
        assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["header"]
        events.result(whole.results[0])
        told = [json.loads(line) for line in path.read_text().splitlines()]
        assert [event["event"] for event in told] == ["header", "result"]
        assert told[1]["id"] == whole.results[0].id


def test_a_file_without_footer_is_not_that_of_a_finished_run(path: Path) -> None:
    with pytest.raises(ReportError, match=r"no footer after 4 results; this is not a finished run"):
        read_events(write(path, sound(), finish=False))


def test_a_file_that_was_cut_within_a_line_is_refused_with_the_number_of_the_line(path: Path) -> None:
    write(path, sound())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ReportError, match=r"line 6: not JSON"):
        read_events(path)


def test_a_lost_line_is_noticed(path: Path) -> None:
    lines = write(path, sound()).read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2] + lines[3:]))
    with pytest.raises(ReportError, match=r"totals: it says .* but its results give"):
        read_events(path)


@pytest.mark.parametrize(
    ("rubbish", "complaint"),
    [
        (b"hello\n", "line 3: not JSON: 'hello'"),
        (b"\xff\x1b[2J\n", r"line 3: not JSON: '\\xff\x1b[2J'"),
        (b"\n", "line 3: not JSON: ''"),
        (b"[1]\n", "line 3: an object is wanted, not [1]"),
        (b"[" * 100_000 + b"\n", "line 3: not JSON"),
        (b'{"event": "ready"}\n', "line 3: 'ready' is not an event"),
        (b'{"id": "LIM-01/imap/plain"}\n', "line 3: None is not an event"),
        (b'{"event": "result", "id": "LIM-01/imap/plain"}\n', "line 3: verdict: missing"),
        (b'{"event": "header"}\n', "line 3: an event file has one header, and begins with it"),
    ],
)
def test_rubbish_is_refused_with_the_number_of_its_line(rubbish: bytes, complaint: str, path: Path) -> None:
    lines = write(path, sound()).read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], rubbish, *lines[2:]]))
    with pytest.raises(ReportError) as refused:
        read_events(path)
    assert complaint in str(refused.value)


def test_a_line_behind_the_footer_is_refused(path: Path) -> None:
    lines = write(path, sound()).read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[1]]))
    with pytest.raises(ReportError, match="line 7: there is something behind the footer"):
        read_events(path)


def test_a_file_that_does_not_begin_with_a_header_is_refused(path: Path) -> None:
    lines = write(path, sound()).read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[1:]))
    with pytest.raises(ReportError, match="line 1: an event file has one header"):
        read_events(path)


def test_an_empty_file_is_refused(path: Path) -> None:
    path.touch()
    with pytest.raises(ReportError, match="the file is empty"):
        read_events(path)


def test_events_of_a_later_format_are_refused(path: Path) -> None:
    path.write_text(write(path, sound()).read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ReportError, match="format: 2 is not one that is understood"):
        read_events(path)
