"""What a change in Remote Admin does to a server that is busy, seen from outside, and what is left of it later.

Every change is made twice: by a person with the form, and by a program.  When it is answered it is in force; whoever it
does not concern notices nothing; and it is still there when the server has been started again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.administered import Administered, Answer, OverTheWire, submitted

Change = Callable[..., Answer]
KEPT = ("# Written by a person.", "# the only one", "# IMAP is what the tests change.", "# customary is 143")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Administered]:
    with Administered(tmp_path) as server:
        yield server


@pytest.fixture(params=["form", "program"])
def change(server: Administered, request: pytest.FixtureRequest) -> Change:
    return server.by_form if request.param == "form" else server.by_program


class Bystanders:
    """A POP3 session, an SMTP message that is half sent, and an IMAP session: nobody may lose them."""

    def __init__(self, server: Administered) -> None:
        self.server = server
        self.pop3, self.smtp, self.imap = (server.client(name) for name in ("pop3", "smtp", "imap"))
        assert self.pop3.hears().startswith(b"+OK")
        assert self.pop3.says(b"USER alice").startswith(b"+OK")
        assert self.pop3.says(b"PASS let me in").startswith(b"+OK")
        assert self.smtp.hears().startswith(b"220")
        assert self.smtp.says(b"HELO client.example.test").startswith(b"250")
        assert self.smtp.says(b"MAIL FROM:<bob@example.test>").startswith(b"250")
        assert self.smtp.says(b"RCPT TO:<alice@example.test>").startswith(b"250")
        assert self.smtp.says(b"DATA").startswith(b"354")
        self.smtp.sock.sendall(b"Subject: under way\r\n\r\nthe first half\r\n")
        assert self.imap.hears().startswith(b"* OK")

    def are_well(self, *, imap: bool = True) -> None:
        """They go on where they were."""
        assert self.pop3.says(b"NOOP").startswith(b"+OK")
        assert self.smtp.says(b"the second half\r\n.").startswith(b"250")
        if imap:
            assert self.imap.says(b"a NOOP").startswith(b"a OK")
        assert self.pop3.says(b"QUIT").startswith(b"+OK")
        with self.server.client("pop3") as reader:
            reader.hears()
            reader.says(b"USER alice")
            reader.says(b"PASS let me in")
            assert b"the first half\r\nthe second half\r\n" in reader.says(b"RETR 1", b"\r\n.\r\n")
        for client in (self.pop3, self.smtp, self.imap):
            client.sock.close()


def is_kept(server: Administered) -> None:
    text = server.file.read_text()
    for comment in KEPT:
        assert comment in text
    assert not [name for name in os.listdir(server.folder) if "fresh" in name]


# -- the five changes --------------------------------------------------------------------------------------------------


def test_a_port_moves(server: Administered, change: Change) -> None:
    bystanders = Bystanders(server)
    assert change("imap", ports=[server.ports["other"]]).status in (200, 303)

    def moved() -> None:
        with server.client("other") as client:
            assert client.hears().startswith(b"* OK")
        assert server.refuses("imap")

    moved()
    bystanders.are_well()
    is_kept(server)
    server.restart()
    moved()


def test_a_limit_bites(server: Administered, change: Change) -> None:
    bystanders = Bystanders(server)
    assert change("imap", max_connections=1).status in (200, 303)
    with server.client("imap") as surplus:
        assert surplus.hears().startswith(b"* BYE")
    bystanders.are_well()
    is_kept(server)
    server.restart()
    with server.client("imap") as first, server.client("imap") as second:
        assert first.hears().startswith(b"* OK")
        assert second.hears().startswith(b"* BYE")


def test_a_time_out_counts_for_who_is_in_already(server: Administered, change: Change) -> None:
    bystanders = Bystanders(server)
    assert change("imap", idle_timeout=0.3).status in (200, 303)
    assert b"* BYE" in bystanders.imap.hears()
    bystanders.are_well(imap=False)
    is_kept(server)
    server.restart()
    with server.client("imap") as client:
        assert b"* BYE" in client.hears(b"BYE")


def test_another_certificate_is_shown(server: Administered, change: Change) -> None:
    bystanders = Bystanders(server)
    main, second = (server.chains[name][0].read_bytes() for name in ("main", "second"))
    assert server.certificate_shown() in main
    assert change("imap", certificate="second").status in (200, 303)
    assert server.certificate_shown() in second
    bystanders.are_well()
    is_kept(server)
    server.restart()
    assert server.certificate_shown() in second


def test_ranges_turn_somebody_away(server: Administered, change: Change) -> None:
    bystanders = Bystanders(server)
    assert change("imap", allow=["127.0.0.0/24"], deny=["127.0.0.7-127.0.0.9"]).status in (200, 303)

    def turned_away() -> None:
        with server.client("imap", "127.0.0.8") as stranger, server.client("imap", "127.0.0.6") as friend:
            assert not stranger.hears().startswith(b"* OK")
            assert friend.hears().startswith(b"* OK")

    turned_away()
    bystanders.are_well()
    is_kept(server)
    server.restart()
    turned_away()


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Administered]:
    """One server for all that must change nothing."""
    with Administered(tmp_path_factory.mktemp("unchanged")) as server:
        before = server.file.read_bytes()
        yield server
        assert server.file.read_bytes() == before


@pytest.mark.parametrize("way", ["form", "program"])
@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("ports", [70000], "65535"),
        ("ports", "taken", "is taken by services.pop3.ports[0]"),
        ("max_connections", -1, ""),
        ("max_connections", 10**30, ""),
        ("idle_timeout", 0, "more than 0"),
        ("idle_timeout", "1e999", ""),
        ("certificate", "third", "third"),
        ("allow", ["10.0.0.0/33"], "10.0.0.0/33"),
        ("deny", ["10.0.0.5-10.0.0.1"], ""),
    ],
)
def test_what_cannot_be_changes_nothing_and_is_told_where_it_is(
    unchanged: Administered, way: str, key: str, value: Any, reason: str
) -> None:
    before = unchanged.file.read_bytes()
    change = unchanged.by_form if way == "form" else unchanged.by_program
    answer = change("imap", **{key: [unchanged.ports["pop3"]] if value == "taken" else value})
    assert answer.status == 422
    assert reason in answer.troubles[key], answer
    assert unchanged.file.read_bytes() == before
    with unchanged.client("imap") as client:
        assert client.hears().startswith(b"* OK")
    assert unchanged.certificate_shown() in unchanged.chains["main"][0].read_bytes()


# -- Remote Admin changes itself ---------------------------------------------------------------------------------------


def test_it_says_where_it_went_and_is_there(server: Administered) -> None:
    browser = server.browser()
    port = server.ports["other"]
    answer = submitted(browser, "admin", ports=[port])
    assert answer.status == 200
    assert "Remote Admin has moved" in answer.said
    assert f'href="http://127.0.0.1:{port}/"' in browser.page
    assert server.refuses("admin")
    browser.application = OverTheWire(port)  # the link is followed
    assert "Sign out" in browser.get("/").text  # and nobody has to sign in again
    server.restart()
    assert "Sign out" in server.browser(port).text


def test_a_program_is_told_where_it_went(server: Administered) -> None:
    _, table = server.ask("GET", "/api/services/admin")
    port = server.ports["other"]
    status, told = server.ask("PUT", "/api/services/admin", {**table, "ports": [port]})
    assert (status, told["ports"]) == (200, [port])
    assert server.refuses("admin")
    assert server.ask("GET", "/api/services/admin", port=port) == (200, told)


def test_another_address_is_named_where_it_is_another_one(server: Administered) -> None:
    browser = server.browser()
    assert "Remote Admin has moved" in submitted(browser, "admin", bind=["127.0.0.2"]).said
    assert f'href="http://127.0.0.2:{server.ports["admin"]}/"' in browser.page


def test_another_port_beside_the_first_is_no_move(server: Administered) -> None:
    ports = [server.ports["admin"], server.ports["other"]]
    assert "the new settings are in force" in server.by_form("admin", ports=ports).said


def test_whoever_switches_it_off_is_told_how_to_have_it_back(server: Administered) -> None:
    answer = server.by_form("admin", enabled=False)
    assert "Remote Admin is switched off" in answer.said
    assert str(server.file) in answer.said
    assert server.refuses("admin")
    with server.client("imap") as client:
        assert client.hears().startswith(b"* OK")


def test_one_connection_is_enough_for_whoever_allows_one(server: Administered, change: Change) -> None:
    assert change("admin", max_connections=1).status in (200, 303)
    assert server.by_form("admin", max_connections=20).status in (200, 303)


@pytest.mark.parametrize("way", ["form", "program"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("deny", ["127.0.0.0/8"]),
        ("allow", ["192.0.2.0/24"]),
        ("idle_timeout", 0.01),
        ("ports", [0]),
    ],
)
def test_nobody_locks_themselves_out(unchanged: Administered, way: str, key: str, value: Any) -> None:
    change = unchanged.by_form if way == "form" else unchanged.by_program
    answer = change("admin", **{key: value})
    assert answer.status == 422
    assert "would" in answer.troubles[key]
    assert unchanged.ask("GET", "/api/services")[0] == 200


def test_browsers_are_left_a_way_in(server: Administered) -> None:
    answer = server.by_form("admin", explicit_tls=True, certificate="main", require_tls_for_login=True)
    assert answer.status == 422
    assert "browsers" in answer.troubles["require_tls_for_login"]


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_written_changes_nothing(server: Administered, change: Change) -> None:
    fresh = server.file.with_name(f"{server.file.name}.fresh")
    fresh.mkdir()  # the place where the new file would be made
    (fresh / "occupied").touch()
    answer = change("imap", max_connections=1)
    assert answer.status in (409, 422)
    assert "cannot be changed" in answer.troubles[""]
    assert server.ask("GET", "/api/services/imap")[1]["max_connections"] == 50
    with server.client("imap") as first, server.client("imap") as second:
        assert first.hears().startswith(b"* OK")
        assert second.hears().startswith(b"* OK")


def test_what_people_wrote_meanwhile_is_kept(server: Administered, change: Change) -> None:
    server.file.write_text(server.file.read_text().replace("# customary is 143", "# customary is 143, still"))
    server.file.chmod(0o640)
    assert change("imap", max_connections=7).status in (200, 303)
    assert "# customary is 143, still" in server.file.read_text()
    assert server.file.stat().st_mode & 0o777 == 0o640


def test_settings_that_are_sent_back_as_they_came_are_not_written(server: Administered) -> None:
    before = server.file.read_bytes()
    for service in ("smtp", "pop3", "imap", "admin"):  # among them null, for what is not set
        assert server.by_program(service).status == 200
    assert server.file.read_bytes() == before


def test_what_is_left_out_is_inherited_again(server: Administered) -> None:
    ports = [server.ports["imap"]]
    assert server.ask("PUT", "/api/services/imap", {"ports": ports, "max_connections": 3})[0] == 200
    status, told = server.ask("PUT", "/api/services/imap", {"ports": ports, "max_connections": None})
    assert (status, told["max_connections"], told["implicit_tls_ports"]) == (200, 50, [])
    assert "max_connections" not in server.file.read_text()
