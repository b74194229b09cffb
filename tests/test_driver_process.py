"""Drivers that behave, and miniature drivers that do each thing a driver may do wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conformance import procfs
from conformance.contract import Ready, Reloaded, Unsupported
from conformance.driver_process import (
    DriverError,
    DriverProcess,
    DriverRefused,
    describe,
    is_believable,
)

Command = list[str]
Writer = Callable[[str], Command]

HONEST = """
    import json, os, signal, socket, sys

    def say(**event):  # not print, whose buffer a signal may find half written
        os.write(1, json.dumps(event).encode() + b"\\n")

    if sys.argv[1] == "describe":
        print(json.dumps({"format": 1, "name": "Tiny", "version": "0.1",
                          "services": {"smtp": {"offers": ["ports", "reload"]}}}))
        sys.exit()

    def scenario():
        with open(sys.argv[2]) as file:
            return json.load(file)

    def again(*_):
        error = None if scenario().get("hostname") != "bad" else "hostname: nobody is called bad"
        say(event="reloaded", **({"error": error} if error else {}))

    known = {"enabled", "bind", "ports"}
    for name, service in scenario()["services"].items():
        for key in service:
            if key not in known:
                say(event="unsupported", setting=f"services.{name}.{key}", reason="never heard of it")
                sys.exit()
    sockets = []
    for service in scenario()["services"].values():
        for port in service["ports"]:
            sockets.append(socket.create_server(("127.0.0.1", port)))
    signal.signal(signal.SIGHUP, again)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    say(event="ready", pids=[os.getpid()], clock_rate=1)
    sys.stdin.read()
"""


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Make a driver of a piece of Python."""

    def write(body: str) -> Command:
        path = tmp_path / "driver.py"
        path.write_text(textwrap.dedent(body))
        return [sys.executable, "-S", "-E", str(path)]

    return write


@pytest.fixture
def scenario(tmp_path: Path) -> dict[str, Any]:
    """The smallest scenario: SMTP on one free port."""
    return {
        "format": 1,
        "hostname": "mail.example.test",
        "data": str(tmp_path),
        "services": {"smtp": {"bind": ["127.0.0.1"], "ports": procfs.free_ports(1)}},
    }


def ended(pid: int, within: float = 10.0) -> bool:
    """Whether a process is gone, or goes within some seconds."""
    until = time.monotonic() + within
    while (found := procfs.process(pid)) and found.runs:
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def started(command: Command, scenario: dict[str, Any], folder: Path, **how: Any) -> DriverProcess:
    driver = DriverProcess.start(command, scenario, folder, **how)
    assert isinstance(driver, DriverProcess)
    return driver


def test_describe_reads_what_the_driver_prints(write: Writer) -> None:
    description = describe(write(HONEST))
    assert description.name == "Tiny"
    assert description.services["smtp"].offers == {"ports", "reload"}  # type: ignore[index]


def test_a_run_is_ready_reloads_and_stops(write: Writer, scenario: dict[str, Any], tmp_path: Path) -> None:
    with started(write(HONEST), scenario, tmp_path) as driver:
        assert driver.ready == Ready(pids=(driver.pid,))
        assert driver.reload(scenario) == Reloaded()
        assert driver.reload({**scenario, "hostname": "bad"}).error == "hostname: nobody is called bad"
        assert driver.running
    assert ended(driver.pid, within=0)


def test_a_second_stop_does_nothing(write: Writer, scenario: dict[str, Any], tmp_path: Path) -> None:
    driver = started(write(HONEST), scenario, tmp_path)
    driver.stop()
    driver.stop()


def test_the_path_of_a_scenario_will_do(write: Writer, scenario: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(scenario))
    driver = DriverProcess.start(write(HONEST), path, tmp_path)
    assert isinstance(driver, DriverProcess)
    driver.stop()


def test_what_is_unsupported_is_an_answer(write: Writer, scenario: dict[str, Any], tmp_path: Path) -> None:
    scenario["services"]["smtp"]["deny"] = ["10.0.0.0/8"]
    answer = DriverProcess.start(write(HONEST), scenario, tmp_path)
    assert answer == Unsupported(setting="services.smtp.deny", reason="never heard of it")


