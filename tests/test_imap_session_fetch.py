"""FETCH and SEARCH, one dialogue a rule.  ``INBOX`` holds two messages, with UIDs 1 and 2."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from reference_server.mailstore import MailStore
from reference_server.protocols.imap_commands_fetch import OCTETS_AT_ONCE
from tests.imap_sessions import ALICE, NewStore, Talk, logged_in, stores_below

PLAIN = b"From: a@example.test\r\nSubject: one\r\nDate: Mon, 7 Feb 1994 21:52:25 -0800\r\n\r\nbody\r\n"
NESTED = (
    b"Subject: two\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\n\r\nfirst\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>second\r\n--b--\r\n"
)
OPENED = """
    C: s SELECT INBOX
    S*: * *
    S: s OK [READ-WRITE] *
"""


@pytest.fixture
def new_store(tmp_path: Path) -> NewStore:
    return stores_below(tmp_path)


def opened(new_store: NewStore, script: str) -> list[MailStore]:
    return logged_in(new_store, OPENED + script, [PLAIN, NESTED])


def literal(octets: bytes) -> str:
    """In the notation of a dialogue's ``S>``."""
    return f"{{{len(octets)}}}\\r\\n" + repr(octets)[2:-1]


# ---- FETCH


def test_what_is_known_without_reading_a_message(new_store: NewStore) -> None:
    opened(
        new_store,
        f"""
        C: a FETCH 1:2 (FLAGS UID RFC822.SIZE)
        S: * 1 FETCH (FLAGS (\\Recent) UID 1 RFC822.SIZE {len(PLAIN)})
        S: * 2 FETCH (FLAGS (\\Recent) UID 2 RFC822.SIZE {len(NESTED)})
        S: a OK done
        C: b UID FETCH 2 FLAGS
        S: * 2 FETCH (UID 2 FLAGS (\\Recent))
        S: b OK done
        C: c UID FETCH 2:* UID
        S: * 2 FETCH (UID 2)
        S: c OK done
        C: d UID FETCH 9:* UID
        S: * 2 FETCH (UID 2)
        S: d OK done
        C: e UID FETCH 9 FLAGS
        S: e OK done
        C: f FETCH 3 FLAGS
        S: f BAD *
        C: g FETCH 1 FAST
        S: * 1 FETCH (FLAGS (\\Recent) INTERNALDATE "…" RFC822.SIZE {len(PLAIN)})
        S: g OK done
        C: h FETCH 1 NOTHING
        S: h BAD *
        C: i FETCH 1
        S: i BAD *
        """,
    )


def test_octets_of_a_message(new_store: NewStore) -> None:
    header, body = PLAIN[:-6], PLAIN[-6:]
    subject, mime = literal(b"Subject: one\r\n\r\n"), literal(b"Content-Type: text/html\r\n\r\n")
    opened(
        new_store,
        f"""
        C: a FETCH 1 BODY.PEEK[]
        S> * 1 FETCH (BODY[] {literal(PLAIN)})\\r\\n
        S: a OK done
        C: b FETCH 1 BODY.PEEK[]<6.4>
        S> * 1 FETCH (BODY[]<6> {literal(PLAIN[6:10])})\\r\\n
        S: b OK done
        C: c FETCH 1 BODY.PEEK[]<9999.4>
        S> * 1 FETCH (BODY[]<9999> {{0}}\\r\\n)\\r\\n
        S: c OK done
        C: d FETCH 1 (RFC822.HEADER BODY.PEEK[TEXT])
        S> * 1 FETCH (RFC822.HEADER {literal(header)} BODY[TEXT] {literal(body)})\\r\\n
        S: d OK done
        C: e FETCH 1 BODY.PEEK[HEADER.FIELDS (subject X-No)]
        S> * 1 FETCH (BODY[HEADER.FIELDS (subject X-No)] {subject})\\r\\n
        S: e OK done
        C: f FETCH 2 (BODY.PEEK[1] BODY.PEEK[2] BODY.PEEK[2.MIME])
        S> * 2 FETCH (BODY[1] {literal(b"first")} BODY[2] {literal(b"<p>second")}
        S>  BODY[2.MIME] {mime})\\r\\n
        S: f OK done
        C: g FETCH 1 BODY.PEEK[3]
        S: * 1 FETCH (BODY[3] NIL)
        S: g OK done
        C: h FETCH 1:2 FLAGS
        S: * 1 FETCH (FLAGS (\\Recent))
        S: * 2 FETCH (FLAGS (\\Recent))
        S: h OK done
        """,
    )


