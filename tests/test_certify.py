"""A certification from beginning to end: what is said, what is written, and the exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from conformance import driver_process
from conformance.plugin import certify

SOON = 60.0


def listenspec(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "conformance", *arguments]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=SOON, check=False, env=environment)


def test_the_reference_server_conforms_and_every_report_says_the_same(tmp_path: Path) -> None:
    ended = listenspec(
        *("certify", "--family", "PRT", "--service", "smtp", "--service", "imap"),
        *("--json", "r.json", "--junit", "r.xml", "--events", "r.jsonl"),
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["verdict"] == "conformant"
    assert report["target"]["driver"] == "reference"
    assert {result["service"] for result in report["results"]} == {"smtp", "imap"}
    ids = [result["id"] for result in report["results"]]
    assert len(ids) == len(set(ids))
    assert "PRT-01/imap/implicit" in ids
    assert (tmp_path / "r.xml").read_text().count("<testcase") == len(ids)
    again = listenspec("report", "r.jsonl", "--json", "again.json", cwd=tmp_path)
    assert again.returncode == 0
    assert json.loads((tmp_path / "again.json").read_text()) == report


def test_one_result_can_be_examined_alone(tmp_path: Path) -> None:
    ended = listenspec("certify", "--only", "LIM-11/pop3/-", "--json", "r.json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (result,) = json.loads((tmp_path / "r.json").read_text())["results"]
    assert result["id"] == "LIM-11/pop3/-"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["certify", "referense"], "reference"),
        (["certify", "--only", "LIM-11/pop3/explicit"], "LIM-11/pop3/-"),
        (["certify", "--service", "gopher"], "gopher"),
        (["certify", "--json", "/nowhere/at/all.json"], "/nowhere/at/all.json"),
    ],
)
def test_what_does_not_exist_is_one_line_and_status_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    ended = listenspec(*arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout


BEGINNING = """
    import json, os, signal, socket, sys, time
    if sys.argv[1] == "describe":
        print(json.dumps({"format": 1, "name": "Tiny", "version": "0",
                          "services": {"smtp": {"offers": ["ports"]}}}))
        sys.exit()
    with open(sys.argv[2]) as file:
        scenario = json.load(file)
    def say(**event):
        print(json.dumps(event), flush=True)
    keys = {key for table in scenario["services"].values() for key in table}
    invented = keys - {"enabled", "bind", "ports"}
"""

LIAR = """
    sockets = [socket.create_server(("127.0.0.1", port))
               for table in scenario["services"].values() for port in table["ports"]]
    say(event="ready")
    sys.stdin.read()
"""
DYING = """
    if invented:
        say(event="unsupported", setting=sorted(invented)[0], reason="never heard of it")
        sys.exit()
    sys.exit("the licence has expired")
"""
RUBBISH = """
    if invented:
        say(event="unsupported", setting=sorted(invented)[0], reason="never heard of it")
        sys.exit()
    print("Starting up, please be patient...", flush=True)
    sys.stdin.read()
"""
HANGING = """
    if invented:
        say(event="unsupported", setting=sorted(invented)[0], reason="never heard of it")
        sys.exit()
    sys.stdin.read()
"""
DEAF = """
    if invented:
        say(event="unsupported", setting=sorted(invented)[0], reason="never heard of it")
        sys.exit()
    sockets = [socket.create_server((address, port))
               for table in scenario["services"].values()
               for address in ("127.0.0.1",) for port in table["ports"]]
    say(event="ready")
    sys.stdin.read()
"""
ABSENT = """
    say(event="unsupported", setting="", reason="Tiny is not installed: apt install tiny")
"""


def driver(tmp_path: Path, body: str) -> str:
    file = tmp_path / "driver.py"
    file.write_text(textwrap.dedent(BEGINNING) + textwrap.dedent(body))
    return f"{sys.executable} {file}"


def left_behind(tmp_path: Path) -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(tmp_path / "driver.py").encode() in file.read_bytes():
                found.append(file.parent.name)
    return found


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (LIAR, "must answer unsupported"),
        (DYING, "the licence has expired"),
        (RUBBISH, "Starting up, please be patient"),
        (HANGING, "printed nothing within"),
        (ABSENT, "apt install tiny"),
    ],
    ids=["lies", "dies", "prints rubbish", "hangs", "is not there"],
)
def test_a_driver_that_is_no_good_is_one_clear_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    body: str,
    message: str,
) -> None:
    monkeypatch.setattr(driver_process, "READY_WITHIN", 2.0)
    report = tmp_path / "r.json"
    status = certify(driver=driver(tmp_path, body), families=["PRT"], json_file=report)
    said = " ".join("".join(capfd.readouterr()).split())
    assert status == 3
    assert said.count(message) == 1, said
    assert "Traceback" not in said
    document: dict[str, Any] = json.loads(report.read_text())
    assert document["verdict"] == "incomplete"
    assert left_behind(tmp_path) == []


def test_a_server_that_says_nothing_does_not_conform(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report, junit = tmp_path / "r.json", tmp_path / "r.xml"
    status = certify(driver=driver(tmp_path, DEAF), only=["PRT-01/smtp/plain"], json_file=report, junit_file=junit)
    said = capfd.readouterr().out
    assert status == 1
    (result,) = json.loads(report.read_text())["results"]
    assert result["verdict"] == "fail"
    assert result["transcript"]
    assert result["expected"]
    assert result["actual"] in said.replace("\n", " ") or "left without an answer" in said
    assert "--only PRT-01/smtp/plain" in result["repro"]
    assert "<failure" in junit.read_text()
    assert left_behind(tmp_path) == []
