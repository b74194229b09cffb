"""The settings file, changed by a program: what people wrote stays, however they wrote it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_server.configuration import Configuration
from reference_server.settings import Service, SettingsError

ACCOUNT = '[[accounts]]\nname = "alice"  # she\npassword = "secret"\n'

WAYS = {
    "tables": f"{ACCOUNT}\n[services.imap]\nports = [0]  # any\n\n# what comes next\n[services.pop3]\n",
    "dotted keys": f"services.imap.ports = [0]  # any\n{ACCOUNT}",
    "inline tables": f"services = {{ imap = {{ ports = [0] }} }}  # short\n{ACCOUNT}",
    "a table of tables": f"{ACCOUNT}[services]\nimap.ports = [0]\n# the end\n",
    "out of order": f"[services.imap]\nports = [0]\n{ACCOUNT}[services.pop3]\nports = [0]\n[defaults]\nbind = ['*']\n",
    "no table yet": f"{ACCOUNT}[services.pop3]\nports = [0]\n\n# the end\n",
    "many lines": f"{ACCOUNT}[services.imap]\nports = [\n  0,  # any\n]\nallow = [\n  '10.0.0.0/8',  # us\n]\n",
}


def kept_in(folder: Path, text: str, name: str = "server.toml") -> Configuration:
    file = folder / name
    file.write_text(text)
    return Configuration(file)


def with_imap(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    services = document.get("services", {})
    return {**document, "services": {**services, "imap": {**services.get("imap", {"ports": [0]}), **changes}}}


@pytest.mark.parametrize("text", WAYS.values(), ids=WAYS)
def test_whatever_way_it_is_written_it_says_what_is_wanted(tmp_path: Path, text: str) -> None:
    configuration = kept_in(tmp_path, text)
    wanted = with_imap(configuration.document(), max_connections=7, deny=["192.0.2.1"])
    draft = configuration.draft(wanted)
    assert configuration.file.read_text() == text  # not yet
    configuration.put(draft)
    assert tomllib.loads(configuration.file.read_text()) == wanted
    assert configuration.load() == draft.settings
    assert configuration.load().services[Service.IMAP].max_connections == 7
    for comment in [line.partition("#")[2] for line in text.split("\n") if "#" in line]:
        assert comment in configuration.file.read_text()


def test_a_comment_above_a_table_stays_above_it(tmp_path: Path) -> None:
    configuration = kept_in(tmp_path, WAYS["tables"])
    configuration.put(configuration.draft(with_imap(configuration.document(), max_connections=7)))
    assert "\n# what comes next\n[services.pop3]" in configuration.file.read_text()


def test_json_stays_json(tmp_path: Path) -> None:
    configuration = kept_in(tmp_path, json.dumps({"services": {"imap": {"ports": [0]}}}), "server.json")
    configuration.put(configuration.draft(with_imap(configuration.document(), max_connections=7)))
    assert json.loads(configuration.file.read_text())["services"]["imap"] == {"ports": [0], "max_connections": 7}


def test_a_draft_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    configuration = kept_in(tmp_path, WAYS["tables"])
    with pytest.raises(SettingsError, match="max_connections"):
        configuration.draft(with_imap(configuration.document(), max_connections=-1))
    with pytest.raises(ValueError, match="written in a way"):
        configuration.draft(with_imap(configuration.document(), idle_timeout=None))
    assert configuration.file.read_text() == WAYS["tables"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real = kept_in(tmp_path, WAYS["tables"])
    (tmp_path / "link.toml").symlink_to(real.file)
    linked = Configuration(tmp_path / "link.toml")
    linked.put(linked.draft(with_imap(linked.document(), max_connections=7)))
    assert linked.file.is_symlink()
    assert real.load().services[Service.IMAP].max_connections == 7


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "enabled": st.booleans(),
        "max_connections": st.integers(0, 1_000_000),
        "idle_timeout": st.floats(0.001, 1e9) | st.integers(1, 10**9),
        "allow": st.lists(st.sampled_from(["10.0.0.1", "2001:db8::/32", "192.0.2.1-192.0.2.9"]), max_size=3),
        "ports": st.lists(st.integers(1, 65535), min_size=1, max_size=4, unique=True),
    },
)


@settings(deadline=None)
@given(text=st.sampled_from([*WAYS.values()]), changes=st.lists(VALUES, min_size=1, max_size=3))
def test_one_change_after_another(tmp_path_factory: pytest.TempPathFactory, text: str, changes: list[Any]) -> None:
    configuration = kept_in(tmp_path_factory.getbasetemp(), text, "changed.toml")
    for change in changes:
        before = configuration.document()
        wanted = {**before, "services": {**before.get("services", {}), "imap": {"ports": [1], **change}}}
        configuration.put(configuration.draft(wanted))
        assert configuration.document() == wanted
