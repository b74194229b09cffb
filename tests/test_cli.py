"""The command ``listenspec``, as it is typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree as ET

import jsonschema
import pytest

from conformance import check, plugin
from conformance.cli import SCHEMAS, main
from conformance.driver_process import DriverError
from conformance.report.events import EventWriter
from conformance.report.model import Run
from conformance.suite import UsageError
from tests.report_samples import broken, run, sound

USED_UP = Path("/dev/full")


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of ``listenspec`` with ``arguments``."""
    try:
        status = main(arguments)
    except SystemExit as end:
        status = int(end.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


# -- what was mistyped ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("certify --service imp", "argument --service: there is no service 'imp'; did you mean imap?"),
        ("certify --service nntp", "there is no service 'nntp'; known are smtp, pop3, imap, webmail, ldap, admin"),
        ("certify --family LMI", "argument --family: there is no family 'LMI'; did you mean LIM?"),
        ("certify --only LIM-11/imap", "'LIM-11/imap' is not a result id, which is like LIM-11/imap/implicit"),
        ("certify --only LIM-91/imap/plain", "there is no requirement 'LIM-91'; did you mean LIM-"),
        ("certify --only LIM-11/imap4/plain", "there is no service 'imap4'; did you mean imap?"),
        ("certify --only LIM-11/imap/implict", "there is no channel 'implict'; did you mean implicit?"),
        ("certify --only CLS-01/imap/plain", "CLS-01 is not about imap"),
        ("certify --driver ''", "'' does not begin with a program that can be run"),
        ("certify --driver /no/such/driver", "'/no/such/driver' does not begin with a program that can be run"),
        ("certify --drive true", "unrecognized arguments: --drive"),
        ("requirements LIM-99", "there is no requirement 'LIM-99'; did you mean LIM-"),
        ("requirements XYZ", "there is no family 'XYZ'; known are PRT, LIM,"),
        ("schema setings", "there is no schema 'setings'; did you mean settings?"),
        ("report", "the following arguments are required: EVENTS"),
        ("", "the following arguments are required: COMMAND"),
        ("cretify", "invalid choice: 'cretify'"),
    ],
)
def test_what_was_mistyped_is_one_clear_line_and_status_two(
    arguments: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = told(capsys, *(word.strip("'") for word in arguments.split()))
    assert (status, out) == (2, "")
    assert complaint in err
    assert err.startswith("listenspec")
    assert err.splitlines()[1:] == [f"Try '{err.split(':')[0]} --help'."]


def test_an_unclosed_quote_in_a_driver_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = told(capsys, "certify", "--driver", "run 'me")
    assert status == 2
    assert "No closing quotation" in err


def test_help_names_every_command_and_every_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = told(capsys, "--help")
    assert status == 0
    for command in ("certify", "serve", "requirements", "schema", "report"):
        assert f"\n    {command}" in out
    assert "Exit status: 0 conformant" in told(capsys, "certify", "--help")[1]


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = told(capsys, "--version")
    assert status == 0
    assert out.startswith("listenspec 0.")


# -- certify -------------------------------------------------------------------------------------------------------


def asked(monkeypatch: pytest.MonkeyPatch, answer: int | Exception = 0) -> dict[str, Any]:
    """What the suite was asked to do; it answers ``answer``."""
    heard: dict[str, Any] = {}

    def certify(**arguments: Any) -> int:
        heard.update(arguments)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(plugin, "certify", certify)
    return heard


def test_certify_hands_on_what_was_asked_for_in_the_usual_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = asked(monkeypatch)
    words = (
        "certify dovecot --service IMAP --service pop3 --family lim --only lim-11/imap/implicit --only ADM-01/ldap/- "
        "--json a.json --junit b.xml --events c.jsonl -vv"
    )
    assert main(words.split()) == 0
    assert heard == {
        "target": "dovecot",
        "driver": None,
        "services": ["imap", "pop3"],
        "families": ["LIM"],
        "only": ["LIM-11/imap/implicit", "ADM-01/ldap/-"],
        "json_file": Path("a.json"),
        "junit_file": Path("b.xml"),
        "events_file": Path("c.jsonl"),
        "verbose": 2,
    }


def test_certify_alone_examines_whatever_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = asked(monkeypatch)
    main(["certify"])
    assert {key: value for key, value in heard.items() if value} == {}


def test_a_driver_of_ones_own_is_handed_on_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = asked(monkeypatch)
    main(["certify", "--driver", f"{sys.executable} 'my driver.py'"])
    assert heard["driver"] == f"{sys.executable} 'my driver.py'"


@pytest.mark.parametrize("status", [0, 1, 3])
def test_the_exit_status_is_that_of_the_run(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(monkeypatch, status)
    assert main(["certify"]) == status


@pytest.mark.parametrize(
    ("error", "status", "complaint"),
    [
        (UsageError("there is no target 'dvecot'"), 2, "listenspec: there is no target 'dvecot'\n"),
        (PermissionError(13, "Permission denied", "r.json"), 2, "listenspec: r.json: Permission denied\n"),
        (DriverError("it printed rubbish"), 3, "listenspec: it printed rubbish\n"),
    ],
)
def test_what_stops_a_run_before_it_begins_is_one_clear_line(
    error: Exception, status: int, complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(monkeypatch, error)
    assert told(capsys, "certify") == (status, "", complaint)


# -- requirements --------------------------------------------------------------------------------------------------


def test_the_register_is_listed_one_row_a_line_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = told(capsys, "requirements")
    assert status == 0
    assert len([line for line in out.splitlines() if line[3:4] == "-"]) == 200
    assert "\nLIM: simultaneous connections\nLIM-01  MUST    all  " in out


def test_one_family_is_listed_whatever_the_case_it_is_typed_in(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = told(capsys, "requirements", "exp")
    assert [line[:3] for line in out.splitlines()[2:]] == ["EXP"] * 22
    assert "EXP-06  SHOULD  S P I       Inside TLS the upgrade is no longer advertised. [SHOULD (smtp: MUST)]\n" in out


def test_one_requirement_is_told_whole_with_the_checks_that_examine_it(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = told(capsys, "requirements", "lim-11")
    assert status == 0
    assert out.startswith("LIM-11  MUST  (simultaneous connections)\n")
    assert "\nrequired    Plain and implicit TLS connections of a service count against one limit.\n" in out
    assert "\nservices    smtp, pop3, imap, webmail, ldap (where offered), admin\n" in out
    assert "\nexamined by test_limits.py::" in out


def test_a_requirement_without_a_check_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "checks_for", lambda _requirement: ())
    assert "\nexamined by nothing yet: there is no check for it\n" in told(capsys, "requirements", "IDL-27")[1]


# -- schema --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_printed_as_json_and_is_the_one_of_the_documentation(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = told(capsys, "schema", name)
    assert status == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(out))
    kept = Path(__file__).parent.parent / "docs" / "schemas" / f"{name}.json"
    assert json.loads(kept.read_text()) == json.loads(out)


# -- report --------------------------------------------------------------------------------------------------------


def events_of(whole: Run, path: Path) -> str:
    """An event file of ``whole``."""
    with EventWriter(path, whole.target, whole.started) as events:
        for result in whole.results:
            events.result(result)
        events.finish(whole)
    return str(path)


@pytest.mark.parametrize(("whole", "status"), [(sound(), 0), (broken(), 1), (run(), 3)])
def test_a_finished_run_is_shown_again_with_its_exit_status(
    whole: Run, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_file, junit_file = tmp_path / "r.json", tmp_path / "r.xml"
    events = events_of(whole, tmp_path / "events")
    found, out, err = told(capsys, "report", events, "--json", str(json_file), "--junit", str(junit_file))
    assert (found, err) == (status, "")
    assert out.rstrip().rsplit("\n\n", 1)[1].startswith(whole.verdict.upper().replace("_", " ").replace("NON", "NOT"))
    assert Run.from_dict(json.loads(json_file.read_text())).results == whole.in_order().results
    assert len(list(ET.parse(junit_file).iter("testcase"))) == len(whole.results)


def test_a_run_that_did_not_end_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = events_of(sound(), tmp_path / "events")
    Path(events).write_text("".join(Path(events).read_text().splitlines(keepends=True)[:-1]))
    status, out, err = told(capsys, "report", events)
    assert (status, out) == (2, "")
    assert err == f"listenspec: {events}: there is no footer after 4 results; this is not a finished run\n"


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "missing")
    assert told(capsys, "report", missing) == (2, "", f"listenspec: {missing}: No such file or directory\n")
    events = events_of(sound(), tmp_path / "events")
    status, _, err = told(capsys, "report", events, "--json", str(tmp_path))
    assert status == 2
    assert err == f"listenspec: {tmp_path}: Is a directory\n"


# -- the program ---------------------------------------------------------------------------------------------------


def listed_to(output: BinaryIO) -> tuple[int, bytes]:
    """Exit status and complaints of the program when it prints the register to ``output``."""
    command = [sys.executable, "-m", "conformance", "requirements"]
    ended = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, check=False, timeout=30)
    return ended.returncode, ended.stderr


def test_nobody_reading_any_more_is_no_reason_to_complain() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as nobody:
        assert listed_to(nobody) == (141, b"")


@pytest.mark.skipif(not USED_UP.exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_said_once() -> None:
    with USED_UP.open("wb") as full:
        assert listed_to(full) == (2, b"listenspec: [Errno 28] No space left on device\n")


def test_a_name_is_checked_before_anything_heavy_is_imported() -> None:
    program = (
        "import sys; from conformance.cli import main\n"
        "try: main(['certify', '--service', 'imp'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'pydantic', 'rich', 'pytest', 'cryptography', 'ssl'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert ended.stdout == "[]\n"
