"""What each key of SEARCH finds, and that a message is read only for a key that needs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_server.mailstore import Message
from reference_server.protocols.imap_search import Candidate, matches
from reference_server.protocols.imap_syntax import Cursor
from reference_server.protocols.imap_syntax_messages import search_key

TEXT = """\
Date: Mon, 7 Feb 1994 21:52:25 -0800
From: =?iso-8859-1?q?J=F6rg?= <joerg@example.test>
To: Alice <alice@example.test>
Cc: bob@example.test
Subject: The =?utf-8?b?R3LDvMOfZQ==?= of
 the season
X-Empty:
Content-Type: multipart/mixed; boundary=b

preamble
--b
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Sch=C3=B6ne W=
orte
--b
Content-Type: text/html; charset=iso-8859-1
Content-Transfer-Encoding: base64

PGI+RuzfZTwvYj4=
--b
Content-Type: application/pdf; name="bill.pdf"
Content-Transfer-Encoding: base64

c2VjcmV0
--b
Content-Type: message/rfc822

Subject: enclosed

within
--b--
""".replace("\n", "\r\n").encode()


@dataclass
class Shelf:
    """One message: number 3 of 5, UID 7 of at most 9."""

    text: bytes = TEXT
    message: Message = field(
        default_factory=lambda: Message(
            7, len(TEXT), datetime(1994, 2, 8, 5, 52, 25, tzinfo=UTC), frozenset({"\\Seen", "$Work"}), recent=True
        )
    )
    times_read: int = 0

    def read(self) -> bytes:
        self.times_read += 1
        return self.text

    def found_by(self, search: str | bytes) -> bool:
        octets = search if isinstance(search, bytes) else search.encode()
        return matches(search_key(Cursor(octets)), Candidate(3, self.message, 5, 9, self.read))


@pytest.mark.parametrize(
    "search",
    [
        "ALL", "SEEN", "NOT UNSEEN", "UNDELETED", "RECENT", "NOT OLD", "KEYWORD $Work", "KEYWORD $wORK",
        "NOT UNKEYWORD $WORK",
        "3", "1:3", "5:2", "3,9:*", "NOT 4:*", "NOT *", "UID 7", "UID 7:*", "NOT UID 8:*",
        f"LARGER {len(TEXT) - 1}", f"SMALLER {len(TEXT) + 1}", f"NOT LARGER {len(TEXT)}", f"NOT SMALLER {len(TEXT)}",
        "SINCE 8-Feb-1994", "ON 8-Feb-1994", "BEFORE 9-Feb-1994", "NOT BEFORE 8-Feb-1994", "NOT SINCE 9-Feb-1994",
        # RFC 3501 6.4.4: time and zone are disregarded, so that day counts that the writer wrote.
        "SENTON 7-Feb-1994", "SENTSINCE 7-Feb-1994", "SENTBEFORE 8-Feb-1994", "NOT SENTBEFORE 7-Feb-1994",
        'SUBJECT "grüße"', 'SUBJECT "GRÜSSE"', 'SUBJECT "of the season"', 'SUBJECT ""', 'FROM "Jörg"',
        "FROM EXAMPLE.TEST", "TO alice", "CC bob", "NOT BCC b",
        'HEADER X-Empty ""', 'NOT HEADER X-No ""', "HEADER content-type mixed",
        'BODY "schöne worte"', 'BODY "<b>FÌSSE"', "BODY enclosed", "BODY within", "NOT BODY secret", "NOT BODY season",
        "NOT BODY preamble", "NOT BODY pdf",
        "TEXT season", "TEXT within", "TEXT bill.pdf", "TEXT x-empty:", "NOT TEXT nowhere",
        "OR SEEN 4", "OR 4 SEEN", "OR BODY within 4", "OR 4 OR 5 3", "(SEEN 3)",
        "SEEN (OR 4 (3 UID 7))", "NOT (SEEN 4)",
    ],
)  # fmt: skip
def test_found(search: str) -> None:
    assert Shelf().found_by(search)
    assert not Shelf().found_by(f"NOT ({search})")


@pytest.mark.parametrize("search", ["SENTSINCE 1-Jan-1970", "SENTBEFORE 1-Jan-2100", "SENTON 7-Feb-1994"])
@pytest.mark.parametrize("date", ["", "Date: \r\n", "Date: yesterday\r\n", "Date: Mon, 99 Feb 1994 00:00:00\r\n"])
def test_a_message_without_a_date_was_sent_on_no_day(search: str, date: str) -> None:
    assert not Shelf(f"{date}\r\nbody".encode()).found_by(search)


def test_without_a_charset_text_is_utf_8() -> None:
    assert Shelf("Subject: ungültig\r\n\r\nKörper".encode()).found_by('SUBJECT "UNGÜLTIG" BODY "körper"')


def test_a_charset_that_nobody_knows_hides_no_ascii() -> None:
    assert Shelf(b"Content-Type: text/plain; charset=x-none\r\n\r\nplain \xff").found_by("BODY plain")


@pytest.mark.parametrize("search", ["ALL", "SEEN 3 UID 7 LARGER 1 SINCE 1-Jan-1990", "BODY x UNSEEN", "OR BODY x SEEN"])
def test_what_needs_no_octets_reads_none(search: str) -> None:
    shelf = Shelf()
    shelf.found_by(search)
    assert shelf.times_read == 0


def test_a_message_is_read_once() -> None:
    shelf = Shelf()
    assert shelf.found_by("SUBJECT season BODY within TEXT bill OR SENTON 7-Feb-1994 FROM nobody")
    assert shelf.times_read == 1


VALUES = st.text("=?utf-8bqQB \r\n:;Datex/")


@given(st.binary() | VALUES.map(lambda text: f"Date: {text}\r\nContent-Type: {text}".encode()))
def test_every_message_can_be_searched(text: bytes) -> None:
    shelf = Shelf(text)
    for search in ("SUBJECT a", "BODY a", "TEXT a", "SENTON 1-Jan-2000", "HEADER x y"):
        assert shelf.found_by(search) != shelf.found_by(f"NOT {search}")
