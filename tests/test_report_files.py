"""Reports as files: JSON by its schema, JUnit as its readers want it, each written whole or not at all."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest

from conformance.report import json_report, junit, schema
from conformance.report.model import Run, Verdict
from conformance.report.whole_file import write_whole
from tests.report_samples import GOLDEN, broken, golden, result, run, sound

DOCS = Path(__file__).parent.parent / "docs"
EVERY_SAMPLE = [broken(), sound(), run(), run(troubles=("the driver\nlied",))]


@pytest.mark.parametrize("name", sorted(golden()))
def test_every_form_of_a_report_looks_as_it_did(name: str) -> None:
    assert golden()[name] == (GOLDEN / name).read_text("utf-8")


# -- JSON ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", EVERY_SAMPLE)
def test_the_json_report_follows_its_schema(sample: Run, tmp_path: Path) -> None:
    json_report.write(sample, tmp_path / "report.json")
    document = json.loads((tmp_path / "report.json").read_bytes())
    jsonschema.Draft202012Validator(schema.json_schema()).validate(document)
    assert Run.from_dict(document) == sample


def test_the_schema_is_a_schema_and_stands_in_the_documentation() -> None:
    jsonschema.Draft202012Validator.check_schema(schema.json_schema())
    assert json.loads((DOCS / "schemas" / "report.json").read_text()) == schema.json_schema()


@pytest.mark.parametrize(
    ("key", "value"),
    [("verdict", "maybe"), ("id", "LIM-11/imap"), ("id", "LIM-11/nntp/plain"), ("level", "SHALL"), ("extra", 1)],
)
def test_the_schema_refuses_what_is_no_result(key: str, value: object) -> None:
    document = sound().to_dict()
    document["results"][0][key] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema.json_schema()).validate(document)


def test_the_example_in_the_documentation_follows_the_schema() -> None:
    text = (DOCS / "report.md").read_text()
    example = text.split("```json\n")[1].split("```")[0]
    Run.from_dict(json.loads(example))
    jsonschema.Draft202012Validator(schema.json_schema()).validate(json.loads(example))


# -- JUnit ---------------------------------------------------------------------------------------------------------

#: What the schema of the Jenkins xUnit plugin (junit-10) knows of each element: attributes that it must have and
#: that it may have, and the elements within.
JUNIT: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors"},
        {"time", "skipped", "timestamp", "hostname", "id", "package"},
        {"testcase", "properties", "system-out", "system-err"},
    ),
    "testcase": (
        {"name"},
        {"classname", "time"},
        {"skipped", "error", "failure", "system-out", "system-err"},
    ),
    "failure": (set(), {"type", "message"}, set()),
    "error": (set(), {"type", "message"}, set()),
    "skipped": (set(), {"type", "message"}, set()),
    "system-out": (set(), set(), set()),
}


def assert_is_junit(element: ET.Element) -> None:
    """Every element has what it must and nothing that a reader would not know."""
    required, optional, within = JUNIT[element.tag]
    assert required <= set(element.keys()) <= required | optional
    for child in element:
        assert child.tag in within
        assert_is_junit(child)


@pytest.mark.parametrize("sample", EVERY_SAMPLE)
def test_junit_has_the_shape_that_its_readers_check(sample: Run) -> None:
    root = ET.fromstring(junit.document(sample).encode())
    assert root.tag == "testsuites"
    assert_is_junit(root)


def test_junit_has_a_suite_for_each_family_and_a_case_for_each_result() -> None:
    sample = broken()
    root = ET.fromstring(junit.document(sample))
    assert [suite.get("name") for suite in root] == [
        "PRT ports and binding", "LIM simultaneous connections", "IDL idle time-out",
    ]  # fmt: skip
    cases = {case.get("name"): case.get("classname") for case in root.iter("testcase")}
    assert cases == {found.id: found.check for found in sample.results}


def test_junit_counts_what_its_suites_contain() -> None:
    root = ET.fromstring(junit.document(broken()))
    tags = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}
    for suite in root:
        for attribute, tag in tags.items():
            assert suite.get(attribute) == str(len(list(suite.iter(tag)))), suite.get("name")
    assert root.get("failures") == "2"
    assert root.get("errors") == "2"


@pytest.mark.parametrize(
    ("verdict", "tag"),
    [
        (Verdict.PASS, None), (Verdict.LATITUDE, "system-out"), (Verdict.FAIL, "failure"),
        (Verdict.NOT_OFFERED, "skipped"), (Verdict.NOT_ASSESSABLE, "skipped"),
        (Verdict.INCONCLUSIVE, "error"), (Verdict.ERROR, "error"),
    ],
)  # fmt: skip
def test_junit_tells_each_verdict_in_its_own_words(verdict: Verdict, tag: str | None) -> None:
    found = result("LIM-01/imap/plain", verdict, expected="three", actual="four", reason="no IPv6 here")
    case = next(ET.fromstring(junit.document(run(found))).iter("testcase"))
    assert [child.tag for child in case] == ([tag] if tag else [])
    for child in case:
        told = f"{child.get('message', '')} {child.text or ''}"
        assert ("expected three; saw four" if verdict is Verdict.FAIL else "no IPv6 here") in told


def test_junit_carries_the_transcript_and_the_command_that_repeats_a_failure() -> None:
    cases = ET.fromstring(junit.document(broken())).iter("testcase")
    failures = {case.get("name"): case.findtext("failure") for case in cases}
    told = failures["LIM-11/imap/implicit"] or ""
    assert "   0.0820 #8 client (TLS): a1 NOOP\\r\\n" in told
    assert told.endswith("repeat: listenspec certify dovecot --only LIM-11/imap/implicit")


def test_junit_tells_what_went_wrong_beside_the_results_as_errors() -> None:
    root = ET.fromstring(junit.document(run(troubles=("the driver lied", "a worker died"))))
    assert [error.get("message") for error in root.iter("error")] == ["the driver lied", "a worker died"]
    assert root.get("errors") == "2"


def test_no_character_that_xml_cannot_have_reaches_the_document() -> None:
    every = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA1), 0xD800, 0xDFFF, 0xFFFE, 0xFFFF, 0x10FFFF]))
    found = result(f"LIM-01/{every}/plain", Verdict.FAIL, expected=every, actual=every, check=every)
    document = junit.document(run(found, troubles=(every,)))
    root = ET.fromstring(document.encode())
    assert "\\x00\\x01" in (next(root.iter("failure")).get("message") or "")


# -- files ---------------------------------------------------------------------------------------------------------


def test_a_report_takes_the_place_of_an_older_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text("old")
    junit.write(sound(), path)
    assert path.read_text().startswith("<?xml")
    assert os.listdir(tmp_path) == ["report.xml"]


def test_a_report_is_readable_for_whom_the_umask_lets_read(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    write_whole(tmp_path / "report", "text")
    assert (tmp_path / "report").stat().st_mode == ordinary.stat().st_mode


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "text"


def test_what_is_no_ordinary_file_is_written_to_as_it_stands(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_whole(pipe, "text")
    reader.join(10)
    assert read == ["text"]
    assert pipe.is_fifo()


def test_a_file_that_cannot_be_written_leaves_no_part_of_itself(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        write_whole(tmp_path / "missing" / "report", "text")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "report", "\ud800")
    assert os.listdir(tmp_path) == []