def test_nul_in_a_message_is_told_as_another_octet_in_its_place(new_store: NewStore) -> None:
    # SMTP took it in, or another program did; POP3 gives it out as it is.
    message = b"Subject: a\0b\r\n\r\nc\0d\0\r\n"
    logged_in(
        new_store,
        OPENED
        + f"""
        C: a FETCH 1 (RFC822.SIZE BODY.PEEK[] BODY.PEEK[TEXT]<1.2>)
        S> * 1 FETCH (RFC822.SIZE {len(message)} BODY[] {literal(message.replace(bytes(1), bytes([128])))}
        S>  BODY[TEXT]<1> {literal(bytes([128]) + b"d")})\\r\\n
        S: a OK done
        C: b FETCH 1 ENVELOPE
        S> * 1 FETCH (ENVELOPE (NIL {literal(b"a" + bytes([128]) + b"b")} NIL NIL NIL NIL NIL NIL NIL NIL))\\r\\n
        S: b OK done
        """,
        [message],
    )


def test_to_read_is_to_see(new_store: NewStore) -> None:
    stores = opened(
        new_store,
        f"""
        C: a FETCH 1 BODY[]<0.4>
        S> * 1 FETCH (BODY[]<0> {literal(b"From")} FLAGS (\\\\Seen \\\\Recent))\\r\\n
        S: a OK done
        C: b FETCH 1 BODY[]<0.4>
        S> * 1 FETCH (BODY[]<0> {literal(b"From")})\\r\\n
        S: b OK done
        C: c FETCH 2 (FLAGS RFC822)
        S> * 2 FETCH (FLAGS (\\\\Seen \\\\Recent) RFC822 {literal(NESTED)})\\r\\n
        S: c OK done
        """,
    )
    for store in stores:
        assert all(message.flags == {"\\Seen"} for message in store.mailbox(ALICE, "INBOX").messages())


def test_nothing_is_seen_in_a_mailbox_that_is_examined(new_store: NewStore) -> None:
    stores = logged_in(
        new_store,
        f"""
        C: s EXAMINE INBOX
        S*: * *
        S: s OK [READ-ONLY] *
        C: a FETCH 1 RFC822
        S> * 1 FETCH (RFC822 {literal(PLAIN)})\\r\\n
        S: a OK done
        """,
        [PLAIN],
    )
    for store in stores:
        assert not store.mailbox(ALICE, "INBOX").messages()[0].flags


def test_the_structure_of_a_message(new_store: NewStore) -> None:
    opened(
        new_store,
        """
        C: a FETCH 1 ENVELOPE
        S: * 1 FETCH (ENVELOPE ("Mon, 7 Feb 1994 21:52:25 -0800" "one" ((NIL NIL "a" "example.test")) …))
        S: a OK done
        C: b FETCH 1 BODY
        S: * 1 FETCH (BODY ("TEXT" "PLAIN" …))
        S: b OK done
        C: c FETCH 2 (BODYSTRUCTURE)
        S: * 2 FETCH (BODYSTRUCTURE ((…)(…) "MIXED" …))
        S: c OK done
        C: d FETCH 1 FULL
        S: * 1 FETCH (FLAGS (\\Recent) INTERNALDATE "…" RFC822.SIZE … ENVELOPE (…) BODY (…))
        S: d OK done
        """,
    )


def test_the_internal_date(new_store: NewStore) -> None:
    store = new_store()
    store.mailbox(ALICE, "INBOX").append(PLAIN, (), datetime(1994, 2, 8, 5, 52, 25, tzinfo=UTC))
    assert Talk(store).say("FETCH 1 INTERNALDATE") == [
        '* 1 FETCH (INTERNALDATE " 8-Feb-1994 05:52:25 +0000")',
        "t OK done",
    ]


