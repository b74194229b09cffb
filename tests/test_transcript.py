"""The record of a check: what it keeps, what it hides, what it leaves out."""

from __future__ import annotations

import threading

from conformance.transcript import LONGEST_ENTRY, MOST_ENTRIES, NOTE, SERVER, Transcript


def test_secrets_never_enter_the_record() -> None:
    transcript = Transcript(secrets=(b"open sesame",))
    transcript.record(1, SERVER, b"you said open sesame, did you", tls=False)
    transcript.note(1, "a note about open sesame")
    assert [entry.data for entry in transcript.entries()] == [
        b"you said <secret>, did you",
        b"a note about <secret>",
    ]


def test_a_long_message_is_cut_and_says_so() -> None:
    transcript = Transcript()
    transcript.record(1, SERVER, b"x" * 10_000, tls=True)
    (entry,) = transcript.entries()
    assert entry.data.startswith(b"x" * LONGEST_ENTRY)
    assert entry.data.endswith(b"... (10000 octets in all)")
    assert entry.tls


def test_the_beginning_and_the_end_of_a_long_record_are_kept() -> None:
    transcript = Transcript()
    for number in range(MOST_ENTRIES + 50):
        transcript.record(1, SERVER, b"%d" % number, tls=False)
    entries = transcript.entries()
    assert entries[0].data == b"0"
    assert entries[-1].data == b"%d" % (MOST_ENTRIES + 49)
    assert b"(50 entries left out here)" in [entry.data for entry in entries if entry.source == NOTE]


def test_connections_are_numbered_once_each_whatever_thread_asks() -> None:
    transcript = Transcript()
    numbers: list[int] = []
    threads = [
        threading.Thread(target=lambda: numbers.extend(transcript.new_connection() for _ in range(200)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 801))


def test_an_observation_made_elsewhere_joins_the_record_at_its_own_time() -> None:
    observation = Transcript(started=100.0)
    observation.note(observation.new_connection(), "seen earlier")
    check = Transcript(started=observation.started + 5.0)
    own = check.new_connection()
    check.note(own, "seen by the check")
    check.take(observation.entries(), observation.started)
    assert {entry.connection for entry in check.entries()} == {own, own + 1}
    (earlier,) = (entry for entry in check.entries() if entry.data == b"seen earlier")
    assert earlier.at == observation.entries()[0].at - 5.0
