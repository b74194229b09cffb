"""The settings file while the server runs: read, changed by a program, and written whole or not at all.

Owns: the file, and how a changed document is put into it without losing what people wrote around their keys.  Knows
nothing of what the settings mean.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reference_server import durable
from reference_server.settings import ServerSettings, load, parse


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

    def parsed(self, document: Mapping[str, Any]) -> ServerSettings:
        """What a document would mean in this file.  Raises SettingsError."""
        return self._change(parse(document, self.folder))

    def write(self, document: Mapping[str, Any]) -> None:
        """Put a document into the file; comments and order of a TOML file stay.  Raises OSError."""
        text = self.file.read_text("utf-8-sig")
        if self._is_json(text):
            written = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        else:
            import tomlkit  # read in where somebody changes something

            kept = tomlkit.parse(text)
            _take_on(kept, document)
            written = tomlkit.dumps(kept)
        durable.replace(self.file.resolve(), written.encode())

    def _is_json(self, text: str) -> bool:
        suffix = self.file.suffix.lower()
        return suffix == ".json" or (suffix != ".toml" and text.lstrip().startswith("{"))


def _take_on(kept: Any, wanted: Mapping[str, Any]) -> None:
    """Make a TOML table say what is wanted, touching nothing that says it already."""
    for key in [key for key in kept if key not in wanted]:
        del kept[key]
    for key, value in wanted.items():
        if isinstance(value, Mapping) and isinstance(kept.get(key), Mapping):
            _take_on(kept[key], value)
        elif key not in kept or kept[key] != value:
            kept[key] = value
