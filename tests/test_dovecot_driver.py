"""A real Dovecot, driven: each setting that the driver offers does what it says, as a client sees it."""

from __future__ import annotations

import datetime
import os
import shutil
import signal
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from conformance import drivers, procfs
from conformance.contract import Ready, Reloaded, Service, Stage, Unsupported
from conformance.driver_process import DriverProcess, DriverRefused, describe, is_believable
from conformance.drivers import confine
from tests.components import needs, program

COMMAND = drivers.command("dovecot")
CLIENT, STRANGER = "127.0.0.9", "127.0.0.66"  # not the server's own address: that one counts as secured

pytestmark = needs("dovecot")
with_mounts = pytest.mark.skipif(
    not confine.mounts_allowed(), reason="no mounts of one's own are allowed here (root, or user namespaces)"
)

Scenario = dict[str, Any]
Start = Callable[[Scenario], DriverProcess]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A self-signed certificate that outlives a fast clock."""
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    chain = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    (folder / "chain.pem").write_bytes(chain.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return {"chain": str(folder / "chain.pem"), "key": str(folder / "key.pem")}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may search; pytest's own are private."""
    path = Path(tempfile.mkdtemp(prefix="dovecot-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def scenario(folder: Path, certificate: dict[str, str]) -> Scenario:
    """IMAP and POP3, each with two ports and an implicit one, and two accounts."""
    (folder / "data").mkdir()
    letter = folder / "letter.eml"
    letter.write_bytes(b"From: carol@example.test\r\nSubject: hello\r\n\r\nHello.\r\n")
    ports = procfs.free_ports(6)
    service: dict[str, Any] = {"bind": ["127.0.0.1"], "explicit_tls": True, "certificate": "main"}
    return {
        "format": 1,
        "hostname": "mail.example.test",
        "data": str(folder / "data"),
        "certificates": {"main": dict(certificate)},
        "accounts": [
            {"name": "alice", "password": "a:b c", "inbox": [str(letter)]},
            {"name": "bob", "password": "bob", "inbox": []},
        ],
        "services": {
            "imap": {**service, "ports": ports[:2], "implicit_tls_ports": [ports[2]]},
            "pop3": {**service, "ports": ports[3:5], "implicit_tls_ports": [ports[5]]},
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
    """One connection, driven a line at a time."""

    def __init__(
        self, port: int, *, tls: bool = False, source: str = CLIENT, to: str = "127.0.0.1", context: Any = None
    ) -> None:
        self.socket = socket.create_connection((to, port), timeout=8, source_address=(source, 0))
        if tls:
            self.secure(context)

    def secure(self, context: ssl.SSLContext | None = None) -> None:
        self.socket = (context or trusting()).wrap_socket(self.socket, server_hostname="localhost")

    def hear(self) -> bytes:
        """One read: a reply, or b"" at the end of the connection."""
        try:
            return self.socket.recv(4096)
        except ConnectionResetError:
            return b""

    def say(self, line: bytes) -> bytes:
        try:
            self.socket.sendall(line + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            return b""
        return self.hear()

    def log_in(self, name: bytes = b"bob", password: bytes = b"bob") -> bytes:
        return self.say(b'a LOGIN %s "%s"' % (name, password))

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
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
    assert description.name == "Dovecot"
    assert description.version.startswith("2.")
    assert set(description.services) == {Service.IMAP, Service.POP3}
    imap = description.services[Service.IMAP]
    assert "idle_timeout" not in imap.offers
    assert imap.timers.after_login is not None
    assert imap.timers.after_login.length(idle_timeout=5) == 1800
    assert imap.timers.imap_idle is not None
    assert imap.timers.imap_idle.length(idle_timeout=5) is None


def test_an_invented_setting_is_unsupported(scenario: Scenario, folder: Path) -> None:
    assert is_believable(COMMAND, scenario, folder=folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="there is no root here, to hide an installed program")
@with_mounts
def test_where_it_is_missing_the_package_to_install_is_named(scenario: Scenario, folder: Path) -> None:
    binary = program("dovecot")
    hidden = ["unshare", "-m", "sh", "-c", f'mount --bind /dev/null {binary} && exec "$@"', "sh", *COMMAND]
    assert describe(hidden).version == ""
    answer = DriverProcess.start(hidden, scenario, folder)
    assert isinstance(answer, Unsupported)
    assert answer.reason == "Dovecot is not installed: apt install dovecot-imapd dovecot-pop3d"


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"services.imap.idle_timeout": 5}, "services.imap.idle_timeout"),
        ({"services.smtp": {"ports": [2525]}}, "services.smtp"),
        ({"services.imap.explicit_tls": False}, "services.imap.explicit_tls"),
        ({"clock_rate": 100_000}, "clock_rate"),
        ({"ldap_tls": True}, "ldap_tls"),
    ],
)
def test_what_dovecot_does_not_have_is_unsupported(
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


def test_every_port_serves_a_login_with_the_mail_that_is_there(scenario: Scenario, start: Start) -> None:
    start(scenario)
    imap, pop3 = scenario["services"]["imap"], scenario["services"]["pop3"]
    for port in (*imap["ports"], *imap["implicit_tls_ports"]):
        with Client(port, tls=port in imap["implicit_tls_ports"]) as client:
            assert client.hear().startswith(b"* OK")
            assert b"a OK" in client.log_in(b"alice", b"a:b c")
            assert b"* 1 EXISTS" in client.say(b"b SELECT INBOX")
    for port in (*pop3["ports"], *pop3["implicit_tls_ports"]):
        with Client(port, tls=port in pop3["implicit_tls_ports"]) as client:
            assert client.hear().startswith(b"+OK")
            assert client.say(b"USER alice").startswith(b"+OK")
            assert client.say(b"PASS a:b c").startswith(b"+OK")
            assert client.say(b"STAT").startswith(b"+OK 1 ")


def test_only_the_bound_addresses_are_served(scenario: Scenario, start: Start) -> None:
    imap = scenario["services"]["imap"]
    imap["bind"] = ["127.0.0.2", "127.0.0.3"]
    scenario["services"]["pop3"]["bind"] = ["*"]
    start(scenario)
    for address in imap["bind"]:
        with Client(imap["ports"][0], to=address) as client:
            assert client.hear().startswith(b"* OK")
    with pytest.raises(ConnectionRefusedError):
        Client(imap["ports"][0], to="127.0.0.1")
    with Client(scenario["services"]["pop3"]["ports"][0], to="127.0.0.77") as client:
        assert client.hear().startswith(b"+OK")
    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
        with Client(scenario["services"]["pop3"]["ports"][0], to="::1", source="::1") as client:
            assert client.hear().startswith(b"+OK")


def test_a_host_name_stands_for_all_its_addresses(scenario: Scenario, start: Start) -> None:
    imap = scenario["services"]["imap"]
    imap["bind"] = ["localhost"]
    start(scenario)
    for address in {each[4][0] for each in socket.getaddrinfo("localhost", None)}:
        with Client(imap["ports"][0], to=str(address), source="::1" if ":" in str(address) else CLIENT) as client:
            assert client.hear().startswith(b"* OK")


def test_a_port_may_be_a_strangers_on_another_address(scenario: Scenario, start: Start) -> None:
    imap = scenario["services"]["imap"]
    with closing(socket.create_server(("127.0.0.2", imap["ports"][0]))):
        start(scenario)
        with Client(imap["ports"][0]) as client:
            assert client.hear().startswith(b"* OK")


def test_a_login_without_tls_is_refused_where_tls_is_required(scenario: Scenario, start: Start) -> None:
    imap = scenario["services"]["imap"]
    imap["require_tls_for_login"] = True
    start(scenario)
    with Client(imap["ports"][0]) as client:
        assert b"LOGINDISABLED" in client.hear()
        assert b"a NO [PRIVACYREQUIRED]" in client.log_in()
        assert client.say(b"s STARTTLS").startswith(b"s OK")
        client.secure()
        assert b"a OK" in client.log_in()
    with Client(scenario["services"]["pop3"]["ports"][0]) as client:  # its own setting, and off
        client.hear()
        client.say(b"USER bob")
        assert client.say(b"PASS bob").startswith(b"+OK")


def test_a_cipher_has_256_bits_or_there_is_none(scenario: Scenario, start: Start) -> None:
    start(scenario)
    (port,) = scenario["services"]["imap"]["implicit_tls_ports"]
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = trusting()
        context.minimum_version = context.maximum_version = version
        with Client(port, tls=True, context=context) as client:
            assert isinstance(client.socket, ssl.SSLSocket)
            cipher = client.socket.cipher()
            assert cipher is not None
            assert cipher[2] == 256
    context = trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM+AES128")
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        Client(port, tls=True, context=context)


def test_the_surplus_client_takes_the_place_of_the_oldest(scenario: Scenario, start: Start) -> None:
    imap = scenario["services"]["imap"]
    imap["max_connections"] = 3
    start(scenario)
    with ExitStack() as stack:
        # All ports and channels of the service share the limit.
        places = ((imap["ports"][0], False), (imap["ports"][1], False), (imap["implicit_tls_ports"][0], True))
        clients = [stack.enter_context(Client(port, tls=tls)) for port, tls in places]
        assert [client.hear()[:4] for client in clients] == [b"* OK"] * 3
        surplus = stack.enter_context(Client(imap["ports"][0]))
        assert surplus.hear().startswith(b"* OK")
        assert clients[0].hear() == b"* BYE Connection queue full\r\n"
        assert clients[0].hear() == b""
        for client in (*clients[1:], surplus):
            assert client.say(b"n NOOP").startswith(b"n OK")


def test_the_surplus_waits_while_everybody_is_logged_in_over_tls(scenario: Scenario, start: Start) -> None:
    imap = scenario["services"]["imap"]
    imap["max_connections"] = 2
    start(scenario)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(imap["implicit_tls_ports"][0], tls=True)) for _ in range(2)]
        for client in clients:
            client.hear()
            assert b"a OK" in client.log_in()
        surplus = stack.enter_context(Client(imap["ports"][0]))
        surplus.socket.settimeout(0.7)
        with pytest.raises(TimeoutError):
            surplus.hear()
        surplus.socket.settimeout(8)
        clients[0].close()
        assert surplus.hear().startswith(b"* OK")


