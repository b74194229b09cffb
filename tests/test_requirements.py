"""The register: complete, stable, and clear about whom each row binds and how much."""

from __future__ import annotations

import re
from collections import Counter
from importlib import resources

import pytest

from conformance import requirements
from conformance.requirements import FAMILIES, SERVICES, Level, RegisterError

ROWS_OF_FAMILY = {
    "PRT": 13, "LIM": 28, "IDL": 27, "ACL": 14, "EXP": 21, "IMP": 14, "TLS": 18,
    "CLS": 14, "ROB": 14, "HTT": 10, "LDP": 8, "ADM": 10, "LIF": 9,
}  # fmt: skip

ONE_ROW = """
[PRT-01]
level = "MUST"
services = "all"
text = "Serves."
observable = "Served."
source = "product"
"""


def test_the_register_has_two_hundred_rows_in_thirteen_families() -> None:
    register = requirements.load()
    assert len(register) == 200
    assert dict(Counter(row.family for row in register.values())) == ROWS_OF_FAMILY
    assert list(FAMILIES) == list(ROWS_OF_FAMILY)


def test_ids_are_numbered_from_one_without_gaps_in_the_order_of_the_families() -> None:
    assert list(requirements.load()) == [
        f"{family}-{number:02}" for family, rows in ROWS_OF_FAMILY.items() for number in range(1, rows + 1)
    ]


@pytest.mark.parametrize(
    ("id_", "word"),
    [
        ("PRT-12", "TIME_WAIT"), ("LIM-11", "implicit"), ("LIM-19", "instant"), ("IDL-06", "go-ahead"),
        ("IDL-21", "IDLE"), ("ACL-07", "IPv4-mapped"), ("EXP-04", "behind the upgrade"), ("EXP-13", "password"),
        ("IMP-12", "stalls"), ("TLS-03", "256"), ("TLS-11", "close_notify"), ("CLS-01", "removed by QUIT"),
        ("ROB-05", "literal"), ("HTT-03", "Host"), ("LDP-05", "Unbind"), ("ADM-07", "credentials"),
        ("LIF-06", "outlive a reload"),
    ],
)  # fmt: skip
def test_an_id_keeps_its_meaning(id_: str, word: str) -> None:
    assert word in requirements.load()[id_].text


def test_levels_are_counted_as_the_register_was_agreed() -> None:
    levels = Counter(row.level for row in requirements.load().values())
    assert levels == {Level.MUST: 141, Level.SHOULD: 52, Level.MAY: 7}


def test_a_level_can_differ_between_services() -> None:
    row = requirements.load()["EXP-06"]
    assert [row.level_for(service) for service in ("smtp", "pop3", "imap")] == ["MUST", "SHOULD", "SHOULD"]
    assert row.levels == "SHOULD (smtp: MUST)"
    assert requirements.load()["CLS-12"].level_for("imap") is Level.MUST


def test_a_row_has_no_level_for_a_service_that_it_is_not_about() -> None:
    row = requirements.load()["IDL-13"]
    assert [service for service in SERVICES if row.applies_to(service)] == ["imap"]
    with pytest.raises(LookupError, match="IDL-13 is not about smtp"):
        row.level_for("smtp")


def test_rows_about_tls_are_about_ldap_only_where_it_offers_tls() -> None:
    row = requirements.load()["TLS-01"]
    assert row.services == SERVICES
    assert row.where_offered == {"ldap"}


def test_a_row_can_hold_wherever_an_option_is_offered() -> None:
    row = requirements.load()["ADM-01"]
    assert row.services == SERVICES
    assert row.where_offered == set(SERVICES)


def test_what_binds_less_than_its_row_says_so_in_the_text() -> None:
    for row in requirements.load().values():
        said = re.search(r"\b(SHOULD|MAY)\b", row.text)
        assert (row.part_level or None) == (said and said[1]), row.id
    assert requirements.load()["TLS-02"].levels == "MUST (in part SHOULD)"


def test_every_text_is_one_short_paragraph_that_ends() -> None:
    for row in requirements.load().values():
        for words in (row.text, row.observable):
            assert words == " ".join(words.split()), row.id
            assert words.endswith("."), row.id
        assert len(row.text) <= 200, row.id


def test_the_register_is_read_once() -> None:
    assert requirements.load() is requirements.load()


def test_the_register_travels_with_the_package() -> None:
    assert resources.files("conformance").joinpath("requirements.toml").is_file()


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("PRT-01", "PRT-1", "PRT-1: an id is"),
        ("PRT-01", "XYZ-01", "XYZ-01: an id is"),
        ('"MUST"', '"SHALL"', "PRT-01: 'SHALL' is not a level"),
        ('"MUST"', '{ imap = "MUST" }', "PRT-01: levels are given for"),
        ('"MUST"', '{ nntp = "MUST", others = "MAY" }', "PRT-01: levels are given for"),
        ('"all"', '"smtp nntp"', "PRT-01: 'smtp nntp' does not name services"),
        ('"all"', '"smtp [smtp]"', "does not name services"),
        ('"all"', '""', "does not name services"),
        ('"all"', '["smtp"]', "does not name services"),
        ("observable", "seen", "PRT-01: a row has"),
        ('text = "Serves."', "text = 7", "PRT-01: text, observable and source are words"),
        ("[PRT-01]", "[PRT-01", "not TOML"),
    ],
)
def test_a_register_that_is_not_sound_is_refused_with_the_row_that_is_wrong(old: str, new: str, complaint: str) -> None:
    with pytest.raises(RegisterError, match=re.escape(complaint)):
        requirements.read(ONE_ROW.replace(old, new))
