"""Remote Admin for programs, as its documentation has it: what is answered follows the schema, whatever was asked."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from reference_server.settings import json_schema
from tests.administered import PASSWORD, Administered

SCHEMA = json_schema("api")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Administered]:
    with Administered(tmp_path_factory.mktemp("server")) as server:
        yield server


def follows(name: str, document: Any) -> None:
    Draft202012Validator({"$schema": SCHEMA["$schema"], "$ref": f"#/$defs/{name}", "$defs": SCHEMA["$defs"]}).validate(
        document
    )


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/api/services", "services"),
        ("/api/services/imap", "service"),
        ("/api/services/pop3", "service"),
        ("/api/connections", "connections"),
        ("/api/certificates", "certificates"),
    ],
)
def test_every_answer_follows_the_schema(server: Administered, path: str, kind: str) -> None:
    with server.client("imap") as client:
        assert client.hears().startswith(b"* OK")
        status, told = server.ask("GET", path)
    assert status == 200
    assert told
    follows(kind, told)
    Draft202012Validator(SCHEMA).validate(told)


def test_the_schema_is_told_by_the_server_itself(server: Administered) -> None:
    assert server.ask("GET", "/api/schema") == (200, SCHEMA)


def test_a_change_that_the_schema_takes_is_taken_and_answered_as_it_says(server: Administered) -> None:
    change = {"ports": [server.ports["pop3"]], "idle_timeout": None, "max_connections_per_ip": 3}
    follows("change", change)
    status, told = server.ask("PUT", "/api/services/pop3", change)
    assert status == 200
    follows("service", told)
    assert told["max_connections_per_ip"] == 3


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"prots": [1]}, "services.imap.prots"),
        ({"max_connections": True}, "services.imap.max_connections"),
        ({"ports": [1, "x"]}, "services.imap.ports[1]"),
        ({"bind": "*"}, "services.imap.bind"),
        ({"idle_timeout": -1}, "services.imap.idle_timeout"),
    ],
)
def test_what_the_schema_refuses_is_refused_with_its_path(server: Administered, change: Any, where: str) -> None:
    assert list(Draft202012Validator({**SCHEMA["$defs"]["change"], "$defs": SCHEMA["$defs"]}).iter_errors(change))
    status, told = server.ask("PUT", "/api/services/imap", change)
    assert status == 422
    follows("errors", told)
    assert where in [each["where"] for each in told["errors"]]


NAMED = {"Authorization": basic("root", PASSWORD)}


@pytest.mark.parametrize(
    ("asked", "headers", "body", "status"),
    [
        ("GET /api/services", {"Authorization": ""}, None, 401),
        ("GET /api/services", {"Authorization": basic("root", "guess")}, None, 401),
        ("GET /api/services", {"Authorization": basic("alice", PASSWORD)}, None, 401),
        ("GET /api/services", {"Authorization": "Bearer x"}, None, 401),
        ("GET /api/services", {"Authorization": "Basic !!!"}, None, 401),
        ("GET /api/services/gopher", NAMED, None, 404),
        ("GET /api/services/ldap", NAMED, None, 404),
        ("GET /api/nothing", NAMED, None, 404),
        ("DELETE /api/services/imap", NAMED, None, 405),
        ("DELETE /api/connections/imap/192.0.2.1/1", NAMED, None, 404),
        ("DELETE /api/connections/imap/nowhere/1", NAMED, None, 404),
        ("PUT /api/services/imap", {**NAMED, "Content-Type": "text/plain"}, "{}", 415),
        ("PUT /api/services/imap", {**NAMED, "Content-Type": "application/x-www-form-urlencoded"}, "a=b", 415),
        ("PUT /api/services/gopher", NAMED, "{}", 404),
        ("PUT /api/services/imap", NAMED, "[]", 400),
        ("PUT /api/services/imap", NAMED, "{", 400),
        ("PUT /api/services/imap", NAMED, "[" * 100_000, 400),
        ("PUT /api/services/imap", NAMED, '{"certificate": "\\ud800"}', 400),
        ("PUT /api/services/imap", NAMED, '{"max_connections": ' + "9" * 5000 + "}", 400),
        ("PUT /api/services/imap", NAMED, '{"idle_timeout": NaN}', 422),
    ],
)
def test_whatever_is_wrong_is_told_in_one_form(
    server: Administered, asked: str, headers: dict[str, str], body: str | None, status: int
) -> None:
    before = server.file.read_bytes()
    answer = server.exchange(asked, headers, body)
    assert answer.status == status
    follows("errors", json.loads(answer.body))
    assert ("WWW-Authenticate" in dict(answer.headers)) is (status == 401)
    assert ("Allow" in dict(answer.headers)) is (status == 405)
    assert server.file.read_bytes() == before


def test_a_page_of_another_site_can_do_nothing_with_a_stored_password(server: Administered) -> None:
    """No form has the type that a change needs, and no script of elsewhere is allowed to ask with it."""
    asking = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-type"}
    preflight = server.exchange("OPTIONS /api/services/imap", {"Origin": "http://evil.test", **asking})
    assert not [name for name, _ in preflight.headers if name.lower().startswith("access-control")]
    told = dict(server.exchange("GET /api/services", {"Origin": "http://evil.test", **NAMED}).headers)
    assert told["Cross-Origin-Resource-Policy"] == "same-origin"
    assert told["Cache-Control"] == "no-store"


def test_a_cookie_is_no_password(server: Administered) -> None:
    cookies = "; ".join(f"{name}={value}" for name, value in server.browser().cookies.items())
    assert server.exchange("GET /api/services", {"Cookie": cookies}).status == 401
