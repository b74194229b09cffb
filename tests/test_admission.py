"""Who may come in: ranges, shares and the limit, exact in every order of coming and going."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reference_server.address_range import AddressRange, IPAddress
from reference_server.admission import Admission, Limits, Ranges, Ticket
from reference_server.session import Refusal

HERE = ip_address("127.0.0.1")
THERE = ip_address("127.0.0.2")


def ranges(*texts: str) -> tuple[AddressRange, ...]:
    return tuple(AddressRange.parse(text) for text in texts)


def test_as_many_as_configured_come_in_and_not_one_more() -> None:
    admission = Admission(Limits(connections=2))
    tickets = [admission.admit(HERE) for _ in range(3)]
    assert [isinstance(ticket, Ticket) for ticket in tickets] == [True, True, False]
    assert tickets[2] is Refusal.SERVICE_LIMIT
    assert admission.count == 2


def test_a_place_is_free_at_once_and_given_back_once() -> None:
    admission = Admission(Limits(connections=1))
    ticket = admission.admit(HERE)
    assert isinstance(ticket, Ticket)
    for _ in range(3):
        ticket.give_back()
    assert admission.count == 0
    assert isinstance(admission.admit(HERE), Ticket)
    assert admission.admit(HERE) is Refusal.SERVICE_LIMIT


def test_one_address_gets_its_share_and_leaves_the_others_theirs() -> None:
    admission = Admission(Limits(per_address=1))
    assert isinstance(admission.admit(HERE), Ticket)
    assert admission.admit(HERE) is Refusal.ADDRESS_LIMIT
    assert isinstance(admission.admit(THERE), Ticket)


def test_an_address_and_its_mapped_form_are_one_client() -> None:
    admission = Admission(Limits(per_address=1, deny=ranges("192.0.2.0/24")))
    assert isinstance(admission.admit(IPv4Address("198.51.100.1")), Ticket)
    assert admission.admit(IPv6Address("::ffff:198.51.100.1")) is Refusal.ADDRESS_LIMIT
    assert admission.admit(IPv6Address("::ffff:192.0.2.7")) is Refusal.DENIED


def test_deny_beats_allow_and_an_empty_allow_list_allows_everyone() -> None:
    admission = Admission(Limits(allow=ranges("10.0.0.0/8"), deny=ranges("10.1.0.0/16")))
    assert isinstance(admission.admit(ip_address("10.2.0.1")), Ticket)
    assert admission.admit(ip_address("10.1.0.1")) is Refusal.DENIED
    assert admission.admit(ip_address("192.0.2.1")) is Refusal.DENIED
    assert admission.admit(ip_address("2001:db8::1")) is Refusal.DENIED
    assert isinstance(Admission(Limits()).admit(ip_address("192.0.2.1")), Ticket)


def test_a_denied_client_takes_nothing_even_when_there_is_no_room() -> None:
    admission = Admission(Limits(connections=1, deny=ranges("127.0.0.2")))
    assert isinstance(admission.admit(HERE), Ticket)
    assert admission.admit(THERE) is Refusal.DENIED
    assert admission.count == 1


def test_other_limits_apply_at_once_and_those_inside_stay_counted() -> None:
    admission = Admission(Limits(connections=3))
    tickets = [admission.admit(HERE) for _ in range(3)]
    admission.change(Limits(connections=1))
    assert admission.admit(HERE) is Refusal.SERVICE_LIMIT
    for ticket in tickets[:2]:
        assert isinstance(ticket, Ticket)
        ticket.give_back()
    assert admission.admit(HERE) is Refusal.SERVICE_LIMIT
    admission.change(Limits(connections=2))
    assert isinstance(admission.admit(HERE), Ticket)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("10.0.0.0/8", "10.0.0.0", "10.255.255.255"),
        ("192.168.7.0/24", "192.168.7.0", "192.168.7.255"),
        ("192.168.7.128/25", "192.168.7.128", "192.168.7.255"),
        ("192.168.7.4/31", "192.168.7.4", "192.168.7.5"),
        ("192.168.7.4/32", "192.168.7.4", "192.168.7.4"),
        ("172.16.0.1-172.16.0.99", "172.16.0.1", "172.16.0.99"),
        ("2001:db8::/32", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
    ],
)
def test_both_ends_are_in_and_their_neighbours_are_not(text: str, first: str, last: str) -> None:
    found = Ranges(ranges(text))
    assert ip_address(first) in found
    assert ip_address(last) in found
    assert ip_address(first) - 1 not in found
    assert ip_address(last) + 1 not in found


addresses = st.integers(0, 40).map(lambda number: IPv4Address("10.0.0.0") + number)
spans = st.tuples(addresses, addresses).map(lambda pair: AddressRange(min(pair), max(pair)))


@given(st.lists(spans, max_size=12), addresses)
def test_an_address_is_in_when_it_is_in_one_of_them(spans: list[AddressRange], address: IPAddress) -> None:
    assert (address in Ranges(spans)) == any(address in span for span in spans)


class Doorkeeping(RuleBasedStateMachine):
    """Clients come and go in any order; a plain count says who must be let in."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits(connections=4, per_address=2, deny=ranges("10.0.0.3"))
        self.admission = Admission(self.limits)
        self.inside: list[tuple[int, Ticket]] = []
        self.gone: list[Ticket] = []

    @rule(host=st.integers(1, 4), mapped=st.booleans())
    def come(self, host: int, mapped: bool) -> None:
        address = ip_address(f"::ffff:10.0.0.{host}" if mapped else f"10.0.0.{host}")
        share = sum(other == host for other, _ in self.inside)
        answer = self.admission.admit(address)
        if host == 3:
            assert answer is Refusal.DENIED
        elif share >= self.limits.per_address > 0:
            assert answer is Refusal.ADDRESS_LIMIT
        elif len(self.inside) >= self.limits.connections > 0:
            assert answer is Refusal.SERVICE_LIMIT
        else:
            assert isinstance(answer, Ticket)
            self.inside.append((host, answer))

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        _, ticket = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        ticket.give_back()
        self.gone.append(ticket)

    @precondition(lambda self: self.gone)
    @rule()
    def leave_again(self) -> None:
        self.gone[-1].give_back()

    @rule(connections=st.integers(0, 5), per_address=st.integers(0, 3))
    def change(self, connections: int, per_address: int) -> None:
        self.limits = Limits(connections, per_address, deny=self.limits.deny)
        self.admission.change(self.limits)

    @invariant()
    def everybody_inside_is_counted(self) -> None:
        assert self.admission.count == len(self.inside)


TestDoorkeeping = Doorkeeping.TestCase
