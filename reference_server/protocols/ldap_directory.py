"""The address book as a tree of entries: names, scopes, and what a search or a comparison finds.

Owns: the entries that stand for accounts, distinguished names (RFC 4514), the scopes of a search (RFC 4511 4.5.1.2) and
the choice of attributes (4.5.1.8).  Knows no message, no octets on the wire, no session and no password.

The tree is the same on every server, so that nobody has to ask how it is called::

    o=mail                              organization
      ou=people,o=mail                  organizationalUnit
        uid=alice,ou=people,o=mail      inetOrgPerson, one for each account
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from reference_server.protocols.ldap_filter import Filter, equal, holds

SUFFIX: Final = "o=mail"
PEOPLE: Final = "ou=people,o=mail"

Name: TypeAlias = tuple[tuple[str, str], ...]
"""A distinguished name: attribute (lower case) and value of each of its parts, the entry's own first."""

#: Attributes that entries may have, spelled as they are shown.
_KNOWN: Final = {
    name.lower(): name
    for name in (
        "objectClass", "o", "ou", "uid", "cn", "sn", "givenName", "displayName", "mail", "entryDN", "namingContexts",
        "supportedLDAPVersion", "supportedExtension", "supportedFeatures", "vendorName", "description", "postalAddress",
        "telephoneNumber", "mobile", "title", "jpegPhoto", "userCertificate",
    )
}  # fmt: skip
_ALIASES: Final = {
    "2.5.4.0": "objectclass", "2.5.4.3": "cn", "commonname": "cn", "2.5.4.4": "sn", "surname": "sn", "2.5.4.10": "o",
    "organizationname": "o", "2.5.4.11": "ou", "organizationalunitname": "ou", "2.5.4.42": "givenname",
    "gn": "givenname",
    "0.9.2342.19200300.100.1.1": "uid", "userid": "uid", "0.9.2342.19200300.100.1.3": "mail", "rfc822mailbox": "mail",
    "2.16.840.1.113730.3.1.241": "displayname",
}  # fmt: skip
#: Attributes that are only shown when they are asked for (RFC 4512 3.4).
_OPERATIONAL: Final = frozenset(
    ("entrydn", "namingcontexts", "supportedldapversion", "supportedextension", "supportedfeatures", "vendorname")
)
_HEX_PAIR: Final = re.compile(r"[0-9A-Fa-f]{2}")
_ATTRIBUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]*|[0-9]+(\.[0-9]+)*")


class Scope(enum.IntEnum):
    BASE = 0
    ONE_LEVEL = 1
    SUBTREE = 2


class BadName(ValueError):
    """Text that is no distinguished name."""


def parse_name(text: str) -> Name:
    """RFC 4514 3, values in quotes and hexadecimal left out.  Raises :class:`BadName`."""
    if not text.strip():
        return ()
    parts: list[tuple[str, str]] = []
    attribute: str | None = None
    piece: list[str] = []
    kept = 0  # how much of the piece was escaped and is no space to be taken off
    at = 0
    while at <= len(text):
        character = text[at] if at < len(text) else ","
        if character == "\\":
            at, octet = _escaped(text, at + 1)
            piece.append(octet)
            kept = len(piece)
            continue
        if character == "=" and attribute is None:
            attribute = "".join(piece).strip()
            if not _ATTRIBUTE.fullmatch(attribute):
                raise BadName(f"{attribute!r} is no attribute")
            piece, kept = [], 0
        elif character in ",;+":
            if attribute is None:
                raise BadName("a part of the name has no value")
            while len(piece) > kept and piece[-1] == " ":
                piece.pop()
            parts.append((known_as(attribute), "".join(piece)))
            attribute, piece, kept = None, [], 0
        elif character in '"<>' and attribute is not None:
            raise BadName(f"{character} must be escaped")
        elif not (character == " " and not piece):
            piece.append(character)
        at += 1
    return tuple(parts)


