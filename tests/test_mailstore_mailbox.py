"""A mailbox: flags, copies, what is recent, and other programs that work in the same folder."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reference_server import mailbox
from reference_server.mailstore import Mailbox, MailboxError, MailStore, MessageGone, NoSuchMailbox
from tests.stores import MESSAGE, disk_failing_at, files, known, store_of


def inbox_of(tmp_path: Path, messages: int = 0) -> tuple[MailStore, Mailbox]:
    store, alice = store_of(tmp_path)
    for number in range(messages):
        store.deliver([alice], b"Subject: %d\r\n\r\n" % number)
    return store, store.mailbox(alice, "INBOX")


def uids(of: Mailbox) -> list[int]:
    return [message.uid for message in of.messages()]


def restarted(tmp_path: Path, name: str = "INBOX") -> Mailbox:
    store, alice = store_of(tmp_path)
    return store.mailbox(alice, name)


# ---- numbers


def test_messages_are_numbered_in_the_order_of_their_arrival(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path, messages=12)
    assert [inbox.read(uid) for uid in uids(inbox)] == [b"Subject: %d\r\n\r\n" % number for number in range(12)]
    assert uids(inbox) == list(range(1, 13))
    assert inbox.uid_next() == 13


def test_a_uid_is_never_given_twice(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path, messages=3)
    inbox.remove(uids(inbox)[1:])
    again = restarted(tmp_path)
    assert uids(again) == [1]
    assert again.append(MESSAGE) == 4
    assert again.uid_validity == inbox.uid_validity


def test_a_message_that_is_gone_is_gone(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path, messages=2)
    first, second = uids(inbox)
    inbox.remove([first])
    inbox.remove([first, 99])
    with pytest.raises(MessageGone):
        inbox.read(first)
    with pytest.raises(MessageGone):
        inbox.store_flags(first, add=["\\Seen"])
    assert uids(inbox) == [second]


# ---- flags


def test_flags_are_added_removed_and_replaced(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path, messages=1)
    [uid] = uids(inbox)
    assert inbox.store_flags(uid, add=["\\Seen", "\\seen", "work"]).flags == {"\\Seen", "work"}
    assert inbox.store_flags(uid, add=["\\Flagged"], remove=["\\SEEN"]).flags == {"\\Flagged", "work"}
    assert inbox.store_flags(uid, replace=["\\Deleted", "$Junk"]).flags == {"\\Deleted", "$Junk"}
    assert inbox.messages()[0].flags == {"\\Deleted", "$Junk"}
    assert restarted(tmp_path).messages()[0].flags == {"\\Deleted", "$Junk"}
    assert inbox.store_flags(uid, replace=[]).flags == frozenset()
    assert restarted(tmp_path).messages()[0].flags == frozenset()


def test_the_five_flags_are_letters_in_the_files_name(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path, messages=1)
    inbox.store_flags(1, add=["\\Seen", "\\Answered", "\\Flagged", "\\Deleted", "\\Draft"])
    [path] = (tmp_path / "alice" / "cur").iterdir()
    assert path.name.endswith(":2,DFRST")


def test_a_keyword_is_one_in_any_case_and_keeps_its_first_spelling(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path, messages=1)
    assert inbox.store_flags(1, add=["Later"]).flags == {"Later"}
    assert inbox.store_flags(1, add=["LATER"]).flags == {"Later"}
    assert inbox.store_flags(1, remove=["later"]).flags == frozenset()


def test_what_cannot_be_stored_is_left_out_or_refused(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path, messages=1)
    assert inbox.store_flags(1, add=["\\Recent", "\\Odd"]).flags == frozenset()
    for keyword in ("two words", "line\nend", "größer", ""):
        with pytest.raises(MailboxError):
            inbox.store_flags(1, add=[keyword])
    assert restarted(tmp_path).messages()[0].flags == frozenset()


def test_letters_of_other_programs_stay(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path, messages=1)
    inbox.messages(claim_recent=True)
    [path] = (tmp_path / "alice" / "cur").iterdir()
    path.rename(path.with_name(f"{path.name}Pa"))
    inbox.store_flags(1, add=["\\Seen"])
    [path] = (tmp_path / "alice" / "cur").iterdir()
    assert path.name.endswith(":2,PSa")


# ---- recent


def test_a_message_is_recent_to_the_first_who_claims_it(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path, messages=1)
    assert [message.recent for message in inbox.messages()] == [True]
    assert [message.recent for message in inbox.messages(claim_recent=True)] == [True]
    assert [message.recent for message in inbox.messages(claim_recent=True)] == [False]
    assert [message.recent for message in restarted(tmp_path).messages()] == [False]
    inbox.append(MESSAGE, ["\\Seen"])
    assert [message.recent for message in inbox.messages(claim_recent=True)] == [False, True]
    assert [message.recent for message in inbox.messages()] == [False, False]


def test_flags_do_not_make_a_message_less_recent(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path, messages=1)
    assert inbox.store_flags(1, add=["\\Flagged"]).recent
    assert inbox.messages(claim_recent=True)[0].recent


# ---- append, copy, move


def test_an_appended_message_keeps_its_date_and_flags(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path)
    date = datetime(1997, 2, 3, 4, 5, 6, tzinfo=UTC)
    uid = inbox.append(MESSAGE, ["\\Seen", "work"], date)
    for each in (inbox, restarted(tmp_path)):
        [message] = each.messages()
        assert (message.uid, message.received, message.flags) == (uid, date, frozenset({"\\Seen", "work"}))
        assert each.read(uid) == MESSAGE


def test_a_copy_has_the_same_text_date_and_flags(tmp_path: Path) -> None:
    store, inbox = inbox_of(tmp_path, messages=3)
    alice = known(store, "alice")
    store.create(alice, "Sent")
    sent = store.mailbox(alice, "Sent")
    inbox.store_flags(2, add=["\\Answered", "work"])
    assert inbox.copy([3, 2, 2], sent) == [(2, 1), (3, 2)]
    for old, new in [(2, 1), (3, 2)]:
        before, after = inbox.messages()[old - 1], sent.messages()[new - 1]
        assert (before.size, before.received, before.flags) == (after.size, after.received, after.flags)
        assert inbox.read(old) == sent.read(new)
    inbox.remove([2])
    assert sent.read(1) == b"Subject: 1\r\n\r\n"
    assert inbox.copy([1], inbox) == [(1, 4)]
    assert uids(inbox) == [1, 3, 4]


def test_a_moved_message_is_in_one_place(tmp_path: Path) -> None:
    store, inbox = inbox_of(tmp_path, messages=2)
    alice = known(store, "alice")
    store.create(alice, "Archive")
    archive = store.mailbox(alice, "Archive")
    assert inbox.move([1, 2], archive) == [(1, 1), (2, 2)]
    assert (uids(inbox), uids(archive)) == ([], [1, 2])
    assert uids(restarted(tmp_path, "Archive")) == [1, 2]


def test_a_copy_is_all_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, inbox = inbox_of(tmp_path, messages=3)
    alice = known(store, "alice")
    store.create(alice, "Sent")
    sent = store.mailbox(alice, "Sent")
    inbox.store_flags(3, add=["work"])
    inbox.messages(), sent.messages()
    with pytest.raises(MessageGone):
        inbox.copy([1, 99], sent)
    before = files(tmp_path)
    for call in range(1, 8):
        with disk_failing_at(call, monkeypatch), pytest.raises(OSError, match="No space left"):
            inbox.copy([1, 2, 3], sent)
        assert files(tmp_path) == before
        assert sent.messages() == ()
    assert len(inbox.copy([1, 2, 3], sent)) == 3
    assert restarted(tmp_path, "Sent").messages()[2].flags == {"work"}


def test_an_append_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, inbox = inbox_of(tmp_path)
    inbox.messages()
    before = files(tmp_path)
    calls = 0
    while True:
        calls += 1
        with disk_failing_at(calls, monkeypatch):
            try:
                uid = inbox.append(MESSAGE, ["\\Seen", "work"])
            except OSError:
                assert files(tmp_path) == before
                assert inbox.messages() == ()
                continue
        break
    # Text; UID, its sync; keywords; rename; folder: every one of them failed once.
    assert calls == 7
    assert uids(inbox) == uids(restarted(tmp_path)) == [uid]


def test_two_who_copy_crosswise_do_not_wait_for_each_other(tmp_path: Path) -> None:
    store, inbox = inbox_of(tmp_path, messages=2)
    alice = known(store, "alice")
    store.create(alice, "Other")
    other = store.mailbox(alice, "Other")
    other.append(MESSAGE)

    def back_and_forth(one: Mailbox, two: Mailbox) -> None:
        for _ in range(20):
            one.copy([1], two)

    threads = [
        threading.Thread(target=back_and_forth, args=pair, daemon=True) for pair in ((inbox, other), (other, inbox))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert (len(inbox.messages()), len(other.messages())) == (22, 21)


# ---- other programs


def test_a_message_that_another_program_delivered_is_seen_at_the_next_look(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path, messages=1)
    assert uids(inbox) == [1]
    path = tmp_path / "alice" / "new" / "1700000000.other.host"
    for number in range(5):
        (tmp_path / "alice" / "new" / f"{path.name}{number}").write_bytes(b"Subject: x\n\nbody\n")
        assert uids(inbox) == list(range(1, number + 3))


def test_line_ends_of_other_programs_become_crlf(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path)
    (tmp_path / "alice" / "new" / "1700000000.other.host").write_bytes(b"Subject: x\n\nbody\r\nend\n")
    [message] = inbox.messages()
    assert inbox.read(message.uid) == b"Subject: x\r\n\r\nbody\r\nend\r\n"
    assert message.size == len(inbox.read(message.uid))
    assert message.received == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


def test_a_message_with_bare_line_ends_is_kept_and_counted_as_it_is_sent(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path)
    uid = inbox.append(b"Subject: x\n\na\rb\r\n")
    [message] = inbox.messages()
    assert inbox.read(uid) == b"Subject: x\r\n\r\na\rb\r\n"
    assert message.size == len(inbox.read(uid))


@pytest.mark.parametrize("name", ["letter from a friend", "999999999999.M1P1.host"])
def test_a_name_without_a_date_has_that_of_the_file(tmp_path: Path, name: str) -> None:
    _, inbox = inbox_of(tmp_path)
    path = tmp_path / "alice" / "cur" / name
    path.write_bytes(MESSAGE)
    os.utime(path, (1_600_000_000, 1_600_000_000))
    [message] = inbox.messages()
    assert message.received == datetime.fromtimestamp(1_600_000_000, UTC)
    assert inbox.store_flags(message.uid, add=["\\Seen"]).flags == {"\\Seen"}
    assert inbox.read(message.uid) == MESSAGE
    assert restarted(tmp_path).messages() == inbox.messages()


def test_flags_that_another_program_sets_are_seen(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path, messages=1)
    inbox.messages(claim_recent=True)
    [path] = (tmp_path / "alice" / "cur").iterdir()
    path.rename(f"{path}S")
    assert inbox.read(1) == b"Subject: 0\r\n\r\n"
    assert inbox.messages()[0].flags == {"\\Seen"}
    path.with_name(f"{path.name}S").rename(f"{path}FS")
    assert inbox.store_flags(1, add=["\\Draft"]).flags == {"\\Seen", "\\Flagged", "\\Draft"}


def test_a_message_that_another_program_removed_is_gone(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path, messages=2)
    inbox.messages(claim_recent=True)
    sorted((tmp_path / "alice" / "cur").iterdir())[0].unlink()
    with pytest.raises(MessageGone):
        inbox.read(1)
    with pytest.raises(MessageGone):
        inbox.store_flags(1, add=["\\Seen"])
    inbox.remove([1])
    assert uids(inbox) == [2]


def test_files_that_are_no_messages_do_not_count(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path)
    (tmp_path / "alice" / "new" / ".hidden").write_bytes(MESSAGE)
    (tmp_path / "alice" / "new" / "folder").mkdir()
    (tmp_path / "alice" / "cur" / "line\nend").write_bytes(MESSAGE)
    (tmp_path / "alice" / "tmp" / "half").write_bytes(b"Subj")
    assert inbox.messages() == ()


def test_a_name_in_any_bytes_is_a_message(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path)
    with open(os.fsencode(tmp_path / "alice" / "new") + b"/1700000000.\xff\xfe \xc3\xa9.host", "wb") as file:
        file.write(MESSAGE)
    assert inbox.read(uids(inbox)[0]) == MESSAGE
    assert restarted(tmp_path).messages() == inbox.messages()


# ---- looking is cheap


def test_looking_again_reads_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, inbox = inbox_of(tmp_path, messages=3)
    for folder in ("new", "cur"):
        os.utime(tmp_path / "alice" / folder, (1_600_000_000.5, 1_600_000_000.5))
    seen = inbox.messages()

    def unexpected(path: str) -> list[str]:
        raise AssertionError(f"{path} was listed")

    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", unexpected)
        patched.setattr(mailbox, "_ADOPTED_FOR", 3600.0)  # this machine may be slow
        assert inbox.messages() is seen
        # Nor after changes of our own.
        inbox.store_flags(2, add=["\\Seen"])
        inbox.append(MESSAGE)
        inbox.remove([1])
        assert uids(inbox) == [2, 3, 4]
    assert uids(restarted(tmp_path)) == [2, 3, 4]


def test_a_change_within_the_tick_of_the_listing_is_seen(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path)
    new = tmp_path / "alice" / "new"
    # However slow this machine is now, the folder is always listed within the tick of its stamp.
    stamp = time.time_ns() + 600_000_000_000
    for number in range(20):
        (new / f"{1_700_000_000 + number}.other.host").write_bytes(MESSAGE)
        os.utime(new, ns=(stamp, stamp))
        assert len(inbox.messages()) == number + 1


# ---- the list of UIDs


def test_a_list_that_was_cut_anywhere_gives_the_uids_that_were_told_and_no_others(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path, messages=3)
    told = {message.uid: inbox.read(message.uid) for message in inbox.messages()}
    listed = tmp_path / "alice" / "uids"
    known = len(listed.read_bytes())
    store, alice = store_of(tmp_path)
    for number in (7, 8):
        store.deliver([alice], b"Subject: %d\r\n\r\n" % number)
    inbox.append(MESSAGE, ["work"])
    whole = listed.read_bytes()
    for end in range(known, len(whole)):
        for tail in (b"", b"\x00" * (len(whole) - end)):
            listed.write_bytes(whole[:end] + tail)
            again = restarted(tmp_path)
            now = {message.uid: again.read(message.uid) for message in again.messages()}
            assert len(now) == 6
            assert now.items() >= told.items()
            assert again.uid_validity == inbox.uid_validity
            assert restarted(tmp_path).messages() == again.messages()


def test_a_damaged_list_makes_the_uids_invalid(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path, messages=2)
    inbox.messages()
    listed = tmp_path / "alice" / "uids"
    good = listed.read_bytes()
    validities = [inbox.uid_validity]
    for damage in (b"", b"rubbish\n", good.replace(b"m 1", b"x 1"), good.replace(b"\n", b"\x00", 1), b"\xff" * 9):
        listed.write_bytes(damage)
        again = restarted(tmp_path)
        assert uids(again) == [1, 2]
        validities.append(again.uid_validity)
    listed.unlink()
    validities.append(restarted(tmp_path).uid_validity)
    assert validities == sorted(set(validities))


def test_the_list_does_not_grow_for_ever(tmp_path: Path) -> None:
    _, inbox = inbox_of(tmp_path, messages=2)
    for number in range(400):
        inbox.store_flags(1, replace=[f"word{number}"])
    inbox.remove([2])
    assert (tmp_path / "alice" / "uids").stat().st_size < 500
    again = restarted(tmp_path)
    assert again.messages() == inbox.messages()
    assert again.uid_next() == 3


# ---- deleted


def test_a_deleted_mailbox_says_so(tmp_path: Path) -> None:
    store, _ = inbox_of(tmp_path)
    alice = known(store, "alice")
    store.create(alice, "Sent")
    sent = store.mailbox(alice, "Sent")
    uid = sent.append(MESSAGE)
    store.delete(alice, "Sent")
    uses = (
        sent.messages,
        sent.uid_next,
        lambda: sent.read(uid),
        lambda: sent.remove([uid]),
        lambda: sent.append(MESSAGE),
    )
    for use in uses:
        with pytest.raises(NoSuchMailbox):
            use()
