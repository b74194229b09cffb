"""What a client that has logged in may ask for is bounded by what it costs.  INBOX holds one message."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from reference_server.protocols.imap_commands_fetch import OCTETS_TO_SPARE
from reference_server.protocols.imap_syntax_messages import MAX_TEXTS
from tests.imap_sessions import ALICE, Talk, stores_below

WORDS = b"some words that nobody looks for\r\n"


@pytest.fixture
def talk(tmp_path: Path) -> Talk:
    store = stores_below(tmp_path)()
    store.mailbox(ALICE, "INBOX").append(b"Subject: long\r\n\r\n" + WORDS * (2 * OCTETS_TO_SPARE // len(WORDS)))
    return Talk(store)


def test_the_same_octets_are_not_told_over_and_over(talk: Talk) -> None:
    thrice = " ".join(f"BODY.PEEK[]<{first}.99999999>" for first in range(3))
    assert talk.say(f"FETCH 1 ({thrice})") == ["t NO [LIMIT] that is more than twice the message"]
    assert talk.say("NOOP") == ["t OK done"]


def test_a_message_may_be_told_in_whole_and_in_parts(talk: Talk) -> None:
    assert talk.say("FETCH 1 (BODY.PEEK[] BODY.PEEK[HEADER] BODY.PEEK[TEXT])")[-1] == "t OK done"


def test_a_message_may_be_told_in_many_small_pieces(talk: Talk) -> None:
    pieces = " ".join(f"BODY.PEEK[]<{first}.1000>" for first in range(0, 90000, 1000))
    assert talk.say(f"FETCH 1 ({pieces})")[-1] == "t OK done"


def test_one_search_looks_for_a_bounded_number_of_texts(talk: Talk) -> None:
    assert talk.say("SEARCH " + " ".join(["NOT BODY x"] * MAX_TEXTS)) == ["* SEARCH 1", "t OK done"]
    begun = time.monotonic()
    for key in ("NOT BODY x", "OR TEXT x ALL", "(ALL TEXT x)"):
        assert talk.say("SEARCH " + " ".join([key] * 4000)) == ["t BAD that is too much for one SEARCH"]
    assert time.monotonic() - begun < 5


def test_a_set_of_very_many_numbers_costs_no_more_than_its_length(talk: Talk) -> None:
    numbers = ",".join(map(str, range(1, 20_000, 2)))
    begun = time.monotonic()
    for _ in range(20):
        assert talk.say(f"UID SEARCH UID {numbers},*") == ["* SEARCH 1", "t OK done"]
        assert talk.say(f"UID FETCH {numbers}:* UID") == ["* 1 FETCH (UID 1)", "t OK done"]
    assert time.monotonic() - begun < 10
