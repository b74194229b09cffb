"""IMAP commands about mailboxes as a whole, one dialogue a rule; alice has logged in."""

from __future__ import annotations

from pathlib import Path

import pytest

from reference_server.protocols.imap import MAX_ERRORS, ImapSession
from reference_server.protocols.imap_input import MAX_MESSAGE
from tests.dialogue import Conversation
from tests.imap_sessions import ALICE, OPEN, NewStore, logged_in, stores_below


@pytest.fixture
def new_store(tmp_path: Path) -> NewStore:
    return stores_below(tmp_path)


# ---- mailboxes


def test_which_mailboxes_there_are(new_store: NewStore) -> None:
    logged_in(
        new_store,
        """
        C: a CREATE Lists/Gr&APYA3w-e
        S: a OK *
        C: b CREATE "Sent Mail/"
        S: b OK *
        C: c CREATE lists
        S: c OK *
        C: d LIST "" *
        S: * LIST (\\HasNoChildren) "/" "INBOX"
        S: * LIST (\\HasChildren) "/" "Lists"
        S: * LIST (\\HasNoChildren) "/" "Lists/Gr&APYA3w-e"
        S: * LIST (\\HasNoChildren) "/" "Sent Mail"
        S: * LIST (\\HasNoChildren) "/" "lists"
        S: d OK done
        C: e LIST "" %
        S: * LIST (\\HasNoChildren) "/" "INBOX"
        S: * LIST (\\HasChildren) "/" "Lists"
        S: * LIST (\\HasNoChildren) "/" "Sent Mail"
        S: * LIST (\\HasNoChildren) "/" "lists"
        S: e OK done
        C: f LIST Lists/ %
        S: * LIST (\\HasNoChildren) "/" "Lists/Gr&APYA3w-e"
        S: f OK done
        C: g LIST "" inbox
        S: * LIST (\\HasNoChildren) "/" "INBOX"
        S: g OK done
        C: h LIST "" ""
        S: * LIST (\\Noselect) "/" ""
        S: h OK done
        C: i DELETE Lists
        S: i OK *
        C: j LIST "" Li%
        S: * LIST (\\Noselect \\HasChildren) "/" "Lists"
        S: j OK done
        C: k SELECT Lists
        S: k NO [NONEXISTENT] *
        C: l DELETE INBOX
        S: l NO [CANNOT] *
        C: m CREATE inbox
        S: m NO [ALREADYEXISTS] *
        C: n CREATE a//b
        S: n NO [CANNOT] *
        C: o CREATE Gr&ouml;
        S: o BAD *
        C: p LIST ""
        S: p BAD *
        C: q NAMESPACE
        S: * NAMESPACE (("" "/")) NIL NIL
        S: q OK done
        """,
    )


def test_mailboxes_get_other_names(new_store: NewStore) -> None:
    logged_in(
        new_store,
        """
        C: a CREATE one/below
        S: a OK *
        C: b RENAME one two
        S: b OK *
        C: c LIST "" *
        S: * LIST (\\HasNoChildren) "/" "INBOX"
        S: * LIST (\\HasChildren) "/" "two"
        S: * LIST (\\HasNoChildren) "/" "two/below"
        S: c OK done
        C: d RENAME three four
        S: d NO [NONEXISTENT] *
        C: e RENAME two INBOX
        S: e NO [ALREADYEXISTS] *
        C> f APPEND INBOX {3+}\\r\\nabc\\r\\n
        S: f OK *
        C: g RENAME INBOX old
        S: g OK *
        C: h STATUS old (MESSAGES)
        S: * STATUS "old" (MESSAGES 1)
        S: h OK done
        C: i STATUS INBOX (MESSAGES)
        S: * STATUS "INBOX" (MESSAGES 0)
        S: i OK done
        """,
    )


def test_subscriptions_outlive_mailboxes(new_store: NewStore) -> None:
    logged_in(
        new_store,
        """
        C: a CREATE a/b
        S: a OK *
        C: b SUBSCRIBE a/b
        S: b OK *
        C: c SUBSCRIBE INBOX
        S: c OK *
        C: i SUBSCRIBE nowhere
        S: i NO [NONEXISTENT] *
        C: d DELETE a/b
        S: d OK *
        C: e LSUB "" *
        S: * LSUB () "/" "INBOX"
        S: * LSUB () "/" "a/b"
        S: e OK done
        C: f LSUB "" %
        S: * LSUB () "/" "INBOX"
        S: * LSUB (\\Noselect) "/" "a"
        S: f OK done
        C: g UNSUBSCRIBE a/b
        S: g OK *
        C: h LSUB "" a*
        S: h OK done
        """,
    )


