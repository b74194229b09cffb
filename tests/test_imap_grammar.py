"""How IMAP arguments are read: sets, names, strings, sections, search keys, dates."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reference_server.protocols import imap_names
from reference_server.protocols.imap_grammar import (
    All,
    And,
    Append,
    Body,
    BodySection,
    Change,
    FetchItem,
    Flag,
    Header,
    Item,
    Not,
    Numbers,
    Or,
    Range,
    Received,
    SearchKey,
    Section,
    Sent,
    SequenceSet,
    Size,
    Text,
    Uids,
    as_set,
)
from reference_server.protocols.imap_syntax import BadSyntax, Cursor, append_prefix, store_arguments
from reference_server.protocols.imap_syntax_messages import UnknownCharset, fetch_items, search_key

T = TypeVar("T")
ENDS = st.one_of(st.none(), st.integers(1, 30))


def whole(text: bytes, read: Callable[[Cursor], T]) -> T:
    """What is read, with nothing behind it."""
    cursor = Cursor(text)
    found = read(cursor)
    cursor.end()
    return found


def number_set(text: bytes) -> SequenceSet:
    return whole(text, Cursor.sequence_set)


# ---- sequence sets


@pytest.mark.parametrize(
    ("text", "largest", "numbers"),
    [
        (b"1", 3, [1]),
        (b"2:3", 5, [2, 3]),
        (b"3:2", 5, [2, 3]),
        (b"2,4:7,9", 8, [2, 4, 5, 6, 7]),
        (b"*", 4, [4]),
        (b"*", 0, []),
        (b"2:*", 4, [2, 3, 4]),
        (b"*:2", 4, [2, 3, 4]),
        (b"9:*", 4, [4]),
        (b"1:*", 0, []),
        (b"*:*", 4, [4]),
        (b"1:4294967295", 3, [1, 2, 3]),
        (b"5,1,3,1", 9, [1, 3, 5]),
    ],
)
def test_a_sequence_set_names_numbers(text: bytes, largest: int, numbers: list[int]) -> None:
    assert number_set(text).numbers(largest) == numbers


@given(st.lists(st.tuples(ENDS, ENDS), min_size=1, max_size=8), st.integers(1, 30))
def test_a_sequence_set_is_the_union_of_its_ranges(ranges: list[Range], largest: int) -> None:
    def within(number: int) -> bool:
        ends = [sorted((one or largest, other or largest)) for one, other in ranges]
        return any(low <= number <= high for low, high in ends)

    found = SequenceSet.of(ranges)
    assert [number for number in range(1, 40) if found.contains(number, largest)] == [
        number for number in range(1, 40) if within(number)
    ]
    assert found.numbers(largest) == [number for number in range(1, largest + 1) if within(number)]
    assert found.largest_named == max(end or 0 for pair in ranges for end in pair)


@pytest.mark.parametrize(
    "text",
    [b"", b"0", b"1:", b":1", b"1,,2", b"1,", b"-1", b"a", b"4294967296", b"99999999999999999999", b"1 2", b"**"],
)
def test_what_is_no_sequence_set_is_refused(text: bytes) -> None:
    with pytest.raises(BadSyntax):
        number_set(text)


@given(st.sets(st.integers(1, 60)))
def test_numbers_are_written_as_a_set(numbers: set[int]) -> None:
    text = as_set(sorted(numbers))
    assert (number_set(text).numbers(60) if text else []) == sorted(numbers)


def test_neighbours_are_written_as_a_range() -> None:
    assert as_set([1, 2, 3, 5, 7, 8]) == b"1:3,5,7:8"


# ---- mailbox names


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("INBOX", b"INBOX"),
        ("a & b", b"a &- b"),
        ("Größe", b"Gr&APYA3w-e"),
        ("~peter/mail/台北/日本語", b"~peter/mail/&U,BTFw-/&ZeVnLIqe-"),
        ("😀", b"&2D3eAA-"),
    ],
)
def test_names_go_over_the_wire_in_modified_utf_7(name: str, wire: bytes) -> None:
    assert imap_names.encoded(name) == wire
    assert imap_names.decoded(wire) == name


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_name_survives_the_wire(name: str) -> None:
    assert imap_names.decoded(imap_names.encoded(name)) == name


@given(st.binary(max_size=12))
@example(b"&ZeVnLIqe")  # not ended
@example(b"&AGE-")  # an a, shifted without need
@example(b"&ZeVn!-")
@example(b"Gr\xc3\xb6\xc3\x9fe")
@example(b"&2D0-")  # half of a surrogate pair
@example(b"&ZeU-&ZyI-")  # two shifts where one would do
def test_a_name_has_one_spelling_on_the_wire(wire: bytes) -> None:
    try:
        name = imap_names.decoded(wire)
    except imap_names.BadName:
        return
    assert imap_names.encoded(name) == wire


@given(st.text("ab/*%", max_size=8), st.text("ab/", max_size=8))
def test_wildcards_match_as_a_regular_expression_would(pattern: str, name: str) -> None:
    expression = "".join({"*": ".*", "%": "[^/]*"}.get(letter, re.escape(letter)) for letter in pattern)
    assert imap_names.matches(pattern, name) == (re.fullmatch(expression, name) is not None)


def test_inbox_has_no_case() -> None:
    assert imap_names.matches("inb%", "INBOX")
    assert not imap_names.matches("Work", "work")


def test_a_hostile_pattern_costs_no_more_than_its_length() -> None:
    assert not imap_names.matches("*a" * 400 + "b", "a" * 200)


# ---- strings


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"atom]", b"atom]"),
        (b'"a \\"b\\" \\\\"', b'a "b" \\'),
        (b'""', b""),
        (b"{0}\r\n", b""),
        (b"{3}\r\na\r\n", b"a\r\n"),
        (b"{3+}\r\n(\x00)", b"(\x00)"),
    ],
)
def test_an_astring_is_an_atom_a_quoted_string_or_a_literal(text: bytes, value: bytes) -> None:
    cursor = Cursor(text)
    assert cursor.astring() == value
    assert cursor.at_end


@pytest.mark.parametrize("text", [b"", b'"', b'"a', b'"a\\b"', b"(", b"{3}\r\nab", b"{x}", b"{-1}", b"{}", b"a\x80"])
def test_what_is_no_astring_is_refused(text: bytes) -> None:
    with pytest.raises(BadSyntax):
        whole(text, Cursor.astring)


# ---- what to fetch


@pytest.mark.parametrize(
    ("text", "items"),
    [
        (b"fast", [Item.FLAGS, Item.INTERNALDATE, Item.SIZE]),
        (b"ALL", [Item.FLAGS, Item.INTERNALDATE, Item.SIZE, Item.ENVELOPE]),
        (b"FULL", [Item.FLAGS, Item.INTERNALDATE, Item.SIZE, Item.ENVELOPE, Item.BODY]),
        (b"(uid flags UID)", [Item.UID, Item.FLAGS]),
        (b"BODYSTRUCTURE", [Item.BODYSTRUCTURE]),
        (b"BODY", [Item.BODY]),
        (b"RFC822", [BodySection(Section(), b"RFC822")]),
        (b"RFC822.HEADER", [BodySection(Section(text="HEADER"), b"RFC822.HEADER", peek=True)]),
        (b"RFC822.TEXT", [BodySection(Section(text="TEXT"), b"RFC822.TEXT")]),
        (b"body[]", [BodySection(Section(), b"BODY[]")]),
        (b"BODY.PEEK[]<5.10>", [BodySection(Section(), b"BODY[]<5>", peek=True, partial=(5, 10))]),
        (b"BODY[1.2]", [BodySection(Section((1, 2)), b"BODY[1.2]")]),
        (b"BODY[1.mime]", [BodySection(Section((1,), "MIME"), b"BODY[1.MIME]")]),
        (b"BODY[2.HEADER]", [BodySection(Section((2,), "HEADER"), b"BODY[2.HEADER]")]),
        (
            b"BODY.PEEK[HEADER.FIELDS (Date {4}\r\nFrom)]",
            [
                BodySection(
                    Section((), "HEADER.FIELDS", (b"Date", b"From")), b"BODY[HEADER.FIELDS (Date From)]", peek=True
                )
            ],
        ),
        (
            b"BODY[3.HEADER.FIELDS.NOT (X]Y)]",
            [BodySection(Section((3,), "HEADER.FIELDS.NOT", (b"X]Y",)), b'BODY[3.HEADER.FIELDS.NOT ("X]Y")]')],
        ),
    ],
)
def test_fetch_items(text: bytes, items: list[FetchItem]) -> None:
    assert list(whole(text, fetch_items)) == items


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"()",
        b"(FLAGS",
        b"(FLAGS  UID)",
        b"(FAST)",
        b"FAST UID",
        b"FLAG",
        b"BODY[",
        b"BODY[1",
        b"BODY[0]",
        b"BODY[1.]",
        b"BODY[.1]",
        b"BODY[MIME]",
        b"BODY[HEADER.FIELDS]",
        b"BODY[HEADER.FIELDS ()]",
        b"BODY[HEADER.FIELDS (a:b)]",
        b"BODY[BODY]",
        b"BODY[]<5>",
        b"BODY[]<5.0>",
        b"BODY[]<-1.5>",
        b"BODY[]<0.99999999999>",
        b"BODY.PEEK",
        b"BODY[" + b"1." * 100 + b"1]",
    ],
)
def test_what_cannot_be_fetched_is_refused(text: bytes) -> None:
    with pytest.raises(BadSyntax):
        whole(text, fetch_items)


# ---- what to search for


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (b"ALL", All()),
        (b"unseen", Flag("\\Seen", False)),
        (b"NEW", And((Flag("\\Recent"), Flag("\\Seen", False)))),
        (b"OLD", Flag("\\Recent", False)),
        (b"KEYWORD $Forwarded", Flag("$Forwarded")),
        (b"UNKEYWORD $Forwarded", Flag("$Forwarded", False)),
        (b"1:3", Numbers(SequenceSet(((1, 3),)))),
        (b"*", Numbers(SequenceSet(last=True))),
        (b"UID 5:*", Uids(SequenceSet(tails=(5, 5)))),
        (b'FROM "a b" SEEN', And((Header(b"FROM", "a b"), Flag("\\Seen")))),
        (b"HEADER X-Loop {1}\r\ny", Header(b"X-Loop", "y")),
        (b"NOT OR BODY a (TEXT b LARGER 5)", Not(Or(Body("a"), And((Text("b"), Size(True, 5)))))),
        (b"SMALLER 4294967295", Size(False, 4294967295)),
        (b"SINCE 1-Feb-1994", Received("since", date(1994, 2, 1))),
        (b'SENTBEFORE "28-feb-2024"', Sent("before", date(2024, 2, 28))),
        (b"charset utf-8 SUBJECT gr\xc3\xbc\xc3\x9fe", None),
        (b'CHARSET "UTF-8" SUBJECT {7}\r\ngr\xc3\xbc\xc3\x9fe', Header(b"SUBJECT", "grüße")),
    ],
)
def test_search_keys(text: bytes, key: SearchKey | None) -> None:
    if key is None:
        with pytest.raises(BadSyntax):
            search_key(Cursor(text))
    else:
        assert search_key(Cursor(text)) == key


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"SEEN ",
        b"()",
        b"NOT",
        b"OR SEEN",
        b"LARGER -1",
        b"SINCE 30-Feb-1994",
        b"SINCE 1-Foo-1994",
        b"UID",
        b"XYZZY",
        b"HEADER a",
        b"(" * 60 + b"SEEN" + b")" * 60,
        b"NOT " * 60 + b"SEEN",
        b"SUBJECT {2}\r\n\xff\xff",
    ],
)
def test_what_is_no_search_is_refused(text: bytes) -> None:
    with pytest.raises(BadSyntax):
        search_key(Cursor(text))


def test_other_character_sets_are_told_apart() -> None:
    with pytest.raises(UnknownCharset):
        search_key(Cursor(b"CHARSET KOI8-R SUBJECT a"))


# ---- flags and dates


def test_what_store_is_to_do() -> None:
    assert store_arguments(Cursor(b"1:2 +flags.silent (\\seen foo \\SEEN)")) == (
        SequenceSet(((1, 2),)),
        Change.ADD,
        True,
        ("\\Seen", "foo"),
    )
    assert store_arguments(Cursor(b"1 FLAGS ()"))[1:] == (Change.REPLACE, False, ())
    assert store_arguments(Cursor(b"1 -FLAGS \\Draft a"))[1:] == (Change.REMOVE, False, ("\\Draft", "a"))


@pytest.mark.parametrize(
    "text",
    [b"1", b"1 FLAGS", b"1 FLAG (a)", b"1 FLAGS (\\Recent)", b"1 FLAGS (\\Strange)", b"1 FLAGS (a) b", b"1 FLAGS (a"],
)
def test_what_store_cannot_do(text: bytes) -> None:
    with pytest.raises(BadSyntax):
        store_arguments(Cursor(text))


def test_what_comes_before_the_message() -> None:
    assert append_prefix(b'Dra&AN8- (\\Draft) " 7-Feb-1994 21:52:25 -0800" ') == Append(
        "Draß", ("\\Draft",), datetime(1994, 2, 8, 5, 52, 25, tzinfo=UTC)
    )
    assert append_prefix(b"inbox ") == Append("inbox")


@pytest.mark.parametrize(
    "text",
    [
        b"inbox",
        b"inbox (a)",
        b'inbox "7-Feb-1994 21:52:25 -0800" ',
        b'inbox "31-Feb-1994 21:52:25 -0800" ',
        b'inbox "01-Jan-0001 00:00:00 +1400" ',
        b'inbox "01-Jan-1994 00:00:00 +9900" ',
        b"inbox x ",
    ],
)
def test_what_cannot_come_before_the_message(text: bytes) -> None:
    with pytest.raises(BadSyntax):
        append_prefix(text)
