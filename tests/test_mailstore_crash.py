"""kill -9 in the middle of things, and many threads at once: what was acknowledged is there, whole, and once."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tests.stores import store_of, store_of_two


def text_of(number: int) -> bytes:
    """A message that tells whether it is whole."""
    return b"Subject: %d\r\n\r\n%s\r\nend of %d\r\n" % (number, b"x" * (number * 977 % 9000), number)


def number_in(message: bytes) -> int:
    number = int(message.split(b"\r\n", 1)[0].removeprefix(b"Subject: "))
    assert message == text_of(number)
    return number


DELIVERIES = """
import itertools, os, sys, threading
from pathlib import Path
from tests.stores import store_of, store_of_two
from tests.test_mailstore_crash import text_of

store, alice, bob = store_of_two(Path(sys.argv[1]))
numbers = itertools.count(int(sys.argv[2]))

def work():
    for number in numbers:
        store.deliver([alice, bob], text_of(number))
        os.write(1, b"%d\\n" % number)

for _ in range(8):
    threading.Thread(target=work).start()
"""

READING = """
import itertools, os, random, sys
from pathlib import Path
from tests.stores import store_of, store_of_two
from tests.test_mailstore_crash import number_in, text_of

store, alice = store_of(Path(sys.argv[1]))
inbox = store.mailbox(alice, "INBOX")
told = set()
for number in itertools.count(int(sys.argv[2])):
    store.deliver([alice], text_of(number))
    if number % 3 == 0:
        inbox.append(text_of(-number), ["work"])
    messages = inbox.messages(claim_recent=number % 2 == 0)
    for message in messages:
        if message.uid not in told:
            told.add(message.uid)
            os.write(1, b"%d %d %d\\n" % (inbox.uid_validity, message.uid, number_in(inbox.read(message.uid))))
    inbox.store_flags(messages[-1].uid, add=["\\\\Seen", f"word{number}"])
    if len(messages) > 20:
        inbox.remove([message.uid for message in messages[:15]])
"""


def killed_after(lines: int, program: str, root: Path, first: int) -> list[str]:
    """Run ``program``, kill it when it has said so much, and give back all that it said."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(root), str(first)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdout is not None
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if len(said) == lines:
                process.kill()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert len(said) >= lines
    return [line for line in said if line.endswith("\n")]


def test_what_was_acknowledged_survives_kill_9_and_nothing_is_half_there(tmp_path: Path) -> None:
    acknowledged: set[int] = set()
    for attempt, lines in enumerate((1, 40, 200)):
        acknowledged |= {int(line) for line in killed_after(lines, DELIVERIES, tmp_path, 10_000 * attempt)}
        for path in tmp_path.glob("*/new/*"):
            number_in(path.read_bytes())
        store, *accounts = store_of_two(tmp_path)
        for account in accounts:
            inbox = store.mailbox(account, "INBOX")
            found = [number_in(inbox.read(message.uid)) for message in inbox.messages()]
            assert len(found) == len(set(found))
            assert acknowledged <= set(found)
        assert list(tmp_path.glob("*/tmp/*")) == []


def test_a_uid_that_was_told_is_that_messages_after_kill_9_too(tmp_path: Path) -> None:
    told: dict[int, int] = {}
    validities: set[int] = set()
    for attempt, lines in enumerate((1, 30, 31, 75, 120), 1):
        for line in killed_after(lines, READING, tmp_path, 10_000 * attempt):
            validity, uid, number = map(int, line.split())
            validities.add(validity)
            assert told.setdefault(uid, number) == number
        store, alice = store_of(tmp_path)
        inbox = store.mailbox(alice, "INBOX")
        for message in inbox.messages():
            number = number_in(inbox.read(message.uid))
            assert told.setdefault(message.uid, number) == number
        assert inbox.uid_next() > max(told)
    assert len(validities) == 1


def at_once(*works: Callable[[], None]) -> None:
    """Each in a thread of its own; what one of them raises is raised here."""
    problems: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert not any(thread.is_alive() for thread in threads)
    for problem in problems:
        raise problem


def test_sixteen_threads_deliver_at_once_while_others_look(tmp_path: Path) -> None:
    store, alice, bob = store_of_two(tmp_path)
    inbox = store.mailbox(alice, "INBOX")
    woken = threading.Event()
    store.watch(alice, woken.set)
    seen: dict[int, int] = {}

    def deliver(worker: int) -> None:
        for number in range(20):
            store.deliver([alice, bob] if number % 2 else [alice], text_of(worker * 100 + number))

    def look() -> None:
        while len(seen) < 320:
            assert woken.wait(30)
            woken.clear()
            for message in inbox.messages(claim_recent=True):
                number = number_in(inbox.read(message.uid))
                assert seen.setdefault(message.uid, number) == number

    at_once(look, *(lambda worker=worker: deliver(worker) for worker in range(16)))
    assert len(set(seen.values())) == 320
    assert len(store.mailbox(bob, "INBOX").messages()) == 160


def test_sessions_change_one_mailbox_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    store, alice = store_of(tmp_path)
    store.create(alice, "Other")
    inbox, other = store.mailbox(alice, "INBOX"), store.mailbox(alice, "Other")
    uids = [inbox.append(text_of(number)) for number in range(60)]

    def flag(word: str) -> None:
        for uid in uids[:40]:
            inbox.store_flags(uid, add=["\\Seen", word])

    def remove() -> None:
        for uid in uids[40:50]:
            inbox.remove([uid])

    def move() -> None:
        for uid in uids[50:]:
            inbox.move([uid], other)

    def append() -> None:
        for number in range(60, 80):
            inbox.append(text_of(number))

    at_once(lambda: flag("one"), lambda: flag("two"), remove, move, append)
    inbox.messages(claim_recent=True)
    messages = inbox.messages()
    assert all(message.flags == {"\\Seen", "one", "two"} for message in messages[:40])
    assert [number_in(inbox.read(message.uid)) for message in messages] == [*range(40), *range(60, 80)]
    assert sorted(number_in(other.read(message.uid)) for message in other.messages()) == list(range(50, 60))
    again, alice = store_of(tmp_path)
    assert again.mailbox(alice, "INBOX").messages() == messages
