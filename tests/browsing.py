"""A browser without a window: follows redirects, keeps cookies, fills in forms.  For the web interfaces' tests."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import unescape
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from reference_server.protocols.http import Application, Request, Response
from reference_server.session import IPAddress
from tests.dialogue import PEER


@dataclass
class Browser:
    """One person at one interface, without a network in between."""

    application: Application
    secure: bool = False
    may_log_in: bool = True
    address: IPAddress = PEER.address
    cookies: dict[str, str] = field(default_factory=dict)
    page: str = ""
    path: str = ""
    response: Response = field(default_factory=Response)

    def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Response:
        """One request, as it is, and nothing after it."""
        parts = urlsplit(target)
        fields = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        if self.cookies:
            fields.setdefault("cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()))
        query = parse_qs(parts.query, keep_blank_values=True)
        self.response = self.application.answer(
            Request(
                method, unquote(parts.path), parts.path, query, fields, body, self.address, "mail.example.test",
                self.secure, self.may_log_in,
            )
        )  # fmt: skip
        for name, value in self.response.headers:
            if name == "Set-Cookie":
                for key, morsel in SimpleCookie(value).items():
                    self.cookies[key] = morsel.value
        self.path, self.page = target, self.response.body.decode(errors="replace")
        return self.response

    def get(self, target: str) -> Browser:
        """A page, wherever it is by now."""
        self.ask("GET", target)
        return self._follow()

    def submit(self, target: str, /, **fields: str | list[str]) -> Browser:
        """The form of the page that is open, with its token."""
        token = re.search(r'name="token" value="([^"]*)"', self.page)
        form = {**({"token": token[1]} if token else {}), **fields}
        kind = "application/x-www-form-urlencoded"
        self.ask("POST", target, urlencode(form, doseq=True).encode(), content_type=kind)
        return self._follow()

    def sign_in(self, name: str, password: str) -> Browser:
        return self.get("/login").submit("/login", name=name, password=password)

    @property
    def text(self) -> str:
        """What a person sees."""
        plain = re.sub(r"<head>.*?</head>", "", self.page, flags=re.DOTALL)
        return " ".join(unescape(re.sub(r"<[^>]+>", " ", plain)).split())

    def value(self, name: str) -> str:
        """What stands in a field of a form."""
        found = re.search(rf'<input[^>]* name="{name}"[^>]*>', self.page)
        value = re.search(r' value="([^"]*)"', found[0]) if found else None
        if value is None:
            area = re.search(rf'<textarea[^>]* name="{name}"[^>]*>(.*?)</textarea>', self.page, re.DOTALL)
            return unescape(area[1]) if area else ""
        return unescape(value[1])

    def header(self, name: str) -> str:
        return next((value for each, value in self.response.headers if each.lower() == name.lower()), "")

    def _follow(self) -> Browser:
        for _ in range(5):
            if self.response.status != 303:
                return self
            self.ask("GET", self.header("Location"))
        raise AssertionError("it goes round in circles")
