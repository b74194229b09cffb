"""What a message is made of: parts by their offsets, the sections that name them, ENVELOPE and BODYSTRUCTURE."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reference_server.protocols import imap_mime
from reference_server.protocols.imap_grammar import BodySection, Section
from reference_server.protocols.imap_mime import MAX_DEPTH, MAX_PARTS, Part, body_structure, envelope, parse
from reference_server.protocols.imap_syntax import Cursor
from reference_server.protocols.imap_syntax_messages import fetch_items

NESTED: Final = b"""\
From: Alice <alice@example.test>
Subject: outer
Content-Type: multipart/mixed; boundary="outer"

preamble
--outer
Content-Type: multipart/alternative; boundary=inner

--inner
Content-Type: text/plain; charset=utf-8
Content-Language: en, de

words
--inner
Content-Type: text/html
Content-ID: <html@example.test>

<p>words
--inner--
epilogue of the inner one
--outer
Content-Type: message/rfc822
Content-Disposition: attachment; filename="a \\"b\\".eml"

Subject: enclosed
Content-Type: multipart/mixed; boundary=deep

--deep

first
second
--deep
Content-Type: image/gif
Content-Transfer-Encoding: base64
Content-Description: a picture

R0lG
--deep--
--outer
Content-Type: message/rfc822

Subject: enclosed and simple

