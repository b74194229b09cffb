"""The settings file while the server runs: read, changed by a program, and written whole or not at all.

Owns: the file, and how a changed document is put into it without losing what people wrote around their keys.  Knows
nothing of what the settings mean.
"""

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reference_server import durable
from reference_server.settings import ServerSettings, load, parse


@dataclass(frozen=True, slots=True)
class Draft:
    """What is to stand in the file, octet by octet, and what it means."""

    octets: bytes
    settings: ServerSettings


class Configuration:
    """One settings file.  ``change`` is done to whatever is read from it (for servers that are wrong on purpose)."""

    def __init__(
        self, file: Path, change: Callable[[ServerSettings], ServerSettings] = lambda settings: settings
    ) -> None:
        self.file = file
        self._change = change

    @property
    def folder(self) -> Path:
        """Where relative paths count from."""
        return self.file.resolve().parent

    def load(self) -> ServerSettings:
        """The settings as they stand in the file.  Raises SettingsError."""
        return self._change(load(self.file))

    def document(self) -> dict[str, Any]:
        """What is written in the file.  Raises OSError, and ``ValueError`` when it cannot be read any more."""
        text = self.file.read_text("utf-8-sig")
        found: dict[str, Any] = json.loads(text) if self._is_json(text) else tomllib.loads(text)
        return found

    def draft(self, document: Mapping[str, Any]) -> Draft:
        """The file as it would be with a document in it; comments and order of a TOML file stay.

        Raises SettingsError for what the server could not run with, OSError, and ``ValueError`` for what cannot be
        written.  Nothing is changed yet.
        """
        settings = self._change(parse(document, self.folder))
        text = self.file.read_text("utf-8-sig")
        if self._is_json(text):
            written = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        else:
            written = _toml(text, document)
        return Draft(written.encode(), settings)

    def put(self, draft: Draft) -> None:
        """Have the file hold a draft: whoever looks finds all of it or what was there before.  Raises OSError."""
        file = self.file.resolve()
        before = file.stat()
        durable.replace(file, draft.octets)
        # Whoever could read it can still do so, and nobody else.
        with suppress(OSError):
            os.chown(file, before.st_uid, before.st_gid)
            os.chmod(file, stat.S_IMODE(before.st_mode))

    def _is_json(self, text: str) -> bool:
        suffix = self.file.suffix.lower()
        return suffix == ".json" or (suffix != ".toml" and text.lstrip().startswith("{"))


def _toml(text: str, wanted: Mapping[str, Any]) -> str:
    """A TOML file that says what is wanted, as far as can be in the words of ``text``.  Raises ``ValueError``."""
    import tomlkit  # read in where somebody changes something
    from tomlkit.exceptions import TOMLKitError

    # Keys of one table that stand in several places are more than tomlkit can change one by one.
    for take_on in (_take_on, _take_on_whole):
        kept = tomlkit.parse(text)
        try:
            take_on(kept, wanted)
            written = tomlkit.dumps(kept)
            if tomllib.loads(written) == wanted:
                return written
        except (TOMLKitError, LookupError, tomllib.TOMLDecodeError):
            continue
    # Better no change than another one than was meant.
    raise ValueError("it is written in a way that a program cannot change")


def _take_on_whole(kept: Any, wanted: Mapping[str, Any]) -> None:
    """The same, by writing anew whatever differs at the top."""
    for key in [key for key in kept if key not in wanted or kept[key] != wanted[key]]:
        del kept[key]
    for key, value in wanted.items():
        if key not in kept:
            kept[key] = value


def _take_on(kept: Any, wanted: Mapping[str, Any]) -> None:
    """Make a TOML table say what is wanted, touching nothing that says it already."""
    behind = _taken_off(kept)
    for key in [key for key in kept if key not in wanted]:
        del kept[key]
    for key, value in wanted.items():
        if isinstance(value, Mapping) and isinstance(kept.get(key), Mapping):
            _take_on(kept[key], value)
        elif key not in kept or kept[key] != value:
            kept[key] = value
    if behind:
        kept.value.body.extend(behind)


def _taken_off(table: Any) -> list[Any]:
    """The comments and blank lines at a table's end, off it: they belong to the next, and new keys come before them."""
    from tomlkit.items import Comment, Null, Table, Whitespace

    behind: list[Any] = []
    if isinstance(table, Table):
        while table.value.body and isinstance(table.value.body[-1][1], (Comment, Null, Whitespace)):
            behind.insert(0, table.value.body.pop())
    return behind
