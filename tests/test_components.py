"""A missing component is told, and where components are required it is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.components import COMPONENTS, needs

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("required", "status", "said"), [("", 0, "1 skipped"), ("1", 1, "1 error")])
def test_a_test_whose_component_is_missing_is_skipped_or_where_required_fails(
    required: str, status: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "test_one.py").write_text(
        "from tests.components import COMPONENTS, Component, needs\n"
        "COMPONENTS['unobtainium'] = Component(lambda: False, 'apt install unobtainium')\n"
        "@needs('unobtainium')\n"
        "def test_one(): raise SystemExit('never run')\n"
    )
    finished = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:randomly",
            "-p",
            "tests.conftest",
            "-rsf",
            f"--rootdir={tmp_path}",
            "-c",
            os.devnull,
            str(tmp_path),
        ],
        env={**os.environ, "LISTENSPEC_REQUIRE_COMPONENTS": required, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == status, finished.stdout + finished.stderr
    assert said in finished.stdout
    assert "needs unobtainium (apt install unobtainium)" in finished.stdout


def test_an_unknown_component_is_a_mistake_of_the_tests_author() -> None:
    assert "dovecot" in COMPONENTS
    with pytest.raises(LookupError, match="no component is called dovcot"):
        needs("dovcot")
