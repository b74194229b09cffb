"""A real slapd, driven: each setting that the driver offers does what it says, as a client sees it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from certs import Authority
from conformance import drivers, procfs
from conformance.contract import Service, Unsupported
from conformance.dialects import ldap
from conformance.dialects.dialect import Malformed
from conformance.driver_process import DriverProcess, DriverRefused, describe, is_believable
from conformance.drivers import confine
from tests.components import needs, program

COMMAND = drivers.command("slapd")
CLIENT, STRANGER = "127.0.0.9", "127.0.0.66"
ALICE = "uid=alice,ou=people,o=mail"
SUCCESS, CONFIDENTIALITY_REQUIRED, INVALID_CREDENTIALS, NO_SUCH_OBJECT, PROTOCOL_ERROR = 0, 13, 49, 32, 2

pytestmark = [
    needs("slapd"),
    pytest.mark.skipif(
        program("slapd") is not None and b"libwrap.so" not in Path(program("slapd") or "").read_bytes(),
        reason="this slapd was built without TCP wrappers",
    ),
]

Scenario = dict[str, Any]
Start = Callable[[Scenario], DriverProcess]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A chain and its key."""
    chain, key = Authority.create().issue().write(tmp_path_factory.mktemp("certificate"))
    return {"chain": str(chain), "key": str(key)}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of one's own, as the suite makes one: short, and for everybody to search."""
    path = Path(tempfile.mkdtemp(prefix="slapd-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def scenario(folder: Path, certificate: dict[str, str]) -> Scenario:
    """LDAP on two ports and an implicit one, and two accounts."""
    (folder / "data").mkdir()
    ports = procfs.free_ports(3)
    return {
        "format": 1,
        "hostname": "mail.example.test",
        "data": str(folder / "data"),
        "ldap_tls": True,
        "certificates": {"main": dict(certificate)},
        "accounts": [
            {"name": "alice", "password": "{SSHA} a:b c", "address": "alice@example.test"},
            {"name": 'o\'né, "x"', "password": "bob"},
        ],
        "services": {
            "ldap": {
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
    """One connection, driven a request at a time."""

    def __init__(self, port: int, *, tls: bool = False, source: str = CLIENT, to: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((to, port), timeout=15, source_address=(source, 0))
        if tls:
            self.secure()

    def secure(self) -> None:
        self.socket = trusting().wrap_socket(self.socket)

    def ask(self, operation: bytes) -> int | None:
        """The result code, or None at the end of the connection."""
        try:
            self.socket.sendall(ldap.message(1, operation))
            return self.hear()
        except (ConnectionResetError, BrokenPipeError):
            return None

    def hear(self) -> int | None:
        heard = b""
        while octets := self.socket.recv(4096):
            heard += octets
            try:
                *_, (_, last) = ldap.elements(heard)
            except (IndexError, Malformed):
                continue
            _, (tag, content), *_ = ldap.elements(last)
            if tag in (ldap.DONE, ldap.BIND_RESPONSE, ldap.EXTENDED_RESPONSE):
                return next(ldap.elements(content))[1][0]
        return None

    def is_served(self) -> bool:
        return self.ask(ldap.ROOT_DSE) == SUCCESS

    def upgrade(self) -> int | None:
        """StartTLS, and the handshake where it is agreed to."""
        answer = self.ask(ldap.extended(ldap.START_TLS))
        while answer == ldap.OPERATIONS_ERROR:  # slapd is not through with what it has answered
            answer = self.ask(ldap.extended(ldap.START_TLS))
        if answer == SUCCESS:
            self.secure()
        return answer

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def alice(password: str = "{SSHA} a:b c") -> bytes:
    return ldap.bind(ALICE.encode(), password.encode())


def trusting(suites: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if suites is not None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(suites)
    return context


def wait_until(condition: Callable[[], bool], within: float = 8.0) -> bool:
    until = time.monotonic() + within
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def test_what_is_described_follows_the_contract() -> None:
    description = describe(COMMAND)
    assert description.name == "OpenLDAP slapd"
    assert description.version.startswith("2.")
    assert set(description.services) == {Service.LDAP}
    directory = description.services[Service.LDAP]
    assert {"idle_timeout", "explicit_tls", "implicit_tls"} <= directory.offers
    assert not {"reload", "max_connections_per_ip", "seed_inbox"} & directory.offers
    assert directory.limit.surplus == "close"
    assert directory.login.user_dn == "uid={name},ou=people,o=mail"


def test_an_invented_setting_is_unsupported(scenario: Scenario, folder: Path) -> None:
    assert is_believable(COMMAND, scenario, folder=folder)


@pytest.mark.skipif(not confine.mounts_allowed(), reason="no mounts of one's own are allowed here")
@needs("root")
def test_where_it_is_missing_the_package_to_install_is_named(scenario: Scenario, folder: Path) -> None:
    script = f'mount --bind /dev/null {program("slapd")} && exec "$@"'
    hidden = ["unshare", "-m", "sh", "-c", script, "sh", *COMMAND]
    assert describe(hidden).version == ""
    scenario["services"]["ldap"].pop("max_connections", None)
    answer = DriverProcess.start(hidden, scenario, folder)
    assert isinstance(answer, Unsupported)
    assert answer.reason == "slapd is not installed: apt install slapd"


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"services.imap": {"ports": [1430]}}, "services.imap"),
        ({"services.ldap.max_connections_per_ip": 3}, "services.ldap.max_connections_per_ip"),
        ({"services.ldap.certificate": None, "certificates": {}}, "services.ldap.certificate"),
        ({"services.ldap.explicit_tls": False}, "services.ldap.explicit_tls"),
        ({"services.ldap.idle_timeout": 1.5}, "services.ldap.idle_timeout"),
        ({"services.ldap.deny": ["127.0.0.1-::1"]}, "services.ldap.deny"),
        ({"services.ldap.max_connections": 10**9}, "services.ldap.max_connections"),
        ({"clock_rate": 60}, "clock_rate"),
    ],
)
def test_what_slapd_does_not_have_is_unsupported(
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


def test_every_channel_takes_a_password_and_no_other(scenario: Scenario, start: Start) -> None:
    start(scenario)
    service = scenario["services"]["ldap"]
    for port in (*service["ports"], *service["implicit_tls_ports"]):
        with Client(port, tls=port in service["implicit_tls_ports"]) as client:
            assert client.is_served()
            assert client.ask(alice("wrong")) == INVALID_CREDENTIALS
            assert client.ask(alice()) == SUCCESS
    with Client(service["ports"][0]) as client:
        assert client.upgrade() == SUCCESS
        assert client.ask(alice()) == SUCCESS


def test_the_accounts_are_an_address_book_without_its_passwords(scenario: Scenario, start: Start) -> None:
    start(scenario)
    with Client(scenario["services"]["ldap"]["ports"][0]) as client:
        client.socket.sendall(ldap.message(7, ldap.search(b"o=mail", b"*", scope=2)))
        found = b""
        while b"\x02\x01\x07\x65" not in found:  # the end of the search
            found += client.socket.recv(65536)
        assert b"uid=alice,ou=people,o=mail" in found
        assert b"alice@example.test" in found
        assert 'o\'né, "x"'.encode() in found
        assert b"userPassword" not in found
        assert client.ask(ldap.search(b"uid=carol,ou=people,o=mail")) == NO_SUCH_OBJECT
        strange = "uid=o'né\\2c \\22x\\22,ou=people,o=mail"
        assert client.ask(ldap.bind(strange.encode(), b"bob")) == SUCCESS


def test_only_the_bound_addresses_are_served(scenario: Scenario, start: Start) -> None:
    service = scenario["services"]["ldap"]
    service["bind"] = ["127.0.0.2", "localhost"]
    start(scenario)
    for address in ("127.0.0.2", "127.0.0.1"):
        with Client(service["ports"][0], to=address) as client:
            assert client.is_served()
    with pytest.raises(ConnectionRefusedError):
        Client(service["ports"][0], to="127.0.0.3")


def test_every_address_is_served_unless_some_are_chosen(scenario: Scenario, start: Start) -> None:
    service = scenario["services"]["ldap"]
    service["bind"] = ["*"]
    start(scenario)
    with Client(service["ports"][0], to="127.0.0.77") as client:
        assert client.is_served()
    if procfs.has_ipv6():
        with Client(service["implicit_tls_ports"][0], to="::1", source="::1", tls=True) as client:
            assert client.is_served()


def test_a_password_without_tls_is_refused_where_tls_is_required(scenario: Scenario, start: Start) -> None:
    service = scenario["services"]["ldap"]
    service["require_tls_for_login"] = True
    start(scenario)
    with Client(service["ports"][0]) as client:
        assert client.is_served()
        assert client.ask(alice()) == CONFIDENTIALITY_REQUIRED
        assert client.upgrade() == SUCCESS
        assert client.ask(alice()) == SUCCESS
    with Client(service["implicit_tls_ports"][0], tls=True) as client:
        assert client.ask(alice()) == SUCCESS


def test_without_tls_there_is_no_starttls(scenario: Scenario, start: Start) -> None:
    service = scenario["services"]["ldap"]
    service.update(explicit_tls=False, implicit_tls_ports=[])
    start(scenario)
    with Client(service["ports"][0]) as client:
        assert client.upgrade() == PROTOCOL_ERROR
        assert client.is_served()


def test_a_cipher_has_256_bits_or_there_is_none(scenario: Scenario, start: Start) -> None:
    start(scenario)
    place = "127.0.0.1", scenario["services"]["ldap"]["implicit_tls_ports"][0]
    for suites in (None, "ECDHE+AESGCM"):  # TLS 1.3, and 1.2
        with trusting(suites).wrap_socket(socket.create_connection(place)) as client:
            assert (client.cipher() or ("", "", 0))[2] == 256
    with closing(socket.create_connection(place)) as weak, pytest.raises((ssl.SSLError, ConnectionResetError)):
        trusting("ECDHE+AESGCM+AES128").wrap_socket(weak)


@pytest.mark.skipif(not confine.mounts_allowed(), reason="no mounts of one's own are allowed here")
def test_the_limit_is_one_for_all_ports_and_channels(scenario: Scenario, start: Start) -> None:
    service = scenario["services"]["ldap"]
    service["max_connections"] = 3
    start(scenario)
    (first, second), (implicit,) = service["ports"], service["implicit_tls_ports"]
    for _ in range(3):
        with ExitStack() as stack:
            clients = [served(stack, first), served(stack, second)]
            assert clients[0].upgrade() == SUCCESS
            clients.append(served(stack, implicit, tls=True))
            assert all(client.is_served() for client in clients)
            for port in (first, second, implicit):
                with Client(port) as surplus:
                    assert is_surplus(surplus)
            clients[1].socket.close()
            clients[1] = served(stack, first)
            assert all(client.is_served() for client in clients)


def is_surplus(client: Client) -> bool:
    """Turned away, or, where slapd was not through with the one before (``_one_after_another``), not even heard."""
    client.socket.settimeout(2)
    try:
        return not client.is_served()
    except TimeoutError:
        return True


def served(stack: ExitStack, port: int, *, tls: bool = False) -> Client:
    """A client that has a place; until slapd has looked at those that left, they still have theirs."""
    until = time.monotonic() + 15
    while time.monotonic() < until:
        try:
            client = stack.enter_context(Client(port, tls=tls))
        except (ssl.SSLError, ConnectionResetError):
            continue
        if client.is_served():
            return client
    raise AssertionError(f"no place on port {port} within 15 s")


@pytest.mark.skipif(not confine.mounts_allowed(), reason="no mounts of one's own are allowed here")
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
    service = scenario["services"]["ldap"]
    service.update(settings)
    start(scenario)
    for source in served:
        with Client(service["ports"][0], source=source) as client:
            assert client.is_served(), source
        with Client(service["implicit_tls_ports"][0], source=source, tls=True) as client:
            assert client.is_served(), source
    for source in denied:
        for port in (service["ports"][0], service["implicit_tls_ports"][0]):
            with Client(port, source=source) as client:
                assert not client.is_served(), source


def test_the_idle_time_out_holds_in_every_stage_and_any_octet_begins_it_anew(scenario: Scenario, start: Start) -> None:
    service = scenario["services"]["ldap"]
    service["idle_timeout"] = 1
    start(scenario)
    with ExitStack() as stack:
        silent = stack.enter_context(Client(service["ports"][0]))
        handshaking = stack.enter_context(Client(service["implicit_tls_ports"][0]))
        bound = stack.enter_context(Client(service["ports"][1]))
        assert bound.ask(alice()) == SUCCESS
        slow = stack.enter_context(Client(service["ports"][1]))
        slow.socket.settimeout(0.3)
        began = time.monotonic()
        for octet in ldap.message(1, ldap.ROOT_DSE)[:10]:
            slow.socket.sendall(bytes([octet]))
            with pytest.raises(TimeoutError):
                slow.hear()
        assert time.monotonic() - began >= 3
        for client in (silent, handshaking, bound):
            assert client.socket.recv(1) == b""  # they were ended long ago
        slow.socket.settimeout(15)
        assert slow.hear() is None


def test_a_client_that_does_not_read_is_ended(scenario: Scenario, start: Start) -> None:
    service = scenario["services"]["ldap"]
    service["idle_timeout"] = 1
    start(scenario)
    with Client(service["ports"][0]) as greedy, Client(service["ports"][0]) as other:
        greedy.socket.sendall(ldap.message(1, ldap.search(b"cn=Subschema", b"+")) * 60)
        assert other.is_served()
        local = greedy.socket.getsockname()[1]
        assert wait_until(lambda: local not in connected_to(service["ports"][0]))


def connected_to(port: int) -> set[int]:
    """The ports of the clients that a server on that port still has (proc_net_tcp: state 01)."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if state == "01" and int(local.split(":")[1], 16) == port:
            found.add(int(remote.split(":")[1], 16))
    return found


def test_a_port_in_use_is_refused_before_anything_starts(scenario: Scenario, folder: Path) -> None:
    stranger = socket.create_server(("127.0.0.1", scenario["services"]["ldap"]["ports"][1]))
    with stranger, pytest.raises(DriverRefused, match="is in use already"):
        DriverProcess.start(COMMAND, scenario, folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bind": ["192.0.2.77"]}, "192.0.2.77"),
        ({"certificate": "missing"}, "TLS init"),
    ],
)
def test_why_it_does_not_start_is_told(scenario: Scenario, folder: Path, change: Scenario, words: str) -> None:
    scenario["certificates"]["missing"] = {"chain": "nowhere.pem", "key": "nowhere.key"}
    scenario["services"]["ldap"].update(change)
    with pytest.raises(DriverRefused, match=words):
        DriverProcess.start(COMMAND, scenario, folder)


def test_it_starts_again_where_it_was(scenario: Scenario, start: Start) -> None:
    for _ in range(2):
        with start(scenario), Client(scenario["services"]["ldap"]["ports"][0]) as client:
            assert client.ask(alice()) == SUCCESS


def test_a_reload_is_refused_and_the_server_stays(scenario: Scenario, start: Start) -> None:
    driver = start(scenario)
    answer = driver.reload(scenario)
    assert answer.error is not None
    with Client(scenario["services"]["ldap"]["ports"][0]) as client:
        assert client.is_served()


def test_nothing_is_left_when_the_driver_is_killed(scenario: Scenario, folder: Path) -> None:
    driver = DriverProcess.start(COMMAND, scenario, folder)
    assert isinstance(driver, DriverProcess)
    (pid,) = driver.ready.pids
    os.kill(driver.pid, signal.SIGKILL)
    assert wait_until(lambda: (found := procfs.process(pid)) is None or not found.runs)
    with pytest.raises(Exception, match="ended with SIGKILL"):
        driver.stop()


def test_a_slapd_that_dies_ends_the_driver(scenario: Scenario, folder: Path) -> None:
    driver = DriverProcess.start(COMMAND, scenario, folder)
    assert isinstance(driver, DriverProcess)
    os.kill(driver.ready.pids[0], signal.SIGKILL)
    assert wait_until(lambda: not driver.running)
    with pytest.raises(Exception, match="slapd ended by itself with status -9"):
        driver.stop()


def test_the_end_of_stdin_ends_the_server_and_its_clients(scenario: Scenario, start: Start) -> None:
    driver = start(scenario)
    with Client(scenario["services"]["ldap"]["ports"][0]) as client:
        assert client.is_served()
        driver.close_stdin()
        assert client.socket.recv(1) == b""
    assert wait_until(lambda: not driver.running)


@pytest.mark.skipif(
    shutil.which("setpriv") is None or not os.access("/usr/bin/python3", os.X_OK),
    reason="there is no setpriv and python3 to give up root with",
)
@needs("root")
def test_it_runs_as_anybody(scenario: Scenario, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(drivers.__file__).parents[2]))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3"]
    command = [*nobody, "-m", "conformance.drivers.slapd"]
    (folder / "data").chmod(0o777)
    own = folder / "certificate"
    own.mkdir()
    for kind, file in scenario["certificates"]["main"].items():
        scenario["certificates"]["main"][kind] = shutil.copy(file, own)
        Path(own / Path(file).name).chmod(0o644)
    service = scenario["services"]["ldap"]
    if "max_connections" in describe(command).services[Service.LDAP].offers:
        service["max_connections"] = 1
    driver = DriverProcess.start(command, scenario, folder)
    assert isinstance(driver, DriverProcess), driver
    with driver, Client(service["ports"][0]) as client:
        assert client.ask(alice()) == SUCCESS
        if "max_connections" in service:
            with Client(service["ports"][0]) as surplus:
                assert not surplus.is_served()


@needs("ldapsearch")
def test_ldapsearch_finds_an_account(scenario: Scenario, start: Start) -> None:
    start(scenario)
    url = f"ldap://127.0.0.1:{scenario['services']['ldap']['ports'][0]}"
    words = ["ldapsearch", "-LLL", "-x", "-ZZ", "-H", url, "-b", "o=mail", "(uid=alice)", "mail"]
    environment = {**os.environ, "LDAPTLS_REQCERT": "never"}
    found = subprocess.run(words, capture_output=True, text=True, check=True, env=environment, timeout=15)
    assert found.stdout.split() == ["dn:", ALICE, "mail:", "alice@example.test"]
