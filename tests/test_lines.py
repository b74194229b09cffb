"""The line reader: what is a line, what is not, and that neither depends on how octets arrive."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_server.protocols.lines import Flaw, Line, LineReader


def lines_of(pieces: list[bytes], limit: int) -> list[Line]:
    reader = LineReader(limit)
    found = []
    for piece in pieces:
        reader.feed(piece)
        while (line := reader.line()) is not None:
            found.append(line)
    return found


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"one\r\ntwo\r\n", [b"one", b"two"]),
        (b"\r\n\r\n", [b"", b""]),
        (b"one\ntwo\r\n", [Flaw.BARE_LF, b"two"]),
        (b"\n", [Flaw.BARE_LF]),
        (b"one\rtwo\r\n", [b"one\rtwo"]),
        (b"one\r\r\n", [b"one\r"]),
        (b"12345678\r\n", [b"12345678"]),
        (b"123456789\r\nnext\r\n", [Flaw.TOO_LONG, b"next"]),
        (b"123456789\nnext\r\n", [Flaw.BARE_LF, b"next"]),
        (b"1234567890123456789012345678901234567890\r\nnext\r\n", [Flaw.TOO_LONG, b"next"]),
        (b"0123456789", [Flaw.TOO_LONG]),
        (b"begun", []),
    ],
)
def test_lines_and_flaws_are_the_same_whole_and_octet_by_octet(data: bytes, expected: list[Line]) -> None:
    assert lines_of([data], 10) == expected
    assert lines_of([data[at : at + 1] for at in range(len(data))], 10) == expected


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"bc", b"0123456789"]), max_size=30).map(b"".join),
    st.lists(st.integers(0, 60), max_size=8),
)
def test_how_octets_are_cut_makes_no_difference(data: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[start:end] for start, end in pairwise(places)]
    assert lines_of(pieces, 12) == lines_of([data], 12)


@given(st.binary(max_size=200), st.integers(1, 40))
def test_no_line_is_longer_than_the_limit(data: bytes, limit: int) -> None:
    for line in lines_of([data[at : at + 7] for at in range(0, len(data), 7)], limit):
        assert isinstance(line, Flaw) or len(line) + 2 <= limit


def test_an_endless_line_is_reported_once_and_not_kept() -> None:
    reader = LineReader(512)
    reader.feed(b"x" * 65536)
    assert reader.line() is Flaw.TOO_LONG
    for _ in range(100):
        reader.feed(b"x" * 65536)
        assert reader.line() is None
        assert reader.pending
    reader.feed(b"\r\nNOOP\r\n")
    assert reader.line() == b"NOOP"
    assert reader.line() is None
    assert not reader.pending


def test_octets_are_taken_where_a_line_ended() -> None:
    reader = LineReader(80)
    reader.feed(b"DATA\r\ntext\nmore\r\n")
    assert reader.line() == b"DATA"
    assert reader.take(3) == b"tex"
    assert reader.pending
    assert reader.take() == b"t\nmore\r\n"
    assert reader.take(5) == b""
    assert not reader.pending


def test_what_is_cleared_is_never_a_line() -> None:
    reader = LineReader(80)
    reader.feed(b"STARTTLS\r\nMAIL FROM:<>\r\nRCP")
    assert reader.line() == b"STARTTLS"
    reader.clear()
    assert not reader.pending
    reader.feed(b"EHLO x\r\n")
    assert reader.line() == b"EHLO x"


def test_more_can_be_fed_before_everything_is_read() -> None:
    reader = LineReader(80)
    reader.feed(b"one\r\ntw")
    assert reader.line() == b"one"
    reader.feed(b"o\r\n")
    assert reader.line() == b"two"


@given(
    st.lists(st.sampled_from([b"\n", b"\r\n", b"{1+}", b"0123456789" * 4]), max_size=12).map(b"".join),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_how_a_flawed_line_ends_is_known_however_octets_are_cut(data: bytes, cuts: list[int]) -> None:
    data += b"\n"
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    reader = LineReader(70)
    flawed: list[bytes] = []
    waits = False
    for start, end in pairwise(places):
        reader.feed(data[start:end])
        while True:
            if waits:
                tail = reader.tail()
                if tail is None:
                    break
                flawed.append(tail)
                waits = False
            line = reader.line()
            if line is None:
                break
            waits = isinstance(line, Flaw)
    whole = [line for line in data.splitlines(keepends=True) if len(line) > 70 or not line.endswith(b"\r\n")]
    assert flawed == [line[-64:] for line in whole]
    assert not reader.pending