def test_logins_without_tls_are_limited_among_themselves(scenario: Scenario, start: Start) -> None:
    imap = scenario["services"]["imap"]
    imap["max_connections"] = 2
    start(scenario)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(imap["ports"][0])) for _ in range(2)]
        for client in clients:
            client.hear()
            assert b"a OK" in client.log_in()
        surplus = stack.enter_context(Client(imap["ports"][0]))
        assert surplus.hear().startswith(b"* OK")
        surplus.socket.settimeout(0.7)
        with pytest.raises(TimeoutError):
            surplus.log_in()
        surplus.socket.settimeout(8)
        clients[0].close()
        assert b"a OK" in surplus.hear()


def test_the_limit_an_address_bites_at_login(scenario: Scenario, start: Start) -> None:
    imap = scenario["services"]["imap"]
    imap["max_connections_per_ip"] = 2
    start(scenario)
    with ExitStack() as stack:
        for expected in (b"a OK", b"a OK", b"[LIMIT]"):
            client = stack.enter_context(Client(imap["ports"][0]))
            client.hear()
            assert expected in client.log_in()
        other = stack.enter_context(Client(imap["ports"][0], source="127.0.0.10"))
        other.hear()
        assert b"a OK" in other.log_in()


@with_mounts
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
    scenario["services"]["imap"].update(settings)
    start(scenario)
    imap = scenario["services"]["imap"]
    for source in served:
        with Client(imap["ports"][0], source=source) as client:
            assert client.hear().startswith(b"* OK"), source
    for source in denied:
        with Client(imap["ports"][0], source=source) as client:
            assert client.hear() == b"", source
        with Client(scenario["services"]["pop3"]["ports"][0], source=source) as client:
            assert client.hear().startswith(b"+OK"), source
        with closing(socket.create_connection(("127.0.0.1", imap["implicit_tls_ports"][0]))) as plain:
            assert plain.fileno() > 0
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            Client(imap["implicit_tls_ports"][0], tls=True, source=source)


