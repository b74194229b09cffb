"""What one IMAP client hears of what others do in its mailbox (RFC 3501 5.2, 7.4.1)."""

from __future__ import annotations

from pathlib import Path

import pytest

from reference_server.mailstore import Mailbox, MailStore
from reference_server.session import Perform, Send
from tests.imap_sessions import ALICE, Talk, stores_below


@pytest.fixture
def store(tmp_path: Path) -> MailStore:
    store = stores_below(tmp_path)()
    for number in range(1, 4):
        store.mailbox(ALICE, "INBOX").append(b"Subject: %d\r\n\r\n" % number)
    return store


@pytest.fixture
def inbox(store: MailStore) -> Mailbox:
    return store.mailbox(ALICE, "INBOX")


def test_new_messages(store: MailStore, inbox: Mailbox) -> None:
    one, other = Talk(store), Talk(store)
    inbox.append(b"new")
    # RFC 3501 2.3.2: recent for the first session that hears of it, and for no other.
    assert one.say("NOOP") == ["* 4 EXISTS", "* 4 RECENT", "t OK done"]
    assert other.say("NOOP") == ["* 4 EXISTS", "* 0 RECENT", "t OK done"]
    assert one.say("NOOP") == ["t OK done"]


def test_flags_and_keywords(store: MailStore) -> None:
    one, other = Talk(store), Talk(store)
    one.say("STORE 2 +FLAGS.SILENT (\\Seen $Later)")
    assert one.say("NOOP") == ["t OK done"]
    assert other.say("NOOP") == [
        "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $Later)",
        "* 2 FETCH (FLAGS ($Later \\Seen))",
        "t OK done",
    ]


def test_no_number_changes_while_the_client_uses_numbers(store: MailStore, inbox: Mailbox) -> None:
    talk = Talk(store)
    inbox.remove([1])
    inbox.append(b"new")
    assert talk.say("STORE 3 +FLAGS (\\Seen)") == [
        "* 4 EXISTS",
        "* 4 RECENT",
        "* 3 FETCH (FLAGS (\\Seen \\Recent))",
        "t OK done",
    ]
    assert talk.say("STORE 1 +FLAGS (\\Seen)") == ["t NO [EXPUNGEISSUED] some of these messages are gone"]
    assert talk.say("UID STORE 3 -FLAGS (\\Seen)") == [
        "* 3 FETCH (UID 3 FLAGS (\\Recent))",
        "* 1 EXPUNGE",
        "t OK done",
    ]
    assert talk.say("STORE 3 +FLAGS (\\Seen)") == ["* 3 FETCH (FLAGS (\\Seen \\Recent))", "t OK done"]


def test_the_last_number_is_told_first(store: MailStore, inbox: Mailbox) -> None:
    talk = Talk(store)
    inbox.remove([1, 3])
    assert talk.say("CHECK") == ["* 3 EXPUNGE", "* 1 EXPUNGE", "t OK done"]


@pytest.mark.parametrize("command", ["FETCH 9 FLAGS", "STORE 9 FLAGS ()", "COPY 9 INBOX", "SEARCH 1:*"])
def test_news_come_with_whatever_answer(store: MailStore, inbox: Mailbox, command: str) -> None:
    talk = Talk(store)
    inbox.append(b"new")
    answer = talk.say(command)
    assert "* 4 EXISTS" in answer
    assert answer[-1].startswith("t OK" if command == "SEARCH 1:*" else "t BAD")
    assert talk.say("NOOP") == ["t OK done"]


