"""Faults of IP restrictions: lists that are not looked at, looked at too late, or read wrongly."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import socket
from typing import Any, ClassVar

from reference_server.address_range import AddressRange, IPAddress
from reference_server.admission import Admission, Limits, Ranges, Ticket
from reference_server.faults.ledger import MAIL_AND_WEB, changed, fault, hit
from reference_server.faults.limits import with_admission
from reference_server.faults.meddling import Meddler, meddled
from reference_server.listener import Engine
from reference_server.server import Parts
from reference_server.session import Actions, Close, Peer, Refusal, Security, Send
from reference_server.settings import ServerSettings, Service

#: Whatever lets in who is denied shows wherever somebody is denied.
DENYING = "ACL PRT-10 LIM-10 IMP-06 IMP-02"


def _lists(settings: ServerSettings, key: str, ranges: Any) -> ServerSettings:
    return changed(settings, **{key: lambda table: tuple(ranges(getattr(table, key)))})


@contextmanager
def _without_lists(admission: Admission) -> Iterator[None]:
    """For a moment everybody is let in."""
    kept = admission._allow, admission._deny
    admission._allow = admission._deny = Ranges(())
    try:
        yield
    finally:
        admission._allow, admission._deny = kept


@fault(
    "ignores-the-lists",
    "the lists of allowed and denied addresses are read and never looked at",
    breaks="ACL-02 ACL-04 ACL-12",
    consequences=DENYING,
    services=MAIL_AND_WEB,
    change=lambda settings: changed(settings, allow=(), deny=()),
)
def ignores_the_lists(parts: Parts) -> Parts:
    return parts


@fault(
    "swaps-allow-and-deny",
    "whoever is allowed is denied, and the other way round",
    breaks="ACL-01 ACL-02",
    consequences=DENYING + " LIM",
    change=lambda settings: changed(settings, allow=lambda table: table.deny, deny=lambda table: table.allow),
)
def swaps_allow_and_deny(parts: Parts) -> Parts:
    return parts


class _Elsewhere(Engine):
    """Looks at the lists only where ``looks`` says so."""

    def looks(self, peer: Peer, /, *, implicit: bool) -> bool:
        raise NotImplementedError

    def let_in(self, sock: socket, peer: Peer, *, implicit: bool) -> None:
        if self.looks(peer, implicit=implicit) or not (self.admission._allow or self.admission._deny):
            super().let_in(sock, peer, implicit=implicit)
            return
        hit()
        with _without_lists(self.admission):
            super().let_in(sock, peer, implicit=implicit)


@fault(
    "no-list-on-the-implicit-port",
    "whoever is denied is served on the port of implicit TLS",
    breaks="ACL-04 IMP-06",
    consequences=DENYING,
    services=MAIL_AND_WEB,
)
def no_list_on_the_implicit_port(parts: Parts) -> Parts:
    class HalfBlind(_Elsewhere):
        def looks(self, _: Peer, /, *, implicit: bool) -> bool:
            return not implicit

    return replace(parts, engine=HalfBlind)


@fault(
    "no-list-on-the-second-port",
    "whoever is denied is served on every port but the first of a list",
    breaks="ACL-04",
    consequences=DENYING,
)
def no_list_on_the_second_port(parts: Parts) -> Parts:
    class HalfBlind(_Elsewhere):
        def looks(self, peer: Peer, /, *, implicit: bool) -> bool:
            first = next(door.port for door in self.listeners if door.implicit is implicit)
            return peer.local_port == first

    return replace(parts, engine=HalfBlind)


class _Mapped(Ranges):
    """Sees an IPv4 client of a dual-stack listener as the IPv6 address that the kernel tells."""

    def __contains__(self, address: IPAddress) -> bool:
        hit()
        return super().__contains__(IPv6Address(f"::ffff:{address}") if isinstance(address, IPv4Address) else address)


@fault(
    "mapped-clients-match-nothing",
    "no IPv4 rule matches the IPv4 clients of a dual-stack listener",
    breaks="ACL-07 PRT-10",
    consequences=DENYING + " ACL-06",
    services=MAIL_AND_WEB,
)
def mapped_clients_match_nothing(parts: Parts) -> Parts:
    class Literal(Engine):
        def let_in(self, sock: socket, peer: Peer, *, implicit: bool) -> None:
            if any(door.any_version for door in self.listeners):
                limits = self.admission.limits
                self.admission._allow, self.admission._deny = _Mapped(limits.allow), _Mapped(limits.deny)
            super().let_in(sock, peer, implicit=implicit)

    return replace(parts, engine=Literal)


class _Late(Admission):
    """Lets everybody in, and remembers who should not have been."""

    denied: ClassVar[set[IPAddress]] = set()

    def admit(self, address: IPAddress) -> Ticket | Refusal:
        answer = super().admit(address)
        if answer is not Refusal.DENIED:
            return answer
        _Late.denied.add(address)
        with _without_lists(self):
            return super().admit(address)


_NO = {
    Service.SMTP: b"550 5.7.1 this service is not open to your address\r\n",
    Service.POP3: b"-ERR this service is not open to your address\r\n",
    Service.IMAP: b"* BYE this service is not open to your address\r\n",
}


@fault(
    "looks-at-the-list-at-login",
    "a denied client is greeted and answered like any other, until it wants to sign in",
    breaks="ACL-02 ACL-10",
    consequences=DENYING + " ACL LIM-09",
    services=MAIL_AND_WEB,
)
def looks_at_the_list_at_login(parts: Parts) -> Parts:
    login = re.compile(rb"(?:\S+ )?(?:AUTH|USER|LOGIN|AUTHENTICATE)\b", re.IGNORECASE)

    class Polite(Meddler):
        denied = False

        def connected(self, peer: Peer, security: Security | None) -> Actions:
            self.denied = peer.address in _Late.denied
            if self.denied:
                hit()
            return super().connected(peer, security)

        def hears(self, data: bytes) -> bytes | Actions:
            if self.denied and login.match(data):
                return [Send(_NO[self.service]), Close()]
            return data

    return with_admission(meddled(parts, Polite), _Late)


@fault(
    "believes-proxies",
    "a line that says that a proxy speaks for an allowed address is believed, from anybody",
    breaks="ACL-09",
    consequences=DENYING + " ACL-10 ACL-11 LIM-09",
)
def believes_proxies(parts: Parts) -> Parts:
    introduction = re.compile(rb"PROXY TCP4 ([0-9.]+) \S+ \d+ \d+\r\n")

    class Credulous(Meddler):
        greeting: Actions | None = None

        def connected(self, peer: Peer, security: Security | None) -> Actions:
            greeting = super().connected(peer, security)
            if peer.address not in _Late.denied:
                return greeting
            self.greeting = greeting  # nothing is said before it is known for whom the client speaks
            return []

        def received(self, data: bytes) -> Actions:
            greeting, self.greeting = self.greeting, None
            if greeting is None:
                return super().received(data)
            found = introduction.match(data)
            if found is None or ip_address(found[1].decode()) in _Late.denied:
                return [Send(_NO[self.service]), Close()]
            hit()
            rest = data[found.end() :]
            return [*greeting, *(super().received(rest) if rest else ())]

    return with_admission(meddled(parts, Credulous), _Late)


@fault(
    "believes-xclient",
    "anybody may say by XCLIENT that he speaks for another address",
    breaks="ACL-09",
    services=("smtp",),
)
def believes_xclient(parts: Parts) -> Parts:
    class Credulous(Meddler):
        def hears(self, data: bytes) -> bytes | Actions:
            if data[:8].upper() == b"XCLIENT ":
                hit()
                return [Send(b"220 mail.example.test ESMTP ready\r\n")]
            return data

    return meddled(parts, Credulous, (Service.SMTP,))


def _narrower(ranges: Sequence[AddressRange]) -> list[AddressRange]:
    return [AddressRange(each.first + 1, each.last) if int(each.first) < int(each.last) else each for each in ranges]


@fault(
    "leaves-out-the-first",
    "the first address of a range is not in it",
    breaks="ACL-03",
    consequences="ACL-01 ACL-05 ACL-07 PRT-10",
    services=MAIL_AND_WEB,
    change=lambda settings: _lists(settings, "allow", _narrower),
)
def leaves_out_the_first(parts: Parts) -> Parts:
    return parts


def _wider(ranges: Sequence[AddressRange]) -> list[AddressRange]:
    return [
        AddressRange(ip_address(int(each.first) & ~1), ip_address(int(each.last) | 1))
        if isinstance(each.first, IPv4Address)
        else each
        for each in ranges
    ]


@fault(
    "rounds-ranges-up",
    "a range begins with the even address before its first, and ends with the odd one behind its last",
    breaks="ACL-03",
    consequences="ACL-02 ACL-05",
    change=lambda settings: _lists(settings, "allow", _wider),
)
def rounds_ranges_up(parts: Parts) -> Parts:
    return parts


@fault(
    "allow-beats-deny",
    "an address that is allowed and denied is let in",
    breaks="ACL-05 ACL-02",
    consequences=DENYING,
    services=MAIL_AND_WEB,
)
def allow_beats_deny(parts: Parts) -> Parts:
    class Generous(Admission):
        def admit(self, address: IPAddress) -> Ticket | Refusal:
            if address not in self._allow:
                return super().admit(address)
            if address in self._deny:
                hit()
            with _without_lists(self):
                return super().admit(address)

    return with_admission(parts, Generous)


@fault(
    "a-list-of-denied-denies-all",
    "where a list says who is denied, nobody is let in who is not on the other list",
    breaks="ACL-06",
    consequences=DENYING + " LIM-01 LIM-02 LIM-09 LIM-20 LIM-21",
    services=MAIL_AND_WEB,
)
def a_list_of_denied_denies_all(parts: Parts) -> Parts:
    class Severe(Admission):
        def admit(self, address: IPAddress) -> Ticket | Refusal:
            if self._deny and address not in self._allow:
                hit()
                return Refusal.DENIED
            return super().admit(address)

    return with_admission(parts, Severe)


@fault(
    "skips-ipv6-rules",
    "rules for IPv6 addresses are left out without a word",
    breaks="ACL-08",
    consequences="ACL-07",
    services=MAIL_AND_WEB,
    change=lambda settings: _lists(settings, "deny", lambda ranges: [r for r in ranges if r.first.version == 4]),
)
def skips_ipv6_rules(parts: Parts) -> Parts:
    return parts


@fault(
    "first-rule-only",
    "of a list of allowed ranges only the first counts",
    breaks="ACL-01",
    consequences="ACL IMP-06",
    services=MAIL_AND_WEB,
    change=lambda settings: _lists(settings, "allow", lambda ranges: ranges[:1]),
)
def first_rule_only(parts: Parts) -> Parts:
    return parts


@fault(
    "lists-are-fixed-at-start",
    "a list that is changed at run time is not taken on",
    breaks="ACL-12",
    consequences="ACL-13",
)
def lists_are_fixed_at_start(parts: Parts) -> Parts:
    class Stubborn(Admission):
        def change(self, limits: Limits) -> None:
            first = getattr(self, "limits", limits)
            if (first.allow, first.deny) != (limits.allow, limits.deny):
                hit()
            super().change(replace(limits, allow=first.allow, deny=first.deny))

    return with_admission(parts, Stubborn)


@fault(
    "takes-nonsense-for-everybody",
    "a range that cannot be read is taken for all addresses there are",
    breaks="ACL-13",
    services=MAIL_AND_WEB,
)
def takes_nonsense_for_everybody(parts: Parts) -> Parts:
    strict = AddressRange.parse

    def lenient(text: str) -> AddressRange:
        try:
            return strict(text)
        except ValueError:
            hit()
            return AddressRange(IPv4Address(0), IPv4Address(2**32 - 1))

    # Settings are read before anything is put together: this is the only place where a reader can be another one.
    AddressRange.parse = lenient  # type: ignore[method-assign]
    return parts


@fault(
    "denies-in-clear-on-the-implicit-port",
    "on the implicit TLS port a denied client is told so in clear",
    breaks="ACL-14",
    consequences="IMP-02",
    services=MAIL_AND_WEB,
)
def denies_in_clear_on_the_implicit_port(parts: Parts) -> Parts:
    class Loud(Engine):
        def _turn_away(self, sock: socket, why: Refusal, *, implicit: bool) -> None:
            if implicit and why is Refusal.DENIED:
                hit()
                implicit = False
            super()._turn_away(sock, why, implicit=implicit)

    return replace(parts, engine=Loud)


@fault(
    "denied-clients-cost-a-place-for-ever",
    "every third denied client takes a place that is never given back",
    breaks="ACL-11",
    consequences="LIM ACL IDL-09 IMP-05",
    services=MAIL_AND_WEB,
)
def denied_clients_cost_a_place_for_ever(parts: Parts) -> Parts:
    class Leaky(Admission):
        turned_away = 0

        def admit(self, address: IPAddress) -> Ticket | Refusal:
            answer = super().admit(address)
            if answer is Refusal.DENIED:
                self.turned_away += 1
                if self.turned_away % 3 == 0:
                    hit()
                    self._count += 1
            return answer

    return with_admission(parts, Leaky)
