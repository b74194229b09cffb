"""The form of a page by which people sign in, as a browser would find it.

Owns: which form of a page that is, and what is sent when it has been filled in.  Knows no server and no connection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urlencode

#: Kinds of fields that people write their name into (HTML, the input element).
_NAMES = frozenset({"text", "email", ""})


@dataclass(slots=True)
class LoginForm:
    """A form with a field for a password.  ``fields`` are those that are sent as they are."""

    action: str = ""
    method: str = "get"
    name: str = ""
    password: str = ""
    fields: list[tuple[str, str]] = field(default_factory=list)

    def filled_in(self, name: str, password: str) -> bytes:
        """The content of the request, as ``application/x-www-form-urlencoded``."""
        return urlencode([*self.fields, (self.name, name), (self.password, password)]).encode()


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[LoginForm] = []
        self._open: LoginForm | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._open = LoginForm(said.get("action", ""), said.get("method", "get").lower())
            self.found.append(self._open)
        elif self._open is not None and tag in ("input", "button"):
            self._field(self._open, tag, said)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = None

    @staticmethod
    def _field(form: LoginForm, tag: str, said: dict[str, str]) -> None:
        kind, name = said.get("type", "").lower(), said.get("name", "")
        if tag == "input" and kind == "password":
            form.password = name
        elif tag == "input" and kind in _NAMES and not form.name:
            form.name = name
        elif name and (kind in ("hidden", "submit") or (kind == "checkbox" and "checked" in said)):
            form.fields.append((name, said.get("value", "")))


def login_form(page: bytes) -> LoginForm | None:
    """The first form that asks for a password; None where there is none."""
    forms = _Forms()
    forms.feed(page.decode("utf-8", "replace"))
    forms.close()
    return next((form for form in forms.found if form.password), None)
