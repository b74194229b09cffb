"""PLAIN and LOGIN, response by response."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_server.protocols.sasl import (
    Cancelled,
    Challenge,
    Credentials,
    Denied,
    Exchange,
    Malformed,
    Mechanism,
)


def b64(text: str) -> bytes:
    return base64.b64encode(text.encode())


def test_mechanisms_are_found_in_any_case() -> None:
    assert Mechanism.named(b"plain") is Mechanism.PLAIN
    assert Mechanism.named(b"Login") is Mechanism.LOGIN
    assert Mechanism.named(b"CRAM-MD5") is None


def test_plain_with_an_initial_response_is_one_step() -> None:
    assert Exchange(Mechanism.PLAIN).begin(b64("\0alice\0secret")) == Credentials("alice", "secret")


def test_plain_without_one_asks_with_nothing() -> None:
    exchange = Exchange(Mechanism.PLAIN)
    assert exchange.begin(None) == Challenge(b"")
    assert exchange.respond(b64("\0älice\0sécret")) == Credentials("älice", "sécret")


def test_login_asks_twice() -> None:
    exchange = Exchange(Mechanism.LOGIN)
    assert exchange.begin(None) == Challenge(b64("Username:"))
    assert exchange.respond(b64("alice")) == Challenge(b64("Password:"))
    assert exchange.respond(b64("secret")) == Credentials("alice", "secret")


def test_login_takes_the_name_at_once() -> None:
    exchange = Exchange(Mechanism.LOGIN)
    assert exchange.begin(b64("alice")) == Challenge(b64("Password:"))
    assert exchange.respond(b64("secret")) == Credentials("alice", "secret")


@pytest.mark.parametrize("mechanism", Mechanism)
def test_a_client_can_give_up(mechanism: Mechanism) -> None:
    exchange = Exchange(mechanism)
    exchange.begin(None)
    assert exchange.respond(b"*") == Cancelled()


@pytest.mark.parametrize(
    "response",
    [
        b"=",
        b"%%%",
        b"AAA",
        b" AGEAYg==",
        b"\xff\xfe",
        b64("alice"),
        b64("\0alice"),
        b64("\0\0secret"),
        b64("\0alice\0"),
        b64("\0a\0b\0c"),
        base64.b64encode(b"\0al\xffice\0secret"),
    ],
)
def test_what_is_not_plain_is_malformed(response: bytes) -> None:
    assert isinstance(Exchange(Mechanism.PLAIN).begin(response), Malformed)


@pytest.mark.parametrize("response", [b"=", b"!", b64("al\0ice")])
def test_what_is_no_name_is_malformed(response: bytes) -> None:
    assert isinstance(Exchange(Mechanism.LOGIN).begin(response), Malformed)


def test_nobody_acts_for_somebody_else() -> None:
    assert Exchange(Mechanism.PLAIN).begin(b64("bob\0alice\0secret")) == Denied()
    assert Exchange(Mechanism.PLAIN).begin(b64("alice\0alice\0secret")) == Credentials("alice", "secret")


def test_a_password_does_not_show_itself() -> None:
    assert "secret" not in repr(Credentials("alice", "secret"))


@given(st.sampled_from(Mechanism), st.lists(st.binary(max_size=40), min_size=1, max_size=4))
def test_nothing_a_client_sends_breaks_an_exchange(mechanism: Mechanism, responses: list[bytes]) -> None:
    exchange = Exchange(mechanism)
    step = exchange.begin(responses[0])
    for response in responses[1:]:
        if not isinstance(step, Challenge):
            break
        step = exchange.respond(response)
    assert isinstance(step, Challenge | Credentials | Malformed | Denied | Cancelled)


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
)
def test_every_name_and_password_can_be_given(name: str, password: str) -> None:
    assert Exchange(Mechanism.PLAIN).begin(b64(f"\0{name}\0{password}")) == Credentials(name, password)