@with_mounts
def test_the_systems_own_list_of_hosts_is_not_touched(scenario: Scenario, start: Start) -> None:
    before = Path("/etc/hosts.allow").read_bytes()
    scenario["services"]["imap"]["deny"] = [STRANGER]
    start(scenario)
    assert Path("/etc/hosts.allow").read_bytes() == before


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None or not os.access("/usr/bin/python3", os.X_OK),
    reason="there is no root to give up here, or no setpriv and python3 to do it with",
)
def test_without_root_it_does_the_same(scenario: Scenario, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    monkeypatch.setenv("PYTHONPATH", str(Path(drivers.__file__).parents[2]))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (folder / "data").chmod(0o777)
    for name, path in scenario["certificates"]["main"].items():
        scenario["certificates"]["main"][name] = str(shutil.copy(path, folder / f"{name}.pem"))
        (folder / f"{name}.pem").chmod(0o644)
    scenario["services"]["imap"]["deny"] = [STRANGER]
    command = [*nobody, "/usr/bin/python3", "-m", "conformance.drivers.dovecot"]
    assert describe(command).services == describe(COMMAND).services
    driver = DriverProcess.start(command, scenario, folder)
    assert isinstance(driver, DriverProcess)
    with driver, Client(scenario["services"]["imap"]["ports"][0]) as client:
        client.hear()
        assert b"a OK" in client.log_in()
        with Client(scenario["services"]["imap"]["implicit_tls_ports"][0], tls=True) as inside:
            inside.hear()
            assert b"a OK" in inside.log_in()
        with Client(scenario["services"]["imap"]["ports"][0], source=STRANGER) as stranger:
            assert stranger.hear() == b""


@needs("faketime")
def test_fixed_timers_run_on_a_faster_clock(scenario: Scenario, start: Start) -> None:
    scenario["clock_rate"] = 200
    driver = start(scenario)
    imap = scenario["services"]["imap"]
    timers = driver.ready.timers[Service.IMAP]
    assert driver.ready.clock_rate == 200
    assert timers[Stage.BEFORE_LOGIN] == pytest.approx(0.9)
    assert timers[Stage.AFTER_LOGIN] == pytest.approx(9)
    assert driver.ready.timers[Service.POP3][Stage.AFTER_LOGIN] == pytest.approx(3)
    with Client(imap["ports"][0]) as silent, Client(imap["implicit_tls_ports"][0]) as mute:
        began = time.monotonic()
        assert silent.hear().startswith(b"* OK")
        assert silent.hear() == b"* BYE Disconnected for inactivity.\r\n"
        assert mute.hear() == b""
        assert 0.8 < time.monotonic() - began < 2.0


def test_a_reload_moves_a_port_and_keeps_the_session(scenario: Scenario, start: Start) -> None:
    driver = start(scenario)
    imap = scenario["services"]["imap"]
    kept, moved = imap["ports"]
    (fresh,) = procfs.free_ports(1)
    with Client(kept) as client, Client(moved) as stranger:
        client.hear()
        assert b"a OK" in client.log_in()
        assert stranger.hear().startswith(b"* OK")
        imap["ports"] = [kept, fresh]
        assert driver.reload(scenario) == Reloaded()
        assert client.say(b"n NOOP").startswith(b"n OK")
        assert stranger.say(b"n NOOP").startswith(b"n OK")
    with Client(fresh) as client:
        assert client.hear().startswith(b"* OK")
    with pytest.raises(ConnectionRefusedError):
        Client(moved)


def test_a_reload_that_cannot_be_is_refused_and_changes_nothing(scenario: Scenario, start: Start) -> None:
    driver = start(scenario)
    imap = scenario["services"]["imap"]
    good = dict(imap)
    imap["answer_only_on_thursdays"] = True
    assert "answer_only_on_thursdays" in (driver.reload(scenario).error or "")
    scenario["services"]["imap"] = {**good, "certificate": "other"}
    assert "other" in (driver.reload(scenario).error or "")
    scenario["certificates"]["main"] = {"chain": "/no/such/file", "key": "/no/such/file"}
    scenario["services"]["imap"] = good
    assert "/no/such/file" in (driver.reload(scenario).error or "")
    with Client(good["ports"][0]) as client:
        assert client.hear().startswith(b"* OK")


def test_an_occupied_port_is_a_clear_refusal(scenario: Scenario, folder: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as stranger:
        port = stranger.getsockname()[1]
        scenario["services"]["imap"]["ports"] = [port]
        with pytest.raises(DriverRefused, match=rf"port {port} on 127.0.0.1 is in use already"):
            DriverProcess.start(COMMAND, scenario, folder)


def test_an_address_of_another_machine_is_a_clear_refusal(scenario: Scenario, folder: Path) -> None:
    scenario["services"]["imap"]["bind"] = ["127.0.0.1", "192.0.2.77"]  # RFC 5737: nobody's
    with pytest.raises(DriverRefused, match=r"192\.0\.2\.77"):
        DriverProcess.start(COMMAND, scenario, folder)


def test_a_missing_certificate_is_a_clear_refusal(scenario: Scenario, folder: Path) -> None:
    scenario["certificates"]["main"]["key"] = "/no/such/key.pem"
    with pytest.raises(DriverRefused, match=r"/no/such/key\.pem"):
        DriverProcess.start(COMMAND, scenario, folder)


def test_sessions_are_told_when_it_stops(scenario: Scenario, start: Start) -> None:
    driver = start(scenario)
    imap = scenario["services"]["imap"]
    with Client(imap["implicit_tls_ports"][0], tls=True) as inside, Client(imap["ports"][0]) as outside:
        inside.hear()
        outside.hear()
        assert b"a OK" in inside.log_in()
        began = time.monotonic()
        driver.stop()
        assert time.monotonic() - began < 5
        assert inside.hear().startswith(b"* BYE")
        assert outside.hear().startswith(b"* BYE")
    assert not group_of(driver)


def test_nothing_is_left_when_the_driver_is_killed(scenario: Scenario, folder: Path) -> None:
    driver = DriverProcess.start(COMMAND, scenario, folder)
    assert isinstance(driver, DriverProcess)
    with Client(scenario["services"]["imap"]["ports"][0]) as client:
        client.hear()
        assert b"a OK" in client.log_in()
        assert len(group_of(driver)) > 5
        os.kill(driver.pid, signal.SIGKILL)
        assert wait_until(lambda: not group_of(driver))
        assert client.hear() == b""
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
    assert isinstance(driver.ready, Ready)
    os.kill(driver.ready.pids[0], signal.SIGKILL)
    assert wait_until(lambda: not driver.running)
    with pytest.raises(Exception, match="dovecot ended by itself with status -9"):
        driver.stop()
    assert not group_of(driver)


def test_a_long_path_is_no_obstacle(scenario: Scenario, folder: Path, start: Start) -> None:
    data = folder / ("long" * 12) / ("longer" * 12)
    data.mkdir(parents=True)
    scenario["data"] = str(data)
    start(scenario)
    with Client(scenario["services"]["imap"]["ports"][0]) as client:
        client.hear()
        assert b"a OK" in client.log_in()
