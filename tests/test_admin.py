"""Remote Admin: what it shows of a server that runs, what it changes, and what it leaves as it was."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from certs import Authority
from conformance.procfs import free_ports
from reference_server.configuration import Configuration
from reference_server.protocols.http import Response
from reference_server.server import Server
from reference_server.settings import Service
from reference_server.web.admin import Admin
from tests.browsing import Browser

SOON = 10.0
PASSWORD = "let me in"


@dataclass
class Running:
    """A server on a loop of its own, and its settings file."""

    server: Server
    file: Path
    imap_port: int
    other_port: int
    certificate: Path

    @property
    def admin(self) -> Admin:
        application = self.server._behind[Service.ADMIN]
        assert isinstance(application, Admin)
        return application

    def written(self) -> dict[str, Any]:
        return tomllib.loads(self.file.read_text())

    def client(self) -> socket.socket:
        """Somebody who has been greeted by IMAP."""
        client = socket.create_connection(("127.0.0.1", self.imap_port), SOON)
        assert client.recv(1000).startswith(b"*")
        return client


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    imap, admin, other = free_ports(3)
    chain, key = Authority.create().issue().write(tmp_path / "made")
    file = tmp_path / "server.toml"
    file.write_text(
        f"""# what people wrote stays
hostname = "mail.example.test"
data = "mail"

[certificates.main]
chain = "{chain}"
key = "{key}"

[[accounts]]
name = "root"
password = "{PASSWORD}"
address = "root@example.test"
admin = true

[[accounts]]
name = "alice"
password = "{PASSWORD}"
address = "alice@example.test"

[services.admin]
bind = ["127.0.0.1"]
ports = [{admin}]

