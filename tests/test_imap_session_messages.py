"""IMAP commands that change the messages of the open mailbox, one dialogue a rule.

``INBOX`` holds three messages, with UIDs 1 to 3; mailbox ``other`` is made where it is needed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from reference_server.mailstore import MailStore
from tests.imap_sessions import ALICE, NewStore, logged_in, stores_below

INBOX = [b"Subject: one\r\n\r\n1\r\n", b"Subject: two\r\n\r\n22\r\n", b"Subject: three\r\n\r\n333\r\n"]
OPENED = """
    C: s SELECT INBOX
    S*: * *
    S: s OK [READ-WRITE] *
"""
WITH_OTHER = """
    C: m CREATE other
    S: m OK *
"""


@pytest.fixture
def new_store(tmp_path: Path) -> NewStore:
    return stores_below(tmp_path)


def opened(new_store: NewStore, script: str) -> list[MailStore]:
    return logged_in(new_store, OPENED + script, INBOX)


def subjects(store: MailStore, name: str) -> list[str]:
    mailbox = store.mailbox(ALICE, name)
    texts = [mailbox.read(message.uid) for message in mailbox.messages()]
    return [text.split(b"\r\n")[0].removeprefix(b"Subject: ").decode() for text in texts]


# ---- flags


def test_store(new_store: NewStore) -> None:
    stores = opened(
        new_store,
        """
        C: a STORE 1:2 FLAGS (\\Seen \\Flagged)
        S: * 1 FETCH (FLAGS (\\Flagged \\Seen \\Recent))
        S: * 2 FETCH (FLAGS (\\Flagged \\Seen \\Recent))
        S: a OK done
        C: b STORE 2 -FLAGS \\Seen
        S: * 2 FETCH (FLAGS (\\Flagged \\Recent))
        S: b OK done
        C: c UID STORE 2:9 +FLAGS (\\Draft)
        S: * 2 FETCH (UID 2 FLAGS (\\Draft \\Flagged \\Recent))
        S: * 3 FETCH (UID 3 FLAGS (\\Draft \\Recent))
        S: c OK done
        C: d STORE * +FLAGS.SILENT (\\Answered)
        S: d OK done
        C: e NOOP
        S: e OK done
        C: f STORE 4 FLAGS (\\Seen)
        S: f BAD *
        C: g UID STORE 7 FLAGS (\\Seen)
        S: g OK done
        C: h STORE 1 +FLAGS (\\Recent)
        S: h BAD *
        """,
    )
    for store in stores:
        flags = [message.flags for message in store.mailbox(ALICE, "INBOX").messages()]
        assert flags == [{"\\Seen", "\\Flagged"}, {"\\Flagged", "\\Draft"}, {"\\Draft", "\\Answered"}]


def test_a_keyword_is_announced_before_a_message_has_it(new_store: NewStore) -> None:
    opened(
        new_store,
        """
        C: a STORE 1 +FLAGS ($Later)
        S: * FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $Later)
        S: * 1 FETCH (FLAGS ($Later \\Recent))
        S: a OK done
        C: b STORE 2 +FLAGS ($Later)
        S: * 2 FETCH (FLAGS ($Later \\Recent))
        S: b OK done
        """,
    )


def test_nothing_changes_in_a_mailbox_that_is_examined(new_store: NewStore) -> None:
    stores = logged_in(
        new_store,
        WITH_OTHER
        + """
        C: s EXAMINE INBOX
        S*: * *
        S: s OK [READ-ONLY] *
        C: a STORE 1 FLAGS (\\Deleted)
        S: a NO *
        C: b EXPUNGE
        S: b NO *
        C: c UID EXPUNGE 1
        S: c NO *
        C: d MOVE 1 other
        S: d NO *
        C: e COPY 1 other
        S: e OK [COPYUID … 1 1] *
        C: f CLOSE
        S: f OK done
        """,
        INBOX,
    )
    for store in stores:
        assert [(message.flags, message.recent) for message in store.mailbox(ALICE, "INBOX").messages()] == [
            (frozenset(), True)
        ] * 3


# ---- copies


def test_copy_and_move(new_store: NewStore) -> None:
    stores = opened(
        new_store,
        WITH_OTHER
        + """
        C: a COPY 2:3 other
        S: a OK [COPYUID … 2:3 1:2] *
        C: b UID COPY 1 other
        S: b OK [COPYUID … 1 3] *
        C: c COPY 1 nowhere
        S: c NO [TRYCREATE] *
        C: d UID COPY 17 other
        S: d OK *
        C: e COPY 17 other
        S: e BAD *
        C: f MOVE 1,3 other
        S: * OK [COPYUID … 1,3 4:5] *
        S: * 3 EXPUNGE
        S: * 1 EXPUNGE
        S: f OK done
        C: g UID MOVE 2 nowhere
        S: g NO [TRYCREATE] *
        C: h UID MOVE 2 INBOX
        S: * OK [COPYUID … 2 4] *
        S: * 1 EXPUNGE
        S: * 1 EXISTS
        S: * 1 RECENT
        S: h OK done
        C: i UID MOVE 2 INBOX
        S: i OK *
        """,
    )
    for store in stores:
        assert subjects(store, "other") == ["two", "three", "one", "one", "three"]
        assert subjects(store, "INBOX") == ["two"]


# ---- removing


def test_expunge(new_store: NewStore) -> None:
    stores = opened(
        new_store,
        """
        C: a STORE 1:3 +FLAGS.SILENT (\\Deleted)
        S: a OK done
        C: b UID EXPUNGE 2:9
        S: * 3 EXPUNGE
        S: * 2 EXPUNGE
        S: b OK done
        C: c UID EXPUNGE 2
        S: c OK done
        C: d EXPUNGE 1
        S: d BAD *
        C: e EXPUNGE
        S: * 1 EXPUNGE
        S: e OK done
        C: f STORE 1:* FLAGS ()
        S: f OK done
        C: g STORE 1 FLAGS ()
        S: g BAD *
        """,
    )
    for store in stores:
        assert subjects(store, "INBOX") == []


def test_close_removes_without_a_word_and_unselect_does_not(new_store: NewStore) -> None:
    stores = opened(
        new_store,
        """
        C: a STORE 1 +FLAGS.SILENT (\\Deleted)
        S: a OK done
        C: b UNSELECT
        S: b OK done
        C: c UNSELECT
        S: c BAD open a mailbox first
        C: d STATUS INBOX (MESSAGES)
        S: * STATUS "INBOX" (MESSAGES 3)
        S: d OK done
        C: e SELECT INBOX
        S*: * *
        S: e OK *
        C: f CLOSE
        S: f OK done
        C: g STATUS INBOX (MESSAGES)
        S: * STATUS "INBOX" (MESSAGES 2)
        S: g OK done
        """,
    )
    for store in stores:
        assert subjects(store, "INBOX") == ["two", "three"]


def test_pipelined_commands_are_carried_out_once_each_and_in_order(new_store: NewStore) -> None:
    stores = opened(
        new_store,
        """
        C: a STORE 1 +FLAGS.SILENT \\Deleted
        C: b EXPUNGE
        C: c STORE 1 +FLAGS.SILENT \\Deleted
        C: d EXPUNGE
        S: a OK done
        S: * 1 EXPUNGE
        S: b OK done
        S: c OK done
        S: * 1 EXPUNGE
        S: d OK done
        """,
    )
    for store in stores:
        assert subjects(store, "INBOX") == ["three"]


def test_the_mailbox_that_is_open_may_be_deleted(new_store: NewStore) -> None:
    logged_in(
        new_store,
        WITH_OTHER
        + """
        C: a SELECT other
        S*: * *
        S: a OK *
        C: b DELETE other
        S: b OK done
        C: c CHECK
        S: c BAD open a mailbox first
        C: d SELECT other
        S: d NO [NONEXISTENT] *
        """,
    )


# ---- waiting


def test_idle(new_store: NewStore) -> None:
    opened(
        new_store,
        """
        C: a IDLE
        S: + idling
        A: Watch
        is: finished
        C: done
        S: a OK done
        A: Unwatch
        C: b IDLE
        S: + idling
        A: Watch
        C: c NOOP
        S: b BAD *
        A: Unwatch
        C: c NOOP
        S: c OK done
        C: d IDLE
        S: + idling
        A: Watch
        E: idled
        S: * BYE *
        A: Close
        """,
    )
    logged_in(new_store, "C: a IDLE\nS: + idling\nC: DONE\nS: a OK done\nC: b NOOP\nS: b OK done")


def test_the_server_stops_while_a_client_waits(new_store: NewStore) -> None:
    opened(new_store, "C: a IDLE\nS: + idling\nA: Watch\nE: stopping\nS: * BYE *\nA: Close")
