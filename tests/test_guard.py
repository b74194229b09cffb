"""Addresses from which too many logins have failed: blocked for a while, and nobody else with them."""

from __future__ import annotations

import time
from ipaddress import ip_address
from pathlib import Path

import pytest

from conformance.transcript import Transcript
from conformance.wire import Ended, Wire
from reference_server.guard import MOST, Guard, Patience
from tests.mail_server import PASSWORD, MailServer, settings

ONE, OTHER = ip_address("192.0.2.1"), ip_address("192.0.2.2")


def test_so_many_failures_within_the_window_block_for_a_while() -> None:
    guard = Guard(Patience(3, window=10, block=60))
    assert [guard.failed(ONE, moment) for moment in (0.0, 5.0, 10.0)] == [False, False, True]
    assert guard.blocks(ONE, 69.9)
    assert not guard.blocks(OTHER, 11.0)
    assert not guard.blocks(ONE, 70.0)
    assert not guard.failed(ONE, 71.0)  # it begins anew


def test_old_failures_are_forgotten() -> None:
    guard = Guard(Patience(3, window=10, block=60))
    assert not any(guard.failed(ONE, moment) for moment in (0.0, 9.0, 18.0, 27.0, 36.0))


def test_without_a_limit_nobody_is_blocked() -> None:
    guard = Guard(Patience())
    assert not any(guard.failed(ONE, 0.0) for _ in range(1000))
    assert not guard.blocks(ONE, 0.0)


def test_a_limit_that_is_changed_holds_from_then_on() -> None:
    guard = Guard(Patience(5, window=10, block=60))
    guard.failed(ONE, 0.0)
    guard.patience = Patience(2, window=10, block=60)
    assert guard.failed(ONE, 1.0)
    guard.patience = Patience()
    assert not guard.blocks(ONE, 2.0)


def test_no_flood_of_addresses_fills_the_memory() -> None:
    guard = Guard(Patience(2, window=10, block=60))
    for number in range(MOST + 100):
        guard.failed(ip_address(number), 0.0)
    assert len(guard._failed) == MOST
    assert guard.failed(ip_address(MOST + 99), 1.0)


LOGINS = {
    "smtp": (b"EHLO me\r\nAUTH PLAIN AGFsaWNlAHdyb25n\r\n", b"535"),
    "pop3": (b"USER alice\r\nPASS wrong\r\n", b"-ERR [AUTH]"),
    "imap": (b"a LOGIN alice wrong\r\n", b"AUTHENTICATIONFAILED"),
}


@pytest.mark.parametrize("service", LOGINS)
def test_failures_on_several_connections_add_up_and_cut_those_who_are_in(tmp_path: Path, service: str) -> None:
    document = settings(tmp_path, services=(service,), bind=["127.0.0.1"], login_failures=3, login_block=1)
    attempt, refused = LOGINS[service]
    transcript = Transcript((PASSWORD.encode(),))

    def connect(source: str) -> Wire:
        wire = Wire.connect("127.0.0.1", server.port(service), transcript=transcript, source=source)
        wire.read_line()
        return wire

    with MailServer(tmp_path, document) as server:
        assert server.event()["event"] == "ready"
        with connect("127.0.9.1") as bystander, connect("127.0.9.2") as innocent:
            for _ in range(3):
                with connect("127.0.9.1") as guesser:
                    guesser.send(attempt)
                    while refused not in guesser.read_line():
                        pass
            bystander.await_end(5.0)
            with Wire.connect("127.0.0.1", server.port(service), transcript=transcript, source="127.0.9.1") as blocked:
                assert blocked.read_line()[:3] in (b"421", b"-ER", b"* B")
                with pytest.raises(Ended):
                    blocked.read_line()
            innocent.send(attempt)
            while refused not in innocent.read_line():
                pass
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with Wire.connect("127.0.0.1", server.port(service), transcript=transcript, source="127.0.9.1") as again:
                if again.read_line()[:3] in (b"220", b"+OK", b"* O"):
                    return
        raise AssertionError("the block did not end")
