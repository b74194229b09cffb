"""Where a message text ends, and what becomes of it: the place where messages are lost or smuggled."""

from __future__ import annotations

import errno
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_server.mailstore import Account
from reference_server.protocols import smtp as smtp_module
from reference_server.protocols.smtp import SmtpSession
from reference_server.protocols.smtp_text import IncomingText
from reference_server.session import Policy, Security
from tests.dialogue import TLS, Conversation, Feed, play
from tests.memory_store import ALICE, MemoryStore

POLICY = Policy("mail.example.test", offers_tls=True)
DATA = """
    S: 220 *
    C: EHLO client.example.org
    S*: 250-*
    S: 250 *
    C: MAIL FROM:<someone@example.org>
    S: 250 *
    C: RCPT TO:<alice@example.test>
    S: 250 *
    C: DATA
    S: 354 *
"""


def deliver(script: str, head: str = DATA, security: Security | None = None) -> list[bytes]:
    """Play a dialogue; the bodies of what alice then has, which must not depend on how octets arrived."""
    stores: list[MemoryStore] = []

    def session() -> SmtpSession:
        stores.append(MemoryStore())
        return SmtpSession(POLICY, stores[-1])

    play(session, head + script, security=security)
    inboxes = [[without_trace(message) for message in store.inboxes["alice"]] for store in stores]
    assert all(inbox == inboxes[0] for inbox in inboxes)
    return inboxes[0]


def without_trace(message: bytes) -> bytes:
    return re.sub(rb"\AReturn-Path: [^\n]*\nReceived: [^\n]*\n(?:\t[^\n]*\n)+", b"", message)


# ---- the end


def test_the_end_is_a_dot_between_line_ends() -> None:
    assert deliver("C: Subject: x\nC:\nC: body\nC: .\nS: 250 2.0.0 *") == [b"Subject: x\r\n\r\nbody\r\n"]


def test_an_empty_text_is_a_text() -> None:
    assert deliver("C: .\nS: 250 *") == [b""]


def test_only_the_first_dot_of_a_line_is_taken_off() -> None:
    script = r"C> ..\r\n...\r\n.a\r\na.\r\n\r\n..\r\n.\r\n" + "\nS: 250 *"
    assert deliver(script) == [b".\r\n..\r\na\r\na.\r\n\r\n.\r\n"]


@pytest.mark.parametrize(
    "almost",
    [
        *(r"\n.\n", r"\n.\r\n", r"\r.\r", r"\r.\r\n", r"\r\n.\n", r"\r\n.\r", r"\r\n.\n\r\n", r"\r\n.\0\r\n"),
        *(r"\r\n\0.\r\n", r"\r\n. \r\n", r"\r\r\n.\r", r"\n\n.\n\n", r"\r\n.\r\r\n", r"\n.\r\nMAIL FROM:<x@y.z>"),
    ],
)
def test_nothing_else_ends_a_text(almost: str) -> None:
    script = rf"""
        C> a{almost}
        is: unfinished
        C> MAIL FROM:<smuggled@example.org>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n
        is: unfinished
        C> \r\n.\r\n
        S: 250 2.0.0 *
        C: NOOP
        S: 250 *
        """
    [message] = deliver(script)
    assert b"MAIL FROM:<smuggled@example.org>" in message


def test_commands_behind_the_end_are_commands() -> None:
    assert deliver(r"""
        C> one\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n
        S: 250 2.0.0 *
        S: 250 2.1.0 *
        S: 250 2.1.5 *
        S: 354 *
        C> two\r\n.\r\nQUIT\r\n
        S: 250 2.0.0 *
        S: 221 *
        A: Close
        """) == [b"one\r\n", b"two\r\n"]


def test_a_bare_lf_is_stored_as_a_line_end_and_a_bare_cr_as_itself() -> None:
    assert deliver(r"C> one\ntwo\n.\nthree\rfour\n\r\n.\r\n" + "\nS: 250 *") == [
        b"one\r\ntwo\r\n.\r\nthree\rfour\r\n\r\n"
    ]