def test_much_is_sent_in_pieces_and_nothing_twice(new_store: NewStore) -> None:
    store = new_store()
    inbox = store.mailbox(ALICE, "INBOX")
    for number in range(5):
        inbox.append(b"%d" % number * (OCTETS_AT_ONCE // 2))
    talk = Talk(store)
    lines = talk.say("FETCH 1:* (UID BODY[])")
    assert [line[:40] for line in lines] == [
        text
        for number in range(5)
        for text in (
            f"* {number + 1} FETCH (UID {number + 1} BODY[] {{{OCTETS_AT_ONCE // 2}}}",
            f"{number}" * 40,
        )
    ] + ["t OK done"]
    assert all(line.endswith(" FLAGS (\\Seen \\Recent))") for line in lines[1:-1:2])


def test_messages_that_are_gone_are_left_out(new_store: NewStore) -> None:
    store = new_store()
    inbox = store.mailbox(ALICE, "INBOX")
    for text in (b"a", b"b", b"c"):
        inbox.append(text)
    talk = Talk(store)
    inbox.remove([2])
    assert talk.say("FETCH 1:3 (BODY.PEEK[])") == [
        "* 1 FETCH (BODY[] {1}",
        "a)",
        "* 3 FETCH (BODY[] {1}",
        "c)",
        "t NO [EXPUNGEISSUED] some of these messages are gone",
    ]
    assert talk.say("UID FETCH 1:3 FLAGS")[-2:] == ["* 2 EXPUNGE", "t OK done"]


# ---- SEARCH


def test_search(new_store: NewStore) -> None:
    opened(
        new_store,
        """
        C: a STORE 2 +FLAGS.SILENT (\\Flagged)
        S: a OK done
        C: b SEARCH ALL
        S: * SEARCH 1 2
        S: b OK done
        C: c SEARCH FLAGGED
        S: * SEARCH 2
        S: c OK done
        C: d SEARCH NOT FLAGGED NEW
        S: * SEARCH 1
        S: d OK done
        C: e SEARCH SUBJECT "TWO"
        S: * SEARCH 2
        S: e OK done
        C: f SEARCH BODY body
        S: * SEARCH 1
        S: f OK done
        C: g SEARCH SUBJECT three
        S: * SEARCH
        S: g OK done
        C: h SEARCH SENTON 7-Feb-1994
        S: * SEARCH 1
        S: h OK done
        C: i SEARCH CHARSET KOI8-R SUBJECT two
        S: i NO [BADCHARSET (US-ASCII UTF-8)] *
        C: j SEARCH CHARSET UTF-8 SUBJECT {3}
        S: + *
        C> two\\r\\n
        S: * SEARCH 2
        S: j OK done
        C: k SEARCH XYZZY
        S: k BAD *
        C: l SEARCH *
        S: * SEARCH 2
        S: l OK done
        C: m STORE 1 +FLAGS.SILENT (\\Deleted)
        S: m OK done
        C: n EXPUNGE
        S: * 1 EXPUNGE
        S: n OK done
        C: o UID SEARCH ALL
        S: * SEARCH 2
        S: o OK done
        C: p SEARCH UID 1:*
        S: * SEARCH 1
        S: p OK done
        """,
    )


def test_a_search_of_what_is_gone_finds_numbers_that_still_hold(new_store: NewStore) -> None:
    store = new_store()
    inbox = store.mailbox(ALICE, "INBOX")
    for text in (b"\r\na", b"\r\nb", b"\r\nc"):
        inbox.append(text)
    talk = Talk(store)
    inbox.remove([2])
    assert talk.say("SEARCH BODY c") == ["* SEARCH 3", "t OK done"]
    assert talk.say("SEARCH BODY b") == ["* SEARCH", "t OK done"]
    assert talk.say("UID SEARCH BODY c") == ["* SEARCH 3", "* 2 EXPUNGE", "t OK done"]
