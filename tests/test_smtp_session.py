"""SMTP commands, one dialogue a rule.  What follows DATA has its own file, and so have logins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_server.mailstore import Account
from reference_server.protocols.smtp import MAX_ERRORS, MAX_RECIPIENTS, SmtpSession, refusal
from reference_server.session import Policy, Refusal, Security
from tests.dialogue import TLS, Conversation, play
from tests.memory_store import ALICE, MemoryStore

POLICY = Policy("mail.example.test", offers_tls=True)
READY = """
    S: 220 mail.example.test ESMTP *
    C: EHLO client.example.org
    S*: 250-*
    S: 250 *
"""


def smtp(
    script: str, policy: Policy = POLICY, security: Security | None = None, store: MemoryStore | None = None
) -> list[Conversation]:
    return play(lambda: SmtpSession(policy, store or MemoryStore()), script, security=security)


def ready(script: str, policy: Policy = POLICY) -> None:
    """Play with a client that has said EHLO."""
    smtp(READY + script, policy)


def test_a_message_is_taken() -> None:
    ready(
        """
        C: MAIL FROM:<someone@example.org> SIZE=100 BODY=8BITMIME
        S: 250 2.1.0 *
        C: RCPT TO:<alice@example.test>
        S: 250 2.1.5 *
        C: DATA
        S: 354 *
        C: Subject: hello
        C:
        C: how are you?
        C: .
        S: 250 2.0.0 *
        C: QUIT
        S: 221 2.0.0 mail.example.test *
        A: Close
        """
    )


def test_ehlo_lists_what_is_offered() -> None:
    smtp(
        """
        S: 220 *
        C: EHLO client.example.org
        S: 250-mail.example.test
        S: 250-STARTTLS
        S: 250-AUTH PLAIN LOGIN
        S: 250-PIPELINING
        S: 250-8BITMIME
        S: 250-SIZE 52428800
        S: 250 ENHANCEDSTATUSCODES
        """
    )


def test_helo_lists_nothing() -> None:
    smtp(
        """
        S: 220 *
        C: helo client.example.org
        S: 250 mail.example.test
        C: mail from:<>
        S: 250 *
        """
    )


@pytest.mark.parametrize("name", ["localhost", "my_pc.lan", "[192.0.2.7]", "[IPv6:2001:db8::7]", "a.b-c.d  "])
def test_a_client_may_have_any_name_that_is_one(name: str) -> None:
    smtp(f"S: 220 *\nC: EHLO {name}\nS*: 250-*\nS: 250 *")


@pytest.mark.parametrize("name", ["", "two words", "näme", "(comment)", "-a", "a..b", "<x>", "x" * 256])
def test_a_client_must_have_a_name(name: str) -> None:
    smtp(f"S: 220 *\nC: EHLO {name}\nS: 501 5.5.4 *\nC: MAIL FROM:<>\nS: 503 5.5.1 *")


def test_commands_come_in_order() -> None:
    smtp(
        """
        S: 220 *
        C: MAIL FROM:<a@example.org>
        S: 503 5.5.1 *
        C: EHLO x
        S*: 250-*
        S: 250 *
        C: RCPT TO:<alice@example.test>
        S: 503 *
        C: DATA
        S: 503 *
        C: MAIL FROM:<a@example.org>
        S: 250 *
        C: MAIL FROM:<a@example.org>
        S: 503 *
        C: DATA
        S: 503 *
        C: AUTH PLAIN
        S: 503 *
        C: RCPT TO:<alice@example.test>
        S: 250 *
        C: MAIL FROM:<a@example.org>
        S: 503 *
        C: RSET
        S: 250 *
        C: RCPT TO:<alice@example.test>
        S: 503 *
        """
    )


def test_ehlo_in_a_transaction_ends_it() -> None:
    ready(
        """
        C: MAIL FROM:<a@example.org>
        S: 250 *
        C: EHLO again
        S*: 250-*
        S: 250 *
        C: RCPT TO:<alice@example.test>
        S: 503 *
        """
    )


def test_commands_without_a_transaction() -> None:
    ready(
        """
        C: NOOP
        S: 250 *
        C: noop with words
        S: 250 *
        C: VRFY alice
        S: 252 *
        C: VRFY
        S: 501 *
        C: EXPN staff
        S: 502 *
        C: HELP
        S: 214 *
        C: RSET
        S: 250 *
        C: TURN
        S: 500 5.5.1 *
        C:
        S: 500 *
        C: RSET now
        S: 501 5.5.4 *
        C: QUIT now
        S: 501 *
        """
    )


@pytest.mark.parametrize(
    "path",
    [
        "alice@example.test",
        "ALICE@EXAMPLE.TEST",
        "@relay.example,@other.example:alice@example.test",
        '"alice"@example.test',
        r'"\alice"@example.test',
    ],
)
def test_ways_to_write_one_recipient(path: str) -> None:
    ready(f"C: MAIL FROM:<>\nS: 250 *\nC: RCPT TO:<{path}>\nS: 250 2.1.5 *")


@pytest.mark.parametrize("path", ["Postmaster", "POSTMASTER", "postmaster@example.test"])
def test_postmaster_is_somebody(path: str) -> None:
    ready(f"C: MAIL FROM:<>\nS: 250 *\nC: RCPT TO:<{path}>\nS: 250 2.1.5 *")


def test_nobody_is_postmaster_where_nobody_is_admin() -> None:
    script = READY + "C: MAIL FROM:<>\nS: 250 *\nC: RCPT TO:<Postmaster>\nS: 550 5.1.1 *"
    smtp(script, store=MemoryStore(ALICE))


def test_mail_for_others_is_refused() -> None:
    ready(
        """
        C: MAIL FROM:<a@example.org>
        S: 250 *
        C: RCPT TO:<nobody@example.test>
        S: 550 5.1.1 *
        C: RCPT TO:<someone@elsewhere.example>
        S: 550 5.7.1 *
        C: RCPT TO:<@example.test:someone@elsewhere.example>
        S: 550 5.7.1 *
        C: RCPT TO:<someone%elsewhere.example@example.test>
        S: 550 5.1.1 *
        C: DATA
        S: 503 *
        """
    )


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("MAIL FROM:<a@[192.0.2.1]>", "250 2.1.0"),
        ("MAIL FROM:<a@[IPv6:::1]>", "250 2.1.0"),
        ("MAIL FROM: <a@b.example>", "250 2.1.0"),
        ("MAIL FROM:<a@b.example> AUTH=<>", "250 2.1.0"),
        ("MAIL FROM:<a@b.example> size=1 body=7bit", "250 2.1.0"),
        ('MAIL FROM:<"a b"@c.example>', "250 2.1.0"),
        ("MAIL", "501 5.5.4"),
        ("MAIL a@b.example", "501 5.5.4"),
        ("MAIL FROM a@b.example", "501 5.5.4"),
        ("MAIL FROM:a@b.example", "501 5.1.7"),
        ("MAIL FROM:<a>", "501 5.1.7"),
        ("MAIL FROM:<a@>", "501 5.1.7"),
        ("MAIL FROM:<a@b.example", "501 5.1.7"),
        ("MAIL FROM:<a..b@c.example>", "501 5.1.7"),
        ("MAIL FROM:<a b@c.example>", "501 5.1.7"),
        ("MAIL FROM:<a@[192.0.2.256]>", "501 5.1.7"),
        ("MAIL FROM:<a@[IPv6:zz]>", "501 5.1.7"),
        ("MAIL FROM:<a@[x400:thing]>", "501 5.1.7"),
        ("MAIL FROM:<ä@b.example>", "553 5.6.7"),
        ("MAIL FROM:<a@b.example>SIZE=1", "501 5.1.7"),
        ("MAIL FROM:<a@b.example> SIZE", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> SIZE=-1", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> SIZE=1 SIZE=1", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> SIZE=52428801", "552 5.3.4"),
        ("MAIL FROM:<a@b.example> SIZE=99999999999999999999", "552 5.3.4"),
        ("MAIL FROM:<a@b.example> SIZE=999999999999999999999", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> BODY=BINARYMIME", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> AUTH", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> RET=FULL", "555 5.5.4"),
        ("MAIL FROM:<a@b.example> -x", "501 5.5.4"),
        ("MAIL FROM:<" + "a" * 65 + "@b.example>", "501 5.1.7"),
        ("MAIL FROM:<" + "a" * 64 + "@b.example>", "250 2.1.0"),
        ("MAIL FROM:<a@" + "b" * 253 + ">", "501 5.1.7"),
        ("MAIL FROM:<a@" + "b" * 252 + ">", "250 2.1.0"),
    ],
)
def test_how_a_sender_is_written(command: str, reply: str) -> None:
    ready(f"C: {command}\nS: {reply} *")


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("RCPT", "501 5.5.4"),
        ("RCPT TO:<>", "501 5.1.3"),
        ("RCPT TO:<alice>", "501 5.1.3"),
        ("RCPT TO:alice@example.test", "501 5.1.3"),
        ("RCPT TO:<alice@example.test> NOTIFY=NEVER", "555 5.5.4"),
        ("RCPT TO:<alice@example.test> =", "501 5.5.4"),
        ("RCPT TO:<älice@example.test>", "553 5.6.7"),
        ("RCPT TO: <alice@example.test> ", "250 2.1.5"),
    ],
)
def test_how_a_recipient_is_written(command: str, reply: str) -> None:
    ready(f"C: MAIL FROM:<>\nS: 250 *\nC: {command}\nS: {reply} *")


def test_recipients_are_bounded() -> None:
    class Everybody(MemoryStore):
        def recipient(self, address: str) -> Account | None:
            return Account(address, address)

    session = SmtpSession(POLICY, Everybody())
    conversation = Conversation(session)
    conversation.begin()
    conversation.feed([b"EHLO x\r\nMAIL FROM:<>\r\n"])
    conversation.feed([b"RCPT TO:<u%d@example.test>\r\n" % number for number in range(MAX_RECIPIENTS)])
    assert conversation.sent.count(b"250 2.1.5") == MAX_RECIPIENTS
    conversation.feed([b"RCPT TO:<u0@example.test>\r\n", b"RCPT TO:<one-more@example.test>\r\n"])
    assert conversation.sent.count(b"250 2.1.5") == MAX_RECIPIENTS + 1
    assert conversation.sent.endswith(b"452 4.5.3 too many recipients\r\n")
    conversation.feed([b"DATA\r\n"])
    assert conversation.sent.endswith(b"dot after it\r\n")


def test_a_command_line_has_512_octets_at_most() -> None:
    fits = "NOOP " + "x" * (512 - 2 - 5)
    ready(f"C: {fits}\nS: 250 *\nC: {fits}x\nS: 500 5.5.2 *\nC: NOOP\nS: 250 *")


def test_an_endless_line_is_answered_once() -> None:
    ready("C: " + "x" * 100_000 + "\nS: 500 5.5.2 *\nC: NOOP\nS: 250 *")


def test_lines_end_with_crlf() -> None:
    ready(
        r"""
        C> NOOP\n
        S: 500 5.5.2 *
        C> NOOP\rNOOP\r\n
        S: 500 5.5.1 *
        C> NOOP\r
        is: unfinished
        C> \n
        S: 250 *
        is: finished
        """
    )


def test_binary_rubbish_is_survived() -> None:
    ready(r"""
        C> \x00\xff\xfe\x80\r\n
        S: 500 *
        C> MAIL FROM:<\x00@\xff>\r\n
        S: 553 *
        C> \x16\x03\x01\x02\x00\x01\n
        S: 500 *
        C: NOOP
        S: 250 *
        """)


def test_patience_ends() -> None:
    ready("C: RUBBISH\nS: 500 *\n" * (MAX_ERRORS - 1) + "C: RUBBISH\nS: 421 4.7.0 *\nA: Close\nC: NOOP")


def test_an_accepted_message_restores_patience() -> None:
    ready(
        "C: RUBBISH\nS: 500 *\n" * (MAX_ERRORS - 1)
        + "C: MAIL FROM:<>\nS: 250 *\nC: RCPT TO:<alice@example.test>\nS: 250 *\nC: DATA\nS: 354 *\n"
        + "C: .\nS: 250 *\n"
        + "C: RUBBISH\nS: 500 *\nC: NOOP\nS: 250 *\n"
    )


# ---- STARTTLS


def test_starttls_begins_anew() -> None:
    ready(
        """
        C: MAIL FROM:<a@example.org>
        S: 250 *
        C: starttls
        S: 220 2.0.0 *
        A: StartTls
        C: MAIL FROM:<smuggled@example.org>
        E: secured
        is: finished
        C: RCPT TO:<alice@example.test>
        S: 503 5.5.1 *
        C: MAIL FROM:<a@example.org>
        S: 503 5.5.1 *
        C: EHLO client
        S: 250-mail.example.test
        S: 250-AUTH PLAIN LOGIN
        S: 250-PIPELINING
        S*: 250-*
        S: 250 *
        C: STARTTLS
        S: 503 5.5.1 *
        C: NOOP
        S: 250 *
        """
    )


def test_what_comes_behind_starttls_in_one_piece_is_not_executed() -> None:
    ready(
        r"""
        C> STARTTLS\r\nNOOP\r\nMAIL FR
        S: 220 *
        A: StartTls
        E: secured
        is: finished
        C: EHLO x
        S*: 250-*
        S: 250 *
        """
    )


def test_a_login_in_clear_is_forgotten_under_tls() -> None:
    ready(
        """
        C: AUTH PLAIN AGFsaWNlAGVjaWxh
        S: 235 *
        C: STARTTLS
        S: 220 *
        A: StartTls
        E: secured
        C: EHLO x
        S*: 250-*
        S: 250 *
        C: AUTH PLAIN AGFsaWNlAGVjaWxh
        S: 235 *
        """
    )


def test_starttls_takes_no_arguments() -> None:
    ready("C: STARTTLS now\nS: 501 5.5.4 *\nC> STARTTLS \\r\\n\nS: 220 *\nA: StartTls")


def test_starttls_is_not_there_when_it_is_off() -> None:
    smtp(
        """
        S: 220 *
        C: EHLO x
        S: 250-mail.example.test
        S: 250-AUTH *
        S: 250-PIPELINING
        S*: 250-*
        S: 250 *
        C: STARTTLS
        S: 454 4.7.0 *
        C: NOOP
        S: 250 *
        """,
        Policy("mail.example.test"),
    )


def test_starttls_is_not_there_on_an_implicit_port() -> None:
    smtp(
        """
        S: 220 *
        C: EHLO x
        S: 250-mail.example.test
        S: 250-AUTH *
        S: 250-PIPELINING
        S*: 250-*
        S: 250 *
        C: STARTTLS
        S: 503 *
        """,
        security=TLS,
    )


# ---- endings


@pytest.mark.parametrize("asked", ["", "C: MAIL FROM:<>\nS: 250 *\n", "C> NOO\n", "C: AUTH PLAIN\nS: 334 \n"])
def test_a_client_hears_why_it_is_sent_away(asked: str) -> None:
    ready(asked + "E: idled\nS: 421 4.4.2 mail.example.test *")
    ready(asked + "E: stopping\nS: 421 4.3.2 mail.example.test *")


def test_a_session_that_is_over_has_nothing_to_add() -> None:
    ready("C: QUIT\nS: 221 *\nA: Close\nE: stopping")


@pytest.mark.parametrize("reason", Refusal)
def test_a_refusal_is_a_421(reason: Refusal) -> None:
    line = refusal(reason)
    assert line.startswith(b"421 4.")
    assert line.endswith(b"\r\n")
    assert line.count(b"\r\n") == 1


def test_octets_behind_the_end_are_ignored() -> None:
    session = SmtpSession(POLICY, MemoryStore())
    conversation = Conversation(session)
    conversation.begin()
    session.idled()
    assert session.received(b"EHLO x\r\n") == ()
    assert not session.unfinished
    assert session.woken() == ()


# ---- anything at all

WORDS = [
    *("EHLO x", "HELO [x", "MAIL FROM:<>", "MAIL FROM:<a@b.example> SIZE=9", "RCPT TO:<alice@example.test>"),
    *("RCPT TO:<sink@example.test>", "RCPT TO:<x@y.example>", "DATA", ".", "..", "text", "RSET", "NOOP", "VRFY"),
    *("AUTH PLAIN", "AUTH LOGIN", "AGFsaWNlAGVjaWxh", "*", "AUTH PLAIN AGFsaWNlAGVjaWxh", "QUIT", "\0\xff", ""),
]


@given(
    st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(["\r\n", "\r\n", "\r\n", "\n", "\r", ""])), max_size=25)
)
def test_answers_never_depend_on_how_octets_arrive(said: list[tuple[str, str]]) -> None:
    wire = "".join(word + end for word, end in said).encode("latin-1")
    outcomes = []
    for step in (1, 7, len(wire) + 1):
        conversation = Conversation(SmtpSession(POLICY, MemoryStore()))
        conversation.begin()
        conversation.feed([b"EHLO x\r\n", *(wire[at : at + step] for at in range(0, len(wire), step))])
        outcomes.append((conversation.taken(), conversation.session.unfinished))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    [reply, *_], _ = outcomes[0]
    assert isinstance(reply, bytes)
    assert all(line[:3].isdigit() and len(line) <= 510 for line in reply.split(b"\r\n")[:-1])


@given(st.binary(max_size=300))
def test_any_octets_at_all_get_replies_or_silence(octets: bytes) -> None:
    conversation = Conversation(SmtpSession(POLICY, MemoryStore()))
    conversation.begin()
    conversation.feed([octets, b"\r\n"])
    assert all(line[:3].isdigit() for line in conversation.sent.split(b"\r\n")[:-1])
