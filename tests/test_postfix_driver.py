"""A real Postfix, driven: each setting that the driver offers does what it says, as a client sees it."""

from __future__ import annotations

import os
import shutil
import signal
import smtplib
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from certs import Authority
from conformance import drivers, procfs
from conformance.contract import Reloaded, Service, Unsupported
from conformance.driver_process import DriverProcess, DriverRefused, describe, is_believable
from conformance.drivers import confine
from tests.components import needs, program

COMMAND = drivers.command("postfix")
CLIENT, OTHER, STRANGER = "127.0.0.9", "127.0.0.10", "127.0.0.66"

pytestmark = [
    needs("postfix"),
    pytest.mark.skipif(os.geteuid() != 0, reason="Postfix gives its processes users of their own: run as root"),
]

Scenario = dict[str, Any]
Start = Callable[[Scenario], DriverProcess]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A chain and its key; Postfix reads them as root."""
    chain, key = Authority.create().issue().write(tmp_path_factory.mktemp("certificate"))
    return {"chain": str(chain), "key": str(key)}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may search; pytest's own are private."""
    path = Path(tempfile.mkdtemp(prefix="postfix-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def scenario(folder: Path, certificate: dict[str, str]) -> Scenario:
    """SMTP on two ports and an implicit one, as on 25, 587 and 465, and two accounts."""
    (folder / "data").mkdir()
    ports = procfs.free_ports(3)
    return {
        "format": 1,
        "hostname": "mail.example.test",
        "data": str(folder / "data"),
        "certificates": {"main": dict(certificate)},
        "accounts": [
            {"name": "alice", "password": "a:b c", "address": "alice@example.test", "inbox": []},
            {"name": "bob", "password": "bob", "inbox": []},
        ],
        "services": {
            "smtp": {
                "bind": ["127.0.0.1"],
                "ports": ports[:2],
                "implicit_tls_ports": [ports[2]],
                "explicit_tls": True,
                "certificate": "main",
            },
        },
    }


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Start the driver, and stop it at the end of the test."""
    with ExitStack() as running:

        def start(scenario: Scenario) -> DriverProcess:
            driver = DriverProcess.start(COMMAND, scenario, folder)
            assert isinstance(driver, DriverProcess), driver
            return running.enter_context(driver)

        yield start


class Client:
    """One connection, driven a command at a time."""

    def __init__(self, port: int, *, tls: bool = False, source: str = CLIENT, to: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((to, port), timeout=8, source_address=(source, 0))
        if tls:
            self.secure()

    def secure(self) -> None:
        self.socket = trusting().wrap_socket(self.socket)

    def hear(self) -> bytes:
        """One whole reply, or b"" at the end of the connection."""
        heard = b""
        while not heard.endswith(b"\n") or heard.splitlines()[-1][3:4] == b"-":
            try:
                octets = self.socket.recv(4096)
            except ConnectionResetError:
                return b""
            if not octets:
                return heard
            heard += octets
        return heard

    def say(self, line: bytes) -> bytes:
        self.socket.sendall(line + b"\r\n")
        return self.hear()

    def ends(self) -> bool:
        return self.hear() == b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def trusting(suites: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if suites is not None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(suites)
    return context


def group_of(driver: DriverProcess) -> set[int]:
    (master,) = driver.ready.pids
    return {each.pid for each in procfs.processes() if each.group == master and each.runs}


def wait_until(condition: Callable[[], bool], within: float = 8.0) -> bool:
    until = time.monotonic() + within
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def test_what_is_described_follows_the_contract() -> None:
    description = describe(COMMAND)
    assert description.name == "Postfix"
    assert description.version.startswith("3.")
    assert set(description.services) == {Service.SMTP}
    smtp = description.services[Service.SMTP]
    assert "idle_timeout" in smtp.offers
    assert smtp.limit.scope == "listener"
    assert smtp.limit.surplus == "queue"
    assert smtp.timers.before_login is not None
    assert smtp.timers.before_login.length(idle_timeout=5) == 5


def test_an_invented_setting_is_unsupported(scenario: Scenario, folder: Path) -> None:
    assert is_believable(COMMAND, scenario, folder=folder)


@pytest.mark.skipif(not confine.mounts_allowed(), reason="no mounts of one's own are allowed here")
def test_where_it_is_missing_the_package_to_install_is_named(scenario: Scenario, folder: Path) -> None:
    script = f'mount -t tmpfs none /usr/lib/postfix && mount --bind /dev/null {program("postconf")} && exec "$@"'
    hidden = ["unshare", "-m", "sh", "-c", script, "sh", *COMMAND]
    assert describe(hidden).version == ""
    answer = DriverProcess.start(hidden, scenario, folder)
    assert isinstance(answer, Unsupported)
    assert answer.reason == "Postfix is not installed: apt install postfix"


@pytest.mark.skipif(
    shutil.which("setpriv") is None or not os.access("/usr/bin/python3", os.X_OK),
    reason="there is no setpriv and python3 to give up root with",
)
def test_whoever_is_not_root_is_told_so(scenario: Scenario, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(drivers.__file__).parents[2]))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3"]
    answer = DriverProcess.start([*nobody, "-m", "conformance.drivers.postfix"], scenario, folder)
    assert isinstance(answer, Unsupported)
    assert "run this as root" in answer.reason


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"services.imap": {"ports": [1430]}}, "services.imap"),
        ({"services.smtp.certificate": None, "certificates": {}}, "services.smtp.certificate"),
        ({"services.smtp.deny": ["127.0.0.1-::1"]}, "services.smtp.deny"),
        ({"clock_rate": 60}, "clock_rate"),
    ],
)
def test_what_postfix_does_not_have_is_unsupported(
    scenario: Scenario, folder: Path, change: dict[str, Any], setting: str
) -> None:
    for path, value in change.items():
        *parents, last = path.split(".")
        table = scenario
        for parent in parents:
            table = table[parent]
        table[last] = value
    answer = DriverProcess.start(COMMAND, scenario, folder)
    assert isinstance(answer, Unsupported)
    assert answer.setting == setting


def test_every_port_takes_a_login_and_a_message_that_is_then_in_the_maildir(scenario: Scenario, start: Start) -> None:
    start(scenario)
    smtp = scenario["services"]["smtp"]
    for port in (*smtp["ports"], *smtp["implicit_tls_ports"]):
        tls = port in smtp["implicit_tls_ports"]
        session = (
            smtplib.SMTP_SSL("127.0.0.1", port, timeout=8, context=trusting())
            if tls
            else smtplib.SMTP("127.0.0.1", port, timeout=8)
        )
        with session:
            session.login("alice", "a:b c")
            session.sendmail("carol@example.org", ["alice@example.test"], f"Subject: by {port}\n\nHello.\n")
    inbox = Path(scenario["data"]) / "alice/new"
    assert wait_until(lambda: inbox.exists() and len(list(inbox.iterdir())) == 3)
    found = b"".join(each.read_bytes() for each in inbox.iterdir())
    assert all(b"Subject: by %d" % port in found for port in (*smtp["ports"], *smtp["implicit_tls_ports"]))


def test_an_account_without_an_address_has_one_at_the_servers_name(scenario: Scenario, start: Start) -> None:
    start(scenario)
    with Client(scenario["services"]["smtp"]["ports"][0]) as client:
        assert client.hear().startswith(b"220 mail.example.test ")
        client.say(b"EHLO client.example.test")
        client.say(b"MAIL FROM:<carol@example.org>")
        assert client.say(b"RCPT TO:<bob@mail.example.test>").startswith(b"250")
        assert client.say(b"RCPT TO:<nobody@mail.example.test>").startswith(b"550")
        assert client.say(b"RCPT TO:<bob@elsewhere.example>").startswith(b"554")


@pytest.mark.parametrize(
    ("answers", "reply"),
    [
        ([b"AUTH PLAIN AGJvYgBib2I="], b"235"),  # \0bob\0bob
        ([b"AUTH PLAIN", b"AGJvYgBib2I="], b"235"),
        ([b"AUTH PLAIN Ym9iAGJvYgBib2I="], b"235"),  # bob\0bob\0bob
        ([b"AUTH PLAIN YWxpY2UAYm9iAGJvYg=="], b"535"),  # as alice, with the name and the password of bob
        ([b"AUTH LOGIN", b"Ym9i", b"Ym9i"], b"235"),
        ([b"AUTH LOGIN Ym9i", b"Ym9i"], b"235"),
        ([b"AUTH LOGIN Ym9i", b"d3Jvbmc="], b"535"),
        ([b"AUTH PLAIN AGJvYgB3cm9uZw=="], b"535"),
        ([b"AUTH LOGIN", b"*"], b"501"),
        ([b"AUTH LOGIN", b"!!!"], b"535"),
        ([b"AUTH CRAM-MD5"], b"535"),
    ],
)
def test_a_login(scenario: Scenario, start: Start, answers: list[bytes], reply: bytes) -> None:
    start(scenario)
    with Client(scenario["services"]["smtp"]["ports"][0]) as client:
        client.hear()
        assert b"AUTH PLAIN LOGIN" in client.say(b"EHLO client.example.test")
        for answer in answers[:-1]:
            assert client.say(answer).startswith(b"334")
        assert client.say(answers[-1]).startswith(reply)
        # Whatever came of it, the next attempt is one of its own.
        assert client.say(b"AUTH PLAIN AGJvYgBib2I=").startswith(b"503" if reply == b"235" else b"235")


def test_only_the_bound_addresses_are_served(scenario: Scenario, start: Start) -> None:
    smtp = scenario["services"]["smtp"]
    smtp["bind"] = ["127.0.0.2", "localhost"]
    start(scenario)
    for address in ("127.0.0.2", "127.0.0.1"):
        with Client(smtp["ports"][0], to=address) as client:
            assert client.hear().startswith(b"220")
    with pytest.raises(ConnectionRefusedError):
        Client(smtp["ports"][0], to="127.0.0.3")


def test_every_address_is_served_unless_some_are_chosen(scenario: Scenario, start: Start) -> None:
    smtp = scenario["services"]["smtp"]
    smtp["bind"] = ["*"]
    start(scenario)
    with Client(smtp["ports"][0], to="127.0.0.77") as client:
        assert client.hear().startswith(b"220")
    if procfs.has_ipv6():
        with Client(smtp["implicit_tls_ports"][0], to="::1", source="::1", tls=True) as client:
            assert client.hear().startswith(b"220")


def test_a_login_without_tls_is_refused_where_tls_is_required(scenario: Scenario, start: Start) -> None:
    smtp = scenario["services"]["smtp"]
    smtp["require_tls_for_login"] = True
    start(scenario)
    with Client(smtp["ports"][0]) as client:
        client.hear()
        assert b"AUTH" not in client.say(b"EHLO client.example.test")
        assert client.say(b"AUTH PLAIN AGJvYgBib2I=").startswith(b"503")
        assert client.say(b"STARTTLS").startswith(b"220")
        client.secure()
        assert b"AUTH PLAIN LOGIN" in client.say(b"EHLO client.example.test")
        assert client.say(b"AUTH PLAIN AGJvYgBib2I=").startswith(b"235")


def test_starttls_can_be_off_beside_an_implicit_port(scenario: Scenario, start: Start) -> None:
    smtp = scenario["services"]["smtp"]
    smtp["explicit_tls"] = False
    start(scenario)
    with Client(smtp["ports"][0]) as client:
        client.hear()
        assert b"STARTTLS" not in client.say(b"EHLO client.example.test")
        assert client.say(b"STARTTLS").startswith(b"502")
    with Client(smtp["implicit_tls_ports"][0], tls=True) as client:
        assert client.hear().startswith(b"220")


def test_a_cipher_has_256_bits_or_there_is_none(scenario: Scenario, start: Start) -> None:
    start(scenario)
    place = "127.0.0.1", scenario["services"]["smtp"]["implicit_tls_ports"][0]
    for suites in (None, "ECDHE+AESGCM"):  # TLS 1.3, and 1.2
        with trusting(suites).wrap_socket(socket.create_connection(place)) as client:
            assert (client.cipher() or ("", "", 0))[2] == 256
    with closing(socket.create_connection(place)) as weak, pytest.raises((ssl.SSLError, ConnectionResetError)):
        trusting("ECDHE+AESGCM+AES128").wrap_socket(weak)


def test_the_surplus_client_waits_for_a_place_at_its_own_listener(scenario: Scenario, start: Start) -> None:
    smtp = scenario["services"]["smtp"]
    smtp["max_connections"] = 2
    start(scenario)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(smtp["ports"][0])) for _ in range(2)]
        for client in clients:
            assert client.hear().startswith(b"220")
        surplus = stack.enter_context(Client(smtp["ports"][0]))
        surplus.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            surplus.hear()
        surplus.socket.settimeout(8)
        with Client(smtp["ports"][1]) as elsewhere:  # each listener counts for itself
            assert elsewhere.hear().startswith(b"220")
        assert clients[0].say(b"QUIT").startswith(b"221")
        assert surplus.hear().startswith(b"220")


def test_the_limit_an_address(scenario: Scenario, start: Start) -> None:
    smtp = scenario["services"]["smtp"]
    smtp["max_connections_per_ip"] = 2
    start(scenario)
    with ExitStack() as stack:
        for expected in (b"220", b"220", b"421"):
            assert stack.enter_context(Client(smtp["ports"][0])).hear().startswith(expected)
        assert stack.enter_context(Client(smtp["ports"][0], source=OTHER)).hear().startswith(b"220")


@pytest.mark.parametrize(
    ("settings", "served", "denied"),
    [
        ({"deny": [f"{STRANGER}/32"]}, [CLIENT, "127.0.0.65", "127.0.0.67"], [STRANGER]),
        ({"allow": ["127.0.0.8-127.0.0.10"]}, ["127.0.0.8", "127.0.0.10"], ["127.0.0.7", "127.0.0.11"]),
        ({"allow": ["127.0.0.0/25"], "deny": [CLIENT]}, ["127.0.0.127"], [CLIENT, "127.0.0.128"]),
        ({"allow": [], "deny": []}, [CLIENT, STRANGER], []),
    ],
)
def test_restrictions(
    scenario: Scenario, start: Start, settings: Scenario, served: list[str], denied: list[str]
) -> None:
    smtp = scenario["services"]["smtp"]
    smtp.update(settings)
    start(scenario)
    for port, tls in ((smtp["ports"][0], False), (smtp["implicit_tls_ports"][0], True)):
        for source in served:
            with Client(port, source=source, tls=tls) as client:
                assert client.hear().startswith(b"220"), source
        for source in denied:
            with Client(port, source=source, tls=tls) as client:
                assert client.hear().startswith(b"521"), source
                assert client.ends()


def test_the_idle_time_out_holds_for_silence_and_for_a_line_that_is_never_finished(
    scenario: Scenario, start: Start
) -> None:
    smtp = scenario["services"]["smtp"]
    smtp["idle_timeout"] = 1
    start(scenario)
    with Client(smtp["ports"][0]) as silent, Client(smtp["ports"][0]) as slow, Client(smtp["ports"][1]) as upgrading:
        silent.hear()
        slow.hear()
        upgrading.hear()
        upgrading.say(b"EHLO client.example.test")
        assert upgrading.say(b"STARTTLS").startswith(b"220")
        began = time.monotonic()
        slow.socket.settimeout(0.3)
        heard = b""
        while not heard and time.monotonic() - began < 8:
            slow.socket.sendall(b"N")
            try:
                heard = slow.hear()
            except TimeoutError:
                continue
        assert heard.startswith(b"421 4.4.2")
        assert 0.8 < time.monotonic() - began < 4
        assert silent.hear().startswith(b"421 4.4.2")
        assert silent.ends()
        assert upgrading.ends()


def test_a_reload_moves_a_port_and_keeps_the_sessions_at_the_others(scenario: Scenario, start: Start) -> None:
    driver = start(scenario)
    smtp = scenario["services"]["smtp"]
    kept, moved = smtp["ports"]
    (fresh,) = procfs.free_ports(1)
    with Client(kept) as client, Client(moved) as stranger:
        assert client.hear().startswith(b"220")
        assert stranger.hear().startswith(b"220")
        smtp["ports"] = [kept, fresh]
        scenario["accounts"][1]["password"] = "changed"
        assert driver.reload(scenario) == Reloaded()
        assert client.say(b"NOOP").startswith(b"250")
        assert stranger.ends()  # Postfix ends the processes of a row that is gone
    with smtplib.SMTP("127.0.0.1", fresh, timeout=8) as session:
        session.login("bob", "changed")
    with pytest.raises(ConnectionRefusedError):
        Client(moved)


def test_a_reload_is_in_force_for_whoever_comes_next(scenario: Scenario, start: Start) -> None:
    driver = start(scenario)
    smtp = scenario["services"]["smtp"]
    for denied in (["127.0.0.9"], [], ["127.0.0.9"]):
        smtp["deny"] = denied
        assert driver.reload(scenario) == Reloaded()
        with Client(smtp["ports"][0]) as client:
            assert client.hear()[:3] == (b"521" if denied else b"220")


def test_a_reload_that_cannot_be_is_refused_and_changes_nothing(scenario: Scenario, start: Start) -> None:
    driver = start(scenario)
    smtp = scenario["services"]["smtp"]
    scenario["services"]["smtp"] = {**smtp, "answer_only_on_thursdays": True}
    assert "answer_only_on_thursdays" in (driver.reload(scenario).error or "")
    scenario["services"]["smtp"] = {**smtp, "certificate": "other"}
    assert "other" in (driver.reload(scenario).error or "")
    with Client(smtp["ports"][0]) as client:
        assert client.hear().startswith(b"220")


def test_an_occupied_port_is_a_clear_refusal(scenario: Scenario, folder: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as stranger:
        port = stranger.getsockname()[1]
        scenario["services"]["smtp"]["ports"] = [port]
        with pytest.raises(DriverRefused, match=rf"port {port} on 127.0.0.1 is in use already"):
            DriverProcess.start(COMMAND, scenario, folder)


def test_an_address_of_another_machine_is_a_clear_refusal(scenario: Scenario, folder: Path) -> None:
    scenario["services"]["smtp"]["bind"] = ["127.0.0.1", "192.0.2.77"]  # RFC 5737: nobody's
    with pytest.raises(DriverRefused, match=r"192\.0\.2\.77"):
        DriverProcess.start(COMMAND, scenario, folder)


def test_a_missing_certificate_is_a_clear_refusal(scenario: Scenario, folder: Path) -> None:
    scenario["certificates"]["main"]["key"] = "/no/such/key.pem"
    with pytest.raises(DriverRefused, match=r"/no/such/key\.pem"):
        DriverProcess.start(COMMAND, scenario, folder)


def test_nothing_is_left_when_it_stops(scenario: Scenario, start: Start) -> None:
    driver = start(scenario)
    with Client(scenario["services"]["smtp"]["ports"][0]) as client:
        client.hear()
        assert len(group_of(driver)) > 1
        driver.stop()
        assert not group_of(driver)
        assert client.ends()


def test_it_can_be_started_again_in_the_same_place(scenario: Scenario, start: Start) -> None:
    start(scenario).stop()
    start(scenario)
    with Client(scenario["services"]["smtp"]["ports"][0]) as client:
        assert client.hear().startswith(b"220")


def test_nothing_is_left_when_the_driver_is_killed(scenario: Scenario, folder: Path) -> None:
    driver = DriverProcess.start(COMMAND, scenario, folder)
    assert isinstance(driver, DriverProcess)
    with Client(scenario["services"]["smtp"]["ports"][0]) as client:
        client.hear()
        helpers = {each.pid for each in procfs.children(driver.pid)}
        assert helpers > set(driver.ready.pids)
        os.kill(driver.pid, signal.SIGKILL)
        assert wait_until(lambda: not group_of(driver))
        assert wait_until(lambda: not any(found.runs for pid in helpers if (found := procfs.process(pid))))
        assert client.ends()
    with pytest.raises(Exception, match="ended with SIGKILL"):
        driver.stop()


def test_the_end_of_stdin_ends_the_server(scenario: Scenario, start: Start) -> None:
    driver = start(scenario)
    driver.close_stdin()
    assert wait_until(lambda: not group_of(driver))
    assert wait_until(lambda: not driver.running)


def test_a_master_that_dies_ends_the_driver(scenario: Scenario, folder: Path) -> None:
    driver = DriverProcess.start(COMMAND, scenario, folder)
    assert isinstance(driver, DriverProcess)
    os.kill(driver.ready.pids[0], signal.SIGKILL)
    assert wait_until(lambda: not driver.running)
    with pytest.raises(Exception, match="postfix ended by itself with status -9"):
        driver.stop()
    assert not group_of(driver)


def test_the_systems_own_instance_is_not_touched(scenario: Scenario, start: Start) -> None:
    spool = Path("/var/spool/postfix")
    before = {path: path.stat().st_mtime_ns for path in (spool, *spool.iterdir())} if spool.exists() else {}
    driver = start(scenario)
    with smtplib.SMTP("127.0.0.1", scenario["services"]["smtp"]["ports"][0], timeout=8) as session:
        session.sendmail("carol@example.org", ["alice@example.test"], "Subject: hello\n\nHello.\n")
    driver.stop()
    assert {path: path.stat().st_mtime_ns for path in before} == before
