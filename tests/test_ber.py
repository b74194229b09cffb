"""BER: what is put together can be taken apart, and what is wrong is refused before it costs anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_server.protocols import ber
from reference_server.protocols.ber import BerError, Content, ElementReader, Tag


def elements(data: bytes, cut: int = 1, limit: int = 1000) -> list[bytes]:
    """What a reader finds that is fed in pieces of ``cut`` octets."""
    reader = ElementReader(limit)
    found = []
    for start in range(0, len(data), cut):
        reader.feed(data[start : start + cut])
        while (element := reader.element()) is not None:
            found.append(element)
    return found


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 50))
def test_elements_are_found_however_they_are_cut(contents: list[bytes], cut: int) -> None:
    assert elements(b"".join(ber.element(Tag.SEQUENCE, content) for content in contents), cut) == contents


@given(st.integers(-(2**31), 2**31 - 1))
def test_numbers_come_back(number: int) -> None:
    assert Content(ber.integer(number)).integer() == number


@pytest.mark.parametrize(
    ("number", "octets"), [(0, "00"), (127, "7f"), (128, "0080"), (256, "0100"), (-1, "ff"), (-128, "80")]
)
def test_numbers_are_as_short_as_can_be(number: int, octets: str) -> None:
    assert ber.integer(number)[2:] == bytes.fromhex(octets)  # X.690 8.3.2


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_text_comes_back(text: str) -> None:
    assert Content(ber.octets(text)).text() == text


def test_long_forms_that_are_longer_than_need_be_are_read() -> None:
    # OpenLDAP's programs write four octets of length where one would do.
    assert elements(b"\x30\x84\x00\x00\x00\x02\x05\x00") == [b"\x05\x00"]
    assert elements(b"\x30\x82\x00\x02\x05\x00") == [b"\x05\x00"]


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"\x30\x80", "indefinite"),
        (b"\x30\x85\x00\x00\x00\x00\x01", "a length of 5"),
        (b"\x30\x84\x7f\xff\xff\xff", "2147483647 octets; 1000"),
        (b"GET / HTTP/1.0", "0x47"),
        (b"\x16\x03\x01", "0x16"),
    ],
)
def test_a_stream_that_cannot_go_on_is_refused_at_once(octets: bytes, reason: str) -> None:
    with pytest.raises(BerError, match=reason):
        elements(octets)


def test_a_length_that_is_announced_costs_nothing() -> None:
    reader = ElementReader(1 << 18)
    reader.feed(b"\x30\x83\x03\xff\xff")
    assert reader.element() is None
    assert reader.pending


@pytest.mark.parametrize(
    "octets",
    [b"", b"\x02", b"\x02\x05\x01", b"\x02\x81", b"\x1f\x01\x00", b"\x30\x80\x00\x00", b"\x02\x00", b"\x02\x06123456"],
)
def test_content_that_is_broken_is_an_error(octets: bytes) -> None:
    with pytest.raises(BerError):
        Content(octets).integer()


@given(st.binary(max_size=200))
def test_whatever_comes_is_read_or_refused(octets: bytes) -> None:
    content = Content(octets)
    try:
        while not content.at_end:
            content.element()
    except BerError:
        return
    assert content.at_end
