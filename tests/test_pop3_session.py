"""POP3 commands, one dialogue a rule.  ``alice`` has the password ``ecila`` and three messages."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_server.mailstore import Account, MessageGone
from reference_server.protocols.pop3 import MAX_ERRORS, MAX_FAILED_LOGINS, Pop3Session, refusal
from reference_server.session import Policy, Refusal, Security
from tests.dialogue import TLS, Conversation, Feed, play
from tests.memory_store import MemoryStore

OPEN = Policy("mail.example.test", offers_tls=True)
STRICT = Policy("mail.example.test", offers_tls=True, login_needs_tls=True)
MESSAGES = [
    b"Subject: one\r\n\r\nbody\r\n",
    b"Subject: two\r\nX: y\r\n\r\n.\r\n..\r\nend\r\n",
    b".header: three\r\n",
]
LOGIN = """
    S: +OK mail.example.test POP3 ready
    C: USER alice
    S: +OK *
    C: PASS ecila
    S: +OK 3 messages (72 octets)
"""


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


RIGHT = b64("\0alice\0ecila")


def full_store() -> MemoryStore:
    store = MemoryStore()
    store.inboxes["alice"] = list(MESSAGES)
    return store


def pop3(script: str, policy: Policy = OPEN, security: Security | None = None, left: int = len(MESSAGES)) -> None:
    """Play; afterwards alice must have so many messages left, and nobody may hold her maildrop."""
    stores: list[MemoryStore] = []

    def session() -> Pop3Session:
        stores.append(full_store())
        return Pop3Session(policy, stores[-1])

    play(session, script, security=security)
    for store in stores:
        assert len(store.inboxes["alice"]) == left
        assert not store.claimed


def logged_in(script: str, left: int = len(MESSAGES)) -> None:
    pop3(LOGIN + script, left=left)


# ---- before the login


def test_before_the_login_there_is_little_to_do() -> None:
    pop3(
        """
        S: +OK mail.example.test POP3 ready
        C: STAT
        S: -ERR *
        C: NOOP
        S: -ERR *
        C: RETR 1
        S: -ERR *
        C: APOP alice c4c9334bac560ecc979e58001b3e22fb
        S: -ERR *
        C: PASS ecila
        S: -ERR *
        C: USER
        S: -ERR *
        C: USER alice
        S: +OK *
        C: PASS
        S: -ERR *
        C: QUIT
        S: +OK *
        A: Close
        """
    )


def test_capa_says_what_there_is() -> None:
    pop3(
        f"""
        S: +OK *
        C: CAPA
        S: +OK
        S: TOP
        S: UIDL
        S: RESP-CODES
        S: AUTH-RESP-CODE
        S: PIPELINING
        S: USER
        S: SASL PLAIN LOGIN
        S: STLS
        S: EXPIRE NEVER
        S: IMPLEMENTATION listenspec
        S: .
        C: AUTH PLAIN {RIGHT}
        S: +OK *
        C: CAPA
        S: +OK
        S: TOP
        S: UIDL
        S: RESP-CODES
        S: AUTH-RESP-CODE
        S: PIPELINING
        S: USER
        S: SASL PLAIN LOGIN
        S: EXPIRE NEVER
        S: IMPLEMENTATION listenspec
        S: .
        C: CAPA all
        S: -ERR *
        """
    )


def test_a_wrong_password_needs_the_name_again() -> None:
    pop3(
        """
        S: +OK *
        C: USER alice
        S: +OK *
        C: PASS guess
        S: -ERR [AUTH] name or password is wrong
        C: PASS ecila
        S: -ERR *
        C: user nobody
        S: +OK *
        C: pass guess
        S: -ERR [AUTH] name or password is wrong
        """
    )


def test_a_password_may_have_spaces() -> None:
    store = MemoryStore(Account(" y x", "x@example.test"))
    play(
        lambda: Pop3Session(OPEN, store),
        f"""
        S: +OK *
        C: AUTH PLAIN {b64(chr(0) + " y x" + chr(0) + "x y ")}
        S: +OK 0 messages (0 octets)
        """,
    )
    store = MemoryStore(Account("a  b", "ab@example.test"))
    play(lambda: Pop3Session(OPEN, store), "S: +OK *\nC: USER a  b\nS: +OK *\nC: PASS b  a\nS: +OK *")
    pop3("S: +OK *\nC: USER alice\nS: +OK *\nC: PASS ecila \nS: -ERR [AUTH] *")


def test_names_and_passwords_that_are_not_text_are_wrong() -> None:
    pop3(r"""
        S: +OK *
        C> USER \xff\r\n
        S: -ERR *
        C: USER alice
        S: +OK *
        C> PASS \xff\r\n
        S: -ERR [AUTH] *
        """)


def test_auth_in_all_its_forms() -> None:
    pop3(f"S: +OK *\nC: AUTH PLAIN {RIGHT}\nS: +OK *")
    pop3(f"S: +OK *\nC: auth plain\nS> + \\r\\n\nis: unfinished\nC: {RIGHT}\nS: +OK *\nis: finished")
    pop3(
        f"S: +OK *\nC: AUTH LOGIN\nS: + VXNlcm5hbWU6\nC: {b64('alice')}\nS: + UGFzc3dvcmQ6\nC: {b64('ecila')}\nS: +OK *"
    )
    pop3("S: +OK *\nC: AUTH\nS: +OK\nS: PLAIN\nS: LOGIN\nS: .")


def test_what_is_wrong_with_an_exchange() -> None:
    pop3(
        rf"""
        S: +OK *
        C: AUTH CRAM-MD5
        S: -ERR *
        C: AUTH PLAIN a b
        S: -ERR *
        C: AUTH PLAIN %%%
        S: -ERR *
        C: AUTH PLAIN
        S: + *
        C: *
        S: -ERR *
        C: AUTH PLAIN
        S: + *
        C> {RIGHT}\n
        S: -ERR *
        C: AUTH PLAIN {b64("bob" + chr(0) + "alice" + chr(0) + "ecila")}
        S: -ERR [AUTH] *
        C: STAT
        S: -ERR *
        """
    )


def test_an_exchange_may_have_long_lines_but_no_command_may() -> None:
    long_line = b64("\0alice\0" + "x" * 6000)
    pop3(
        f"S: +OK *\nC: AUTH PLAIN\nS: + *\nC: {long_line}\nS: -ERR [AUTH] *\n"
        f"C: AUTH PLAIN {long_line}\nS: -ERR the line *"
    )
    pop3("S: +OK *\nC: AUTH PLAIN\nS: + *\nC: " + "A" * 20000 + "\nS: -ERR the line *\nC: STAT\nS: -ERR log *")


def test_failed_logins_are_bounded() -> None:
    once = "C: USER alice\nS: +OK *\nC: PASS guess\n"
    pop3("S: +OK *\n" + (once + "S: -ERR [AUTH] *\n") * (MAX_FAILED_LOGINS - 1) + once + "S: -ERR [AUTH] *\nA: Close")


def test_one_logs_in_once() -> None:
    logged_in("C: USER alice\nS: -ERR *\nC: PASS ecila\nS: -ERR *\nC: AUTH PLAIN\nS: -ERR *\nC: STLS\nS: -ERR *")


# ---- TLS


def test_stls_forgets_the_name() -> None:
    pop3(
        """
        S: +OK *
        C: USER alice
        S: +OK *
        C: stls
        S: +OK *
        A: StartTls
        C: PASS ecila
        E: secured
        is: finished
        C: PASS ecila
        S: -ERR *
        C: STLS
        S: -ERR *
        C: CAPA
        S: +OK
        S: TOP
        S: UIDL
        S: RESP-CODES
        S: AUTH-RESP-CODE
        S: PIPELINING
        S: USER
        S: SASL *
        S: EXPIRE *
        S: IMPLEMENTATION *
        S: .
        """
    )


def test_what_comes_behind_stls_in_one_piece_is_not_executed() -> None:
    pop3(r"""
        S: +OK *
        C> STLS\r\nUSER alice\r\nPASS ec
        S: +OK *
        A: StartTls
        E: secured
        is: finished
        C: PASS ecila
        S: -ERR *
        """)


def test_stls_is_not_there_when_it_is_off() -> None:
    pop3(
        "S: +OK *\nC: STLS\nS: -ERR *\nC: CAPA\nS: +OK\nS: TOP\nS: UIDL\nS: RESP-CODES\nS: AUTH-RESP-CODE\n"
        "S: PIPELINING\nS: USER\nS: SASL *\nS: EXPIRE *\nS: IMPLEMENTATION *\nS: .",
        Policy("mail.example.test"),
    )
    pop3("S: +OK *\nC: STLS now\nS: -ERR *\nC: STLS\nS: -ERR TLS is active already", security=TLS)


@pytest.mark.parametrize("command", ["USER alice", "PASS ecila", f"AUTH PLAIN {RIGHT}", "AUTH LOGIN", "AUTH"])
def test_no_login_in_clear_where_logins_need_tls(command: str) -> None:
    pop3(
        f"""
        S: +OK *
        C: CAPA
        S: +OK
        S: TOP
        S: UIDL
        S: RESP-CODES
        S: AUTH-RESP-CODE
        S: PIPELINING
        S: STLS
        S: EXPIRE *
        S: IMPLEMENTATION *
        S: .
        C: {command}
        S: -ERR logins need TLS here
        C: STLS
        S: +OK *
        A: StartTls
        E: secured
        C: USER alice
        S: +OK *
        C: PASS ecila
        S: +OK *
        """,
        STRICT,
    )


# ---- the maildrop


def test_what_is_there() -> None:
    logged_in(
        """
        C: STAT
        S: +OK 3 72
        C: LIST
        S: +OK
        S: 1 22
        S: 2 34
        S: 3 16
        S: .
        C: LIST 2
        S: +OK 2 34
        C: UIDL
        S: +OK
        S: 1 id-1
        S: 2 id-2
        S: 3 id-3
        S: .
        C: uidl 3
        S: +OK 3 id-3
        C: LIST 4
        S: -ERR *
        C: LIST 0
        S: -ERR *
        C: UIDL -1
        S: -ERR *
        C: LIST 99999999999999999999
        S: -ERR *
        C: STAT 1
        S: -ERR *
        C: NOOP
        S: +OK
        """
    )


def test_a_message_is_retrieved_with_its_dots_doubled() -> None:
    logged_in(
        """
        C: RETR 1
        S: +OK 22 octets
        S: Subject: one
        S:
        S: body
        S: .
        C: RETR 2
        S: +OK 34 octets
        S: Subject: two
        S: X: y
        S:
        S: ..
        S: ...
        S: end
        S: .
        C: RETR 3
        S: +OK 16 octets
        S: ..header: three
        S: .
        C: RETR
        S: -ERR *
        C: RETR one
        S: -ERR *
        """
    )


def test_top_shows_exactly_so_many_lines() -> None:
    logged_in(
        """
        C: TOP 2 0
        S: +OK
        S: Subject: two
        S: X: y
        S:
        S: .
        C: TOP 2 1
        S: +OK
        S: Subject: two
        S: X: y
        S:
        S: ..
        S: .
        C: TOP 2 2
        S: +OK
        S: Subject: two
        S: X: y
        S:
        S: ..
        S: ...
        S: .
        C: TOP 2 9999999999
        S: +OK
        S: Subject: two
        S: X: y
        S:
        S: ..
        S: ...
        S: end
        S: .
        C: TOP 3 5
        S: +OK
        S: ..header: three
        S: .
        C: TOP 1
        S: -ERR *
        C: TOP 1 -1
        S: -ERR *
        C: TOP 9 1
        S: -ERR *
        """
    )


def test_a_message_without_header_or_last_line_end() -> None:
    store = MemoryStore()
    store.inboxes["alice"] = [b"\r\nbody\r\nmore", b""]
    script = """
        S: +OK *
        C: USER alice
        S: +OK *
        C: PASS ecila
        S: +OK *
        C: TOP 1 1
        S: +OK
        S:
        S: body
        S: .
        C: RETR 1
        S: +OK 12 octets
        S:
        S: body
        S: more
        S: .
        C: RETR 2
        S: +OK 0 octets
        S: .
        """
    play(lambda: Pop3Session(OPEN, store), script)


def test_messages_are_removed_by_quit() -> None:
    logged_in(
        """
        C: DELE 2
        S: +OK *
        C: DELE 2
        S: -ERR *
        C: RETR 2
        S: -ERR *
        C: TOP 2 1
        S: -ERR *
        C: LIST 2
        S: -ERR *
        C: STAT
        S: +OK 2 38
        C: LIST
        S: +OK
        S: 1 22
        S: 3 16
        S: .
        C: QUIT
        S: +OK *
        A: Close
        """,
        left=2,
    )


def test_rset_takes_all_marks_back() -> None:
    logged_in(
        """
        C: DELE 1
        S: +OK *
        C: DELE 3
        S: +OK *
        C: RSET
        S: +OK 3 messages (72 octets)
        C: STAT
        S: +OK 3 72
        C: QUIT
        S: +OK *
        A: Close
        """
    )


@pytest.mark.parametrize(
    "ending",
    ["E: ended", "E: idled", "E: stopping\nS: -ERR [SYS/TEMP] *", "C> QUI\nE: ended", "C: QUIT now\nS: -ERR *"],
)
def test_nothing_but_quit_removes_a_message(ending: str) -> None:
    logged_in("C: DELE 1\nS: +OK *\n" + ending)


def test_a_maildrop_is_for_one_session_at_a_time() -> None:
    store = full_store()
    first, second = (Conversation(Pop3Session(OPEN, store)) for _ in range(2))
    login = [b"USER alice\r\nPASS ecila\r\n"]
    for conversation in (first, second):
        conversation.begin()
        conversation.feed(login)
    assert b"+OK 3 messages" in first.sent
    assert b"-ERR [IN-USE] " in second.sent
    first.end()
    second.feed(login)
    assert b"+OK 3 messages" in second.sent
    second.feed([b"QUIT\r\n"])
    third = Conversation(Pop3Session(OPEN, store))
    third.begin()
    third.feed(login)
    assert b"+OK 3 messages" in third.sent


def test_a_connection_lost_during_the_login_keeps_no_maildrop() -> None:
    store = full_store()
    session = Pop3Session(OPEN, store)
    conversation = Conversation(session, holding=True)
    conversation.begin()
    conversation.feed([b"USER alice\r\nPASS ecila\r\n"])
    conversation.happen("ended")
    assert not store.claimed


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("PASS ecila", "-ERR [SYS/TEMP] "),
        ("RETR 1", "-ERR [SYS/TEMP] "),
        ("TOP 1 1", "-ERR [SYS/TEMP] "),
        ("QUIT", "-ERR [SYS/TEMP] "),
    ],
)
def test_a_broken_disk_is_our_fault(command: str, reply: str) -> None:
    store = full_store()
    conversation = Conversation(Pop3Session(OPEN, store))
    conversation.begin()
    conversation.feed([b"USER alice\r\n"])
    if command != "PASS ecila":
        conversation.feed([b"PASS ecila\r\nDELE 2\r\n"])
    conversation.taken()
    store.fault = OSError("broken")
    conversation.feed([f"{command}\r\n".encode()])
    [said, *more] = conversation.taken()
    assert isinstance(said, bytes)
    assert said.startswith(reply.encode())
    assert more == (["Close"] if command == "QUIT" else [])
    assert store.inboxes["alice"] == MESSAGES


def test_a_message_that_another_session_removed() -> None:
    store = full_store()
    conversation = Conversation(Pop3Session(OPEN, store))
    conversation.begin()
    conversation.feed([b"USER alice\r\nPASS ecila\r\n"])
    store.fault = MessageGone("gone")
    conversation.feed([b"RETR 1\r\nRETR 1\r\n"])
    assert b"-ERR another session" in conversation.sent
    assert conversation.sent.endswith(b"body\r\n.\r\n")


# ---- pieces, bounds and endings


def test_pipelined_commands_are_answered_in_order() -> None:
    store = full_store()
    large = b"Subject: large\r\n\r\n" + b"x" * 70 + b"\r\n"
    store.inboxes["alice"] = [large * 3000]
    play(
        lambda: Pop3Session(OPEN, store),
        "S: +OK *\nC: USER alice\nC: PASS ecila\n"
        + "C: RETR 1\n" * 5
        + "C: QUIT\nS: +OK *\nS: +OK 1 *\n"
        + ("S: +OK 270000 octets\n" + "S: Subject: large\nS: \nS: x*\n" * 3000 + "S: .\n") * 5
        + "S: +OK *\nA: Close",
        feeds=[Feed.TURN, Feed.LINE],
    )


def test_a_command_line_has_255_octets_at_most() -> None:
    fits = "USER " + "x" * (255 - 2 - 5)
    pop3(f"S: +OK *\nC: {fits}\nS: +OK *\nC: {fits}x\nS: -ERR the line *\nC: {'x' * 100_000}\nS: -ERR the line *")


def test_lines_end_with_crlf() -> None:
    logged_in(r"""
        C> NOOP\n
        S: -ERR lines end *
        C> NOOP\rNOOP\r\n
        S: -ERR *
        C> NOOP\r
        is: unfinished
        C> \n
        S: +OK
        is: finished
        """)


def test_patience_ends() -> None:
    pop3("S: +OK *\n" + "C: RUBBISH\nS: -ERR no *\n" * (MAX_ERRORS - 1) + "C: RUBBISH\nS: -ERR too *\nA: Close")


def test_an_idle_client_hears_nothing() -> None:
    pop3("S: +OK *\nE: idled")
    logged_in("E: idled")


def test_stopping_says_so() -> None:
    pop3("S: +OK *\nE: stopping\nS: -ERR [SYS/TEMP] *")
    logged_in("E: stopping\nS: -ERR [SYS/TEMP] *")


def test_stopping_waits_for_what_is_under_way() -> None:
    store = full_store()
    session = Pop3Session(OPEN, store)
    conversation = Conversation(session)
    conversation.begin()
    conversation.feed([b"USER alice\r\nPASS ecila\r\nDELE 1\r\n"])
    conversation.taken()
    conversation.happen("hold")
    conversation.feed([b"QUIT\r\n"])
    assert session.stopping() == ()
    conversation.happen("release")
    assert conversation.taken() == [b"+OK removed what was marked, goodbye\r\n", "Close"]
    assert len(store.inboxes["alice"]) == 2
    assert session.stopping() == ()


def test_stopping_lets_a_retrieval_finish_and_then_ends() -> None:
    session = Pop3Session(OPEN, full_store())
    conversation = Conversation(session)
    conversation.begin()
    conversation.feed([b"USER alice\r\nPASS ecila\r\n"])
    conversation.taken()
    conversation.happen("hold")
    conversation.feed([b"TOP 1 0\r\n", b"NOOP\r\n"])
    assert session.stopping() == ()
    conversation.happen("release")
    assert conversation.taken() == [
        b"+OK\r\nSubject: one\r\n\r\n.\r\n-ERR [SYS/TEMP] the server is shutting down\r\n",
        "Close",
    ]


def test_octets_behind_the_end_are_ignored() -> None:
    session = Pop3Session(OPEN, full_store())
    Conversation(session).begin()
    session.idled()
    assert session.received(b"CAPA\r\n") == ()
    assert session.woken() == ()
    assert not session.unfinished


@pytest.mark.parametrize("reason", Refusal)
def test_a_refusal_is_an_err(reason: Refusal) -> None:
    line = refusal(reason)
    assert line.startswith(b"-ERR [SYS/")
    assert line.endswith(b"\r\n")
    assert line.count(b"\r\n") == 1


WORDS = [
    *("USER alice", "PASS ecila", "PASS x", "AUTH", "AUTH PLAIN", RIGHT, "*", "CAPA", "STAT", "LIST", "LIST 1"),
    *("RETR 1", "RETR 3", "TOP 2 1", "DELE 1", "DELE 3", "UIDL", "RSET", "NOOP", "QUIT", "\0\xff", "", "."),
]


@given(
    st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(["\r\n", "\r\n", "\r\n", "\n", "\r", ""])), max_size=25)
)
def test_answers_never_depend_on_how_octets_arrive(said: list[tuple[str, str]]) -> None:
    wire = "".join(word + end for word, end in said).encode("latin-1")
    outcomes = []
    for step in (1, 7, len(wire) + 1):
        store = full_store()
        conversation = Conversation(Pop3Session(OPEN, store))
        conversation.begin()
        conversation.feed([wire[at : at + step] for at in range(0, len(wire), step)])
        outcomes.append((conversation.taken(), conversation.session.unfinished, store.inboxes["alice"]))
        conversation.end()
        assert not store.claimed
    assert outcomes[0] == outcomes[1] == outcomes[2]


@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\r", b"").replace(b"\n", b"")), max_size=9))
def test_a_client_that_unstuffs_gets_the_message(lines: list[bytes]) -> None:
    message = b"".join(line + b"\r\n" for line in lines)
    store = MemoryStore()
    store.inboxes["alice"] = [message]
    conversation = Conversation(Pop3Session(OPEN, store))
    conversation.begin()
    conversation.feed([b"USER alice\r\nPASS ecila\r\n"])
    conversation.taken()
    conversation.feed([b"RETR 1\r\n"])
    [reply] = conversation.taken()
    assert isinstance(reply, bytes)
    _, text = reply.split(b"\r\n", 1)
    got = text.split(b"\r\n")
    assert got[-2:] == [b".", b""]
    assert b"." not in got[:-2]
    assert b"".join((line[1:] if line.startswith(b".") else line) + b"\r\n" for line in got[:-2]) == message
