"""The real server as a process, changed through Remote Admin the way a person and the way a program does it.

Owns: the settings file of such a server, and the two ways to its Remote Admin: the form of a page, and the programs'
interface.  What a change does is looked at from outside, by whoever uses this.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Self

from certs import Authority
from conformance.procfs import free_ports
from reference_server.protocols.http import Request, Response
from tests.browsing import Browser

SOON = 20.0
PASSWORD = "let me in"
CREDENTIALS = base64.b64encode(f"root:{PASSWORD}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a change: what was wrong, by key; ``""`` is what belongs to none."""

    status: int
    troubles: Mapping[str, str] = field(default_factory=dict)
    said: str = ""


class OverTheWire:
    """An application that is asked over HTTP, each request on a connection of its own.  For a :class:`Browser`."""

    def __init__(self, port: int) -> None:
        self.port = port

    def answer(self, request: Request) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SOON)
        with contextlib.closing(connection):
            connection.request(request.method, request.target, request.body or None, dict(request.headers))
            answer = connection.getresponse()
            return Response(answer.status, tuple(answer.getheaders()), answer.read())


class Administered:
    """A server with a settings file that people wrote comments into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "server.toml"
        names = ("smtp", "pop3", "imap", "admin", "secure", "spare", "other")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        authority = Authority.create()
        self.chains = {name: authority.issue().write(folder / name) for name in ("main", "second")}
        self.file.write_text(self._text())
        self.process = self._started()

    def _text(self) -> str:
        certificates = "\n".join(
            f'[certificates.{name}]\nchain = "{chain}"\nkey = "{key}"\n' for name, (chain, key) in self.chains.items()
        )
        ports = self.ports
        return f"""# Written by a person.
hostname = "mail.example.test"
data = "mail"

{certificates}
[[accounts]]
name = "root"  # the only one
password = "{PASSWORD}"
address = "root@example.test"
admin = true

[[accounts]]
name = "alice"
password = "{PASSWORD}"
address = "alice@example.test"

[defaults]
bind = ["127.0.0.1"]

[services.smtp]
ports = [{ports["smtp"]}]

[services.pop3]
ports = [{ports["pop3"]}]

# IMAP is what the tests change.
[services.imap]
ports = [{ports["imap"]}]  # customary is 143
implicit_tls_ports = [{ports["secure"]}]
certificate = "main"

