"""IMAP before the login, one dialogue a rule.  ``alice`` has the password ``ecila``."""

from __future__ import annotations

import base64

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reference_server.protocols.imap import MAX_ERRORS, MAX_FAILED_LOGINS, ImapSession, refusal
from reference_server.session import Refusal
from tests.dialogue import TLS, Conversation, Feed, play
from tests.imap_sessions import NO_TLS, OPEN, STRICT, stranger
from tests.memory_store import MemoryStore

ALWAYS = "IMAP4rev1 LITERAL+ SASL-IR IDLE NAMESPACE ID CHILDREN UNSELECT UIDPLUS MOVE"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


RIGHT = b64("\0alice\0ecila")


# ---- greeting and capabilities


def test_the_greeting_says_what_there_is() -> None:
    stranger(f"S: * OK [CAPABILITY {ALWAYS} STARTTLS AUTH=PLAIN] mail.example.test IMAP4rev1 ready")
    stranger(f"S: * OK [CAPABILITY {ALWAYS} STARTTLS LOGINDISABLED] *", STRICT)
    stranger(f"S: * OK [CAPABILITY {ALWAYS} AUTH=PLAIN] *", STRICT, TLS)
    stranger(f"S: * OK [CAPABILITY {ALWAYS} AUTH=PLAIN] *", NO_TLS)


def test_capability_changes_with_tls_and_login() -> None:
    stranger(
        f"""
        S: * OK *
        C: a CAPABILITY
        S: * CAPABILITY {ALWAYS} STARTTLS LOGINDISABLED
        S: a OK done
        C: b starttls
        S: b OK begin
        A: StartTls
        E: secured
        C: c capability
        S: * CAPABILITY {ALWAYS} AUTH=PLAIN
        S: c OK done
        C: d LOGIN alice ecila
        S: d OK [CAPABILITY {ALWAYS}] logged in
        C: e CAPABILITY
        S: * CAPABILITY {ALWAYS}
        S: e OK done
        """,
        STRICT,
    )


@pytest.mark.parametrize("reason", Refusal)
def test_who_is_not_let_in_hears_bye(reason: Refusal) -> None:
    assert refusal(reason).startswith(b"* BYE ")
    assert refusal(reason).endswith(b"\r\n")


# ---- commands in any state


def test_noop_id_and_logout() -> None:
    stranger(
        """
        S: * OK *
        C: a NOOP
        S: a OK done
        C: b ID NIL
        S: * ID ("name" "listenspec")
        S: b OK done
        C: c ID ("name" "x" "version" NIL)
        S: * ID ("name" "listenspec")
        S: c OK done
        C: d ID x
        S: d BAD *
        C: e LOGOUT
        S: * BYE *
        S: e OK done
        A: Close
        """
    )


def test_what_is_pipelined_behind_logout_is_not_carried_out() -> None:
    stranger(
        """
        S: * OK *
        C> a NOOP\\r\\nb LOGOUT\\r\\nc NOOP\\r\\n
        S: a OK done
        S: * BYE *
        S: b OK done
        A: Close
        """
    )


def test_before_the_login_there_is_little_to_do() -> None:
    stranger(
        """
        S: * OK *
        C: a SELECT INBOX
        S: a BAD log in first
        C: b IDLE
        S: b BAD log in first
        C: c UID FETCH 1 FLAGS
        S: c BAD *
        C: d XYZZY
        S: d BAD *
        C: e APPEND INBOX {10}
        S: + *
        C> 0123456789\\r\\n
        S: e BAD log in first
        """
    )


def test_bad_requests() -> None:
    stranger(
        """
        S: * OK *
        C> \\r\\n
        S: * BAD *
        C: +tag NOOP
        S: * BAD *
        C: tag
        S: tag BAD *
        C: a NOOP now
        S: a BAD *
        C: b NOOP
        S: b OK done
        C> c NOOP\\n
        S: * BAD *
        C: d  NOOP
        S: d BAD *
        C: e\\tNOOP
        S: * BAD *
        C> f NOOP\\x00\\r\\n
        S: f BAD *
        C: g LOGIN
        S: g BAD *
        C: h LOGIN "alice ecila
        S: h BAD *
        C: i LOGIN alice ecila too
        S: i BAD *
        is: finished
        """
    )


def test_patience_ends_with_bye() -> None:
    bad = "C: x XYZZY\nS: x BAD *\n"
    stranger("S: * OK *\n" + bad * MAX_ERRORS + "S: * BYE *\nA: Close")
    stranger(f"S: * OK *\n{bad * (MAX_ERRORS - 1)}C: a NOOP\nS: a OK *\n{bad * (MAX_ERRORS - 1)}C: b NOOP\nS: b OK *")