[services.imap]
bind = ["127.0.0.1"]  # and nowhere else
ports = [{imap}]
"""
    )
    configuration = Configuration(file)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = Server(configuration.load(), None, configuration)
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(SOON)
    yield Running(server, file, imap, other, chain.parent)
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(SOON)
    assert server.bugs == 0
    loop.call_soon_threadsafe(loop.stop)
    thread.join(SOON)
    loop.close()


@pytest.fixture
def root(running: Running) -> Browser:
    return Browser(running.admin).sign_in("root", PASSWORD)


def form(running: Running, **changes: str) -> dict[str, str]:
    """The form of IMAP as it stands, with some fields filled in differently."""
    fields = {
        "enabled": "on", "ports": str(running.imap_port), "bind": "listed", "addresses": "127.0.0.1",
        "max_connections": "50", "max_connections_per_ip": "0", "idle_timeout": "1800", "implicit_tls_ports": "",
        "certificate": "", "allow": "", "deny": "", "login_failures": "0", "login_window": "300", "login_block": "900",
    }  # fmt: skip
    return {**fields, **changes}


# -- at the door -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "password"), [("alice", PASSWORD), ("root", "guess"), ("", ""), ("root", "")])
def test_nobody_comes_in_but_administrators(running: Running, name: str, password: str) -> None:
    browser = Browser(running.admin).sign_in(name, password)
    assert browser.response.status == 403
    assert browser.response.login_failed
    assert "Name or password is wrong." in browser.text
    for path in ("/", "/services/imap", "/connections", "/certificates"):
        assert "Sign in" in browser.get(path).text


@pytest.mark.parametrize("path", ["/services/imap", "/connections", "/certificates"])
def test_nothing_is_changed_without_the_token(running: Running, root: Browser, path: str) -> None:
    before = running.file.read_text()
    root.submit(path, token="guessed", **form(running, max_connections="1"))
    assert root.response.status == 403
    assert running.file.read_text() == before


# -- looking -----------------------------------------------------------------------------------------------------------


def test_the_overview_shows_all_six_services(root: Browser) -> None:
    for name in ("SMTP", "POP3", "IMAP", "WebMail", "LDAP", "Remote Admin"):
        assert name in root.get("/").text


def test_everybody_who_is_connected_is_shown_and_can_be_cut_off(running: Running, root: Browser) -> None:
    with running.client() as client, running.client() as other:
        address, port = client.getsockname()
        assert f"Cut the connection of {address} port {port}" in root.get("/connections").page
        root.submit("/connections", service="imap", address=address, port=str(port))
        assert "The connection is cut." in root.text
        while client.recv(1000):
            pass
        other.sendall(b"a NOOP\r\n")
        assert b"a OK" in other.recv(1000)
        root.submit("/connections", service="imap", address=address, port=str(port))
        assert "had ended already" in root.text


# -- changing ----------------------------------------------------------------------------------------------------------


def test_a_limit_bites_on_the_next_connection_and_is_in_the_file(running: Running, root: Browser) -> None:
    with running.client() as first:
        root.get("/services/imap").submit("/services/imap", **form(running, max_connections="1"))
        assert "the new settings are in force" in root.text
        with socket.create_connection(("127.0.0.1", running.imap_port), SOON) as second:
            assert second.recv(1000).startswith(b"* BYE")
        first.sendall(b"a NOOP\r\n")
        assert b"a OK" in first.recv(1000)
    assert running.written()["services"]["imap"]["max_connections"] == 1
    assert "# what people wrote stays" in running.file.read_text()
    assert "# and nowhere else" in running.file.read_text()


def test_what_was_left_as_it_was_is_not_written(running: Running, root: Browser) -> None:
    before = running.file.read_text()
    root.get("/services/imap").submit("/services/imap", **form(running))
    assert "in force" in root.text
    assert running.file.read_text() == before


def test_a_service_moves_to_another_port_and_keeps_its_sessions(running: Running, root: Browser) -> None:
    with running.client() as client:
        root.get("/services/imap").submit("/services/imap", **form(running, ports=str(running.other_port)))
        with socket.create_connection(("127.0.0.1", running.other_port), SOON) as moved:
            assert moved.recv(4).startswith(b"*")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", running.imap_port), SOON)
        client.sendall(b"a NOOP\r\n")
        assert b"a OK" in client.recv(1000)


def test_a_service_is_switched_on_and_off(running: Running, root: Browser) -> None:
    fields = form(running, ports=str(running.other_port))
    root.get("/services/ldap").submit("/services/ldap", **fields)
    assert "LDAP: the new settings are in force" in root.text
    socket.create_connection(("127.0.0.1", running.other_port), SOON).close()
    root.submit("/services/ldap", **{key: value for key, value in fields.items() if key != "enabled"})
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", running.other_port), SOON)


@pytest.mark.parametrize(
    ("changes", "key", "reason"),
    [
        ({"max_connections": "many"}, "max_connections", "is not a whole number"),
        ({"ports": "143, x"}, "ports", "is not a port"),
        ({"ports": "99999"}, "ports", ""),
        ({"idle_timeout": "soon"}, "idle_timeout", "is not a number of seconds"),
        ({"idle_timeout": "-1"}, "idle_timeout", ""),
        ({"allow": "10.0.0.5-10.0.0.1"}, "allow", ""),
        ({"deny": "everybody"}, "deny", "is not an IP address"),
        ({"addresses": ""}, "addresses", "at least one address"),
        ({"addresses": "192.0.2.77"}, "", "does not have that address"),
        ({"certificate": "none"}, "certificate", ""),
    ],
)
def test_what_cannot_be_changes_nothing_and_is_told_at_its_field(
    running: Running, root: Browser, changes: dict[str, str], key: str, reason: str
) -> None:
    before = running.file.read_text()
    root.get("/services/imap").submit("/services/imap", **form(running, **changes))
    assert root.response.status == 422
    assert "Nothing was changed." in root.text
    assert reason in root.text
    if key:
        assert f'id="{key}-trouble"' in root.page
    for field, value in changes.items():
        if field not in ("certificate",):
            assert root.value(field) == value  # what was typed is still there
    assert running.file.read_text() == before
    running.client().close()


def test_warnings_stand_where_they_belong(running: Running, root: Browser) -> None:
    root.get("/services/imap").submit("/services/imap", **form(running, max_connections="500"))
    assert "more than 200 connections" in root.get("/services/imap").text
    assert "more than 200 connections" in root.get("/").text


# -- certificates ------------------------------------------------------------------------------------------------------


def test_a_certificate_is_added_and_can_be_selected(running: Running, root: Browser) -> None:
    chain, key = ((running.certificate / name).read_text() for name in ("chain.pem", "key.pem"))
    root.get("/certificates").submit("/certificates", name="second", chain=chain, key=key)
    assert "The certificate second can be selected now." in root.text
    kept = running.file.parent / "certificates" / "second" / "key.pem"
    assert kept.read_text() == key
    assert kept.stat().st_mode & 0o077 == 0
    fields = form(running, certificate="second", implicit_tls_ports=str(running.other_port))
    root.get("/services/imap").submit("/services/imap", **fields)
    assert "in force" in root.text
    assert "second" in root.get("/certificates").text


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": "main"}, "already"),
        ({"name": "../x"}, "small letters"),
        ({"key": "nonsense"}, "the key is not in PEM form"),
        ({"chain": "-----BEGIN NOTHING-----"}, "certificate"),
    ],
)
def test_a_certificate_that_cannot_be_is_refused(
    running: Running, root: Browser, fields: dict[str, str], reason: str
) -> None:
    before = running.file.read_text()
    chain, key = ((running.certificate / name).read_text() for name in ("chain.pem", "key.pem"))
    root.get("/certificates").submit("/certificates", **{"name": "second", "chain": chain, "key": key, **fields})
    assert root.response.status == 422
    assert reason in root.text
    assert running.file.read_text() == before


# -- for programs ------------------------------------------------------------------------------------------------------


def api(running: Running, method: str, path: str, body: Any = None, *, name: str = "root", **headers: str) -> Response:
    credentials = base64.b64encode(f"{name}:{PASSWORD}".encode()).decode()
    octets = b"" if body is None else json.dumps(body).encode()
    fields = {"authorization": f"Basic {credentials}", "content_type": "application/json", **headers}
    return Browser(running.admin).ask(method, f"/api{path}", octets, **fields)


def test_a_program_reads_and_changes_settings(running: Running) -> None:
    told = json.loads(api(running, "GET", "/services").body)
    assert told["imap"]["ports"] == [running.imap_port]
    table = {"bind": ["127.0.0.1"], "ports": [running.imap_port], "max_connections": 2}
    assert api(running, "PUT", "/services/imap", table).status == 200
    assert running.server.settings.services[Service.IMAP].max_connections == 2
    refused = api(running, "PUT", "/services/imap", {**table, "prots": [1]})
    assert refused.status == 422
    assert json.loads(refused.body)["errors"][0]["where"] == "services.imap.prots"
    assert json.loads(api(running, "GET", "/schema").body)["$defs"]["service"]["properties"]["idle_timeout"]


def test_a_program_sees_and_cuts_connections(running: Running) -> None:
    with running.client() as client:
        (guest,) = json.loads(api(running, "GET", "/connections").body)
        assert (guest["service"], guest["channel"], guest["port"]) == ("imap", "plain", client.getsockname()[1])
        path = f"/connections/imap/{guest['address']}/{guest['port']}"
        assert api(running, "DELETE", path).status == 204
        assert api(running, "DELETE", path).status == 404


def test_programs_are_asked_who_they_are(running: Running) -> None:
    assert api(running, "GET", "/services", name="alice").status == 401
    assert api(running, "GET", "/services", authorization="").status == 401
    assert api(running, "PUT", "/services/imap", {}, content_type="text/plain").status == 415
    assert api(running, "GET", "/nowhere").status == 404
