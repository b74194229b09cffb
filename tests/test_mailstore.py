"""Who has mail, who may sign in, and that mail is there for good once it was accepted."""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reference_server import passwords
from reference_server.mailstore import Account, MailStore, MessageGone
from tests.stores import MESSAGE, account, disk_failing_at, disk_watched, files, known, store_of, store_of_two


def test_an_address_is_known_in_any_case(tmp_path: Path) -> None:
    store, alice = store_of(tmp_path)
    assert store.recipient("ALICE@Example.Test") == alice
    assert store.recipient("alice@elsewhere.test") is None


def test_postmaster_is_the_admin_or_the_first_who_keeps_mail(tmp_path: Path) -> None:
    store = MailStore(tmp_path, [account("sink", discard=True), account("alice"), account("root", admin=True)])
    assert store.recipient("postmaster") == store.recipient("Postmaster@EXAMPLE.test") == known(store, "root")
    assert store.recipient("postmaster@elsewhere.test") is None
    store.configure([account("sink", discard=True), account("alice")])
    assert store.recipient("postmaster") == known(store, "alice")


def test_a_password_is_checked_in_clear_or_by_its_hash(tmp_path: Path) -> None:
    line = passwords.hashed("correct horse")
    store = MailStore(tmp_path, [account("alice"), account("bob", password_hash=line), account("sink", password=None)])
    assert store.authenticate("alice", "secret") == known(store, "alice")
    assert store.authenticate("bob", "correct horse") == known(store, "bob")
    for name, password in [
        ("alice", "Secret"),
        ("alice", ""),
        ("alice", "correct horse"),
        ("bob", "secret"),
        ("bob", ""),
        ("nobody", "secret"),
        ("", ""),
        ("sink", ""),
        ("alice", "\ud800"),
    ]:
        assert store.authenticate(name, password) is None


def test_an_unknown_name_takes_as_long_as_a_wrong_password(tmp_path: Path) -> None:
    # A hash takes some 50 ms, a comparison in clear some microseconds: no narrow measurement is needed.
    line = passwords.hashed("correct horse")
    store = MailStore(tmp_path, [account("alice", password_hash=line), account("bob")])

    def best_of_three(name: str) -> float:
        times = []
        for _ in range(3):
            before = time.thread_time()
            assert store.authenticate(name, "wrong") is None
            times.append(time.thread_time() - before)
        return min(times)

    times = [best_of_three(name) for name in ("alice", "bob", "nobody")]
    assert max(times) < 2 * min(times)


def test_a_message_is_there_for_everybody_once_it_was_delivered(tmp_path: Path) -> None:
    store, alice, bob = store_of_two(tmp_path)
    store.deliver([alice, bob, alice], MESSAGE)
    for each in (alice, bob):
        inbox = store.mailbox(each, "INBOX")
        [message] = inbox.messages()
        assert inbox.read(message.uid) == MESSAGE
        assert message.size == len(MESSAGE)
        assert abs(message.received.timestamp() - time.time()) < 60


def test_a_message_lies_on_the_disk_as_it_came(tmp_path: Path) -> None:
    store, alice = store_of(tmp_path)
    store.deliver([alice], MESSAGE)
    [path] = (tmp_path / "alice" / "new").iterdir()
    assert path.read_bytes() == MESSAGE
    assert path.name.endswith(f",S={len(MESSAGE)},W={len(MESSAGE)}")


def test_who_discards_keeps_nothing(tmp_path: Path) -> None:
    store = MailStore(tmp_path, [account("sink", discard=True), account("alice")])
    before = files(tmp_path)
    store.deliver([known(store, "sink")], MESSAGE)
    assert files(tmp_path) == before
    store.deliver([known(store, "sink"), known(store, "alice")], MESSAGE)
    assert len(store.mailbox(known(store, "alice"), "INBOX").messages()) == 1
    assert store.mailbox(known(store, "sink"), "INBOX").messages() == ()


def test_the_text_is_synced_before_it_has_its_name_and_the_name_before_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, alice, bob = store_of_two(tmp_path)
    with disk_watched(monkeypatch) as seen:
        store.deliver([alice, bob], MESSAGE)
    assert seen == ["write synced in tmp", "rename tmp new", "rename tmp new", "fsync new", "fsync new"]


@pytest.mark.parametrize("call", range(1, 7))
def test_a_disk_that_fails_at_any_point_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    store, alice, bob = store_of_two(tmp_path)
    before = files(tmp_path)
    with disk_failing_at(call, monkeypatch), pytest.raises(OSError, match="No space left"):
        store.deliver([alice, bob], MESSAGE)
    assert files(tmp_path) == before
    store.deliver([alice, bob], MESSAGE)
    assert len(store.mailbox(bob, "INBOX").messages()) == 1


