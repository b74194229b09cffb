"""What a written range covers, and what is refused rather than guessed."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_server.address_range import AddressRange, IPAddress, normalise


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("10.0.0.5", ["10.0.0.5"], ["10.0.0.4", "10.0.0.6"]),
        ("192.168.0.0/16", ["192.168.0.0", "192.168.255.255"], ["192.167.255.255", "192.169.0.0"]),
        ("172.16.0.1-172.16.0.99", ["172.16.0.1", "172.16.0.99"], ["172.16.0.0", "172.16.0.100"]),
        (" 172.16.0.1 - 172.16.0.1 ", ["172.16.0.1"], ["172.16.0.2"]),
        ("2001:db8::/32", ["2001:db8::", "2001:db8:ffff::1"], ["2001:db9::"]),
        ("::1", ["::1"], ["::2"]),
        ("0.0.0.0/0", ["255.255.255.255", "::ffff:192.0.2.1"], ["::1"]),
        ("::/0", ["::1", "ffff::"], ["192.0.2.1"]),
        ("::ffff:10.0.0.0/104", ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"], ["11.0.0.0", "::1"]),
        ("::ffff:10.0.0.1-10.0.0.9", ["10.0.0.5"], ["10.0.0.10"]),
    ],
)
def test_range_covers_what_is_written_and_nothing_else(text: str, inside: list[str], outside: list[str]) -> None:
    written = AddressRange.parse(text)
    assert all(ip_address(address) in written for address in inside)
    assert not any(ip_address(address) in written for address in outside)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("alice", "not an IP address"),
        ("10.0.0.256", "not an IP address"),
        ("10.0.0", "not an IP address"),
        ("010.0.0.1", "leading zeros"),
        ("10.0.0.1-10.0.0.09", "leading zeros"),
        ("10.0.0.5/8", "write 10.0.0.0/8 for the network, or 10.0.0.5 for the one address"),
        ("2001:db8::1/32", "write 2001:db8::/32"),
        ("10.0.0.0/255.0.0.0", "prefix length"),
        ("10.0.0.0/08", "prefix length"),
        ("10.0.0.0/-1", "not an IP address|prefix length"),
        ("10.0.0.0/", "prefix length"),
        ("10.0.0.0/33", "at most 32"),
        ("::/129", "at most 128"),
        ("10.0.0.9-10.0.0.1", "wrong way round"),
        ("10.0.0.1-", "not an IP address"),
        ("10.0.0.1-::1", "different families"),
        ("10.0.0.1-10.0.0.3-10.0.0.5", "not an IP address"),
        ("fe80::1%eth0", "network interface"),
        ("::ffff:0.0.0.0/90", "prefix|mixes"),
        ("192.168.*", "wildcards"),
        ("１０.0.0.1", "not an IP address"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        AddressRange.parse(text)


@given(st.ip_addresses(), st.ip_addresses())
def test_what_is_printed_reads_back_as_the_same_range(one: IPAddress, other: IPAddress) -> None:
    one, other = normalise(one), normalise(other)
    if one.version != other.version:
        other = one
    first, last = sorted((one, other), key=int)
    written = AddressRange(first, last)
    assert AddressRange.parse(str(written)) == written
    assert first in written
    assert last in written


@given(st.text(alphabet="0123456789abcdef.:/-%* ", max_size=40))
def test_any_text_is_a_range_or_a_reason(text: str) -> None:
    try:
        written = AddressRange.parse(text)
    except ValueError as error:
        assert str(error)
    else:
        assert int(written.first) <= int(written.last)
