"""The tree of mailboxes: every name has its own folder, and nothing but a folder of its account."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_server import maildir
from reference_server.mailstore import MailboxError, MailboxExists, MailStore, NoSuchMailbox
from tests.stores import MESSAGE, store_of

LOREM = b"Subject: lorem\r\n\r\n"


def subjects(store: MailStore, name: str) -> list[bytes]:
    alice = store.recipient("alice@example.test")
    assert alice is not None
    mailbox = store.mailbox(alice, name)
    return [mailbox.read(message.uid) for message in mailbox.messages()]


# ---- names

part = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"), exclude_characters="/"), min_size=1, max_size=12
)
name = st.lists(part, min_size=1, max_size=4).map("/".join)


@given(name)
def test_every_name_has_a_folder_that_leads_back_to_it(name: str) -> None:
    name = maildir.mailbox_named(name)
    if name == "INBOX":
        return
    folder = maildir.folder_of(name)
    assert maildir.mailbox_in(folder) == name
    assert folder.isascii()
    assert "/" not in folder
    assert folder.startswith(".")
    assert folder not in (".", "..")


@given(st.text(max_size=30).map("{}".format))
def test_no_folder_name_is_read_as_a_mailbox_that_lies_elsewhere(folder: str) -> None:
    name = maildir.mailbox_in(folder)
    assert name is None or maildir.folder_of(name) == folder


@given(
    st.lists(st.sampled_from(["a", ".", "&", "-", "/", "Ü", "&-", "AOQ", "."]), max_size=6).map("".join),
    st.lists(st.sampled_from(["a", ".", "&", "-", "/", "Ü", "&-", "AOQ", "."]), max_size=6).map("".join),
)
def test_two_names_never_share_a_folder(one: str, other: str) -> None:
    assert (maildir.folder_of(one) == maildir.folder_of(other)) == (one == other)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("Sent", ".Sent"),
        ("Lists/Größe", ".Lists.Gr&APYA3w-e"),
        ("R&D", ".R&-D"),
        ("a.b", ".a&AC4-b"),
        ("../../etc", ".&AC4ALg-.&AC4ALg-.etc"),
        ("日本語", ".&ZeVnLIqe-"),
        ("INBOX/sub", ".INBOX.sub"),
        ("inbox/sub", ".INBOX.sub"),
    ],
)
def test_names_are_written_as_maildir_programs_do(name: str, folder: str) -> None:
    assert maildir.folder_of(maildir.mailbox_named(name)) == folder


@pytest.mark.parametrize("name", ["", "/", "a//b", "/a", "a\nb", "a\x00", "\ud800", "x" * 241, "ü" * 200, "a/\x85"])
def test_what_can_be_no_name_is_refused(tmp_path: Path, name: str) -> None:
    store, alice = store_of(tmp_path)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(NoSuchMailbox):
        store.mailbox(alice, name)
    uses: list[Callable[[], None]] = [
        lambda: store.create(alice, name),
        lambda: store.delete(alice, name),
        lambda: store.rename(alice, name, "x"),
        lambda: store.subscribe(alice, name),
    ]
    for use in uses:
        with pytest.raises(MailboxError):
            use()
    assert set(tmp_path.rglob("*")) == before


# ---- create and delete


def test_a_mailbox_is_created_with_those_above_it(tmp_path: Path) -> None:
    store, alice = store_of(tmp_path)
    store.create(alice, "Lists/Python/Dev")
    assert store.mailboxes(alice) == ["INBOX", "Lists", "Lists/Python", "Lists/Python/Dev"]
    with pytest.raises(MailboxExists):
        store.create(alice, "Lists/Python")
    store.create(alice, "Other/")
    assert "Other" in store.mailboxes(alice)


def test_there_is_one_inbox_in_any_case(tmp_path: Path) -> None:
    store, alice = store_of(tmp_path)
    for spelling in ("INBOX", "inbox", "Inbox"):
        assert store.mailbox(alice, spelling) is store.mailbox(alice, "INBOX")
        with pytest.raises(MailboxExists):
            store.create(alice, spelling)
        with pytest.raises(MailboxError):
            store.delete(alice, spelling)
    store.create(alice, "inBox/sub")
    assert store.mailboxes(alice) == ["INBOX", "INBOX/sub"]


def test_deleting_a_mailbox_leaves_those_below_it(tmp_path: Path) -> None:
    store, alice = store_of(tmp_path)
    store.create(alice, "a/b")
    store.delete(alice, "a")
    assert store.mailboxes(alice) == ["INBOX", "a/b"]
    with pytest.raises(NoSuchMailbox):
        store.delete(alice, "a")
    with pytest.raises(NoSuchMailbox):
        store.mailbox(alice, "a")


def test_a_mailbox_that_takes_the_name_of_a_deleted_one_has_another_uid_validity(tmp_path: Path) -> None:
    store, alice = store_of(tmp_path)
    seen = []
    for _ in range(3):
        store.create(alice, "Sent")
        seen.append(store.mailbox(alice, "Sent").uid_validity)
        store.mailbox(alice, "Sent").append(MESSAGE)
        store.delete(alice, "Sent")
    assert seen == sorted(set(seen))
    assert max(seen) < 1 << 32


# ---- rename


def test_a_mailbox_is_renamed_with_those_below_it_and_keeps_its_uids(tmp_path: Path) -> None:
    store, alice = store_of(tmp_path)
    store.create(alice, "a/b")
    store.create(alice, "ab")
    mailbox = store.mailbox(alice, "a/b")
    uid = mailbox.append(LOREM, ["\\Seen"])
    before = mailbox.uid_validity
    store.rename(alice, "a", "x/y")
    assert store.mailboxes(alice) == ["INBOX", "ab", "x", "x/y", "x/y/b"]
    assert store.mailbox(alice, "x/y/b") is mailbox
    assert mailbox.name == "x/y/b"
    assert mailbox.append(LOREM) == uid + 1
    again, _ = store_of(tmp_path)
    assert subjects(again, "x/y/b") == [LOREM, LOREM]
    assert again.mailbox(alice, "x/y/b").uid_validity == before


def test_a_mailbox_may_move_below_itself_and_back(tmp_path: Path) -> None:
    store, alice = store_of(tmp_path)
    for name in ("a", "a/c", "a/b/c"):
        store.create(alice, name)
        store.mailbox(alice, name).append(name.encode())
    store.delete(alice, "a/b")
    store.rename(alice, "a", "a/b")
    # What was a/c has the name now that another one had before it left.
    assert [(name, subjects(store, name)) for name in store.mailboxes(alice)[1:]] == [
        ("a", []),
        ("a/b", [b"a"]),
        ("a/b/b/c", [b"a/b/c"]),
        ("a/b/c", [b"a/c"]),
    ]
    store.delete(alice, "a")
    store.rename(alice, "a/b", "a")
    assert [(name, subjects(store, name)) for name in store.mailboxes(alice)[1:]] == [
        ("a", [b"a"]),
        ("a/b/c", [b"a/b/c"]),
        ("a/c", [b"a/c"]),
    ]


def test_a_rename_onto_another_mailbox_changes_nothing(tmp_path: Path) -> None:
    store, alice = store_of(tmp_path)
    for name in ("a/b", "x/b"):
        store.create(alice, name)
    store.delete(alice, "x")
    for target in ("a/b", "x", "INBOX", "a"):
        with pytest.raises(MailboxExists):
            store.rename(alice, "a", target)
    with pytest.raises(NoSuchMailbox):
        store.rename(alice, "nothing", "something")
    assert store.mailboxes(alice) == ["INBOX", "a", "a/b", "x/b"]


def test_a_rename_that_makes_a_name_too_long_changes_nothing(tmp_path: Path) -> None:
    store, alice = store_of(tmp_path)
    store.create(alice, "a/" + "b" * 100)
    before = store.mailboxes(alice)
    with pytest.raises(MailboxError):
        store.rename(alice, "a", "c" * 200)
    assert store.mailboxes(alice) == before


def test_renaming_inbox_moves_its_mail_and_leaves_it_empty(tmp_path: Path) -> None:
    store, alice = store_of(tmp_path)
    store.create(alice, "INBOX/sub")
    store.deliver([alice], LOREM)
    store.rename(alice, "inbox", "Old")
    assert store.mailboxes(alice) == ["INBOX", "INBOX/sub", "Old"]
    assert subjects(store, "INBOX") == []
    assert subjects(store, "Old") == [LOREM]
    store.deliver([alice], MESSAGE)
    assert subjects(store, "INBOX") == [MESSAGE]


# ---- subscriptions


def test_subscriptions_outlive_mailboxes_and_restarts(tmp_path: Path) -> None:
    store, alice = store_of(tmp_path)
    store.create(alice, "Größe")
    for name in ("Größe", "inbox", "not there", "Größe"):
        store.subscribe(alice, name)
    store.delete(alice, "Größe")
    store.unsubscribe(alice, "never was")
    again, _ = store_of(tmp_path)
    assert again.subscriptions(alice) == ["Größe", "INBOX", "not there"]
    again.unsubscribe(alice, "Größe")
    assert store.subscriptions(alice) == ["INBOX", "not there"]


def test_folders_that_other_programs_made_are_mailboxes(tmp_path: Path) -> None:
    store, alice = store_of(tmp_path)
    for folder in (".Trash", ".Gr&APY-sse", ".bad&name", "..", ".a..b", "plain", ".INBOX"):
        for name in ("new", "cur", "tmp"):
            (tmp_path / "alice" / folder / name).mkdir(parents=True, exist_ok=True)
    assert store.mailboxes(alice) == ["INBOX", "Grösse", "Trash"]
    store.mailbox(alice, "Trash").append(LOREM)
    assert subjects(store, "Trash") == [LOREM]