def test_the_disk_is_asked_six_times_for_two_recipients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # So that the test above leaves no point out.
    store, alice, bob = store_of_two(tmp_path)
    with disk_failing_at(7, monkeypatch):
        store.deliver([alice, bob], MESSAGE)


def test_a_folder_that_was_replaced_costs_one_delivery_at_most(tmp_path: Path) -> None:
    store, alice = store_of(tmp_path)
    store.deliver([alice], MESSAGE)
    new = tmp_path / "alice" / "new"
    shutil.rmtree(new)
    new.mkdir()
    with pytest.raises(FileNotFoundError):
        store.deliver([alice], MESSAGE)
    store.deliver([alice], MESSAGE)
    assert len(list(new.iterdir())) == 1


def test_a_store_keeps_few_folders_open_and_none_when_it_is_gone(tmp_path: Path) -> None:
    def open_folders() -> int:
        return sum(
            os.path.realpath(f"/proc/self/fd/{each}").startswith(str(tmp_path)) for each in os.listdir("/proc/self/fd")
        )

    store = MailStore(tmp_path, [account(f"a{number}") for number in range(100)])
    store.deliver([known(store, f"a{number}") for number in range(100)], MESSAGE)
    assert open_folders() == 64
    del store
    gc.collect()
    assert open_folders() == 0


def test_mail_that_is_there_at_the_start_comes_once_and_in_order(tmp_path: Path) -> None:
    letters = []
    for number in (1, 2, 3):
        letters.append(tmp_path / f"{number}.eml")
        letters[-1].write_bytes(b"Subject: %d\r\n\r\n" % number)
        os.utime(letters[-1], (1_700_000_000 - number, 1_700_000_000 - number))
    settings = [account("alice", inbox=tuple(letters))]
    root = tmp_path / "data"

    def subjects() -> list[bytes]:
        store = MailStore(root, settings)
        inbox = store.mailbox(known(store, "alice"), "INBOX")
        return [inbox.read(message.uid) for message in inbox.messages()]

    assert subjects() == [letter.read_bytes() for letter in letters]
    assert subjects() == [letter.read_bytes() for letter in letters]
    store = MailStore(root, settings)
    inbox = store.mailbox(known(store, "alice"), "INBOX")
    inbox.remove([message.uid for message in inbox.messages()])
    assert subjects() == []


def test_a_start_that_was_interrupted_does_not_deliver_twice(tmp_path: Path) -> None:
    letter = tmp_path / "a.eml"
    letter.write_bytes(MESSAGE)
    root = tmp_path / "data"
    MailStore(root, [account("alice", inbox=(letter,))])
    (root / "alice" / "seeded").unlink()
    store = MailStore(root, [account("alice", inbox=(letter,))])
    assert len(store.mailbox(known(store, "alice"), "INBOX").messages()) == 1


def test_a_start_throws_away_what_a_dead_process_left_and_nothing_else(tmp_path: Path) -> None:
    store, alice = store_of(tmp_path)
    store.create(alice, "Sent")
    room = tmp_path / "alice"
    (room / "tmp" / "incoming-1.M1P1Q1.host,S=9,W=9").write_bytes(b"half a me")
    (room / ".Sent" / "tmp" / "incoming-2.M1P1Q1.host,S=9,W=9").write_bytes(b"half a me")
    (room / "tmp" / "3.other.program").write_bytes(b"under way")
    (room / "deleted.1.1" / "cur").mkdir(parents=True)
    (room / "creating.1.1" / "cur").mkdir(parents=True)
    before = files(tmp_path)
    store_of(tmp_path)
    assert before - files(tmp_path) == {
        "alice/tmp/incoming-1.M1P1Q1.host,S=9,W=9",
        "alice/.Sent/tmp/incoming-2.M1P1Q1.host,S=9,W=9",
    }
    assert {path.name for path in room.iterdir() if path.is_dir()} == {"new", "cur", "tmp", ".Sent"}


def test_an_accounts_name_cannot_lead_out_of_the_store(tmp_path: Path) -> None:
    root = tmp_path / "data"
    names = ["..", "a/b", "%2E.", ".", "a%2Fb", "ä" * 128, "ä" * 127 + "ö", "CON:x\\y"]
    settings = [
        account("x").model_copy(update={"name": name, "address": f"{number}@example.test"})
        for number, name in enumerate(names)
    ]
    store = MailStore(root, settings)
    for number, name in enumerate(names):
        found = store.recipient(f"{number}@example.test")
        assert found is not None
        assert found.name == name
        store.deliver([found], b"%d\r\n" % number)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    assert len(list(root.iterdir())) == len(names)
    assert len(list(root.glob("*/new/*"))) == len(names)


