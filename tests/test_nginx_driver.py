"""A real nginx, driven: each setting that the driver offers does what it says, as a web client sees it."""

from __future__ import annotations

import base64
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

from certs import Authority
from conformance import drivers, procfs
from conformance.contract import Service, Unsupported
from conformance.driver_process import DriverProcess, DriverRefused, describe, is_believable
from conformance.drivers import confine, nginx_instance
from conformance.drivers.nginx_conf import quoted, seconds
from tests.components import needs, program

COMMAND = drivers.command("nginx")
CLIENT, STRANGER = "127.0.0.9", "127.0.0.66"
PATIENCE = 20.0
#: What a request is answered with where one has to sign in, and where one cannot.
SIGN_IN, ELSEWHERE, FORBIDDEN = 401, 301, 403

pytestmark = needs("nginx")

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
    path = Path(tempfile.mkdtemp(prefix="nginx-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def scenario(folder: Path, certificate: dict[str, str]) -> Scenario:
    """Both services, each on two ports and an implicit one, and two accounts, of which one administers."""
    (folder / "data").mkdir()
    ports = procfs.free_ports(6)

    def service(mine: list[int]) -> Scenario:
        return {"bind": ["127.0.0.1"], "ports": mine[:2], "implicit_tls_ports": mine[2:], "certificate": "main"}

    return {
        "format": 1,
        "hostname": "mail.example.test",
        "data": str(folder / "data"),
        "certificates": {"main": dict(certificate)},
        "accounts": [
            {"name": "alice", "password": "{SSHA} a:b c"},
            {"name": "root o'né", "password": "secret", "admin": True},
        ],
        "services": {"webmail": service(ports[:3]), "admin": service(ports[3:])},
    }


@pytest.fixture
def webmail(scenario: Scenario) -> Scenario:
    """The settings of one of the services."""
    settings: Scenario = scenario["services"]["webmail"]
    return settings


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
    """One connection, on which one request comes after the other."""

    def __init__(self, port: int, *, tls: bool = False, source: str = CLIENT, to: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((to, port), timeout=PATIENCE, source_address=(source, 0))
        if tls:
            try:
                self.socket = trusting().wrap_socket(self.socket)
            except BaseException:
                self.socket.close()
                raise

    def get(self, name: str = "", password: str = "") -> int | None:
        """The status of the front page, as somebody who may sign in; None at the end of the connection."""
        credentials = base64.b64encode(f"{name}:{password}".encode()).decode()
        field = f"Authorization: Basic {credentials}\r\n" if name else ""
        try:
            self.socket.sendall(f"GET / HTTP/1.1\r\nHost: localhost\r\n{field}\r\n".encode())
            return self.hear()
        except (ConnectionResetError, BrokenPipeError):
            return None

    def hear(self) -> int | None:
        """One whole answer."""
        heard = b""
        while not complete(heard):
            octets = self.socket.recv(4096)
            if not octets:
                return None
            heard += octets
        return int(heard.split(b" ", 2)[1])

    def is_served(self) -> bool:
        return self.get() == SIGN_IN

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def complete(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(end) and len(body) >= int(lengths[0])


def trusting(suites: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if suites is not None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(suites)
    return context


def wait_until(condition: Callable[[], bool], within: float = PATIENCE) -> bool:
    until = time.monotonic() + within
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def is_turned_away(port: int, *, tls: bool = False, source: str = CLIENT) -> bool:
    try:
        with Client(port, tls=tls, source=source) as client:
            return not client.is_served()
    except (ssl.SSLError, ConnectionResetError):
        return True


def test_what_is_described_follows_the_contract() -> None:
    description = describe(COMMAND)
    assert description.name == "nginx"
    assert description.version.startswith("1.")
    assert set(description.services) == {Service.WEBMAIL, Service.ADMIN}
    for service in description.services.values():
        assert {"idle_timeout", "implicit_tls", "reload"} <= service.offers
        assert not {"explicit_tls", "seed_inbox"} & service.offers
        assert service.limit.surplus == "close"
        assert service.login.scheme == "basic"


def test_an_invented_setting_is_unsupported(scenario: Scenario, folder: Path) -> None:
    assert is_believable(COMMAND, scenario, folder=folder)


@pytest.mark.skipif(not confine.mounts_allowed(), reason="no mounts of one's own are allowed here")
@needs("root")
def test_where_it_is_missing_the_packages_to_install_are_named(scenario: Scenario, folder: Path) -> None:
    script = f'mount --bind /dev/null {program("nginx")} && exec "$@"'
    hidden = ["unshare", "-m", "sh", "-c", script, "sh", *COMMAND]
    assert describe(hidden).version == ""
    answer = DriverProcess.start(hidden, scenario, folder)
    assert isinstance(answer, Unsupported)
    assert answer.reason == "nginx is not installed: apt install nginx-light libnginx-mod-stream"


@pytest.mark.skipif(not confine.mounts_allowed(), reason="no mounts of one's own are allowed here")
@needs("root", "nginx-stream")
def test_without_its_stream_module_there_are_no_limits(scenario: Scenario, webmail: Scenario, folder: Path) -> None:
    modules = nginx_instance.module("stream")
    if not modules:
        pytest.skip("the stream module is built in here")
    script = f'mount -t tmpfs none {modules[0].parent} && exec "$@"'
    hidden = ["unshare", "-m", "sh", "-c", script, "sh", *COMMAND]
    described = describe(hidden).services[Service.WEBMAIL]
    assert not {"max_connections", "max_connections_per_ip", "restrictions"} & described.offers
    assert any("apt install libnginx-mod-stream" in note for note in described.notes)
    driver = DriverProcess.start(hidden, scenario, folder)
    assert isinstance(driver, DriverProcess)
    with driver, Client(webmail["ports"][0]) as client:
        assert client.is_served()


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"services.imap": {"ports": [1430]}}, "services.imap"),
        ({"services.webmail.explicit_tls": True}, "services.webmail.explicit_tls"),
        ({"services.webmail.certificate": None, "certificates": {}}, "services.webmail.certificate"),
        ({"services.webmail.deny": ["127.0.0.1-::1"]}, "services.webmail.deny"),
        ({"accounts": [{"name": "a:b", "password": "c"}]}, "accounts"),
        ({"clock_rate": 60}, "clock_rate"),
    ],
)
@needs("nginx-stream")
def test_what_nginx_does_not_have_is_unsupported(
    scenario: Scenario, folder: Path, change: dict[str, Any], setting: str
) -> None:
    if "certificates" in change:
        scenario["services"]["admin"].update(implicit_tls_ports=[], certificate=None)
    for path, value in change.items():
        *parents, last = path.split(".")
        table = scenario
        for parent in parents:
            table = table[parent]
        table[last] = value
    answer = DriverProcess.start(COMMAND, scenario, folder)
    assert isinstance(answer, Unsupported)
    assert answer.setting == setting


def test_every_channel_takes_a_password_and_no_other(scenario: Scenario, webmail: Scenario, start: Start) -> None:
    start(scenario)
    for port in (*webmail["ports"], *webmail["implicit_tls_ports"]):
        with Client(port, tls=port in webmail["implicit_tls_ports"]) as client:
            assert client.is_served()
            assert client.get("alice", "wrong") == SIGN_IN
            assert client.get("alice", "{SSHA} a:b c") == 200
            assert client.get("root o'né", "secret") == 200


def test_only_administrators_administer(scenario: Scenario, start: Start) -> None:
    start(scenario)
    with Client(scenario["services"]["admin"]["ports"][0]) as client:
        assert client.get("alice", "{SSHA} a:b c") == SIGN_IN
        assert client.get("root o'né", "secret") == 200


def test_only_the_bound_addresses_are_served(scenario: Scenario, webmail: Scenario, start: Start) -> None:
    webmail["bind"] = ["127.0.0.2", "localhost"]
    start(scenario)
    for address in ("127.0.0.2", "127.0.0.1"):
        with Client(webmail["ports"][0], to=address) as client:
            assert client.is_served()
    with pytest.raises(ConnectionRefusedError):
        Client(webmail["ports"][0], to="127.0.0.3")


@pytest.mark.parametrize("settings", [{}, pytest.param({"max_connections": 9}, marks=needs("nginx-stream"))])
def test_every_address_is_served_unless_some_are_chosen(
    scenario: Scenario, webmail: Scenario, start: Start, settings: Scenario
) -> None:
    webmail.update(settings, bind=["*"])
    start(scenario)
    with Client(webmail["ports"][0], to="127.0.0.77") as client:
        assert client.is_served()
    if procfs.has_ipv6():
        with Client(webmail["implicit_tls_ports"][0], to="::1", source="::1", tls=True) as client:
            assert client.is_served()


@pytest.mark.parametrize(("implicit", "answer"), [(True, ELSEWHERE), (False, FORBIDDEN)])
def test_no_password_is_taken_in_clear_where_tls_is_required(
    scenario: Scenario, webmail: Scenario, start: Start, implicit: bool, answer: int
) -> None:
    webmail["require_tls_for_login"] = True
    if not implicit:
        webmail["implicit_tls_ports"] = []
    start(scenario)
    with Client(webmail["ports"][0]) as client:
        assert client.get() == answer
        assert client.get("alice", "{SSHA} a:b c") == answer
    if implicit:
        with Client(webmail["implicit_tls_ports"][0], tls=True) as client:
            assert client.get("alice", "{SSHA} a:b c") == 200


@pytest.mark.parametrize("settings", [{}, pytest.param({"max_connections": 9}, marks=needs("nginx-stream"))])
def test_a_cipher_has_256_bits_or_there_is_none(
    scenario: Scenario, webmail: Scenario, start: Start, settings: Scenario
) -> None:
    webmail.update(settings)
    start(scenario)
    place = "127.0.0.1", webmail["implicit_tls_ports"][0]
    for suites in (None, "ECDHE+AESGCM"):  # TLS 1.3, and 1.2
        with trusting(suites).wrap_socket(socket.create_connection(place, timeout=PATIENCE)) as client:
            assert (client.cipher() or ("", "", 0))[2] == 256
    with (
        closing(socket.create_connection(place, timeout=PATIENCE)) as weak,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
    ):
        trusting("ECDHE+AESGCM+AES128").wrap_socket(weak)


def served(stack: ExitStack, port: int, *, tls: bool = False, source: str = CLIENT) -> Client:
    """A client that has a place; until nginx has looked at those that left, they still have theirs."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            client = stack.enter_context(Client(port, tls=tls, source=source))
        except (ssl.SSLError, ConnectionResetError):
            continue
        if client.is_served():
            return client
    raise AssertionError(f"no place on port {port} within {PATIENCE:g} s")


@needs("nginx-stream")
def test_the_limit_is_one_for_all_ports_and_channels(scenario: Scenario, webmail: Scenario, start: Start) -> None:
    webmail["max_connections"] = 3
    start(scenario)
    (first, second), (implicit,) = webmail["ports"], webmail["implicit_tls_ports"]
    for _ in range(3):
        with ExitStack() as stack:
            clients = [served(stack, first), served(stack, second), served(stack, implicit, tls=True)]
            for port in (first, second, implicit):
                assert is_turned_away(port, tls=port == implicit)
            assert all(client.is_served() for client in clients)
            with Client(scenario["services"]["admin"]["ports"][0]) as other:
                assert other.is_served()
            clients[1].socket.close()
            clients[1] = served(stack, first)
            assert all(client.is_served() for client in clients)


@needs("nginx-stream")
def test_each_address_has_its_share(scenario: Scenario, webmail: Scenario, start: Start) -> None:
    webmail.update(max_connections=5, max_connections_per_ip=2)
    start(scenario)
    first, implicit = webmail["ports"][0], webmail["implicit_tls_ports"][0]
    with ExitStack() as stack:
        clients = [served(stack, first), served(stack, implicit, tls=True)]
        assert is_turned_away(webmail["ports"][1])
        clients.append(served(stack, implicit, tls=True, source=STRANGER))
        assert all(client.is_served() for client in clients)


@needs("nginx-stream")
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
    webmail = scenario["services"]["webmail"]
    webmail.update(settings)
    start(scenario)
    first, implicit = webmail["ports"][0], webmail["implicit_tls_ports"][0]
    for source in served:
        with Client(first, source=source) as client:
            assert client.is_served(), source
        with Client(implicit, source=source, tls=True) as client:
            assert client.is_served(), source
    for source in denied:
        assert is_turned_away(first, source=source), source
        assert is_turned_away(implicit, source=source, tls=True), source


@pytest.mark.parametrize("settings", [{}, pytest.param({"max_connections": 9}, marks=needs("nginx-stream"))])
def test_the_idle_time_out_holds_in_every_stage(
    scenario: Scenario, webmail: Scenario, start: Start, settings: Scenario
) -> None:
    webmail.update(settings, idle_timeout=1.5)
    start(scenario)
    with ExitStack() as stack:
        began = time.monotonic()
        silent, asked, half = [stack.enter_context(Client(webmail["ports"][0])) for _ in range(3)]
        handshaking = stack.enter_context(Client(webmail["implicit_tls_ports"][0]))
        secured = stack.enter_context(Client(webmail["implicit_tls_ports"][0], tls=True))
        half.socket.sendall(b"GET / HTTP/1.1\r\nHost: local")
        assert asked.is_served()
        assert secured.get("alice", "{SSHA} a:b c") == 200
        for client in (silent, asked, half, handshaking, secured):
            assert client.socket.recv(1) == b""
            assert time.monotonic() - began >= 1.4


@pytest.mark.parametrize("settings", [{}, pytest.param({"max_connections": 9}, marks=needs("nginx-stream"))])
def test_a_client_that_does_not_read_is_ended(
    scenario: Scenario, webmail: Scenario, start: Start, settings: Scenario
) -> None:
    webmail.update(settings, idle_timeout=1)
    start(scenario)
    port = webmail["ports"][0]
    with Client(port) as greedy:
        local = greedy.socket.getsockname()[1]
        greedy.socket.setblocking(False)
        asked, until = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100, time.monotonic() + PATIENCE
        while local in connected_to(port):
            try:
                greedy.socket.send(asked)
            except (BlockingIOError, ConnectionResetError, BrokenPipeError):
                time.sleep(0.01)
            assert time.monotonic() < until
    with Client(port) as other:
        assert other.is_served()


def connected_to(port: int) -> set[int]:
    """The ports of the clients that a server on that port still has (proc_net_tcp: state 01)."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if state == "01" and int(local.split(":")[1], 16) == port:
            found.add(int(remote.split(":")[1], 16))
    return found


def test_a_reload_moves_ports_and_spares_the_others(scenario: Scenario, webmail: Scenario, start: Start) -> None:
    driver = start(scenario)
    gone, stays = webmail["ports"]
    (comes,) = procfs.free_ports(1)
    webmail["ports"] = [stays, comes]
    with Client(stays) as client:
        client.socket.sendall(b"GET / HT")
        with Client(stays) as other:
            assert other.is_served()
        assert driver.reload(scenario).error is None
        client.socket.sendall(b"TP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.hear() == SIGN_IN
    for port in (stays, comes):
        with Client(port) as client:
            assert client.is_served()
    with pytest.raises(ConnectionRefusedError):
        Client(gone)


@needs("nginx-stream")
def test_a_reload_changes_limits_and_restrictions(scenario: Scenario, webmail: Scenario, start: Start) -> None:
    driver = start(scenario)
    port = webmail["ports"][0]
    webmail.update(max_connections=1, deny=[STRANGER])
    assert driver.reload(scenario).error is None
    with ExitStack() as stack:
        served(stack, port)
        assert is_turned_away(port)
    assert is_turned_away(port, source=STRANGER)
    webmail.update(max_connections=0, deny=[])
    assert driver.reload(scenario).error is None
    with Client(port, source=STRANGER) as client, Client(port) as other:
        assert client.is_served()
        assert other.is_served()


def test_a_reload_that_nginx_refuses_leaves_everything_as_it_was(
    scenario: Scenario, webmail: Scenario, start: Start
) -> None:
    driver = start(scenario)
    scenario["certificates"]["missing"] = {"chain": "nowhere.pem", "key": "nowhere.key"}
    answer = driver.reload({**scenario, "services": {"webmail": {**webmail, "certificate": "missing"}}})
    assert "nowhere.pem" in (answer.error or "")
    with Client(webmail["implicit_tls_ports"][0], tls=True) as client:
        assert client.get("alice", "{SSHA} a:b c") == 200


def test_a_port_in_use_is_refused_before_anything_starts(scenario: Scenario, webmail: Scenario, folder: Path) -> None:
    stranger = socket.create_server(("127.0.0.1", webmail["ports"][1]))
    with stranger, pytest.raises(DriverRefused, match="is in use already"):
        DriverProcess.start(COMMAND, scenario, folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bind": ["192.0.2.77"]}, "192.0.2.77"),
        ({"certificate": "missing"}, "nowhere.pem"),
    ],
)
def test_why_it_does_not_start_is_told(
    scenario: Scenario, webmail: Scenario, folder: Path, change: Scenario, words: str
) -> None:
    scenario["certificates"]["missing"] = {"chain": "nowhere.pem", "key": "nowhere.key"}
    webmail.update(change)
    with pytest.raises(DriverRefused, match=words):
        DriverProcess.start(COMMAND, scenario, folder)


def test_it_starts_again_where_it_was(scenario: Scenario, webmail: Scenario, start: Start) -> None:
    for _ in range(2):
        with start(scenario), Client(webmail["ports"][0]) as client:
            assert client.is_served()


def test_nothing_is_left_when_the_driver_is_killed(scenario: Scenario, folder: Path) -> None:
    driver = DriverProcess.start(COMMAND, scenario, folder)
    assert isinstance(driver, DriverProcess)
    (pid,) = driver.ready.pids
    pids = [pid, *(child.pid for child in procfs.children(pid))]
    assert len(pids) >= 2  # a master and its worker
    os.kill(driver.pid, signal.SIGKILL)
    assert wait_until(lambda: not any((found := procfs.process(each)) is not None and found.runs for each in pids))
    with pytest.raises(Exception, match="ended with SIGKILL"):
        driver.stop()


def test_an_nginx_that_dies_ends_the_driver(scenario: Scenario, folder: Path) -> None:
    driver = DriverProcess.start(COMMAND, scenario, folder)
    assert isinstance(driver, DriverProcess)
    os.kill(driver.ready.pids[0], signal.SIGKILL)
    assert wait_until(lambda: not driver.running)
    with pytest.raises(Exception, match="nginx ended by itself with status -9"):
        driver.stop()


def test_the_end_of_stdin_ends_the_server_and_its_clients(scenario: Scenario, webmail: Scenario, start: Start) -> None:
    driver = start(scenario)
    with Client(webmail["ports"][0]) as client:
        assert client.is_served()
        driver.close_stdin()
        assert client.socket.recv(1) == b""
    assert wait_until(lambda: not driver.running)


@pytest.mark.skipif(
    shutil.which("setpriv") is None or not os.access("/usr/bin/python3", os.X_OK),
    reason="there is no setpriv and python3 to give up root with",
)
@needs("root")
def test_it_runs_as_anybody(
    scenario: Scenario, webmail: Scenario, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(drivers.__file__).parents[2]))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3"]
    command = [*nobody, "-m", "conformance.drivers.nginx"]
    (folder / "data").chmod(0o777)
    own = folder / "certificate"
    own.mkdir()
    for kind, file in scenario["certificates"]["main"].items():
        scenario["certificates"]["main"][kind] = shutil.copy(file, own)
        Path(own / Path(file).name).chmod(0o644)
    if "max_connections" in describe(command).services[Service.WEBMAIL].offers:
        webmail["max_connections"] = 1
    driver = DriverProcess.start(command, scenario, folder)
    assert isinstance(driver, DriverProcess), driver
    with driver, Client(webmail["ports"][0]) as client:
        assert client.get("alice", "{SSHA} a:b c") == 200
        if "max_connections" in webmail:
            assert is_turned_away(webmail["ports"][0])


def test_what_nginx_would_replace_is_not_written() -> None:
    assert quoted('a "b" \\ c') == '"a \\"b\\" \\\\ c"'
    with pytest.raises(Exception, match="variable"):
        quoted("/srv/$host")
    assert seconds(0.25) == "250ms"
