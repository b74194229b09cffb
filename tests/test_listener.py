"""Where a service listens, and what happens when it cannot."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from conformance.procfs import free_ports
from reference_server.address_range import AddressRange
from reference_server.admission import Limits
from reference_server.listener import BindError, Door, addresses_of, has_ipv6
from reference_server.server import Server, StartError, doors_of
from reference_server.settings import ServiceSettings, load
from tests.engine_room import SOON, EngineRoom, engine_room, read_all, read_line

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6 on this machine")


def bound(*bind: str, ports: Sequence[int] = (1025,), implicit: Sequence[int] = ()) -> set[str]:
    """Where a service with that list listens; ``+`` stands for IPv4 clients that come in through IPv6."""
    table = ServiceSettings(enabled=True, bind=bind, ports=tuple(ports), implicit_tls_ports=tuple(implicit))
    doors = doors_of(table)
    assert len(set(doors)) == len(doors)
    return {f"{door}{'+' if door.any_version else ''}{' tls' if door.implicit else ''}" for door in doors}


@needs_ipv6
def test_a_star_is_every_local_address_of_both_kinds() -> None:
    assert bound("*") == {"[::]:1025+"}


@pytest.mark.parametrize(
    ("bind", "doors"),
    [
        (("127.0.0.1",), {"127.0.0.1:1025"}),
        (("127.0.0.1", "127.0.0.2"), {"127.0.0.1:1025", "127.0.0.2:1025"}),
        (("0.0.0.0",), {"0.0.0.0:1025"}),
        (("::",), {"[::]:1025+"}),
        (("0.0.0.0", "::"), {"0.0.0.0:1025", "[::]:1025"}),
        (("::", "127.0.0.1"), {"[::]:1025", "127.0.0.1:1025"}),
        (("::1", "127.0.0.1"), {"[::1]:1025", "127.0.0.1:1025"}),
        (("0.0.0.0", "localhost"), {"0.0.0.0:1025"}),
    ],
)
def test_a_list_is_bound_as_it_is_written(bind: tuple[str, ...], doors: set[str]) -> None:
    assert bound(*bind) - {"[::1]:1025"} == doors - {"[::1]:1025"}


def test_every_port_of_both_kinds_is_bound_on_every_address() -> None:
    doors = bound("127.0.0.1", "127.0.0.2", ports=(1025, 1587), implicit=(1465,))
    hosts = ("127.0.0.1", "127.0.0.2")
    assert doors == {f"{host}:{port}" for host in hosts for port in ("1025", "1587", "1465 tls")}


def test_all_addresses_of_a_name_are_bound() -> None:
    assert bound("localhost") == {str(Door(address, 1025)) for address in addresses_of("localhost")}


def test_a_name_that_nobody_knows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    with pytest.raises(BindError, match=r"^nobody\.invalid: Name or service not known$"):
        addresses_of("nobody.invalid")


@needs_ipv6
def test_an_ipv4_client_is_an_ipv4_client_whichever_socket_it_comes_through() -> None:
    denied = (AddressRange.parse("127.0.0.2"),)
    with engine_room(Limits(per_address=1, deny=denied)) as room, ExitStack() as clients:
        port = room.listen(Door("::", 0, any_version=True))

        def connect(host: str, source: str, number: int = port) -> socket.socket:
            sock = socket.create_connection((host, number), SOON, source_address=(source, 0))
            return clients.enter_context(sock)

        assert read_line(connect("127.0.0.1", "127.0.0.1")) == b"hello\n"
        assert read_line(connect("::1", "::1")) == b"hello\n"
        assert read_all(connect("127.0.0.1", "127.0.0.1", room.port)) == b"no: ADDRESS_LIMIT\n"
        assert read_all(connect("127.0.0.1", "127.0.0.2")) == b"no: DENIED\n"
        assert room.diary.events == ["connected 127.0.0.1 clear", "connected ::1 clear"]


def test_one_limit_spans_ports_and_addresses() -> None:
    with engine_room(Limits(connections=3)) as room, ExitStack() as clients:
        doors = [("127.0.0.1", room.port)]
        doors += [(address, room.listen(Door(address, 0))) for address in ("127.0.0.2", "127.0.0.3", "127.0.0.4")]
        heard = [read_line(clients.enter_context(socket.create_connection(door, SOON))) for door in doors]
        assert heard == [b"hello\n"] * 3 + [b"no: SERVICE_LIMIT\n"]


def test_a_port_is_shared_with_nobody() -> None:
    with engine_room() as room, socket.socket() as stranger:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            stranger.setsockopt(socket.SOL_SOCKET, option, 1)
        with pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", room.port))
        with pytest.raises(BindError, match=rf"^127\.0\.0\.1:{room.port}: something else listens there already$"):
            room.on_loop(lambda: room.engine.open(Door("127.0.0.1", room.port)))


def test_a_port_can_be_taken_again_at_once(room: EngineRoom) -> None:
    with room.client() as client:
        assert read_line(client) == b"hello\n"
        # The server closes first: the kernel remembers the connection for a minute.
        client.sendall(b"bye\n")
        assert read_all(client) == b"bye\n"
    room.on_loop(lambda: room.engine.close([door for door in room.engine.listeners if not door.implicit]))
    assert room.listen(Door("127.0.0.1", room.port)) == room.port
    with room.client() as client:
        assert read_line(client) == b"hello\n"


def test_clients_who_reset_before_they_are_accepted_harm_nobody(room: EngineRoom) -> None:
    # On the loop, so that nobody is accepted meanwhile.
    room.on_loop(lambda: reset(room.port, times=100))
    with room.client() as client:
        assert read_line(client) == b"hello\n"
    room.until(lambda: room.engine.admission.count == 0)


def reset(port: int, times: int) -> None:
    for _ in range(times):
        with socket.create_connection(("127.0.0.1", port), SOON) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.fixture
def room() -> Iterator[EngineRoom]:
    with engine_room() as room:
        yield room


def test_where_one_address_fails_none_is_left_open(tmp_path: Path) -> None:
    first, second, taken = free_ports(3)
    settings = tmp_path / "settings.toml"
    settings.write_text(
        f"""
        data = "data"
        [defaults]
        bind = ["127.0.0.1", "127.0.0.2"]
        [services.smtp]
        ports = [{first}]
        [services.pop3]
        ports = [{second}, {taken}]
        """
    )

    async def start() -> None:
        await Server(load(settings)).start()

    with socket.create_server(("127.0.0.2", taken)), pytest.raises(StartError) as told:
        asyncio.run(start())
    assert str(told.value) == f"services.pop3: cannot listen on 127.0.0.2:{taken}: something else listens there already"
    for port in (first, second, taken):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), SOON)