def test_a_reload_keeps_sessions_and_their_mail(tmp_path: Path) -> None:
    store, alice = store_of(tmp_path)
    inbox = store.mailbox(alice, "INBOX")
    store.configure([account("bob")])
    assert store.recipient("alice@example.test") is None
    inbox.append(MESSAGE)
    store.configure([account("alice"), account("bob")])
    assert store.mailbox(alice, "INBOX") is inbox
    assert len(inbox.messages()) == 1


def test_mail_for_an_account_that_never_was_fails_as_a_disk_does(tmp_path: Path) -> None:
    store, _ = store_of(tmp_path)
    with pytest.raises(OSError, match="no such account"):
        store.deliver([Account("eve", "eve@example.test")], MESSAGE)


# ---- maildrops


def test_a_maildrop_is_one_sessions_at_a_time(tmp_path: Path) -> None:
    store, alice, bob = store_of_two(tmp_path)
    first = store.claim_maildrop(alice)
    assert first is not None
    assert store.claim_maildrop(alice) is None
    assert store.claim_maildrop(bob) is not None
    first.release()
    second = store.claim_maildrop(alice)
    assert second is not None
    first.release()  # once more, and it is no longer the first one's to release
    assert store.claim_maildrop(alice) is None


def test_a_maildrop_does_not_change_while_it_is_locked(tmp_path: Path) -> None:
    store, alice = store_of(tmp_path)
    for number in range(3):
        store.deliver([alice], b"Subject: %d\r\n\r\n" % number)
    drop = store.claim_maildrop(alice)
    assert drop is not None
    store.deliver([alice], b"Subject: late\r\n\r\n")
    inbox = store.mailbox(alice, "INBOX")
    inbox.remove([inbox.messages()[0].uid])
    assert [message.number for message in drop.messages] == [1, 2, 3]
    with pytest.raises(MessageGone):
        drop.read(1)
    assert drop.read(2) == b"Subject: 1\r\n\r\n"
    drop.remove([1, 3])
    drop.release()
    again = store.claim_maildrop(alice)
    assert again is not None
    assert [again.read(message.number) for message in again.messages] == [
        b"Subject: 1\r\n\r\n",
        b"Subject: late\r\n\r\n",
    ]


def test_a_unique_id_stays_over_sessions_flags_and_restarts(tmp_path: Path) -> None:
    store, alice = store_of(tmp_path)
    store.deliver([alice], MESSAGE)
    store.deliver([alice], MESSAGE)

    def unique_ids(store: MailStore) -> list[str]:
        drop = store.claim_maildrop(alice)
        assert drop is not None
        drop.release()
        return [message.unique_id for message in drop.messages]

    before = unique_ids(store)
    assert len(set(before)) == 2
    inbox = store.mailbox(alice, "INBOX")
    inbox.store_flags(inbox.messages(claim_recent=True)[0].uid, add=["\\Seen"])
    assert unique_ids(store) == before
    again, _ = store_of(tmp_path)
    assert unique_ids(again) == before


def test_a_maildrop_that_cannot_be_read_is_not_left_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, alice = store_of(tmp_path)
    store.deliver([alice], MESSAGE)
    with disk_failing_at(1, monkeypatch), pytest.raises(OSError, match="No space left"):
        store.claim_maildrop(alice)
    assert store.claim_maildrop(alice) is not None


# ---- those who wait


def test_every_change_wakes_those_who_watch_the_account(tmp_path: Path) -> None:
    store, alice, bob = store_of_two(tmp_path)
    woken: list[str] = []
    cancel = store.watch(alice, lambda: woken.append("alice"))
    store.watch(bob, lambda: woken.append("bob"))
    inbox = store.mailbox(alice, "INBOX")
    store.create(alice, "Sent")
    sent = store.mailbox(alice, "Sent")
    changes: list[Callable[[], object]] = [
        lambda: store.deliver([alice], MESSAGE),
        lambda: inbox.append(MESSAGE),
        lambda: inbox.store_flags(1, add=["\\Seen"]),
        lambda: inbox.copy([1], sent),
        lambda: inbox.move([1], sent),
        lambda: sent.remove([1]),
        lambda: store.rename(alice, "Sent", "Old"),
        lambda: store.delete(alice, "Old"),
    ]
    for change in changes:
        woken.clear()
        change()
        assert set(woken) == {"alice"}
    cancel()
    cancel()
    woken.clear()
    store.deliver([alice, bob], MESSAGE)
    assert woken == ["bob"]


def test_a_watcher_that_fails_does_not_make_a_delivery_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, alice = store_of(tmp_path)

    def broken() -> None:
        raise RuntimeError("the loop is closed")

    store.watch(alice, broken)
    store.deliver([alice], MESSAGE)
    assert len(store.mailbox(alice, "INBOX").messages()) == 1
    assert "the loop is closed" in caplog.text