def test_eight_bits_long_lines_and_nul_are_kept() -> None:
    text = "x" * 5000
    assert deliver(rf"C> {text}\xe4\0\xff\r\n.\r\n" + "\nS: 250 *") == [text.encode() + b"\xe4\0\xff\r\n"]


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n", b"\r\n.", b"\r\n.\r\n"]), max_size=25),
    st.integers(1, 6),
)
def test_the_end_does_not_depend_on_how_the_text_is_cut(parts: list[bytes], step: int) -> None:
    wire = b"".join(parts) + b"\r\n.\r\n"
    whole = IncomingText(1000, keep=True)
    behind = whole.feed(wire)
    assert behind is not None
    ends = (b"\r\n" + wire).index(b"\r\n.\r\n") - 2 + 5
    assert behind == wire[ends:]
    pieces = IncomingText(1000, keep=True)
    for at in range(0, len(wire), step):
        rest = pieces.feed(wire[at : at + step])
        if rest is not None:
            assert rest + wire[at + step :] == behind
            break
    assert pieces.text() == whole.text()


@given(st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\r", b"").replace(b"\n", b"")), max_size=9))
def test_what_a_client_stuffs_comes_out_as_it_was(lines: list[bytes]) -> None:
    message = b"".join(line + b"\r\n" for line in lines)
    stuffed = b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines)
    text = IncomingText(1000, keep=True)
    assert text.feed(stuffed + b".\r\n") == b""
    assert text.text() == message
    assert not text.too_large


# ---- size


def test_a_text_may_have_exactly_the_announced_size() -> None:
    text = IncomingText(10, keep=True)
    text.feed(b"..345678\r\n\r\n.\r\n")
    assert text.text() == b".345678\r\n\r\n"
    assert text.too_large
    text = IncomingText(11, keep=True)
    text.feed(b"..345678\r\n\r\n.\r\n")
    assert not text.too_large


@pytest.mark.parametrize("keep", [True, False])
def test_a_text_that_is_too_large_is_read_to_its_end_but_not_kept(keep: bool) -> None:
    text = IncomingText(1000, keep=keep)
    for _ in range(50):
        assert text.feed(b"NOOP\r\n" * 100) is None
    assert text.feed(b".\r\nQUIT\r\n") == b"QUIT\r\n"
    assert text.too_large


def test_too_much_is_refused_and_the_session_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp_module, "MAX_SIZE", 100)
    assert deliver(
        "C: "
        + "x" * 200
        + "\nC: NOOP\nC: .\nS: 552 5.3.4 *\nC: MAIL FROM:<>\nS: 250 *"
        + "\nC: RCPT TO:<alice@example.test>\nS: 250 *\nC: DATA\nS: 354 *\nC: ok\nC: .\nS: 250 *"
    ) == [b"ok\r\n"]


# ---- trace


def traced(security: Security | None = None, login: str = "", hello: str = "EHLO") -> str:
    store = MemoryStore()
    conversation = Conversation(SmtpSession(POLICY, store), security=security)
    conversation.begin()
    conversation.feed([f"{hello} [192.0.2.7]\r\n{login}MAIL FROM:<o@example.org>\r\n".encode()])
    conversation.feed([b"RCPT TO:<alice@example.test>\r\nDATA\r\nhi\r\n.\r\n"])
    [message] = store.inboxes["alice"]
    return message.decode()


def test_a_message_says_where_it_came_from() -> None:
    assert re.fullmatch(
        "Return-Path: <o@example.org>\r\n"
        r"Received: from \[192\.0\.2\.7\] \(\[192\.0\.2\.7\]\)"
        "\r\n"
        "\tby mail.example.test with ESMTP\r\n"
        "\tfor <alice@example.test>;\r\n"
        "\t(Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]{2} [A-Z][a-z]{2} 20[0-9]{2} [0-9:]{8} \\+0000\r\n"
        "hi\r\n",
        traced(),
    )


def test_it_says_how_it_came() -> None:
    login = "AUTH PLAIN AGFsaWNlAGVjaWxh\r\n"
    assert " with SMTP\r\n" in traced(hello="HELO")
    assert " with ESMTPS\r\n" in traced(TLS)
    assert " with ESMTPA\r\n" in traced(login=login)
    assert " with ESMTPSA\r\n" in traced(TLS, login)


