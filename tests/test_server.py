"""The whole server: it starts or says why not, takes on other settings while it runs, and stops in good order."""

from __future__ import annotations

import json
import os
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from certs import Authority
from conformance.procfs import free_ports
from tests.components import needs
from tests.mail_server import PASSWORD, SOON, MailServer, settings


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    document = settings(tmp_path, bind=["127.0.0.1"], max_connections=5)
    document["services"]["smtp"]["max_connections"] = 2
    return document


@pytest.fixture
def server(tmp_path: Path, document: dict[str, Any]) -> Iterator[MailServer]:
    with MailServer(tmp_path, document) as server:
        ready = server.event()
        assert ready["event"] == "ready"
        assert ready["pids"] == [server.process.pid]
        yield server


def connect(number: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", number), SOON)


def first_line(sock: socket.socket) -> bytes:
    return sock.makefile("rb").readline()


def test_ready_means_that_every_listener_accepts(server: MailServer) -> None:
    for service, greeting in (("smtp", b"220 "), ("pop3", b"+OK")):
        with connect(server.port(service)) as client:
            assert first_line(client).startswith(greeting)


def test_a_stop_says_farewell_and_ends_with_status_0(server: MailServer) -> None:
    with connect(server.port("smtp")) as client:
        reader = client.makefile("rb")
        assert reader.readline().startswith(b"220")
        server.process.terminate()
        assert reader.readline().startswith(b"421")
        assert reader.readline() == b""
    assert server.process.wait(SOON) == 0


def test_it_ends_with_its_standard_input(server: MailServer) -> None:
    assert server.process.stdin is not None
    server.process.stdin.close()
    assert server.process.wait(SOON) == 0
    server.process.stdin = None


def test_a_reload_keeps_sessions_and_counts_and_changes_the_limit(server: MailServer) -> None:
    with connect(server.port("smtp")) as first, connect(server.port("smtp")) as second:
        lines = first.makefile("rb"), second.makefile("rb")
        assert all(line.readline().startswith(b"220") for line in lines)
        smtp = server.document["services"]["smtp"]
        assert server.reload(smtp={**smtp, "max_connections": 3}) == {"event": "reloaded"}
        first.sendall(b"NOOP\r\n")
        assert lines[0].readline().startswith(b"250")
        with connect(server.port("smtp")) as third, connect(server.port("smtp")) as surplus:
            assert first_line(third).startswith(b"220")
            assert first_line(surplus).startswith(b"421")


def test_a_reload_opens_new_ports_and_closes_old_ones(server: MailServer) -> None:
    old = server.port("pop3")
    (new,) = free_ports(1)
    with connect(old) as client:
        reader = client.makefile("rb")
        assert reader.readline().startswith(b"+OK")
        pop3 = server.document["services"]["pop3"]
        assert server.reload(pop3={**pop3, "ports": [new]}) == {"event": "reloaded"}
        with connect(new) as other:
            assert first_line(other).startswith(b"+OK")
        with pytest.raises(ConnectionRefusedError):
            connect(old)
        client.sendall(b"CAPA\r\n")
        assert reader.readline().startswith(b"+OK")


def test_a_reload_can_widen_the_address_of_a_port_that_it_holds(server: MailServer) -> None:
    """The old listener is in the way of the new one, and both are ours."""
    pop3 = server.document["services"]["pop3"]
    assert server.reload(pop3={**pop3, "bind": ["*"]}) == {"event": "reloaded"}
    with socket.create_connection(("127.0.0.3", server.port("pop3")), SOON) as client:
        assert first_line(client).startswith(b"+OK")


def test_a_service_that_is_switched_off_takes_leave(server: MailServer) -> None:
    with connect(server.port("pop3")) as client:
        reader = client.makefile("rb")
        assert reader.readline().startswith(b"+OK")
        assert server.reload(pop3=None) == {"event": "reloaded"}
        assert reader.readline().startswith(b"-ERR")
        assert reader.readline() == b""
    with connect(server.port("smtp")) as client:
        assert first_line(client).startswith(b"220")


def test_bad_settings_leave_the_old_ones_in_force_and_say_why(server: MailServer) -> None:
    smtp = server.document["services"]["smtp"]
    with connect(server.port("smtp")) as taken:
        assert first_line(taken).startswith(b"220")
        with socket.create_server(("127.0.0.1", 0)) as stranger:
            occupied = stranger.getsockname()[1]
            answer = server.reload(smtp={**smtp, "ports": [*smtp["ports"], occupied]})
        assert str(occupied) in answer["error"]
        answer = server.reload(smtp={**smtp, "max_conections": 3})
        assert "max_connections" in answer["error"]
        taken.sendall(b"NOOP\r\n")
        assert first_line(taken).startswith(b"250")
    with connect(server.port("smtp")) as client:
        assert first_line(client).startswith(b"220")


def test_who_was_told_that_there_is_tls_gets_it_although_it_was_switched_off(
    server: MailServer, tmp_path: Path
) -> None:
    with connect(server.port("pop3")) as client:
        assert first_line(client).startswith(b"+OK")
        pop3 = server.document["services"]["pop3"]
        assert server.reload(pop3={**pop3, "explicit_tls": False, "implicit_tls_ports": []}) == {"event": "reloaded"}
        client.sendall(b"STLS\r\n")
        assert first_line(client).startswith(b"+OK")
        trusting = ssl.create_default_context(cafile=str(tmp_path / "root.pem"))
        with trusting.wrap_socket(client, server_hostname="localhost") as inside:
            inside.sendall(b"CAPA\r\n")
            assert first_line(inside).startswith(b"+OK")
    with connect(server.port("pop3")) as client:
        client.sendall(b"STLS\r\n")
        reader = client.makefile("rb")
        assert [reader.readline()[:1] for _ in range(2)] == [b"+", b"-"]


def test_accounts_that_cannot_be_furnished_leave_everything_as_it_was(server: MailServer, tmp_path: Path) -> None:
    (tmp_path / "data" / "bob").write_text("a file where a folder should be")
    old = server.port("smtp")
    server.document["accounts"].append({"name": "bob", "password": PASSWORD, "address": "bob@example.test"})
    smtp = server.document["services"]["smtp"]
    answer = server.reload(smtp={**smtp, "ports": free_ports(1)})
    assert answer["error"].startswith("data: ")
    with connect(old) as client:
        reader = client.makefile("rb")
        client.sendall(b"HELO here\r\nMAIL FROM:<>\r\nRCPT TO:<bob@example.test>\r\n")
        assert [reader.readline()[:1] for _ in range(4)] == [b"2", b"2", b"2", b"5"]


def test_settings_that_broke_the_reload_are_not_its_last(server: MailServer) -> None:
    good = server.file.read_text("utf-8")
    server.file.write_text("{ this is no JSON", "utf-8")
    server.process.send_signal(signal.SIGHUP)
    assert server.event()["error"]
    server.file.write_text(good, "utf-8")
    server.process.send_signal(signal.SIGHUP)
    assert server.event() == {"event": "reloaded"}


@needs("prlimit")
def test_as_many_files_may_be_open_as_connections_are_configured(tmp_path: Path, document: dict[str, Any]) -> None:
    document["services"]["smtp"]["max_connections"] = 100
    with MailServer(tmp_path, document, under=("prlimit", "--nofile=64:4096")) as server, ExitStack() as clients:
        server.event()
        lines = [first_line(clients.enter_context(connect(server.port("smtp")))) for _ in range(101)]
    assert [line[:3] for line in lines] == [b"220"] * 100 + [b"421"]


@needs("prlimit")
def test_a_system_that_allows_too_few_files_is_complained_of(tmp_path: Path, document: dict[str, Any]) -> None:
    document["services"]["smtp"]["max_connections"] = 100
    with MailServer(tmp_path, document, under=("prlimit", "--nofile=64:80")) as server:
        server.event()
        server.process.terminate()
        said = server.process.communicate()[1]
    assert "110 connections are configured, but only 80 open files are allowed here" in said


def start(tmp_path: Path, document: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(document))
    command = [sys.executable, "-m", "reference_server", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=SOON, check=False)


def test_an_occupied_port_is_named_and_nothing_is_started(tmp_path: Path, document: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", document["services"]["pop3"]["ports"][0])):
        ended = start(tmp_path, document)
    assert ended.returncode == 2
    assert f"127.0.0.1:{document['services']['pop3']['ports'][0]}" in ended.stderr
    assert "services.pop3" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_address_of_another_machine_is_named(tmp_path: Path, document: dict[str, Any]) -> None:
    document["services"]["smtp"]["bind"] = ["192.0.2.77"]
    ended = start(tmp_path, document)
    assert ended.returncode == 2
    assert "192.0.2.77" in ended.stderr
    assert "does not have that address" in ended.stderr


def test_a_certificate_that_does_not_fit_its_key_is_named(tmp_path: Path, document: dict[str, Any]) -> None:
    _, other_key = Authority.create().issue().write(tmp_path / "other")
    document["certificates"]["main"]["key"] = str(other_key)
    ended = start(tmp_path, document)
    assert ended.returncode == 2
    assert "not the key of the certificate" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_acknowledged_message_survives_a_kill(tmp_path: Path, document: dict[str, Any]) -> None:
    with MailServer(tmp_path, document) as server:
        server.event()
        sent = 0
        with smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=SOON) as client:
            deadline = time.monotonic() + 0.5
            while time.monotonic() < deadline:
                client.sendmail("bob@example.org", ["alice@example.test"], f"Subject: {sent}\r\n\r\nbody {sent}\r\n")
                sent += 1
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait(SOON)
            client.close()
    with MailServer(tmp_path, document) as server:
        server.event()
        with connect(server.port("pop3")) as client:
            reader = client.makefile("rb")
            client.sendall(b"USER alice\r\nPASS open sesame\r\nSTAT\r\n")
            lines = [reader.readline() for _ in range(4)]
        assert lines[-1].split()[:2] == [b"+OK", str(sent).encode()]
