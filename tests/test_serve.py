"""The demonstration: what it prints works verbatim, it ends tidily, and says so where a port is taken."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from conformance.serve import HIGHEST_OFFSET, Demonstration, list_faults, serve
from reference_server.faults import FAULTS
from reference_server.settings import Service
from tests.components import needs

COMMAND = [sys.executable, "-c", "import sys; from conformance.cli import main; sys.exit(main())", "serve"]


def _free_offset() -> int:
    """An offset at which every port of the demonstration is free just now."""
    ports = (25, 587, 465, 110, 995, 143, 993, 80, 443, 389, 8000, 8443)
    for offset in range(20_000 + os.getpid() % 200 * 40, 55_000, 37):
        try:
            for port in ports:
                with socket.socket() as trial:
                    trial.bind(("127.0.0.1", offset + port))
        except OSError:
            continue
        return offset
    raise AssertionError("no free ports")


@dataclass(frozen=True, slots=True)
class Running:
    """A demonstration that listens, and what it printed."""

    process: subprocess.Popen[str]
    said: str
    offset: int

    def line(self, title: str) -> str:
        """The command below a title."""
        found = re.search(rf"^{title}:\n\n  (.+)$", self.said, re.MULTILINE)
        assert found is not None, self.said
        return found[1]

    @property
    def folder(self) -> Path:
        found = re.search(r"trust (\S+)/root\.pem", self.said)
        assert found is not None, self.said
        return Path(found[1])


@contextmanager
def demonstration(tmp_path: Path, *options: str) -> Iterator[Running]:
    offset = _free_offset()
    process = subprocess.Popen(
        [*COMMAND, f"--offset={offset}", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    try:
        said = ""
        # The last line of the text; or the end of the output, when it could not start.
        while "Ctrl-C" not in said and (line := process.stdout.readline()):
            said += line
        assert process.poll() is None, said
        yield Running(process, said, offset)
    finally:
        process.terminate()
        process.communicate(timeout=10)


def _shell(line: str) -> str:
    finished = subprocess.run(["sh", "-c", line], check=False, capture_output=True, text=True, timeout=20)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@needs("curl")
def test_the_printed_lines_work_as_they_stand(tmp_path: Path) -> None:
    with demonstration(tmp_path) as running:
        assert "Subject: Welcome" in _shell(running.line("Read the newest one"))
        _shell(running.line("Send a message"))
        newest = _shell(running.line("Read the newest one"))
        assert "Subject: Hello" in newest
        assert "It works." in newest


@needs("curl")
def test_the_printed_links_lead_to_the_mail_and_to_the_settings(tmp_path: Path) -> None:
    with demonstration(tmp_path) as running:
        _shell(running.line("Send a message"))
        links = re.findall(r"http://localhost:\d+/", running.said)
        assert links == [f"http://localhost:{running.offset + port}/" for port in (80, 8000)]
        password = re.search(r"password +(\S+)", running.said)
        assert password is not None
        jar = tmp_path / "jar"
        curl = f"curl -sS -L -c {jar} -b {jar}"
        for link, expected in zip(links, ("Hello", "Connections"), strict=True):
            token = re.search(r'name="token" value="([^"]+)"', _shell(f"{curl} {link}"))
            assert token is not None
            form = f"-d name=alice -d password={password[1]} --data-urlencode token={token[1]}"
            assert expected in _shell(f"{curl} {form} {link}login")


@needs("curl")
def test_implicit_tls_and_pop3_serve_the_same_mailbox(tmp_path: Path) -> None:
    with demonstration(tmp_path) as running:
        line = running.line("Read the newest one")
        login = re.search(r"--cacert \S+ --user \S+", line)
        assert login is not None
        for url in (
            f"imaps://localhost:{running.offset + 993}/INBOX;MAILINDEX=1",
            f"pop3s://127.0.0.1:{running.offset + 995}/1",
            f"pop3://localhost:{running.offset + 110}/1",
        ):
            assert "Subject: Welcome" in _shell(f"curl -sS --ssl-reqd {login[0]} '{url}'")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_tidily(number: signal.Signals, tmp_path: Path) -> None:
    with demonstration(tmp_path) as running:
        assert running.folder.is_dir()
        assert running.folder.stat().st_mode & 0o077 == 0
        running.process.send_signal(number)
        rest, _ = running.process.communicate(timeout=10)
        assert running.process.returncode == 0
        assert rest == ""
        assert not running.folder.exists()


def test_a_taken_port_is_one_clear_message(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    offset = _free_offset()
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", offset + 143))
        stranger.listen()
        finished = subprocess.run(
            [*COMMAND, f"--offset={offset}"],
            check=False,
            capture_output=True,
            text=True,
            timeout=20,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert str(offset + 143) in finished.stderr
    assert "--offset" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("offset", [-1, HIGHEST_OFFSET + 1])
def test_an_offset_that_leaves_no_ports_is_refused(offset: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(offset=offset) == 2
    assert "between 0 and" in capsys.readouterr().err


def test_a_configuration_with_mistakes_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "mail.toml").write_text("[services.imap]\nport = [0]\nidle_timeout = 0\n")
    finished = subprocess.run(
        [*COMMAND, str(tmp_path / "mail.toml")], check=False, capture_output=True, text=True, timeout=20
    )
    assert finished.returncode == 2
    assert "services.imap.port: there is no such key; did you mean ports?" in finished.stderr
    assert "services.imap.idle_timeout: must be more than 0" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_settings_of_the_demonstration_are_good_up_to_the_highest_offset(tmp_path: Path) -> None:
    settings = Demonstration.prepare(tmp_path, HIGHEST_OFFSET).settings
    assert set(settings.enabled) == set(Service)
    assert settings.warnings == ()
    for service, table in settings.enabled.items():
        assert table.offers_tls is (service is not Service.LDAP)


def test_the_password_is_another_one_each_time_and_in_no_repr(tmp_path: Path) -> None:
    one, other = Demonstration.prepare(tmp_path), Demonstration.prepare(tmp_path)
    assert one.password != other.password
    assert one.password not in repr(one) + repr(one.settings)


# --- Wrong on purpose ---------------------------------------------------------------------------------------------


def test_every_fault_is_listed_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    list_faults()
    wrong, _, odd = capsys.readouterr().out.partition("\n\n")
    for told, decoys in ((wrong.splitlines(), False), (odd.splitlines()[1:], True)):
        assert [line.split()[0] for line in told] == [name for name in FAULTS if FAULTS[name].is_decoy is decoys]
    assert "denied-clients-keep-a-place " in wrong


def test_a_misspelt_fault_is_recognised(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(fault="extra-prot") == 2
    assert "did you mean extra-port?" in capsys.readouterr().err


def test_the_demonstration_can_be_wrong_on_purpose(tmp_path: Path) -> None:
    with demonstration(tmp_path, "--fault=extra-port") as running:
        assert running.said.startswith("On purpose: a port is open that nobody configured")
        with socket.create_connection(("127.0.0.1", running.offset + 143 + 1), 5) as client:
            assert client.recv(4) == b"* OK"


def test_a_configuration_can_be_served_wrong_on_purpose(tmp_path: Path) -> None:
    (tmp_path / "mail.toml").write_text("[services.imap]\nport = [0]\n")
    finished = subprocess.run(
        [*COMMAND, "--fault=extra-port", str(tmp_path / "mail.toml")],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert finished.returncode == 2
    assert "services.imap.port: there is no such key" in finished.stderr
