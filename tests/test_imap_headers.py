"""Header fields: where they end, what is in them, and that nothing a stranger writes does any harm."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_server.protocols.imap_headers import (
    Address,
    addresses,
    as_text,
    decoded,
    fields_in,
    from_base64,
    media_type,
    word_and_parameters,
    words,
)


def somebody(mailbox: bytes, host: bytes, name: bytes | None = None) -> Address:
    return Address(name, None, mailbox, host)


def test_fields_are_kept_octet_for_octet_up_to_the_empty_line() -> None:
    header = b"Subject: one\r\n two\r\nno colon here\r\nX-Empty:\r\nTo : b\r\n\r\nBody: not this\r\n"
    assert [(field.name, field.raw) for field in fields_in(header)] == [
        (b"subject", b"Subject: one\r\n two\r\n"),
        (b"", b"no colon here\r\n"),
        (b"x-empty", b"X-Empty:\r\n"),
        (b"to", b"To : b\r\n"),
    ]


def test_a_value_is_unfolded() -> None:
    [field] = fields_in(b"Subject:  one\r\n\ttwo\r\n  three ")
    assert field.value == b"one two  three"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"text/plain", (b"TEXT", b"PLAIN", ())),
        (b'Text / HTML ; Charset="utf-8"', (b"TEXT", b"HTML", ((b"CHARSET", b"utf-8"),))),
        (b"text/plain (a; b=c) ; x=(d)1 ; y = 2", (b"TEXT", b"PLAIN", ((b"X", b"1"), (b"Y", b"2")))),
        (b'a/b; name="x\\"y;z\\\\"; n=2', (b"A", b"B", ((b"NAME", b'x"y;z\\'), (b"N", b"2")))),
        (b'a/b; name="(no comment)"', (b"A", b"B", ((b"NAME", b"(no comment)"),))),
        (b'a/b; name="no end', (b"A", b"B", ((b"NAME", b"no end"),))),
        (b"a/b; x=; y", (b"A", b"B", ((b"X", b""),))),
        (b"text", None),
        (b"text/", None),
        (b"text plain", None),
        (b"a/b c", None),
        (b"", None),
    ],
)
def test_media_types(written: bytes, read: tuple[bytes, bytes, object] | None) -> None:
    assert media_type(written) == read


def test_a_disposition_is_a_word_with_parameters() -> None:
    assert word_and_parameters(b"attachment; filename=a.txt; size=3") == (
        b"ATTACHMENT",
        ((b"FILENAME", b"a.txt"), (b"SIZE", b"3")),
    )
    assert word_and_parameters(b" ; x=y") is None


@pytest.mark.parametrize(
    ("written", "read"),
    [
        # The examples of RFC 2231 3 and 4.1.
        (
            b'message/external-body; access-type=URL; URL*0="ftp://"; URL*1="cs.utk.edu/pub/moore/x.tar"',
            ((b"ACCESS-TYPE", b"URL"), (b"URL", b"ftp://cs.utk.edu/pub/moore/x.tar")),
        ),
        (
            b"application/x-stuff; title*0*=us-ascii'en'This%20is%20even%20more%20; title*1*=%2A%2A%2Afun%2A%2A%2A%20;"
            b' title*2="isn\'t it!"',
            ((b"TITLE*", b"us-ascii'en'This%20is%20even%20more%20%2A%2A%2Afun%2A%2A%2A%20isn%27t%20it!"),),
        ),
        (b"a/b; name*=utf-8''%e2%82%ac", ((b"NAME*", b"utf-8''%e2%82%ac"),)),
        # In any order, with something between them.
        (b"a/b; name*1=b; x=y; name*2=c; Name*0=a", ((b"NAME", b"abc"), (b"X", b"y"))),
        # What does not begin, what comes behind a gap, what is there already: as it is written.
        (b"a/b; name*1=b", ((b"NAME*1", b"b"),)),
        (b"a/b; name*0=a; name*2=c", ((b"NAME", b"a"), (b"NAME*2", b"c"))),
        (b"a/b; name*0=a; name*00=b; name*01=c", ((b"NAME", b"a"), (b"NAME*00", b"b"), (b"NAME*01", b"c"))),
        (b"a/b; name=a; name*0=b; name*1=c", ((b"NAME", b"a"), (b"NAME*0", b"b"), (b"NAME*1", b"c"))),
        (b"a/b; name*0=a; name*0=b; name*1=c", ((b"NAME", b"ac"), (b"NAME*0", b"b"))),
        # Only the first piece can say in which character set they are.
        (b"a/b; name*0=a%; name*1*=%20c", ((b"NAME", b"a%%20c"),)),
    ],
)
def test_parameters_in_pieces_are_told_as_one(written: bytes, read: object) -> None:
    found = media_type(written)
    assert found is not None
    assert found[2] == read


def test_languages_have_commas_between() -> None:
    assert words(b"en (English), de,, fr") == [b"en", b"de", b"fr"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"a@x.test", [somebody(b"a", b"x.test")]),
        (b"A B <a@x.test>, c@y.test", [somebody(b"a", b"x.test", b"A B"), somebody(b"c", b"y.test")]),
        (b'"B, A" <a@x.test>', [somebody(b"a", b"x.test", b"B, A")]),
        (b'"a \\"b\\"  c" <a@x.test>', [somebody(b"a", b"x.test", b'a "b"  c')]),
        (b"J. R. Doe <a@x.test>", [somebody(b"a", b"x.test", b"J. R. Doe")]),
        (b"a@x.test (A (nested) B)", [somebody(b"a", b"x.test", b"A (nested) B")]),
        (b"a . b @ x . test", [somebody(b"a.b", b"x.test")]),
        (b'"a b"@x.test', [somebody(b"a b", b"x.test")]),
        (b"a@[192.0.2.1]", [somebody(b"a", b"[192.0.2.1]")]),
        (b"<a@b@c>", [somebody(b"a@b", b"c")]),
        (b"<@r1,@r2:a@x.test>", [Address(None, b"@r1,@r2", b"a", b"x.test")]),
        (b"=?utf-8?q?J=C3=B6rg?= <j@x.test>", [somebody(b"j", b"x.test", b"=?utf-8?q?J=C3=B6rg?=")]),
        (b"<>", [somebody(b"", b"")]),
        (b"root", [somebody(b"root", b"")]),
        (b"nobody at all", [somebody(b"", b"", b"nobody at all")]),
        (b"<a@x.test", [somebody(b"a", b"x.test")]),
        (b"(only a comment)", []),
        (b" , ,", []),
        (b"", []),
    ],
)
def test_addresses(written: bytes, read: list[Address]) -> None:
    assert addresses(written) == read


def test_a_group_begins_with_its_name_and_ends_with_nothing() -> None:
    # RFC 3501 7.4.2: a host of NIL marks both ends.
    assert addresses(b"Friends: a@x.test, B <b@x.test>;, c@x.test") == [
        Address(mailbox=b"Friends"),
        somebody(b"a", b"x.test"),
        somebody(b"b", b"x.test", b"B"),
        Address(),
        somebody(b"c", b"x.test"),
    ]
    assert addresses(b"undisclosed-recipients:;") == [Address(mailbox=b"undisclosed-recipients"), Address()]
    assert addresses(b"open: a@x.test") == [Address(mailbox=b"open"), somebody(b"a", b"x.test"), Address()]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"plain", "plain"),
        (b"=?iso-8859-1?q?Gr=FC=DFe_aus?= here", "Grüße aus here"),
        (b"=?utf-8?b?R3LDvA==?= \t=?UTF-8*de?Q?=C3=9Fe?=", "Grüße"),
        (b"a =?utf-8?q?b?= c =?utf-8?q?d?=", "a b c d"),
        ("ungültig".encode(), "ungültig"),
        (b"=?nonsense?q?=E9?=", "é"),
        (b"=?utf-8?q?open", "=?utf-8?q?open"),
        (b"=?utf-8?b?!!!?=", ""),
    ],
)
def test_encoded_words(written: bytes, read: str) -> None:
    assert decoded(written) == read


@pytest.mark.parametrize("charset", ["unicode_escape", "raw_unicode_escape", "punycode", "idna", "rot13", "zlib", "\0"])
def test_codecs_that_are_no_character_sets_of_mail_are_not_used(charset: str) -> None:
    assert as_text(b"\\d\\N{x}", charset) == "\\d\\N{x}"


def test_base64_is_read_as_far_as_it_can_be() -> None:
    assert from_base64(b"aG\r\nVs bG8") == b"hello"
    assert from_base64(b"aGVsbG8=====") == b"hello"
    assert from_base64(b"a") == b""


@given(st.binary())
def test_the_fields_are_the_header(header: bytes) -> None:
    raw = b"".join(field.raw for field in fields_in(header))
    assert header.startswith(raw)
    assert header == raw or header[len(raw) :].startswith((b"\n", b"\r\n"))


@given(st.binary() | st.text(' \t\r\n"\\()<>@,;:.[]=?/aQb').map(str.encode))
def test_whatever_is_written_can_be_looked_at(value: bytes) -> None:
    for found in addresses(value):
        # RFC 3501 7.4.2: without a host it is the beginning or the end of a group, and has no more than a name.
        assert found.host is not None or (found.name, found.route) == (None, None)
    media_type(value)
    word_and_parameters(value)
    words(value)
    decoded(value)
    from_base64(value)


@pytest.mark.parametrize(
    "piece",
    [
        *(b"(", b'"', b"<", b"a ", b"\\", b",", b"[", b"=?u?q?", b"=?u?q?a?= ", b"\r\n ", b"@", b":", b"="),
        *(b";a=", b';a="', b";a*0=b;a*1=c"),
    ],
)
def test_what_is_long_takes_its_length_and_not_the_square_of_it(piece: bytes) -> None:
    value = b"text/plain" + piece * (400_000 // len(piece))
    begun = time.monotonic()
    addresses(value)
    media_type(value)
    decoded(value)
    list(fields_in(value))
    assert time.monotonic() - begun < 5