def test_recipients_do_not_learn_of_each_other() -> None:
    store = MemoryStore()
    conversation = Conversation(SmtpSession(POLICY, store))
    conversation.begin()
    conversation.feed([b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.test>\r\nRCPT TO:<bob@example.test>\r\n"])
    conversation.feed([b"RCPT TO:<alice@example.test>\r\nDATA\r\nhi\r\n.\r\n"])
    assert store.inboxes["alice"] == store.inboxes["bob"]
    [message] = store.inboxes["alice"]  # named twice, kept once
    assert message.startswith(b"Return-Path: <>\r\nReceived: from x (")
    assert b"for <" not in message


# ---- keeping it


def test_250_comes_when_the_message_is_kept_and_not_before() -> None:
    store = MemoryStore()
    conversation = Conversation(SmtpSession(POLICY, store))
    conversation.begin()
    conversation.feed([b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n"])
    conversation.taken()
    conversation.happen("hold")
    conversation.feed([b"hi\r\n.\r\n", b"NOOP\r\n"])
    assert conversation.taken() == []
    assert store.inboxes["alice"] == []
    conversation.happen("release")
    assert conversation.taken() == [b"250 2.0.0 accepted and kept\r\n250 2.0.0 ok\r\n"]
    assert len(store.inboxes["alice"]) == 1


def test_stopping_does_not_take_back_what_is_being_kept() -> None:
    session = SmtpSession(POLICY, MemoryStore())
    conversation = Conversation(session, holding=True)
    conversation.begin()
    conversation.feed([b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\nhi\r\n.\r\n"])
    conversation.taken()
    assert session.stopping() == ()
    conversation.happen("release")
    assert conversation.taken() == [
        b"250 2.0.0 accepted and kept\r\n421 4.3.2 mail.example.test is shutting down\r\n",
        "Close",
    ]


@pytest.mark.parametrize(
    ("fault", "reply"),
    [
        (OSError(errno.ENOSPC, "full"), b"452 4.3.1 "),
        (OSError(errno.EDQUOT, "quota"), b"452 4.3.1 "),
        (OSError(errno.EIO, "broken"), b"451 4.3.0 "),
        (RuntimeError("a bug"), b"451 4.3.0 "),
    ],
)
def test_what_cannot_be_kept_is_not_accepted(fault: Exception, reply: bytes) -> None:
    store = MemoryStore()
    store.fault = fault
    conversation = Conversation(SmtpSession(POLICY, store))
    conversation.begin()
    transaction = b"MAIL FROM:<>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\nhi\r\n.\r\n"
    conversation.feed([b"EHLO x\r\n" + transaction])
    assert store.inboxes["alice"] == []
    assert reply in conversation.sent
    conversation.feed([transaction])
    assert conversation.sent.endswith(b"250 2.0.0 accepted and kept\r\n")
    assert len(store.inboxes["alice"]) == 1


@pytest.mark.parametrize("ending", ["idled", "stopping", "ended"])
@pytest.mark.parametrize("so_far", [r"half a lin", r"a line\r\n", r"a line\r\n.", r"a line\r\n.\r", r""])
def test_half_a_message_is_no_message(so_far: str, ending: str) -> None:
    farewell = "" if ending == "ended" else "\nS: 421 *"
    said = f"C> {so_far}\n" if so_far else ""
    assert deliver(f"{said}is: unfinished\nE: {ending}{farewell}") == []


def test_an_account_that_keeps_nothing_needs_no_disk() -> None:
    store = MemoryStore()
    store.fault = OSError("nobody may touch the disk")
    head = DATA.replace("alice@example.test", "sink@example.test")
    play(lambda: SmtpSession(POLICY, store), head + "E: hold\nC: hi\nC: .\nS: 250 2.0.0 *")


def test_one_that_keeps_nothing_beside_one_that_does() -> None:
    head = DATA.replace("C: DATA", "C: RCPT TO:<sink@example.test>\n    S: 250 *\n    C: DATA")
    assert deliver("C: hi\nC: .\nS: 250 2.0.0 *", head) == [b"hi\r\n"]


def test_a_large_message_octet_by_octet_costs_its_length() -> None:
    store = MemoryStore(ALICE, Account("bob", "bob@example.test"))
    text = (b"x" * 98 + b"\r\n") * 2000
    play(
        lambda: SmtpSession(POLICY, store),
        DATA + "C> " + text.decode().replace("\r\n", "\\r\\n") + "\nC: .\nS: 250 *",
        feeds=[Feed.OCTET],
    )
    assert without_trace(store.inboxes["alice"][0]) == text
