"""The reference server, driven as any other server is."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from certs import Authority, Situation
from conformance import drivers, procfs
from conformance.contract import Reloaded, Service, Stage, Unsupported
from conformance.driver_process import DriverError, DriverProcess, DriverRefused, describe, is_believable
from tests.components import needs

COMMAND = drivers.command("reference")
DAY = 24 * 60 * 60
GREETINGS = {"smtp": b"220 ", "pop3": b"+OK", "imap": b"* OK"}

Scenario = dict[str, Any]
Start = Callable[[Scenario], DriverProcess]


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    """The three services, each with a port in clear and one with implicit TLS."""
    (tmp_path / "data").mkdir()
    chain, key = Authority.create().issue(Situation.VALID).write(tmp_path / "certificate")
    ports = iter(procfs.free_ports(6))
    return {
        "format": 1,
        "hostname": "mail.example.test",
        "data": str(tmp_path / "data"),
        "certificates": {"main": {"chain": str(chain), "key": str(key)}},
        "accounts": [{"name": "alice", "password": "secret", "address": "alice@example.test"}],
        "services": {
            name: {
                "bind": ["127.0.0.1"],
                "ports": [next(ports)],
                "implicit_tls_ports": [next(ports)],
                "explicit_tls": True,
                "certificate": "main",
                "max_connections": 10,
                "idle_timeout": 60,
            }
            for name in GREETINGS
        },
    }


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as running:

        def start(scenario: Scenario) -> DriverProcess:
            driver = DriverProcess.start(COMMAND, scenario, tmp_path)
            assert isinstance(driver, DriverProcess), driver
            return running.enter_context(driver)

        yield start


def greeting(port: int) -> bytes:
    with closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as client:
        return client.recv(512)


def test_everything_is_offered() -> None:
    description = describe(COMMAND)
    assert set(description.services) == set(Service)
    for declared in description.services.values():
        assert len(declared.offers - {"wall_clock"}) == 12


def test_how_long_one_request_may_take_is_told_when_it_is_ready(scenario: Scenario, start: Start) -> None:
    ready = start(scenario).ready
    for name, service in scenario["services"].items():
        assert ready.timers[Service(name)][Stage.TRICKLE] == 10 * service["idle_timeout"]


@needs("faketime")
def test_its_wall_clock_is_set_while_it_runs(scenario: Scenario, start: Start, tmp_path: Path) -> None:
    """What comes in is dated by that clock: the date opens the names of a Maildir."""
    (tmp_path / "ahead").write_text("+0\n")
    start({**scenario, "wall_clock": "ahead"})
    days = []
    for ahead in (0, 10, -10):
        (tmp_path / "ahead").write_text(f"{ahead * DAY:+d}\n")
        known = set((tmp_path / "data").rglob("new/*"))
        with smtplib.SMTP("127.0.0.1", scenario["services"]["smtp"]["ports"][0], timeout=5) as client:
            client.sendmail("bob@example.test", ["alice@example.test"], b"Subject: hello\r\n\r\nhello\r\n")
        [fresh] = set((tmp_path / "data").rglob("new/*")) - known
        days.append(round((int(fresh.name.split(".")[0]) - time.time()) / DAY))
    assert days == [0, 10, -10]


def test_each_service_is_there_when_it_says_so(scenario: Scenario, start: Start) -> None:
    start(scenario)
    for name, service in scenario["services"].items():
        assert greeting(service["ports"][0]).startswith(GREETINGS[name])


def test_it_is_believed(scenario: Scenario, tmp_path: Path) -> None:
    assert is_believable(COMMAND, scenario, folder=tmp_path)


def test_a_service_that_it_lacks_is_unsupported(scenario: Scenario, tmp_path: Path) -> None:
    scenario["services"]["gopher"] = {"ports": [70]}
    answer = DriverProcess.start(COMMAND, scenario, tmp_path)
    assert isinstance(answer, Unsupported)
    assert answer.setting == "services.gopher"


def test_a_reload_opens_one_port_and_closes_another(scenario: Scenario, start: Start) -> None:
    driver = start(scenario)
    pop3 = scenario["services"]["pop3"]
    (closed,), (opened,) = pop3["ports"], procfs.free_ports(1)
    pop3["ports"] = [opened]
    assert driver.reload(scenario) == Reloaded()
    assert greeting(opened).startswith(b"+OK")
    with pytest.raises(ConnectionRefusedError):
        greeting(closed)


def test_a_reload_of_nonsense_changes_nothing(scenario: Scenario, start: Start) -> None:
    driver = start(scenario)
    error = driver.reload({**scenario, "sunshine": True}).error
    assert error is not None
    assert "sunshine" in error
    assert greeting(scenario["services"]["imap"]["ports"][0]).startswith(b"* OK")


def test_an_occupied_port_is_a_clear_refusal(scenario: Scenario, tmp_path: Path) -> None:
    (port,) = scenario["services"]["imap"]["ports"]
    with closing(socket.create_server(("127.0.0.1", port))), pytest.raises(DriverRefused, match=str(port)):
        DriverProcess.start(COMMAND, scenario, tmp_path)


def test_a_missing_certificate_is_a_clear_refusal(scenario: Scenario, tmp_path: Path) -> None:
    scenario["certificates"]["main"]["key"] = "/no/such/key.pem"
    with pytest.raises(DriverRefused, match=r"/no/such/key\.pem"):
        DriverProcess.start(COMMAND, scenario, tmp_path)


def test_a_scenario_that_is_none_is_a_clear_refusal(scenario: Scenario, tmp_path: Path) -> None:
    with pytest.raises(DriverRefused, match="format: only 1 is known"):
        DriverProcess.start(COMMAND, {**scenario, "format": 7}, tmp_path)


@pytest.mark.parametrize("end", ["SIGTERM", "stdin"])
def test_it_stops(scenario: Scenario, start: Start, end: str) -> None:
    driver = start(scenario)
    if end == "SIGTERM":
        os.kill(driver.pid, signal.SIGTERM)
    else:
        driver.close_stdin()
    until = time.monotonic() + 10
    while driver.running:
        assert time.monotonic() < until
        time.sleep(0.005)
    driver.stop()
    with pytest.raises(ConnectionRefusedError):
        greeting(scenario["services"]["smtp"]["ports"][0])


def test_killing_the_driver_is_killing_the_server(scenario: Scenario, start: Start) -> None:
    driver = start(scenario)
    os.kill(driver.pid, signal.SIGKILL)
    with pytest.raises(DriverError, match="ended with SIGKILL"):
        driver.stop()
    with pytest.raises(ConnectionRefusedError):
        greeting(scenario["services"]["smtp"]["ports"][0])