def test_select_tells_of_the_mailbox(new_store: NewStore) -> None:
    logged_in(
        new_store,
        """
        C> a APPEND INBOX (\\\\Seen) {3+}\\r\\none\\r\\n
        S: a OK [APPENDUID … 1] kept
        C> b APPEND INBOX ($Later) {3+}\\r\\ntwo\\r\\n
        S: b OK [APPENDUID … 2] kept
        C: c EXAMINE inbox
        S: * FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $Later)
        S: * 2 EXISTS
        S: * 2 RECENT
        S: * OK [UNSEEN 2] *
        S: * OK [PERMANENTFLAGS ()] *
        S: * OK [UIDVALIDITY …] *
        S: * OK [UIDNEXT 3] *
        S: c OK [READ-ONLY] *
        C: d SELECT INBOX
        S: * FLAGS *
        S: * 2 EXISTS
        S: * 2 RECENT
        S: * OK [UNSEEN 2] *
        S: * OK [PERMANENTFLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft \\*)] *
        S: * OK [UIDVALIDITY …] *
        S: * OK [UIDNEXT 3] *
        S: d OK [READ-WRITE] *
        C: e STATUS INBOX (MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN)
        S: * STATUS "INBOX" (MESSAGES 2 RECENT 0 UIDNEXT 3 UIDVALIDITY …)
        S: e OK done
        C: f EXAMINE INBOX
        S: * FLAGS *
        S: * 2 EXISTS
        S: * 0 RECENT
        S*: * OK *
        S: f OK [READ-ONLY] *
        C: g STATUS INBOX (MESSAGES SIZE)
        S: g BAD *
        C: h SELECT nowhere
        S: h NO [NONEXISTENT] *
        C: i CHECK
        S: i BAD open a mailbox first
        """,
    )


def test_append(new_store: NewStore) -> None:
    stores = logged_in(
        new_store,
        f"""
        C: a APPEND INBOX (\\Seen) " 7-Feb-1994 21:52:25 -0800" {{5}}
        S: + *
        is: unfinished
        C> a\\r\\nb\\n\\r\\n
        S: a OK [APPENDUID … 1] kept
        C> b APPEND {{5+}}\\r\\ninbox {{1+}}\\r\\nx\\r\\n
        S: b OK [APPENDUID … 2] kept
        C> c APPEND nowhere {{1+}}\\r\\nx\\r\\n
        S: c NO [TRYCREATE] *
        C: d APPEND INBOX {{{MAX_MESSAGE + 1}}}
        S: d NO [LIMIT] *
        C: e APPEND INBOX (\\Recent) {{5}}
        S: e BAD *
        C> f APPEND INBOX (\\\\Strange) {{16+}}\\r\\nx LOGOUT\\r\\ny Z\\r\\n\\r\\n
        S: f BAD *
        C: g APPEND INBOX "hello"
        S: g BAD *
        C> h APPEND INBOX {{0+}}\\r\\n\\r\\n
        S: h BAD *
        C> i APPEND INBOX {{1+}}\\r\\nx {{2+}}\\r\\nyz\\r\\n
        S: i BAD *
        C> n APPEND INBOX {{3+}}\\r\\na\\0b\\r\\n
        S: n BAD a message has no NUL in it
        is: finished
        C: j NOOP
        S: j OK *
        """,
    )
    for store in stores:
        inbox = store.mailbox(ALICE, "INBOX")
        first, second = inbox.messages()
        assert inbox.read(first.uid) == b"a\r\nb\r\n"
        assert first.flags == {"\\Seen"}
        assert first.received.isoformat() == "1994-02-08T05:52:25+00:00"
        assert inbox.read(second.uid) == b"x"


def test_patience_may_end_with_idle(new_store: NewStore) -> None:
    bad = "C: x XYZZY\nS: x BAD *\n"
    for opens in ("C: s SELECT INBOX\nS*: * *\nS: s OK *\n", ""):
        watch, unwatch = ("A: Watch\n", "A: Unwatch\n") if opens else ("", "")
        logged_in(
            new_store,
            f"{opens}{bad * (MAX_ERRORS - 1)}C: i IDLE\nS: + *\n{watch}C> ENOUGH\\r\\na NOOP\\r\\nb NOOP\\r\\n\n"
            f"S: i BAD *\n{unwatch}S: * BYE *\nA: Close",
        )


def test_half_a_message_is_none(new_store: NewStore) -> None:
    script = """
        C: a APPEND INBOX {10}
        S: + *
        C> 012345678
        is: unfinished
        E: %s
    """
    for end, farewell in (("ended", ""), ("idled", "S: * BYE *\nA: Close\n"), ("stopping", "S: * BYE *\nA: Close\n")):
        for store in logged_in(new_store, script % end + farewell):
            assert not store.mailbox(ALICE, "INBOX").messages()
    # All of its octets have come, but not the end of the command.
    for store in logged_in(new_store, "C: a APPEND INBOX {3}\nS: + *\nC> 012\nis: unfinished\nE: ended"):
        assert not store.mailbox(ALICE, "INBOX").messages()


def test_a_message_far_too_large_is_skipped_and_the_session_goes_on(new_store: NewStore) -> None:
    session = ImapSession(OPEN, new_store())
    conversation = Conversation(session)
    conversation.begin()
    conversation.feed([b"a LOGIN alice ecila\r\n", b"b APPEND INBOX {%d+}\r\n" % (MAX_MESSAGE + 1)])
    piece = b"c LOGOUT\r\n" * 100_000
    for _ in range((MAX_MESSAGE + 1) // len(piece)):
        conversation.feed([piece])
    conversation.feed([piece[: (MAX_MESSAGE + 1) % len(piece)], b"\r\nd NOOP\r\n"])
    assert conversation.sent.endswith(b"b NO [LIMIT] the message is too large\r\nd OK done\r\n")
    conversation.end()
