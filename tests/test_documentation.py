"""What the documentation shows is there, and works."""

from __future__ import annotations

import re
import textwrap
import tomllib
from pathlib import Path

import pytest

from certs import Authority
from reference_server import passwords
from reference_server.settings import parse

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "fixtures").rglob("*.md")])
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)")
_BLOCK = re.compile(r"(?:^(?: {4}.*)?\n)+", re.MULTILINE)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in _LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "docs/configuration.md"])
def test_configurations_that_are_shown_are_good(page: str, tmp_path: Path) -> None:
    chain, key = Authority.create().issue().write(tmp_path)
    chain.rename(tmp_path / "server.pem")
    key.rename(tmp_path / "server.key")
    blocks = [textwrap.dedent(block) for block in _BLOCK.findall((ROOT / page).read_text())]
    shown = [block for block in blocks if "[services." in block]
    assert shown
    for block in shown:
        complete = block.replace('"$scrypt$ln=15,r=8,p=1$..."', f'"{passwords.hashed("a")}"')
        settings = parse(tomllib.loads(complete), tmp_path)
        assert settings.enabled
        assert settings.warnings == ()


def test_readme_has_the_two_commands_that_ci_runs() -> None:
    readme, script = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    commands = [
        "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/listenspec certify",
        ".venv/bin/pip install nox && .venv/bin/nox",
    ]
    for command in commands:
        assert f"\n    {command}\n" in readme
        assert f"\n{command}\n" in script.replace(" -q", "")


def test_readme_names_every_family_that_is_examined() -> None:
    examined = {
        family
        for module in (ROOT / "conformance" / "checks").glob("test_*.py")
        for family in re.findall(r'^@check\("([A-Z]{3})-', module.read_text(), re.MULTILINE)
    }
    assert "LIM" in examined
    assert examined == set(re.findall(r"^\| ([A-Z]{3}) \|", (ROOT / "README.md").read_text(), re.MULTILINE))
