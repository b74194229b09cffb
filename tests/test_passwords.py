"""Hashes are salted, checked in full, and refused where they are too dear to check."""

from __future__ import annotations

import pytest

from reference_server import passwords

#: RFC 7914 section 12, the second test vector, in our notation: another implementation's hash is checked as well.
VECTOR = (
    "$scrypt$ln=10,r=8,p=16$TmFDbA$"
    "/bq+HJ00cgB4VucZDQHp/nxq18vII4gw0yPsBR+yzhRh7rFw0wjSXn0+qkxFDLYj6B9sfqsPQBPlwnNtdtcuQQ"
)


def test_a_password_matches_its_own_hash_only() -> None:
    line = passwords.hashed("correct horse")
    assert passwords.is_well_formed(line)
    assert passwords.matches("correct horse", line)
    assert not passwords.matches("correct horsf", line)


def test_equal_passwords_have_different_hashes() -> None:
    assert passwords.hashed("same") != passwords.hashed("same")


def test_the_costs_and_the_salt_are_taken_from_the_line() -> None:
    vector = VECTOR.replace("$TmFDbA$", "$TmFDbE5hQ2w$")  # "NaCl" twice: at least eight bytes of salt
    assert passwords.is_well_formed(vector)
    assert not passwords.matches("password", vector)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "secret",
        VECTOR,  # its salt is too short
        "$2b$12$abcdefghijklmnopqrstuv",
        "$scrypt$ln=40,r=8,p=1$aaaaaaaaaaaaaaaaaaaaaa$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "$scrypt$ln=15,r=99,p=1$aaaaaaaaaaaaaaaaaaaaaa$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "$scrypt$ln=15,r=8,p=1$aaaaaaaaaaaaa$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ],
)
def test_what_is_no_hash_or_too_dear_is_not_well_formed(line: str) -> None:
    assert not passwords.is_well_formed(line)
    with pytest.raises(ValueError, match="not a password hash"):
        passwords.matches("password", line)