def _escaped(text: str, at: int) -> tuple[int, str]:
    pairs = bytearray()
    while pair := _HEX_PAIR.match(text, at):
        pairs += bytes.fromhex(pair.group())
        at = pair.end()
        if text[at : at + 1] == "\\" and _HEX_PAIR.match(text, at + 1):
            at += 1
            continue
        break
    if pairs:
        try:
            return at, pairs.decode()
        except UnicodeDecodeError:
            raise BadName("an escaped octet is not UTF-8") from None
    if at >= len(text):
        raise BadName("nothing is escaped at the end")
    return at + 1, text[at]


def known_as(attribute: str) -> str:
    """The one name, in lower case, of an attribute that may be called by others; options are taken off."""
    plain = attribute.partition(";")[0].lower()
    return _ALIASES.get(plain, plain)


def same_name(one: Name, other: Name) -> bool:
    """Whether two names are the same entry's."""
    return len(one) == len(other) and all(
        a[0] == b[0] and equal(a[1], b[1]) for a, b in zip(one, other, strict=True)
    )


class Person(Protocol):
    """Whoever has an account."""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str: ...


class People(Protocol):
    """All who have an account."""

    def everybody(self) -> Sequence[Person]:
        """All of them."""

    def named(self, name: str) -> Person | None:
        """Who has that name, without regard to case."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry; ``attributes`` by name in lower case."""

    dn: str
    name: Name
    attributes: Mapping[str, tuple[str, ...]]

    def values(self, attribute: str) -> Sequence[str] | None:
        key = known_as(attribute)
        if key == "entrydn":
            return (self.dn,)
        return self.attributes.get(key, () if key in _KNOWN else None)

    def in_name(self, attribute: str) -> Sequence[str]:
        key = known_as(attribute)
        return [value for name, value in self.name if name == key]

    def everything(self) -> Iterable[str]:
        return (value for values in self.attributes.values() for value in values)

    def selected(self, wanted: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
        """What a search asked for (RFC 4511 4.5.1.8): nothing named or ``*`` is all that is not operational."""
        keys: dict[str, None] = {}
        for each in wanted or ("*",):
            if each == "*":
                keys.update(dict.fromkeys(key for key in self.attributes if key not in _OPERATIONAL))
            elif each == "+":  # RFC 3673
                keys.update(dict.fromkeys(key for key in (*self.attributes, "entrydn") if key in _OPERATIONAL))
            else:  # "1.1" is no attribute, and so it stands for none
                keys[known_as(each)] = None
        chosen = ((key, self.values(key)) for key in keys)
        return [(_KNOWN[key], tuple(values)) for key, values in chosen if values]


class Outcome(enum.Enum):
    """How a search or comparison ended (RFC 4511 4.1.9)."""

    SUCCESS = 0
    TIME_LIMIT_EXCEEDED = 3
    SIZE_LIMIT_EXCEEDED = 4
    COMPARE_FALSE = 5
    COMPARE_TRUE = 6
    NO_SUCH_ATTRIBUTE = 16
    UNDEFINED_ATTRIBUTE = 17
    NO_SUCH_OBJECT = 32


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a search.  ``matched`` is the nearest entry above a name that does not exist."""

    outcome: Outcome
    entries: tuple[Entry, ...] = ()
    matched: str = ""


class Directory:
    """All entries below the suffix."""

    def __init__(self, people: People) -> None:
        self._people = people

    def search(
        self, base: str, scope: Scope, filter_: Filter, *, most: int, in_time: Callable[[], bool] = lambda: True
    ) -> Found:
        """Entries in the order of their names, ``most`` of them at most (0: all), as long as ``in_time`` says so.

        Raises :class:`BadName`.
        """
        root = parse_name(base)
        at = self.entry(root)
        if at is None:
            return Found(Outcome.NO_SUCH_OBJECT, matched=self._nearest(root))
        found: list[Entry] = []
        for entry in self._within(at, scope):
            if not in_time():
                return Found(Outcome.TIME_LIMIT_EXCEEDED, tuple(found))
            if holds(filter_, entry):
                if most and len(found) >= most:
                    return Found(Outcome.SIZE_LIMIT_EXCEEDED, tuple(found))
                found.append(entry)
        return Found(Outcome.SUCCESS, tuple(found))

    def compare(self, name: str, attribute: str, value: str) -> Found:
        """Whether an entry has a value (RFC 4511 4.10).  Raises :class:`BadName`."""
        parsed = parse_name(name)
        entry = self.entry(parsed)
        if entry is None:
            return Found(Outcome.NO_SUCH_OBJECT, matched=self._nearest(parsed))
        values = entry.values(attribute)
        if values is None:
            return Found(Outcome.UNDEFINED_ATTRIBUTE)
        if not values:
            return Found(Outcome.NO_SUCH_ATTRIBUTE)
        return Found(Outcome.COMPARE_TRUE if any(equal(each, value) for each in values) else Outcome.COMPARE_FALSE)

    def entry(self, name: Name) -> Entry | None:
        """The entry of that name."""
        for each in _UPPER:
            if same_name(each.name, name):
                return each
        person = self.person(name)
        return None if person is None else _person(person)

    def person(self, name: Name) -> Person | None:
        """Whose entry that is, if it is a person's."""
        if len(name) != 3 or not same_name(name[1:], _UPPER[1].name) or name[0][0] != "uid":
            return None
        return self._people.named(name[0][1])

    def _within(self, base: Entry, scope: Scope) -> Iterable[Entry]:
        depth = len(base.name)
        if scope is not Scope.ONE_LEVEL:
            yield base
        if scope is Scope.BASE:
            return
        for each in _UPPER:
            below = len(each.name) - depth
            if below == 1 or (below > 1 and scope is Scope.SUBTREE):
                yield each
        if depth == 2 or (depth < 2 and scope is Scope.SUBTREE):
            yield from map(_person, sorted(self._people.everybody(), key=lambda person: person.name))

    def _nearest(self, name: Name) -> str:
        """RFC 4511 4.1.9, ``matchedDN``."""
        for each in reversed(_UPPER):
            depth = len(each.name)
            if len(name) > depth and same_name(name[-depth:], each.name):
                return each.dn
        return ""


def root_dse(*, extensions: Sequence[str], features: Sequence[str]) -> Entry:
    """What the server says of itself (RFC 4512 5.1)."""
    return Entry(
        "",
        (),
        {
            "objectclass": ("top",),
            "namingcontexts": (SUFFIX,),
            "supportedldapversion": ("3",),
            "supportedextension": tuple(extensions),
            "supportedfeatures": tuple(features),
            "vendorname": ("listenspec",),
        },
    )


def _person(person: Person) -> Entry:
    shown = person.name.partition("@")[0].replace(".", " ").replace("_", " ").title()
    given, _, family = shown.rpartition(" ")
    return _entry(
        f"uid={_escape(person.name)},{PEOPLE}",
        "person", "organizationalPerson", "inetOrgPerson",
        uid=person.name, cn=shown, sn=family, displayname=shown, mail=person.address,
        **({"givenname": given} if given else {}),
    )  # fmt: skip


def _entry(dn: str, *classes: str, **attributes: str) -> Entry:
    return Entry(
        dn,
        parse_name(dn),
        {"objectclass": ("top", *classes), **{key: (value,) for key, value in attributes.items()}},
    )


def _escape(value: str) -> str:
    """RFC 4514 2.4; account names have no spaces and do not begin with a dot."""
    escaped = re.sub(r'([\\",+;<>=])', r"\\\1", value)
    return "\\" + escaped if escaped.startswith("#") else escaped


#: The entries that stand above those of people.
_UPPER: Final = (
    _entry(SUFFIX, "organization", o="mail", description="Who has mail on this server"),
    _entry(PEOPLE, "organizationalUnit", ou="people"),
)