def test_a_line_without_end_is_not_kept() -> None:
    for conversation in play(
        lambda: ImapSession(OPEN, MemoryStore()),
        f"S: * OK *\nC: a NOOP {'x' * 70_000}\nS: * BAD *\nC: b NOOP\nS: b OK *",
        feeds=(Feed.TURN, Feed.LINE),
    ):
        assert not conversation.session.unfinished


# ---- literals


@pytest.mark.parametrize("size", ["4294967295", "99999999999999999999", "4097", "18446744073709551616"])
def test_no_room_is_made_for_what_is_only_announced(size: str) -> None:
    stranger(
        f"""
        S: * OK *
        C: a LOGIN {{{size}}}
        S: a BAD the literal is too large
        is: finished
        C: b NOOP
        S: b OK *
        """
    )
    stranger(
        f"""
        S: * OK *
        C: a LOGIN {{{size}+}}
        S: * BYE *
        A: Close
        """
    )


@pytest.mark.parametrize("literal", ["{}", "{-1}", "{+}", "{1-}", "{ 1}", "{0x10}", "{1++}", "{" + "9" * 50 + "}"])
def test_what_is_no_literal_is_bad(literal: str) -> None:
    stranger(
        f"""
        S: * OK *
        C: a LOGIN {literal}
        S: a BAD *
        is: finished
        """
    )


def test_a_login_in_literals() -> None:
    stranger(
        """
        S: * OK *
        C: a LOGIN {5}
        S: + *
        is: unfinished
        C> alice {5}\\r\\n
        S: + *
        C> ecila\\r\\n
        S: a OK *
        is: finished
        """
    )
    stranger(
        """
        S: * OK *
        C> a LOGIN {5+}\\r\\nalice {5+}\\r\\necila\\r\\n
        S: a OK *
        """
    )


def test_a_literal_that_nobody_wants_is_not_taken_for_commands() -> None:
    stranger(
        """
        S: * OK *
        C> + NOOP {9+}\\r\\nx LOGOUT\\r {4+}\\r\\n\\r\\n\\r\\n\\r\\n
        S: * BAD *
        C: b NOOP
        S: b OK *
        """
    )


@pytest.mark.parametrize("length", [65_510, 65_530, 65_534, 70_000])
@pytest.mark.parametrize("end", ["\\r\\n", "\\n"])
def test_what_a_line_announces_is_skipped_however_long_the_line_is(length: int, end: str) -> None:
    ahead = "x" * length
    stranger(f"S: * OK *\nC> a {ahead} {{0011+}}{end}x LOGOUT   \\r\\nb NOOP\\r\\n\nS: … BAD *\nS: b OK *")


def test_a_client_that_waits_for_leave_sends_no_literal_behind_a_line_that_is_too_long() -> None:
    stranger(f"S: * OK *\nC: a {'x' * 70_000} {{11}}\nS: * BAD *\nC: b NOOP\nS: b OK *")


@pytest.mark.parametrize(
    "line",
    [
        f"a {'x' * 70_000} {{5000+}}\\r\\n",
        f"a {'x' * 70_000} {{{'0' * 70}5+}}\\r\\n",
        f"a LOGIN {{{'9' * 41}+}}\\r\\n",
        "a LOGIN {5000+}\\n",
    ],
)
def test_what_is_too_large_to_be_skipped_ends_the_session(line: str) -> None:
    stranger(f"S: * OK *\nC> {line}x LOGOUT\\r\\n\nS: * BYE *\nA: Close")


def test_digits_alone_announce_nothing() -> None:
    stranger("S: * OK *\nC> + NOOP {1+}\\r\\n{1+}\\nb NOOP\\r\\n\nS: * BAD *\nS: b OK *")


def test_a_line_ended_wrongly_announces_literals_all_the_same() -> None:
    stranger(
        """
        S: * OK *
        C> a LOGIN {11+}\\nx LOGOUT \\r\\n {2+}\\nxx {10+}\\r\\nx LOGOUT\\r\\n\\r\\nb NOOP\\r\\n
        S: * BAD *
        S: b OK *
        """
    )


# ---- TLS


def test_nothing_said_in_clear_is_served_inside_tls() -> None:
    stranger(
        """
        S: * OK *
        C> a STARTTLS\\r\\nb NOOP\\r\\n
        S: a OK *
        A: StartTls
        E: secured
        is: finished
        C: c STARTTLS
        S: c BAD TLS is active already
        C: d NOOP
        S: d OK *
        """
    )


def test_starttls_only_where_it_is_offered() -> None:
    stranger("S: * OK *\nC: a STARTTLS\nS: a BAD *\nC: b NOOP\nS: b OK *", NO_TLS)
    stranger("S: * OK *\nC: a STARTTLS\nS: a BAD *", OPEN, TLS)
    stranger("S: * OK *\nC: a LOGIN alice ecila\nS: a OK *\nC: b STARTTLS\nS: b BAD *")
    stranger("S: * OK *\nC: a STARTTLS now\nS: a BAD *")


