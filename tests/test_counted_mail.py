"""Mail is put into accounts and counted by whatever protocol a target has, and where there is none that is said."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

#: The reference server's driver, of which only one service is told.
ONLY = """
    import json, subprocess, sys
    driver = [sys.executable, "-m", "conformance.drivers.reference"]
    if sys.argv[2] == "describe":
        described = json.loads(subprocess.run([*driver, "describe"], capture_output=True, check=True).stdout)
        described["services"] = {name: described["services"][name] for name in sys.argv[1].split(",")}
        print(json.dumps(described))
    else:
        import os
        os.execv(sys.executable, [*driver, *sys.argv[2:]])
"""


@pytest.fixture
def only(tmp_path: Path) -> str:
    """A command that needs the names of services behind it."""
    script = tmp_path / "only.py"
    script.write_text(textwrap.dedent(ONLY))
    return f"{sys.executable} {script}"


def results(driver: str, tmp_path: Path, *ids: str) -> dict[str, dict[str, Any]]:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "conformance", "certify", "--driver", driver, "--json", str(report)]
    command += [f"--only={id_}" for id_ in ids]
    subprocess.run(command, capture_output=True, timeout=60, check=False)
    return {result["id"]: result for result in json.loads(report.read_text())["results"]}


def test_pop3_alone_finds_mail_that_lies_there_from_the_start(only: str, tmp_path: Path) -> None:
    found = results(f"{only} pop3", tmp_path, "CLS-02/pop3/plain", "CLS-01/pop3/-")
    assert {result["verdict"] for result in found.values()} == {"pass"}, found


def test_pop3_takes_its_mail_by_way_of_smtp(only: str, tmp_path: Path) -> None:
    found = results(f"{only} smtp,pop3", tmp_path, "CLS-02/pop3/plain", "CLS-03/smtp/-")
    assert {result["verdict"] for result in found.values()} == {"pass"}, found


def test_where_nobody_can_look_nothing_is_judged(only: str, tmp_path: Path) -> None:
    found = results(f"{only} smtp", tmp_path, "CLS-03/smtp/plain", "CLS-03/smtp/-", "CLS-04/smtp/plain")
    assert found["CLS-04/smtp/plain"]["verdict"] == "pass"
    for id_ in ("CLS-03/smtp/plain", "CLS-03/smtp/-"):
        assert found[id_]["verdict"] == "not_assessable"
        assert "neither IMAP nor POP3" in found[id_]["reason"]