[services.admin]
ports = [{ports["admin"]}]
"""

    def _started(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "reference_server", "--events", "--exit-with-stdin", str(self.file)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert "ready" in process.stdout.readline(), process.communicate()[1]
        return process

    def restart(self) -> None:
        """End it and start it again with the same file."""
        self._stop()
        self.process = self._started()

    def _stop(self) -> None:
        self.process.terminate()
        try:
            said = self.process.communicate(timeout=SOON)[1]
        finally:
            self.process.kill()
        assert "Traceback" not in said, said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._stop()

    # -- clients -------------------------------------------------------------------------------------------------------

    def client(self, where: str | int, source: str = "127.0.0.1") -> Client:
        """Somebody who connects, and has heard nothing yet."""
        port = where if isinstance(where, int) else self.ports[where]
        return Client(socket.create_connection(("127.0.0.1", port), SOON, source_address=(source, 0)))

    def refuses(self, where: str | int) -> bool:
        """Whether nobody listens there."""
        try:
            self.client(where).sock.close()
        except ConnectionRefusedError:
            return True
        return False

    def certificate_shown(self) -> bytes:
        """The certificate of IMAP's implicit port, as PEM."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with self.client("secure").sock as sock, context.wrap_socket(sock) as wrapped:
            shown = wrapped.getpeercert(binary_form=True)
            assert shown is not None
            return ssl.DER_cert_to_PEM_cert(shown).encode()

    # -- the two ways to change something ------------------------------------------------------------------------------

    def browser(self, port: int | None = None) -> Browser:
        """An administrator who has signed in."""
        return Browser(OverTheWire(port or self.ports["admin"])).sign_in("root", PASSWORD)

    def by_form(self, service: str, **changes: Any) -> Answer:
        """Open the page of a service, fill in some fields, press the button."""
        return submitted(self.browser(), service, **changes)

    def by_program(self, service: str, **changes: Any) -> Answer:
        """Ask for the service's settings, send them back with some changed."""
        status, table = self.ask("GET", f"/api/services/{service}")
        assert status == 200, table
        status, told = self.ask("PUT", f"/api/services/{service}", {**table, **changes})
        prefix = f"services.{service}."
        errors = told.get("errors", [])
        troubles = {each["where"].removeprefix(prefix).partition("[")[0]: each["what"] for each in errors}
        return Answer(status, troubles, json.dumps(told))

    def ask(self, method: str, path: str, body: Any = None, port: int | None = None, **headers: str) -> tuple[int, Any]:
        """One request of a program: the status, and the JSON that came."""
        octets = None if body is None else json.dumps(body)
        answer = self.exchange(f"{method} {path}", {"Authorization": f"Basic {CREDENTIALS}", **headers}, octets, port)
        return answer.status, json.loads(answer.body) if answer.body else None

    def exchange(
        self, asked: str, headers: Mapping[str, str], body: str | None = None, port: int | None = None
    ) -> Response:
        """One request as it is, such as ``GET /api/services``; its content is JSON unless the headers say otherwise."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.ports["admin"], timeout=SOON)
        with contextlib.closing(connection):
            method, path = asked.split(" ")
            connection.request(method, path, body, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            return Response(answer.status, tuple(answer.getheaders()), answer.read())


def submitted(browser: Browser, service: str, **changes: Any) -> Answer:
    """The form of a service sent off with some fields filled in differently; lists are written as people do."""
    browser.get(f"/services/{service}")
    fields = fields_of(browser.page)
    for key, value in changes.items():
        name = "addresses" if key == "bind" else key
        text = "\n".join(map(str, value)) if isinstance(value, list) else str(value)
        fields[name] = text.replace("\n", ", ") if key.endswith("ports") else text
        if key == "bind":
            fields["bind"] = "listed"
        if value is False:
            fields.pop(name)
        elif value is True:
            fields[name] = "on"
    browser.submit(f"/services/{service}", **fields)
    return Answer(browser.response.status, dict(_troubles(browser.page)), browser.text)


def _troubles(page: str) -> Iterator[tuple[str, str]]:
    for key, what in re.findall(r'<p class="field-trouble" id="(\w+)-trouble">(.*?)</p>', page, re.DOTALL):
        yield key, unescape(what)
    alert = re.search(r'<div class="trouble" role="alert">(.*?)</div>', page, re.DOTALL)
    if alert is not None:
        yield "", unescape(re.sub(r"<[^>]+>", " ", alert[1])).strip()


class _Form(HTMLParser):
    """Reads what a browser would send of the last form on a page."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self._inside = self._select = self._option = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = {name: value or "" for name, value in attrs}
        match tag:
            case "form":
                self.fields = {}
            case "input" if of.get("type") not in ("checkbox", "radio") or "checked" in of:
                self.fields[of["name"]] = of.get("value", "on")
            case "textarea":
                self._inside = of["name"]
                self.fields[self._inside] = ""
            case "select":
                self._select = of["name"]
                self.fields[self._select] = ""
            case "option" if "selected" in of:
                self._option = self._select

    def handle_endtag(self, tag: str) -> None:
        if tag in ("textarea", "option"):
            self._inside = self._option = ""

    def handle_data(self, data: str) -> None:
        name = self._inside or self._option
        if name:
            self.fields[name] += data


def fields_of(page: str) -> dict[str, str]:
    """What the last form of a page would send as it stands."""
    form = _Form()
    form.feed(page)
    return form.fields


@dataclass
class Client:
    """Somebody on a connection, who speaks in lines."""

    sock: socket.socket

    def hears(self, until: bytes = b"\r\n") -> bytes:
        """What comes, up to there or to the end."""
        said = b""
        while until not in said:
            data = self.sock.recv(10_000)
            if not data:
                break
            said += data
        return said

    def says(self, line: bytes, until: bytes = b"\r\n") -> bytes:
        """A line, and what is answered."""
        self.sock.sendall(line + b"\r\n")
        return self.hears(until)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()
