"""The protocol of a driver program, spoken by the smallest implementation there is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance import procfs
from conformance.contract import Reloaded, Unsupported
from conformance.driver_process import DriverError, DriverProcess, DriverRefused, describe, is_believable
from conformance.drivers.asked import (
    BadScenario,
    UnsupportedSetting,
    read,
    refuse_what_is_not_offered,
    understand,
)

PROGRAM = """
    import subprocess, sys
    from conformance.drivers import confine
    from conformance.drivers.asked import UnsupportedSetting
    from conformance.drivers.program import DriverFailed, main

    class Sleeper:
        server = None

        def describe(self):
            return {"format": 1, "name": "Sleeper", "services": {"smtp": {
                "offers": ["ports", "bind", "reload"], "max_ports": 2}}}

        def start(self, asked):
            if asked.hostname == "broken":
                raise DriverFailed("the bed is broken")
            import os
            self.server = subprocess.Popen(
                ["sh", "-c", "sleep 300 & sleep 300"],
                preexec_fn=confine.before_exec(os.getpid(), confine.Mounts()))
            confine.watch_over(self.server.pid)
            return {"pids": [self.server.pid]}

        def reload(self, asked):
            if asked.hostname == "bad":
                raise UnsupportedSetting("hostname", "nobody is called bad")

        def death(self):
            return None if self.server.poll() is None else "the sleeper woke up"

        def stop(self):
            import os, signal
            if self.server is not None:
                try:
                    os.killpg(self.server.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                self.server.wait()

    sys.exit(main(Sleeper(), sys.argv[1:]))
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    path = tmp_path / "sleeper.py"
    path.write_text(textwrap.dedent(PROGRAM))
    return [sys.executable, str(path)]


@pytest.fixture
def scenario(tmp_path: Path) -> dict[str, Any]:
    return {
        "format": 1,
        "hostname": "mail.example.test",
        "data": str(tmp_path),
        "accounts": [{"name": "alice", "password": "secret"}],
        "services": {"smtp": {"bind": ["127.0.0.1"], "ports": procfs.free_ports(1)}},
    }


@pytest.fixture
def driver(command: list[str], scenario: dict[str, Any], tmp_path: Path) -> Iterator[DriverProcess]:
    driver = DriverProcess.start(command, scenario, tmp_path, check_listening=False)
    assert isinstance(driver, DriverProcess)
    with driver:
        yield driver


def group(driver: DriverProcess) -> list[procfs.Process]:
    return [each for each in procfs.processes() if each.group == driver.ready.pids[0] and each.runs]


def all_ended(driver: DriverProcess, within: float = 5.0) -> bool:
    until = time.monotonic() + within
    while driver.running or group(driver):
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def test_it_describes_and_is_believed(command: list[str], scenario: dict[str, Any], tmp_path: Path) -> None:
    assert describe(command).name == "Sleeper"
    assert is_believable(command, scenario, folder=tmp_path)


def test_it_stops_with_everything_it_started(driver: DriverProcess) -> None:
    until = time.monotonic() + 5
    while len(group(driver)) < 3 + 1:  # a shell, two sleeps, the watchdog
        assert time.monotonic() < until
        time.sleep(0.005)
    driver.stop()
    assert all_ended(driver, within=0)


def test_the_end_of_stdin_is_the_end(driver: DriverProcess) -> None:
    driver.close_stdin()
    assert all_ended(driver)
    driver.stop()


def test_the_watchdog_ends_the_family_of_a_driver_that_is_killed(driver: DriverProcess) -> None:
    os.kill(driver.pid, signal.SIGKILL)
    assert all_ended(driver)
    with pytest.raises(DriverError, match="ended with SIGKILL, not 0"):
        driver.stop()


def test_a_server_that_ends_by_itself_is_an_error(driver: DriverProcess) -> None:
    os.kill(driver.ready.pids[0], signal.SIGKILL)
    assert all_ended(driver)
    with pytest.raises(DriverError, match="ended with status 1, not 0; stderr: the sleeper woke up"):
        driver.stop()


def test_reloads_are_answered_one_by_one(driver: DriverProcess, scenario: dict[str, Any]) -> None:
    assert driver.reload(scenario) == Reloaded()
    assert driver.reload({**scenario, "hostname": "bad"}).error == "hostname: nobody is called bad"
    assert "format" in (driver.reload({**scenario, "format": 2}).error or "")
    assert driver.reload(scenario) == Reloaded()


def test_a_failure_is_told_on_stderr(command: list[str], scenario: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DriverRefused, match="status 1; stderr: the bed is broken"):
        DriverProcess.start(command, {**scenario, "hostname": "broken"}, tmp_path)


def test_it_runs_on_without_a_pipe_on_stdin(command: list[str], scenario: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "scenario.json"
    path.write_text(json.dumps(scenario))
    with subprocess.Popen([*command, "run", str(path)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "ready"
        process.send_signal(signal.SIGHUP)
        assert json.loads(process.stdout.readline()) == {"event": "reloaded"}
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 0


def test_it_explains_how_it_is_called(command: list[str]) -> None:
    called = subprocess.run([*command, "restart"], capture_output=True, text=True, check=False)
    assert called.returncode == 2
    assert called.stderr.startswith("usage: ")


DESCRIPTION = {
    "services": {
        "smtp": {"offers": ["ports", "max_connections"], "max_ports": 2, "max_implicit_tls_ports": 1},
        "imap": {"offers": ["bind", "ports", "restrictions", "implicit_tls", "explicit_tls"]},
    },
    "clock_rate_max": 10,
}


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"sunshine": True}, "sunshine"),
        ({"clock_rate": 11}, "clock_rate"),
        ({"ldap_tls": True}, "ldap_tls"),
        ({"wall_clock": "ahead"}, "wall_clock"),
        ({"accounts": [{"name": "a", "password": "b", "colour": "red"}]}, "accounts.0.colour"),
        ({"defaults": {"colour": "red"}}, "defaults.colour"),
        ({"defaults": {"deny": ["10.0.0.1"]}}, "services.smtp.deny"),
        ({"services": {"pop3": {"ports": [1]}}}, "services.pop3"),
        ({"services": {"smtp": {"colour": "red"}}}, "services.smtp.colour"),
        ({"services": {"smtp": {"allow": ["10.0.0.1"]}}}, "services.smtp.allow"),
        ({"services": {"smtp": {"idle_timeout": 5}}}, "services.smtp.idle_timeout"),
        ({"services": {"smtp": {"explicit_tls": True}}}, "services.smtp.explicit_tls"),
        ({"services": {"smtp": {"implicit_tls_ports": [1]}}}, "services.smtp.implicit_tls_ports"),
        ({"services": {"smtp": {"bind": ["127.0.0.1"]}}}, "services.smtp.bind"),
        ({"services": {"smtp": {"ports": [1, 2, 3]}}}, "services.smtp.ports"),
    ],
)
def test_the_first_setting_that_is_not_offered_is_named(change: dict[str, Any], setting: str) -> None:
    document = {"format": 1, "data": "/nowhere", "services": {"smtp": {"ports": [1]}}, **change}
    with pytest.raises(UnsupportedSetting) as caught:
        refuse_what_is_not_offered(document, DESCRIPTION)
    assert caught.value.setting == setting


