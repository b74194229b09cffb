"""Filters: ldap3 writes them, ours are to understand them as RFC 4511 4.5.1.7 says."""

from __future__ import annotations

import warnings

import pytest

from reference_server.protocols import ber
from reference_server.protocols.ber import BerError, Content
from reference_server.protocols.ldap_directory import Entry, parse_name
from reference_server.protocols.ldap_filter import MAX_DEPTH, MAX_PARTS, Filter, Truth, holds, read_filter

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from ldap3.operation.search import compile_filter, parse_filter
    from pyasn1.codec.ber.encoder import encode

ALICE = Entry(
    "uid=alice,ou=people,o=mail",
    parse_name("uid=alice,ou=people,o=mail"),
    {
        "objectclass": ("top", "person"),
        "uid": ("alice",),
        "cn": ("Alice  Liddell",),
        "mail": ("alice@example.test", "al@example.test"),
    },
)


def written(text: str) -> Filter:
    """A filter as another implementation writes it."""
    return read_filter(Content(encode(compile_filter(parse_filter(text, None, True, True, None, False).elements[0]))))


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("(uid=alice)", True),
        ("(UID=Alice)", True),
        ("(0.9.2342.19200300.100.1.1=alice)", True),
        ("(cn=alice liddell)", True),
        ("(uid=bob)", False),
        ("(title=king)", False),
        ("(shoesize=44)", None),
        ("(uid=*)", True),
        ("(title=*)", False),
        ("(shoesize=*)", None),
        ("(mail=al*)", True),
        ("(mail=*@example.test)", True),
        ("(mail=a*e@*.t*t)", True),
        ("(mail=*ice*alice*)", False),
        ("(mail=alice@example.test*example.test)", False),
        ("(shoesize=4*)", None),
        ("(uid>=alice)", True),
        ("(uid>=b)", False),
        ("(uid<=b)", True),
        ("(uid<=aardvark)", False),
        ("(shoesize>=1)", None),
        ("(uid~=ALICE)", True),
        ("(&(uid=alice)(mail=al*))", True),
        ("(&(uid=alice)(uid=bob))", False),
        ("(&(uid=alice)(shoesize=1))", None),
        ("(&(uid=bob)(shoesize=1))", False),
        ("(|(uid=bob)(uid=alice))", True),
        ("(|(uid=alice)(shoesize=1))", True),
        ("(|(uid=bob)(shoesize=1))", None),
        ("(!(uid=bob))", True),
        ("(!(uid=alice))", False),
        ("(!(shoesize=1))", None),
        ("(cn:caseExactMatch:=Alice Liddell)", True),
        ("(cn:caseExactMatch:=alice liddell)", False),
        ("(cn:2.5.13.2:=ALICE LIDDELL)", True),
        ("(cn:noSuchMatch:=Alice)", None),
        ("(:caseIgnoreMatch:=ALICE)", True),
        ("(ou:=people)", False),
        ("(ou:dn:=people)", True),
        ("(shoesize:dn:=people)", None),
    ],
)
def test_what_a_filter_says_of_alice(text: str, truth: Truth) -> None:
    assert holds(written(text), ALICE) is truth


def test_no_condition_at_all_is_true_and_no_alternative_is_false() -> None:
    # RFC 4526
    assert holds(read_filter(Content(b"\xa0\x00")), ALICE) is True
    assert holds(read_filter(Content(b"\xa1\x00")), ALICE) is False


def test_filters_within_filters_end_somewhere() -> None:
    deep = ber.octets("uid", 0x87)
    for _ in range(MAX_DEPTH):
        deep = ber.element(0xA2, deep)
    with pytest.raises(BerError, match="too many"):
        read_filter(Content(deep))


def test_a_filter_has_so_many_parts_and_no_more() -> None:
    part = ber.octets("uid", 0x87)
    read_filter(Content(ber.sequence([part] * (MAX_PARTS - 1), 0xA0)))
    with pytest.raises(BerError, match="too many"):
        read_filter(Content(ber.sequence([part] * MAX_PARTS, 0xA0)))


@pytest.mark.parametrize(
    "octets",
    [
        b"\xa7\x00",
        b"\xa2\x00",
        b"\x87\x02\xff\xfe",
        ber.sequence((ber.octets("uid"), ber.sequence(())), 0xA4),
        ber.sequence((ber.octets("uid"), ber.sequence((ber.octets("a", 0x82), ber.octets("b", 0x81)))), 0xA4),
        ber.sequence((ber.octets("uid"), ber.sequence((ber.octets("a", 0x80), ber.octets("b", 0x80)))), 0xA4),
        ber.sequence((ber.octets("uid"), ber.sequence((ber.octets("a", 0x83),))), 0xA4),
        ber.sequence((ber.octets("alice", 0x83),), 0xA9),
        ber.sequence((ber.octets("uid"),), 0xA3),
    ],
)
def test_a_filter_that_is_none_is_an_error(octets: bytes) -> None:
    with pytest.raises(BerError):
        read_filter(Content(octets))


def test_a_value_that_is_no_text_equals_nothing() -> None:
    assert holds(read_filter(Content(ber.sequence((ber.octets("uid"), ber.octets(b"\xff\xfe")), 0xA3))), ALICE) is False
