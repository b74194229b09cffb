"""The house rules that a machine can check: who imports whom, how long a module is, what things are called."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("reference_server", "conformance", "certs")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LONGEST = 500

VAGUE_MODULES = {"util", "utils", "helper", "helpers", "common", "base", "misc", "manager", "handler", "factory"}
VAGUE_CLASS = re.compile(r"(Manager|Handler|Factory|Helper|Util|Utils|Base)$|^Base[A-Z]")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(params=MODULES, ids=_name)
def module(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_modules_import_only_what_their_room_allows() -> None:
    # In a process of its own, because the linter silences the loggers of the one that it runs in.
    lint = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    finished = subprocess.run(
        [sys.executable, "-c", lint], cwd=ROOT, check=False, capture_output=True, text=True, timeout=50
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_module_says_what_it_owns_and_is_short_enough_to_read(module: Path) -> None:
    source = module.read_text()
    if source.strip():
        assert ast.get_docstring(ast.parse(source)), "it has no docstring"
    assert len(source.splitlines()) <= LONGEST


def test_names_say_what_a_thing_is(module: Path) -> None:
    assert module.stem not in VAGUE_MODULES
    tree = ast.parse(module.read_text())
    classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert [name for name in classes if VAGUE_CLASS.search(name)] == []


def test_commands_are_looked_up_in_tables_and_never_by_a_made_up_attribute(module: Path) -> None:
    made_up = [
        node.lineno
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "getattr"
        and isinstance(node.args[1], ast.BinOp | ast.JoinedStr)
    ]
    assert made_up == []


def test_nothing_is_left_for_later(module: Path) -> None:
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", module.read_text())


def test_no_key_and_no_certificate_is_kept_in_the_repository() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=False, capture_output=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    armour = ("-----BEGIN " + "PRIVATE KEY", "-----BEGIN " + "EC PRIVATE KEY", "-----BEGIN " + "CERTIFICATE")
    kept = [path for path in _texts(listed.stdout) if any(line in path.read_text(errors="replace") for line in armour)]
    assert kept == []


def _texts(listed: bytes) -> Iterator[Path]:
    for name in listed.split(b"\0"):
        path = ROOT / name.decode()
        if name and path.is_file():
            yield path