@pytest.mark.parametrize(
    "service",
    [
        {"ports": [1, 2], "bind": ["*"]},
        {"max_connections": 3},
        {"idle_timeout": 0, "explicit_tls": False, "implicit_tls_ports": [], "allow": [], "deny": []},
    ],
)
def test_what_is_offered_or_off_may_be_asked_for(service: dict[str, Any]) -> None:
    refuse_what_is_not_offered({"format": 1, "services": {"smtp": service}}, DESCRIPTION)


def test_a_scenario_takes_shape(tmp_path: Path) -> None:
    document = {
        "format": 1,
        "hostname": "h.example.test",
        "data": "mail",
        "certificates": {"main": {"chain": "c.pem", "key": "/abs/k.pem"}},
        "accounts": [{"name": "alice", "password": "p", "inbox": ["a.eml"]}],
        "defaults": {"bind": ["127.0.0.2"], "max_connections": 7},
        "services": {
            "smtp": {"ports": [1]},
            "imap": {"ports": [2], "max_connections": 3, "explicit_tls": True},
            "pop3": {"enabled": False, "ports": [3]},
        },
    }
    asked = understand(document, tmp_path / "scenario.json")
    smtp, imap = asked.services
    assert (smtp.name, smtp.bind, smtp.max_connections) == ("smtp", ("127.0.0.2",), 7)
    assert (imap.max_connections, imap.explicit_tls, imap.require_tls_for_login) == (3, True, False)
    assert imap.certificate is not None  # the only one there is
    assert imap.certificate.chain == tmp_path / "c.pem"
    assert imap.certificate.key == Path("/abs/k.pem")
    assert asked.accounts[0].inbox == (tmp_path / "a.eml",)
    assert asked.data == tmp_path / "mail"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting"),
        ("[]", "an object with services"),
        ('{"format": 1}', "an object with services"),
        ('{"format": 3, "services": {}}', "format: only 1 is known, not 3"),
    ],
)
def test_what_is_no_scenario(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "scenario.json"
    path.write_text(text)
    with pytest.raises(BadScenario, match=message):
        read(path)


def test_a_scenario_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadScenario, match="No such file"):
        read(tmp_path / "scenario.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"services": {"imap": {"ports": ["x"]}}}, "invalid literal"),
        ({"services": {"imap": {"certificate": "other"}}}, "there is no certificate 'other'"),
        ({"certificates": {"main": {"chain": "c"}}}, "'key' is missing"),
        ({"accounts": [{"name": "a"}]}, "'password' is missing"),
    ],
)
def test_a_scenario_without_shape(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    document = {"format": 1, "data": "d", "services": {}, **change}
    with pytest.raises(BadScenario, match=message):
        understand(document, tmp_path / "s.json")


def test_a_hash_cannot_be_handed_on(tmp_path: Path) -> None:
    document = {
        "format": 1,
        "data": "d",
        "accounts": [{"name": "a", "password_hash": "x"}],
        "services": {},
    }
    with pytest.raises(UnsupportedSetting, match=r"accounts\.0\.password_hash"):
        understand(document, tmp_path / "s.json")


def test_unsupported_is_said_and_exits_cleanly(command: list[str], scenario: dict[str, Any], tmp_path: Path) -> None:
    scenario["services"]["smtp"]["deny"] = ["10.0.0.0/8"]
    answer = DriverProcess.start(command, scenario, tmp_path)
    assert answer == Unsupported(setting="services.smtp.deny", reason="restrictions is not offered")