@pytest.mark.parametrize("command", ["FETCH 1 BODY[]", "STORE 2 +FLAGS (\\Seen)", "EXPUNGE", "UID FETCH 2 BODY.PEEK[]"])
def test_news_are_not_lost_with_a_command_that_fails(
    store: MailStore, inbox: Mailbox, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(store)
    inbox.append(b"new")

    def broken(*_: object, **__: object) -> None:
        raise OSError("disk")

    with monkeypatch.context() as disk:
        for name in ("read", "store_flags", "remove"):
            disk.setattr(Mailbox, name, broken)
        failed = talk.say(command)
    assert failed[-1] == "t NO [UNAVAILABLE] that cannot be done at the moment"
    assert "* 4 EXISTS" in failed
    assert talk.say("NOOP") == ["t OK done"]


def test_copies_of_what_is_gone(store: MailStore, inbox: Mailbox) -> None:
    store.create(ALICE, "other")
    talk = Talk(store)
    inbox.remove([2])
    assert talk.say("COPY 1:2 other") == ["* 2 EXPUNGE", "t NO [EXPUNGEISSUED] a message is gone"]
    assert store.mailbox(ALICE, "other").messages() == ()


def test_idle_tells_at_once(store: MailStore, inbox: Mailbox) -> None:
    talk = Talk(store)
    inbox.append(b"new")
    # What came before IDLE is told as well: nothing would wake the session for it.
    assert talk.say("IDLE") == ["+ idling", "* 4 EXISTS", "* 4 RECENT"]
    inbox.append(b"newer")
    assert talk.woken() == ["* 5 EXISTS", "* 5 RECENT"]
    inbox.remove([1])
    assert talk.woken() == ["* 1 EXPUNGE"]
    assert talk.hear(b"DONE\r\n") == ["t OK done"]
    inbox.append(b"newest")
    assert talk.say("NOOP") == ["* 5 EXISTS", "* 5 RECENT", "t OK done"]


def test_a_wake_during_a_look_is_not_lost(store: MailStore, inbox: Mailbox) -> None:
    talk = Talk(store)
    talk.say("IDLE")
    session = talk.conversation.session
    inbox.append(b"new")
    [look] = session.woken()
    assert isinstance(look, Perform)
    result = look.job()
    # The engine tells nothing while a job is under way; the session itself has to remember.
    inbox.append(b"newer")
    news, again = look.done(result)
    assert news == Send(b"* 4 EXISTS\r\n* 4 RECENT\r\n")
    assert isinstance(again, Perform)
    assert again.done(again.job()) == (Send(b"* 5 EXISTS\r\n* 5 RECENT\r\n"),)


def test_other_mailboxes_are_no_news(store: MailStore) -> None:
    talk = Talk(store)
    talk.say("IDLE")
    before = len(talk.conversation.sent)
    store.create(ALICE, "other")
    talk.conversation.happen("woken")
    assert len(talk.conversation.sent) == before


@pytest.mark.parametrize("command", ["NOOP", "STORE 1 FLAGS ()", "COPY 1 INBOX", "EXPUNGE"])
def test_a_session_ends_with_its_mailbox(store: MailStore, command: str) -> None:
    store.create(ALICE, "other")
    store.mailbox(ALICE, "other").append(b"x")
    talk = Talk(store, "SELECT other")
    store.delete(ALICE, "other")
    assert talk.say(command)[-1] == "* BYE the mailbox that was open has been deleted"
    assert talk.conversation.closed


@pytest.mark.parametrize("command", ["CLOSE", "UNSELECT", "SELECT INBOX", "LOGOUT"])
def test_a_deleted_mailbox_can_be_left(store: MailStore, command: str) -> None:
    store.create(ALICE, "other")
    talk = Talk(store, "SELECT other")
    store.delete(ALICE, "other")
    assert talk.say(command)[-1].startswith("t OK")


def test_idle_ends_with_its_mailbox(store: MailStore) -> None:
    store.create(ALICE, "other")
    talk = Talk(store, "SELECT other")
    talk.say("IDLE")
    store.delete(ALICE, "other")
    assert talk.woken() == ["* BYE the mailbox that was open has been deleted"]
    assert talk.conversation.closed


def test_an_open_mailbox_may_get_another_name(store: MailStore) -> None:
    store.create(ALICE, "other")
    talk = Talk(store, "SELECT other")
    store.rename(ALICE, "other", "another")
    store.mailbox(ALICE, "another").append(b"x")
    assert talk.say("NOOP") == ["* 1 EXISTS", "* 1 RECENT", "t OK done"]
