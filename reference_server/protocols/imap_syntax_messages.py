"""Read what FETCH is to fetch and what SEARCH is to look for (RFC 3501 6.4.4, 6.4.5).

Owns: the names of fetch items and search keys, and how sections are written.  Knows no message.  Whatever is wrong
raises :class:`~reference_server.protocols.imap_syntax.BadSyntax`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, cast

from reference_server.protocols.imap_grammar import (
    All,
    And,
    Body,
    BodySection,
    Comparison,
    FetchItem,
    Flag,
    Header,
    Item,
    Not,
    Numbers,
    Or,
    Received,
    SearchKey,
    Section,
    SectionText,
    Sent,
    Size,
    Text,
    Uids,
)
from reference_server.protocols.imap_syntax import BadSyntax, Cursor

MAX_ITEMS: Final = 100
"""Items of one FETCH: many times a whole message would be a strange wish."""
MAX_TEXTS: Final = 100
"""Texts that one SEARCH looks for in whole messages; each is one more walk over all of them."""
MAX_DEPTH: Final = 50
"""How deep search keys may be nested, and how deep a part of a message may lie."""

_FAST: Final = (Item.FLAGS, Item.INTERNALDATE, Item.SIZE)
_MACROS: Final[Mapping[bytes, tuple[FetchItem, ...]]] = {
    b"FAST": _FAST,
    b"ALL": (*_FAST, Item.ENVELOPE),
    b"FULL": (*_FAST, Item.ENVELOPE, Item.BODY),
}
_OLD_NAMES: Final = {
    b"RFC822": BodySection(Section(), b"RFC822"),
    b"RFC822.HEADER": BodySection(Section(text="HEADER"), b"RFC822.HEADER", peek=True),
    b"RFC822.TEXT": BodySection(Section(text="TEXT"), b"RFC822.TEXT"),
}
_ITEMS: Final = {item.value: item for item in Item}

_PARTS: Final = re.compile(rb"[1-9][0-9]{0,9}(?:\.[1-9][0-9]{0,9})*")
_SECTION_TEXTS: Final = (b"HEADER", b"HEADER.FIELDS", b"HEADER.FIELDS.NOT", b"TEXT", b"MIME")
_PLAIN: Final = re.compile(rb"[^\x00-\x20\x7f-\xff(){%*\"\\\]]+")

_FLAG_KEYS: Final[Mapping[bytes, SearchKey]] = {
    b"ALL": All(),
    b"NEW": And((Flag("\\Recent"), Flag("\\Seen", False))),
    b"OLD": Flag("\\Recent", False),
    b"RECENT": Flag("\\Recent"),
    **{flag.upper().encode(): Flag(f"\\{flag}") for flag in ("Answered", "Deleted", "Draft", "Flagged", "Seen")},
    **{
        b"UN" + flag.upper().encode(): Flag(f"\\{flag}", False)
        for flag in ("Answered", "Deleted", "Draft", "Flagged", "Seen")
    },
}
_FIELD_KEYS: Final = (b"BCC", b"CC", b"FROM", b"SUBJECT", b"TO")
_DATE_KEYS: Final = (b"BEFORE", b"ON", b"SINCE")


class UnknownCharset(BadSyntax):
    """SEARCH is to be read in a character set that nobody here knows."""


# ---- what to fetch


def fetch_items(cursor: Cursor) -> tuple[FetchItem, ...]:
    """One item, a macro, or items in parentheses; each once, in the order in which they were named."""
    if cursor.peek(b"("):
        items = cursor.parenthesised(lambda: _fetch_item(cursor))
    else:
        for name, macro in _MACROS.items():
            if cursor.text[cursor.at :].rstrip(b" ").upper() == name:
                cursor.at = len(cursor.text)
                return macro
        items = [_fetch_item(cursor)]
    unique = tuple(dict.fromkeys(items))
    if len(unique) > MAX_ITEMS:
        raise BadSyntax("that is too much for one FETCH")
    return unique


def _fetch_item(cursor: Cursor) -> FetchItem:
    word = cursor.word()
    if word in (b"BODY", b"BODY.PEEK") and cursor.skip(b"["):
        return _body_section(cursor, peek=word == b"BODY.PEEK")
    item = _ITEMS.get(word) or _OLD_NAMES.get(word)
    if item is None:
        raise BadSyntax("there is no such thing to FETCH")
    return item


def _body_section(cursor: Cursor, *, peek: bool) -> BodySection:
    parts: tuple[int, ...] = ()
    written = b""
    text = b""
    fields: tuple[bytes, ...] = ()
    numbers = _PARTS.match(cursor.text, cursor.at)
    if numbers is not None:
        written = numbers[0]
        parts = tuple(map(int, written.split(b".")))
        cursor.at = numbers.end()
        if len(parts) > MAX_DEPTH:
            raise BadSyntax("no part lies so deep")
    if not cursor.peek(b"]"):
        if parts:
            cursor.expect(b".")
        text = cursor.word()
        if text not in _SECTION_TEXTS or (text == b"MIME" and not parts):
            raise BadSyntax("there is no such section")
        written += b"." * bool(parts) + text
        if text.startswith(b"HEADER.FIELDS"):
            cursor.expect(b" ")
            fields = tuple(cursor.parenthesised(lambda: _field_name(cursor)))
            written += b" (%s)" % b" ".join(map(_field_on_wire, fields))
    cursor.expect(b"]")
    partial = None
    label = b"BODY[%s]" % written
    if cursor.skip(b"<"):
        first = cursor.number()
        cursor.expect(b".")
        partial = (first, cursor.number())
        cursor.expect(b">")
        if not partial[1]:
            raise BadSyntax("at least one octet must be wanted")
        label += b"<%d>" % first
    return BodySection(Section(parts, cast("SectionText", text.decode("ascii")), fields), label, peek, partial)


def _field_name(cursor: Cursor) -> bytes:
    name = cursor.astring()
    if re.search(rb"[\x00-\x20:\x7f-\xff]", name) or not name:
        raise BadSyntax("that is not the name of a header field")
    return name


def _field_on_wire(name: bytes) -> bytes:
    return name if _PLAIN.fullmatch(name) else b'"%s"' % name.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


# ---- what to search for


def search_key(cursor: Cursor) -> SearchKey:
    """All that SEARCH has as arguments.  Raises :class:`UnknownCharset`, too."""
    if re.match(rb"CHARSET ", cursor.text[cursor.at : cursor.at + 8], re.IGNORECASE):
        cursor.at += 8
        if cursor.astring().upper() not in (b"UTF-8", b"US-ASCII"):
            raise UnknownCharset("that character set is unknown")
        cursor.expect(b" ")
    keys = [_key(cursor, 0)]
    while cursor.skip(b" "):
        keys.append(_key(cursor, 0))
    cursor.end()
    if sum(map(_texts_in, keys)) > MAX_TEXTS:
        raise BadSyntax("that is too much for one SEARCH")
    return keys[0] if len(keys) == 1 else And(tuple(keys))


def _texts_in(key: SearchKey) -> int:
    match key:
        case Body() | Text():
            return 1
        case And(keys):
            return sum(map(_texts_in, keys))
        case Or(one, other):
            return _texts_in(one) + _texts_in(other)
        case Not(negated):
            return _texts_in(negated)
    return 0


def _key(cursor: Cursor, depth: int) -> SearchKey:
    if depth > MAX_DEPTH:
        raise BadSyntax("the search is nested too deeply")
    if cursor.peek(b"("):
        keys = cursor.parenthesised(lambda: _key(cursor, depth + 1))
        return keys[0] if len(keys) == 1 else And(tuple(keys))
    if cursor.text[cursor.at : cursor.at + 1].isdigit() or cursor.peek(b"*"):
        return Numbers(cursor.sequence_set())
    word = cursor.word()
    if word in _FLAG_KEYS:
        return _FLAG_KEYS[word]
    cursor.expect(b" ")
    return _key_with_argument(cursor, word, depth)


def _key_with_argument(cursor: Cursor, word: bytes, depth: int) -> SearchKey:
    if word in _FIELD_KEYS:
        return Header(word, _text(cursor))
    if word in _DATE_KEYS:
        return Received(_comparison(word), cursor.date())
    if word.startswith(b"SENT") and word[4:] in _DATE_KEYS:
        return Sent(_comparison(word[4:]), cursor.date())
    match word:
        case b"NOT":
            return Not(_key(cursor, depth + 1))
        case b"OR":
            one = _key(cursor, depth + 1)
            cursor.expect(b" ")
            return Or(one, _key(cursor, depth + 1))
        case b"HEADER":
            field = _field_name(cursor)
            cursor.expect(b" ")
            return Header(field, _text(cursor))
        case b"BODY":
            return Body(_text(cursor))
        case b"TEXT":
            return Text(_text(cursor))
        case b"LARGER" | b"SMALLER":
            return Size(word == b"LARGER", cursor.number())
        case b"UID":
            return Uids(cursor.sequence_set())
        case b"KEYWORD" | b"UNKEYWORD":
            return Flag(cursor.atom().decode("ascii"), word == b"KEYWORD")
    raise BadSyntax("there is no such search key")


def _text(cursor: Cursor) -> str:
    # Without CHARSET it should be US-ASCII, of which UTF-8 is more of the same.
    try:
        return cursor.astring().decode("utf-8")
    except UnicodeDecodeError:
        raise BadSyntax("that is not UTF-8") from None


def _comparison(word: bytes) -> Comparison:
    return cast("Comparison", word.decode("ascii").lower())
