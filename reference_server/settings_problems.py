"""What is wrong with a configuration, said so that its author can put it right.

Owns: the problem (where, what), the error that carries all of them at once, and the plain words for what a
model refused.  Deliberately knows no setting: suggestions are made from the names that it is handed.  No
value is ever quoted from below a secret key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

Location: TypeAlias = Sequence[int | str]

SECRET_KEYS = frozenset({"password", "password_hash"})


@dataclass(frozen=True, slots=True)
class Problem:
    """``where`` is the path of a key, such as ``services.imap.ports[1]``, or a place in the file, or empty."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class SettingsError(Exception):
    """A configuration that cannot be used; ``problems`` are all that were found, in the file's order."""

    def __init__(self, problems: Sequence[Problem], source: Path | None = None) -> None:
        self.problems = tuple(problems)
        self.source = source
        super().__init__(self._text())

    def _text(self) -> str:
        name = f"{self.source}: " if self.source is not None else ""
        if len(self.problems) == 1:
            return f"{name}{self.problems[0]}"
        lines = [f"{name}{len(self.problems)} problems", *(f"  {problem}" for problem in self.problems)]
        return "\n".join(lines)


def path(location: Location) -> str:
    """``("services", "imap", "ports", 1)`` as ``services.imap.ports[1]``."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def unknown_key(key: str, known: Sequence[str], meant: Mapping[str, str]) -> str:
    """The words for a key that does not exist; ``meant`` maps names from elsewhere to what they are here."""
    if key in meant:
        return f"there is no such key; did you mean {meant[key]}?"
    from difflib import get_close_matches

    close = get_close_matches(key, known, n=1, cutoff=0.6)
    if close:
        return f"there is no such key; did you mean {close[0]}?"
    return f"there is no such key; known here: {', '.join(known)}"


def in_plain_words(error: Mapping[str, Any]) -> str:
    """What one error of a pydantic model means (an item of ``ValidationError.errors()``)."""
    kind: str = error["type"]
    context: Mapping[str, Any] = error.get("ctx", {})
    match kind:
        case "missing":
            return "is missing"
        case "int_type" | "int_from_float" | "int_parsing":
            wanted = "must be a whole number"
        case "float_type" | "float_parsing" | "finite_number":
            wanted = "must be a number"
        case "bool_type" | "bool_parsing":
            wanted = "must be true or false"
        case "string_type" | "path_type":
            wanted = "must be text in quotes"
        case "tuple_type" | "list_type":
            wanted = "must be a list in square brackets"
        case "model_type" | "dict_type" | "model_attributes_type":
            wanted = "must be a table of keys"
        case "greater_than":
            wanted = f"must be more than {context['gt']:g}"
        case "greater_than_equal":
            wanted = f"must be at least {context['ge']:g}"
        case "less_than_equal":
            wanted = f"must be at most {context['le']:g}"
        case "literal_error" | "enum":
            wanted = f"must be {context['expected']}"
        case "value_error":
            return str(context["error"])
        case _:
            wanted = str(error["msg"])
    return f"{wanted}, not {_shown(error)}"


def _shown(error: Mapping[str, Any]) -> str:
    if SECRET_KEYS & {part for part in error["loc"] if isinstance(part, str)}:
        return "this"
    value = error["input"]
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"' if len(value) <= 40 else "so long a text"
        case int() | float():
            return str(value)
        case dict():
            return "a table"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"