def test_a_driver_that_refuses_an_invented_setting_is_believed(write: Writer, tmp_path: Path) -> None:
    assert is_believable(write(HONEST), folder=tmp_path)


def test_a_driver_that_is_ready_for_everything_is_not_believed(write: Writer, tmp_path: Path) -> None:
    credulous = HONEST.replace("if key not in known", "if False")
    with pytest.raises(DriverError, match="said ready to the setting 'answer_only_on_thursdays'"):
        is_believable(write(credulous), folder=tmp_path)


SAYS_READY = """
    import json, os, signal, subprocess, sys
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end of stdin will do
    def ready(**more):
        print(json.dumps({"event": "ready", **more}), flush=True)
"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(
            "import sys; sys.stderr.write('no such module: imapd\\n'); sys.exit(7)",
            "died with status 7; stderr: no such module: imapd",
            id="dies",
        ),
        pytest.param("import os; os.kill(os.getpid(), 9)", "died with SIGKILL", id="is-killed"),
        pytest.param("pass", "ended with status 0 without a word", id="says-nothing"),
        pytest.param("print('Server started!')", "printed 'Server started!', which", id="prints-rubbish"),
        pytest.param(
            """print('{"event": "redy"}')""",
            'printed \'{"event": "redy"}\', which the contract does not allow',
            id="misspells-an-event",
        ),
        pytest.param(
            """print('{"event": "ready", "pid": 1}')""",
            "which the contract does not allow: pid: unknown key",
            id="invents-a-key",
        ),
        pytest.param("print('x' * 3_000_000)", "printed 'xxxxxxxx", id="prints-megabytes"),
        pytest.param("import sys; sys.stdin.read()", "hung: it printed nothing within 0.5 s", id="hangs"),
        pytest.param(SAYS_READY + "    ready(); sys.stdin.read()", "said ready, but nobody listens on", id="lies"),
        pytest.param(
            """print('{"event": "unsupported", "setting": "", "reason": "no"}'); raise SystemExit(3)""",
            "said unsupported and ended with status 3, not 0",
            id="unsupported-but-fails",
        ),
        pytest.param('print(\'{"event": "reloaded"}\')', "said reloaded before", id="reloads-unasked"),
    ],
)
def test_a_bad_start_is_one_clear_error(
    write: Writer, scenario: dict[str, Any], tmp_path: Path, body: str, message: str
) -> None:
    before = own_children()
    with pytest.raises(DriverError) as caught:
        DriverProcess.start(write(body), scenario, tmp_path, within=0.5 if "hung" in message else 10.0)
    assert message in str(caught.value)
    assert str(tmp_path / "driver.py") in str(caught.value)
    assert own_children() == before


def own_children() -> set[int]:
    return {child.pid for child in procfs.children(os.getpid())}


def test_a_driver_that_gives_up_by_itself_can_be_told_from_a_broken_one(
    write: Writer, scenario: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(DriverRefused):
        DriverProcess.start(write("raise SystemExit('port 25 is in use')"), scenario, tmp_path)


def test_a_command_that_does_not_exist(scenario: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="/no/such/driver: cannot be started: No such file or directory"):
        DriverProcess.start(["/no/such/driver"], scenario, tmp_path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param("raise SystemExit(4)", "ended with status 4", id="dies"),
        pytest.param("import sys; sys.stdin.read(); import time; time.sleep(60)", "hung", id="hangs"),
        pytest.param("print('hello')", "printed 'hello', which", id="prints-rubbish"),
        pytest.param(
            """print('{"format": 1, "name": "x", "services": {"smtp": {"offers": ["prots"]}}}')""",
            "services.smtp.offers",
            id="offers-what-is-no-setting",
        ),
        pytest.param(
            """print('{"format": 1, "name": "x", "services": {"smtp": {}}}')""",
            "services.smtp.offers: Field required",
            id="offers-left-out",
        ),
        pytest.param(
            """print('{"format": 1, "name": "x", "services": {"gopher": {"offers": []}}}')""",
            "services.gopher",
            id="unknown-service",
        ),
        pytest.param(
            """print('{"format": 1, "name": "x", "servces": {}, "services": {}}')""",
            "servces: unknown key",
            id="unknown-key",
        ),
        pytest.param("""print('{"format": 2, "name": "x", "services": {}}')""", "format", id="format-2"),
        pytest.param("print('[' * 100_000)", "printed '[[[", id="nested-too-deep"),
    ],
)
def test_a_bad_description_is_one_clear_error(write: Writer, body: str, message: str) -> None:
    with pytest.raises(DriverError) as caught:
        describe(write(body), within=0.5 if message == "hung" else 10.0)
    assert message in str(caught.value)


def test_a_driver_that_ignores_every_request_to_stop_is_killed(
    write: Writer, scenario: dict[str, Any], tmp_path: Path
) -> None:
    deaf = SAYS_READY + "    ready()\n    while True: signal.pause()"
    driver = started(write(deaf), scenario, tmp_path, check_listening=False)
    with pytest.raises(DriverError, match=r"did not end within 0.3 s of SIGTERM and was killed"):
        driver.stop(within=0.3)
    assert ended(driver.pid, within=0)


@pytest.mark.parametrize("how", ["in its session", "as a daemon"])
def test_what_a_driver_leaves_behind_is_found_and_killed(
    write: Writer, scenario: dict[str, Any], tmp_path: Path, how: str
) -> None:
    careless = (
        SAYS_READY
        + f"""
    child = subprocess.Popen(["sleep", "300"], start_new_session={how == "as a daemon"},
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ready(pids=[child.pid])
    sys.stdin.read()
    os._exit(0)
    """
    )
    driver = started(write(careless), scenario, tmp_path, check_listening=False)
    (orphan,) = driver.ready.pids
    with pytest.raises(DriverError, match=rf"left processes behind, which were killed: sleep \({orphan}\)"):
        driver.stop()
    assert ended(orphan, within=1)


def test_a_driver_that_dies_later_is_told_with_its_last_words(
    write: Writer, scenario: dict[str, Any], tmp_path: Path
) -> None:
    fragile = SAYS_READY + "    ready(); signal.pause()"
    driver = started(write(fragile), scenario, tmp_path, check_listening=False)
    os.kill(driver.pid, signal.SIGKILL)
    assert ended(driver.pid)
    assert not driver.running
    with pytest.raises(DriverError, match="ended with SIGKILL, not 0"):
        driver.stop()


def test_a_reload_that_is_not_answered_is_an_error(write: Writer, scenario: dict[str, Any], tmp_path: Path) -> None:
    idle = SAYS_READY + "    signal.signal(1, signal.SIG_IGN); ready(); sys.stdin.read()"
    with (
        started(write(idle), scenario, tmp_path, check_listening=False) as driver,
        pytest.raises(DriverError, match=r"hung: it printed nothing within 0.3 s"),
    ):
        driver.reload(scenario, within=0.3)


def test_drivers_end_when_the_suite_is_killed(write: Writer, scenario: dict[str, Any], tmp_path: Path) -> None:
    suite = textwrap.dedent(
        f"""
        from pathlib import Path
        from conformance.driver_process import DriverProcess
        driver = DriverProcess.start({write(HONEST)!r}, {scenario!r}, Path({str(tmp_path)!r}))
        print(driver.pid, flush=True)
        input()
        """
    )
    with subprocess.Popen([sys.executable, "-c", suite], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        driver = int(process.stdout.readline())
        process.kill()
    assert ended(driver)


TINYMAIL = """\
#!{python} -S
import signal, socket, sys
address, *ports = sys.argv[1:]
sockets = [socket.create_server((address, int(port))) for port in ports]
print("ready", flush=True)
signal.pause()
"""


def test_the_driver_in_the_documentation_works(
    write: Writer, scenario: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[1] / "docs/drivers.md").read_text()
    command = write(page.split("```python\n")[1].split("```")[0])
    server = tmp_path / "tinymail"
    server.write_text(TINYMAIL.format(python=sys.executable))
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert describe(command).name == "Tinymail"
    assert is_believable(command, scenario, folder=tmp_path)
    for end in (DriverProcess.stop, DriverProcess.close_stdin):
        driver = started(command, scenario, tmp_path)
        (pid,) = driver.ready.pids
        end(driver)
        assert ended(pid)
        assert ended(driver.pid)
        driver.stop()