its body
--outer--
epilogue
""".replace(b"\n", b"\r\n")


def crlf(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


def named(message: bytes, written: str) -> bytes | None:
    """What ``BODY[written]`` is."""
    [item] = fetch_items(Cursor(f"BODY[{written}]".encode()))
    assert isinstance(item, BodySection)
    return imap_mime.section(message, parse(message), item.section)


def structure(message: bytes) -> str:
    return body_structure(parse(message), extended=False).decode()


def every(part: Part) -> Iterator[Part]:
    yield part
    for child in (*part.children, *([part.message] if part.message else [])):
        yield from every(child)


# ---- sections


@pytest.mark.parametrize(
    ("written", "octets"),
    [
        ("1", "--inner\nContent-Type: text/plain; charset=utf-8\nContent-Language: en, de\n\nwords\n--inner\n"
              "Content-Type: text/html\nContent-ID: <html@example.test>\n\n<p>words\n--inner--\n"
              "epilogue of the inner one"),
        ("1.MIME", "Content-Type: multipart/alternative; boundary=inner\n\n"),
        ("1.1", "words"),
        ("1.1.MIME", "Content-Type: text/plain; charset=utf-8\nContent-Language: en, de\n\n"),
        ("1.2", "<p>words"),
        ("2.MIME", 'Content-Type: message/rfc822\nContent-Disposition: attachment; filename="a \\"b\\".eml"\n\n'),
        ("2.HEADER", "Subject: enclosed\nContent-Type: multipart/mixed; boundary=deep\n\n"),
        ("2.HEADER.FIELDS (subject x-no)", "Subject: enclosed\n\n"),
        ("2.HEADER.FIELDS.NOT (subject)", "Content-Type: multipart/mixed; boundary=deep\n\n"),
        ("2.1", "first\nsecond"),
        ("2.1.MIME", "\n"),
        ("2.2", "R0lG"),
        ("3", "Subject: enclosed and simple\n\nits body"),
        ("3.HEADER", "Subject: enclosed and simple\n\n"),
        ("3.TEXT", "its body"),
        # RFC 3501 6.4.5: a message without parts has a part 1 all the same.
        ("3.1", "its body"),
        ("HEADER.FIELDS (SUBJECT)", "Subject: outer\n\n"),
    ],
)  # fmt: skip
def test_a_section_names_octets(written: str, octets: str) -> None:
    assert named(NESTED, written) == crlf(octets)


def test_header_and_text_are_the_whole_message() -> None:
    header, text = named(NESTED, "HEADER"), named(NESTED, "TEXT")
    assert header is not None
    assert text is not None
    assert header + text == named(NESTED, "") == NESTED
    assert text.startswith(b"preamble\r\n")
    assert text.endswith(b"--outer--\r\nepilogue\r\n")


@pytest.mark.parametrize("written", ["4", "1.3", "1.1.1", "2.3", "3.2", "1.HEADER", "1.1.TEXT", "2.1.HEADER", "9.9.9"])
def test_a_section_may_name_nothing(written: str) -> None:
    assert named(NESTED, written) is None


def test_a_message_without_parts_has_a_part_1() -> None:
    message = crlf("Subject: a\n\nbody\n")
    assert named(message, "1") == crlf("body\n")
    assert named(message, "1.MIME") == crlf("Subject: a\n\n")
    assert named(message, "2") is None
    assert named(message, "1.HEADER") is None


def test_a_message_that_is_itself_an_enclosed_one() -> None:
    message = crlf("Content-Type: message/rfc822\n\nSubject: inside\n\nbody\n")
    assert named(message, "1") == crlf("Subject: inside\n\nbody\n")
    assert named(message, "1.HEADER") == crlf("Subject: inside\n\n")
    assert named(message, "1.1") == crlf("body\n")


def test_a_header_without_an_empty_line_gets_none() -> None:
    # RFC 3501 6.4.5: the empty line is there "except in the case of a message which has no body and no blank line".
    assert named(crlf("Subject: a\n"), "HEADER.FIELDS (Subject)") == crlf("Subject: a\n")
    assert named(crlf("Subject: a\n"), "TEXT") == b""


# ---- where parts end


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("--b\n\none\n--b\n\ntwo\n--b--\n", ["one", "two"]),
        ("--b  \t\n\none\n--b--  \nepilogue\n--b\n\nnot a part\n", ["one"]),
        ("--b\n\none\n--bb\ntwo\n --b\n--b x\n-- b\n--b-\n", ["one\n--bb\ntwo\n --b\n--b x\n-- b\n--b-\n"]),
        ("--b\n\nunfinished", ["unfinished"]),
        ("--b\n\none\n--b", ["one", ""]),
        ("--b\n\n--b--\n", [""]),
        ("--b\n\n\n\n--b--\n", ["\n"]),
        ("--b\nContent-Type: text/html\n--b\nContent-Type: text/html\n\ntwo\n--b--\n", ["", "two"]),
        ("--b\n--b\n\ntwo\n--b--", ["", "two"]),
        ("nothing\n", []),
        ("--b--\n", []),
        ("", []),
    ],
)
def test_delimiters(text: str, parts: list[str]) -> None:
    message = crlf(f"Content-Type: multipart/mixed; boundary=b\n\n{text}")
    assert [message[part.body : part.end] for part in parse(message).children] == list(map(crlf, parts))


def test_a_part_that_is_not_finished_ends_with_what_it_lies_in() -> None:
    message = crlf(
        "Content-Type: multipart/mixed; boundary=b\n\n"
        "--b\nContent-Type: multipart/mixed; boundary=bb\n\n--bb\n\none\n"
        "--b\n\ntwo\n--bb\n\nnot a part\n--b--\n"
    )
    first, second = parse(message).children
    assert [message[part.body : part.end] for part in first.children] == [b"one"]
    assert message[second.body : second.end] == crlf("two\n--bb\n\nnot a part")


def test_an_inner_boundary_may_be_that_of_the_outer_one() -> None:
    message = crlf(
        "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/mixed; boundary=b\n\n"
        "--b\n\none\n--b--\n--b\n\ntwo\n--b--\n"
    )
    first, second = parse(message).children
    assert [message[part.body : part.end] for part in first.children] == [b"one"]
    assert message[second.body : second.end] == b"two"


# ---- BODYSTRUCTURE


def test_the_structure_of_everything() -> None:
    enclosed = named(NESTED, "2")
    assert enclosed is not None
    size, lines = len(enclosed), enclosed.count(b"\n")
    assert body_structure(parse(NESTED), extended=True).decode() == (
        '((("TEXT" "PLAIN" ("CHARSET" "utf-8") NIL NIL "7BIT" 5 0 NIL NIL ("en" "de") NIL)'
        '("TEXT" "HTML" NIL "<html@example.test>" NIL "7BIT" 8 0 NIL NIL NIL NIL)'
        ' "ALTERNATIVE" ("BOUNDARY" "inner") NIL NIL NIL)'
        f'("MESSAGE" "RFC822" NIL NIL NIL "7BIT" {size}'
        ' (NIL "enclosed" NIL NIL NIL NIL NIL NIL NIL NIL)'
        ' (("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 13 1 NIL NIL NIL NIL)'
        '("IMAGE" "GIF" NIL NIL "a picture" "BASE64" 4 NIL NIL NIL NIL)'
        ' "MIXED" ("BOUNDARY" "deep") NIL NIL NIL)'
        f' {lines} NIL ("ATTACHMENT" ("FILENAME" "a \\"b\\".eml")) NIL NIL)'
        '("MESSAGE" "RFC822" NIL NIL NIL "7BIT" 40'
        ' (NIL "enclosed and simple" NIL NIL NIL NIL NIL NIL NIL NIL)'
        ' ("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 8 0 NIL NIL NIL NIL)'
        " 2 NIL NIL NIL NIL)"
        ' "MIXED" ("BOUNDARY" "outer") NIL NIL NIL)'
    )


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("", '("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 6 1)'),
        ("Content-Type: nonsense\n", '("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 6 1)'),
        ("Content-Type: text/x-y\n", '("TEXT" "X-Y" NIL NIL NIL "7BIT" 6 1)'),
        ("Content-Type: image/gif\nContent-ID: a\\b\n", '("IMAGE" "GIF" NIL "a\\\\b" NIL "7BIT" 6)'),
        ("Content-Transfer-Encoding: Quoted-Printable (x)\n",
         '("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "QUOTED-PRINTABLE" 6 1)'),
        ("Content-Type: message/partial; id=1\n", '("MESSAGE" "PARTIAL" ("ID" "1") NIL NIL "7BIT" 6)'),
        # RFC 3501 9 (body-type-mpart): at least one part, if only for the grammar.
        ("Content-Type: multipart/mixed\n", '(("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 0 0) "MIXED")'),
    ],
)  # fmt: skip
def test_the_structure_of_small_messages(header: str, told: str) -> None:
    assert structure(crlf(f"{header}\nbody\n")) == told


def test_what_says_nothing_of_itself_in_a_digest_is_a_message() -> None:
    message = crlf(
        "Content-Type: multipart/digest; boundary=b\n\n"
        "--b\n\nSubject: a\n\nbody\n--b\nContent-Type: text/plain\n\ntext\n--b--\n"
    )
    assert [part.type for part in parse(message).children] == [b"MESSAGE", b"TEXT"]
    assert named(message, "1.HEADER") == crlf("Subject: a\n\n")


def test_what_no_quoted_string_can_hold_is_a_literal() -> None:
    message = "Content-Description: Größe\r\n\r\nbody\r\n".encode()
    assert '"CHARSET" "US-ASCII") NIL {7}\r\nGröße "7BIT"' in structure(message)
    told = body_structure(parse(b"Content-Description: \0\x01\r\n\r\nbody\r\n"), extended=True)
    assert b"{2}\r\n\x80\x01 " in told


def test_a_file_name_in_pieces_is_told_whole() -> None:
    header = (
        "Content-Type: application/pdf; name*0=minu; name*1=tes.pdf\n"
        "Content-Disposition: attachment;\n filename*0*=utf-8''gr%C3%BC;\n filename*1=\"n .pdf\"\n\n"
    )
    told = body_structure(parse(crlf(header)), extended=True).decode()
    assert '("NAME" "minutes.pdf")' in told
    assert '("ATTACHMENT" ("FILENAME*" "utf-8\'\'gr%C3%BCn%20.pdf"))' in told


# ---- ENVELOPE


def test_an_envelope() -> None:
    header = (
        'Date: Mon, 7 Feb 1994 21:52:25 -0800\nSubject: re "it"\n (folded)\nFrom: A <a@x.test>\n'
        "To: b@x.test, Friends: c@x.test;\nCc: d@x.test\nBcc:\nIn-Reply-To: <1@x.test>\n"
        "Message-ID: <2@x.test>\n\nBcc: no\n"
    )
    assert envelope(crlf(header)).decode() == (
        '("Mon, 7 Feb 1994 21:52:25 -0800" "re \\"it\\" (folded)" (("A" NIL "a" "x.test")) (("A" NIL "a" "x.test"))'
        ' (("A" NIL "a" "x.test"))'
        ' ((NIL NIL "b" "x.test")(NIL NIL "Friends" NIL)(NIL NIL "c" "x.test")(NIL NIL NIL NIL))'
        ' ((NIL NIL "d" "x.test")) NIL "<1@x.test>" "<2@x.test>")'
    )


def test_sender_and_reply_to_are_from_where_they_are_missing() -> None:
    assert envelope(crlf("From: a@x\nSender: b@x\nReply-To:\n\n")) == (
        b'(NIL NIL ((NIL NIL "a" "x")) ((NIL NIL "b" "x")) ((NIL NIL "a" "x")) NIL NIL NIL NIL NIL)'
    )
    assert envelope(b"") == b"(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)"


# ---- whatever the message is


PIECES: Final = st.lists(
    st.sampled_from(
        [b"--a", b"--b", b"--a--", b"--b--", b"--", b"text", b"", b"\0\xff",
         b"Content-Type: multipart/mixed; boundary=a", b"Content-Type: multipart/digest; boundary=b",
         b"Content-Type: message/rfc822", b"Content-Type:", b" folded",
         b"From: a@b", b"Subject: x"]
    ),
    max_size=60,
).map(b"\r\n".join)  # fmt: skip


@example(b"Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\n--a\r\n--b")
@settings(max_examples=200)
@given(PIECES | st.binary())
def test_parts_lie_within_one_another_and_one_behind_the_other(message: bytes) -> None:
    whole = parse(message)
    assert (whole.header, whole.end) == (0, len(message))
    for part in every(whole):
        assert part.header <= part.body <= part.end
        at = part.body
        for inside in (*part.children, *([part.message] if part.message else [])):
            assert at <= inside.header
            assert inside.end <= part.end
            at = inside.end
        assert (
            b"".join(field.raw for field in part.fields)
            == message[part.header : part.body][: sum(len(field.raw) for field in part.fields)]
        )
    envelope(message)
    assert imap_mime.section(message, whole, Section()) == message


@settings(max_examples=200)
@given(PIECES | st.binary())
def test_a_structure_has_as_many_brackets_on_both_sides(message: bytes) -> None:
    told = body_structure(parse(message), extended=True)
    depth = 0
    at = 0
    while at < len(told):
        if told[at : at + 1] == b'"':
            at = told.index(b'"', at + 1)  # nothing in these messages needs a backslash
        elif told[at : at + 1] == b"{":
            end = told.index(b"}", at)
            at = end + 2 + int(told[at + 1 : end])
        else:
            depth += {b"(": 1, b")": -1}.get(told[at : at + 1], 0)
            assert depth > 0 or at == len(told) - 1
        at += 1
    assert depth == 0


def test_depth_is_bounded() -> None:
    header = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (depth, depth) for depth in range(500)
    )
    assert len(list(every(parse(header)))) == MAX_DEPTH + 1
    assert len(list(every(parse(b"Content-Type: message/rfc822\r\n\r\n" * 500)))) == MAX_DEPTH + 1
    assert b"OCTET-STREAM" in body_structure(parse(header), extended=True)


def test_the_number_of_parts_is_bounded() -> None:
    message = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n" * (2 * MAX_PARTS)
    assert len(list(every(parse(message)))) == MAX_PARTS


@pytest.mark.parametrize("piece", [b"--b\r\n", b"--b\r\nA: b\r\n", b"\r\n--", b"--\r\n", b"-", b"A", b"\r\n", b" \r\n"])
def test_what_is_long_takes_its_length_and_not_the_square_of_it(piece: bytes) -> None:
    message = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" + piece * (1_000_000 // len(piece))
    begun = time.monotonic()
    body_structure(parse(message), extended=True)
    assert time.monotonic() - begun < 5
