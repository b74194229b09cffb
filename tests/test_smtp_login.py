"""AUTH in SMTP (RFC 4954): every way in, every way not in.  ``alice`` has the password ``ecila``."""

from __future__ import annotations

import base64

import pytest

from reference_server.protocols.smtp import MAX_FAILED_LOGINS, SmtpSession
from reference_server.session import Policy, Security
from tests.dialogue import TLS, Conversation, play
from tests.memory_store import MemoryStore

READY = "S: 220 *\nC: EHLO client.example.org\nS*: 250-*\nS: 250 *\n"
OPEN = Policy("mail.example.test", offers_tls=True)
STRICT = Policy("mail.example.test", offers_tls=True, login_needs_tls=True)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


RIGHT = b64("\0alice\0ecila")
WRONG = b64("\0alice\0guess")


def ready(script: str, policy: Policy = OPEN, security: Security | None = None) -> None:
    play(lambda: SmtpSession(policy, MemoryStore()), READY + script, security=security)


def test_plain_in_one_line_and_in_two() -> None:
    ready(f"C: AUTH PLAIN {RIGHT}\nS: 235 2.7.0 *")
    ready(f"C: auth plain\nS> 334 \\r\\n\nis: unfinished\nC: {RIGHT}\nS: 235 2.7.0 *\nis: finished")


def test_login_asks_for_the_name_and_the_password() -> None:
    ready(f"C: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\nC: {b64('alice')}\nS: 334 UGFzc3dvcmQ6\nC: {b64('ecila')}\nS: 235 *")
    ready(f"C: AUTH LOGIN {b64('alice')}\nS: 334 UGFzc3dvcmQ6\nC: {b64('ecila')}\nS: 235 *")


def test_commands_behind_a_login_are_executed_once() -> None:
    ready(f"C> AUTH PLAIN {RIGHT}\\r\\nNOOP\\r\\nQUIT\\r\\n\nS: 235 *\nS: 250 *\nS: 221 *\nA: Close")


def test_a_wrong_password_and_a_wrong_name_sound_alike() -> None:
    ready(f"C: AUTH PLAIN {WRONG}\nS: 535 5.7.8 name or password is wrong")
    ready(f"C: AUTH PLAIN {b64(chr(0) + 'nobody' + chr(0) + 'guess')}\nS: 535 5.7.8 name or password is wrong")


def test_one_logs_in_once() -> None:
    ready(f"C: AUTH PLAIN {RIGHT}\nS: 235 *\nC: AUTH PLAIN {RIGHT}\nS: 503 5.5.1 *")


def test_auth_needs_a_greeting_first() -> None:
    play(lambda: SmtpSession(OPEN, MemoryStore()), f"S: 220 *\nC: AUTH PLAIN {RIGHT}\nS: 503 *")


def test_what_is_wrong_with_an_exchange() -> None:
    ready(
        r"""
        C: AUTH
        S: 501 5.5.4 *
        C: AUTH PLAIN a b
        S: 501 5.5.4 *
        C: AUTH CRAM-MD5
        S: 504 5.5.4 *
        C: AUTH PLAIN %%%
        S: 501 5.5.2 *
        C: AUTH PLAIN =
        S: 501 5.5.2 *
        C: AUTH PLAIN
        S: 334 *
        C: *
        S: 501 5.7.0 *
        C: AUTH LOGIN
        S: 334 *
        C> YWxpY2U=\n
        S: 501 5.5.2 *
        C: NOOP
        S: 250 *
        """
    )


def test_nobody_acts_for_somebody_else() -> None:
    ready(f"C: AUTH PLAIN {b64('bob' + chr(0) + 'alice' + chr(0) + 'ecila')}\nS: 535 5.7.8 *")


def test_an_exchange_may_have_long_lines_but_not_endless_ones() -> None:
    long_line = b64("\0alice\0" + "x" * 6000)
    ready(f"C: AUTH PLAIN\nS: 334 *\nC: {long_line}\nS: 535 *\nC: AUTH PLAIN {long_line}\nS: 535 *")
    ready("C: AUTH PLAIN\nS: 334 *\nC: " + "A" * 20000 + "\nS: 500 5.5.6 *\nC: NOOP\nS: 250 *")


def test_failed_logins_are_bounded() -> None:
    once = f"C: AUTH PLAIN {WRONG}\n"
    ready((once + "S: 535 *\n") * (MAX_FAILED_LOGINS - 1) + once + "S: 421 4.7.0 *\nA: Close")


@pytest.mark.parametrize("command", [f"AUTH PLAIN {RIGHT}", "AUTH PLAIN", "AUTH LOGIN", "AUTH"])
def test_no_login_in_clear_where_logins_need_tls(command: str) -> None:
    play(
        lambda: SmtpSession(STRICT, MemoryStore()),
        f"""
        S: 220 *
        C: EHLO x
        S: 250-mail.example.test
        S: 250-STARTTLS
        S: 250-PIPELINING
        S*: 250-*
        S: 250 *
        C: {command}
        S: 538 5.7.11 *
        C: STARTTLS
        S: 220 *
        A: StartTls
        E: secured
        C: EHLO x
        S: 250-mail.example.test
        S: 250-AUTH PLAIN LOGIN
        S*: 250-*
        S: 250 *
        C: AUTH PLAIN {RIGHT}
        S: 235 *
        """,
    )


def test_mail_still_comes_in_clear_where_logins_need_tls() -> None:
    ready("C: MAIL FROM:<>\nS: 250 *\nC: RCPT TO:<alice@example.test>\nS: 250 *", STRICT)


def test_a_login_is_fine_on_an_implicit_port() -> None:
    ready(f"C: AUTH PLAIN {RIGHT}\nS: 235 *", STRICT, TLS)


def test_a_login_lets_nobody_relay() -> None:
    ready(
        f"""
        C: AUTH PLAIN {RIGHT}
        S: 235 *
        C: MAIL FROM:<alice@example.test>
        S: 250 *
        C: RCPT TO:<bob@example.test>
        S: 250 *
        C: RCPT TO:<someone@elsewhere.example>
        S: 550 5.7.1 … not even *
        """
    )


def test_a_store_that_cannot_answer_is_our_fault() -> None:
    store = MemoryStore()
    store.fault = OSError("disk")
    conversation = Conversation(SmtpSession(OPEN, store))
    conversation.begin()
    conversation.feed([b"EHLO x\r\n", f"AUTH PLAIN {RIGHT}\r\nNOOP\r\n".encode()])
    assert conversation.sent.endswith(b"the moment\r\n250 2.0.0 ok\r\n")
    assert b"454 4.7.0" in conversation.sent


def test_stopping_waits_for_the_password_check() -> None:
    session = SmtpSession(OPEN, MemoryStore())
    conversation = Conversation(session, holding=True)
    conversation.begin()
    conversation.feed([b"EHLO x\r\n", f"AUTH PLAIN {RIGHT}\r\n".encode()])
    conversation.taken()
    assert session.stopping() == ()
    conversation.happen("release")
    assert conversation.taken() == [
        b"235 2.7.0 logged in\r\n421 4.3.2 mail.example.test is shutting down\r\n",
        "Close",
    ]