# ---- logging in


def test_logins_need_tls_where_the_policy_says_so() -> None:
    stranger(
        f"""
        S: * OK *
        C: a LOGIN alice ecila
        S: a NO [PRIVACYREQUIRED] *
        C: b AUTHENTICATE PLAIN
        S: b NO [PRIVACYREQUIRED] *
        C: c AUTHENTICATE PLAIN {RIGHT}
        S: c NO [PRIVACYREQUIRED] *
        C: d SELECT INBOX
        S: d BAD log in first
        """,
        STRICT,
    )


def test_authenticate_plain() -> None:
    stranger(
        f"""
        S: * OK *
        C: a AUTHENTICATE PLAIN
        S> + \\r\\n
        is: unfinished
        C: {RIGHT}
        S: a OK [CAPABILITY …] *
        C: b AUTHENTICATE PLAIN {RIGHT}
        S: b BAD you are logged in already
        C: c LOGIN alice ecila
        S: c BAD you are logged in already
        """
    )
    stranger(f"S: * OK *\nC: a authenticate plain {RIGHT}\nS: a OK *")


def test_authenticate_goes_wrong() -> None:
    stranger(
        f"""
        S: * OK *
        C: a AUTHENTICATE PLAIN
        S: + *
        C: *
        S: a BAD *
        C: b AUTHENTICATE PLAIN !!
        S: b BAD *
        C: c AUTHENTICATE CRAM-MD5
        S: c NO *
        C: d AUTHENTICATE
        S: d BAD *
        C: e AUTHENTICATE PLAIN {b64("bob" + chr(0) + "alice" + chr(0) + "ecila")}
        S: e NO [AUTHORIZATIONFAILED] *
        C: f AUTHENTICATE PLAIN =
        S: f BAD *
        C: g AUTHENTICATE PLAIN {b64(chr(0) + "alice" + chr(0) + "guess")}
        S: g NO [AUTHENTICATIONFAILED] *
        C: h NOOP
        S: h OK *
        """
    )


def test_five_failed_logins_are_enough() -> None:
    wrong = "C: a LOGIN alice guess\nS: a NO [AUTHENTICATIONFAILED] *\n"
    stranger("S: * OK *\n" + wrong * MAX_FAILED_LOGINS + "S: * BYE *\nA: Close")


def test_a_password_that_cannot_be_checked_is_not_wrong() -> None:
    def session() -> ImapSession:
        store = MemoryStore()
        store.fault = OSError("disk")
        return ImapSession(OPEN, store)

    play(
        session,
        """
        S: * OK *
        C: a LOGIN alice ecila
        S: a NO [UNAVAILABLE] *
        C: b LOGIN alice ecila
        S: b OK *
        """,
    )


# ---- the end


def test_farewells() -> None:
    stranger("S: * OK *\nE: idled\nS: * BYE *\nA: Close")
    stranger("S: * OK *\nE: stopping\nS: * BYE *\nA: Close")
    stranger("S: * OK *\nC: a AUTHENTICATE PLAIN\nS: + *\nE: idled\nS: * BYE *\nA: Close")
    stranger("S: * OK *\nC> a LOGIN {9}\\r\\n\nS: + *\nis: unfinished\nE: idled\nS: * BYE *\nA: Close")


def test_a_login_under_way_is_answered_before_the_server_stops() -> None:
    conversation = Conversation(ImapSession(OPEN, MemoryStore()))
    conversation.begin()
    conversation.holding = True
    conversation.feed([b"a LOGIN alice ecila\r\nb NOOP\r\n"])
    assert list(conversation.session.stopping()) == []
    conversation.happen("release")
    assert b"a OK" in conversation.sent
    assert conversation.sent.endswith(b"* BYE the server is shutting down\r\n")
    assert b"b OK" not in conversation.sent
    assert conversation.closed


# ---- whatever comes


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from(
                [b"a ", b"NOOP", b"LOGIN ", b"alice ecila", b"\r\n", b"{5}", b"{5+}", b"\r\n", b"AUTHENTICATE PLAIN",
                 b"IDLE", b"*", b"LIST ", b'"" ', b"\r\n", b"LOGOUT", b"SELECT INBOX", b"DONE"]
            ),
        ),
        max_size=30,
    )
)  # fmt: skip
def test_whatever_comes_is_answered_in_whole_lines(pieces: list[bytes]) -> None:
    conversation = Conversation(ImapSession(OPEN, MemoryStore()))
    conversation.begin()
    conversation.feed(pieces)
    assert conversation.sent.endswith(b"\r\n")
    assert all(line.split(b" ")[0] for line in bytes(conversation.sent).split(b"\r\n")[:-1])
    conversation.end()
