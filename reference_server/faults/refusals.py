"""Faults of refusals and of changes at run time: how a surplus client is told, and what a new limit does."""

from __future__ import annotations

import time
from dataclasses import replace
from socket import socket
from typing import Any

from reference_server.address_range import IPAddress
from reference_server.admission import Admission, Limits, Ticket
from reference_server.faults.ledger import MAIL_AND_WEB, fault, hit
from reference_server.faults.limits import COUNTING, with_admission
from reference_server.listener import Engine
from reference_server.server import Parts, Speaker
from reference_server.session import Refusal
from reference_server.settings import Service


@fault(
    "flood-blocks-everybody",
    "it takes its time over every client that it refuses, and nobody else is served meanwhile",
    breaks="LIM-21",
    consequences=COUNTING + " IDL",
    services=MAIL_AND_WEB,
)
def flood_blocks_everybody(parts: Parts) -> Parts:
    class SlowEngine(Engine):
        def _turn_away(self, sock: socket, why: Refusal, *, implicit: bool) -> None:
            hit()
            time.sleep(0.05)
            super()._turn_away(sock, why, implicit=implicit)

    return replace(parts, engine=SlowEngine)


def _refusing(parts: Parts, only: Service, words: bytes) -> Parts:
    def refusal(why: Refusal) -> bytes:
        del why
        hit()
        return words

    wrong = Speaker(parts.speakers[only].session, refusal)
    return replace(parts, speakers={**parts.speakers, only: wrong})


@fault("refuses-smtp-with-554", "a surplus SMTP client hears 554 instead of 421", breaks="LIM-24", services=("smtp",))
def refuses_with_554(parts: Parts) -> Parts:
    return _refusing(parts, Service.SMTP, b"554 too many of you\r\n")


@fault("refuses-imap-with-no", "a surplus IMAP client hears an untagged NO", breaks="LIM-25", services=("imap",))
def refuses_with_no(parts: Parts) -> Parts:
    return _refusing(parts, Service.IMAP, b"* NO too many of you\r\n")


@fault("refuses-pop3-in-silence", "a surplus POP3 client hears nothing", breaks="LIM-26", services=("pop3",))
def refuses_in_silence(parts: Parts) -> Parts:
    return _refusing(parts, Service.POP3, b"")


@fault(
    "limit-is-fixed-at-start",
    "a limit that is changed at run time is not taken on",
    breaks="LIM-27",
    consequences="LIF",
    services=MAIL_AND_WEB,
)
def limit_is_fixed_at_start(parts: Parts) -> Parts:
    class StubbornAdmission(Admission):
        def __init__(self, limits: Limits) -> None:
            self.recent: list[float] = []
            super().__init__(limits)

        def change(self, limits: Limits) -> None:
            if hasattr(self, "limits"):
                if limits != self.limits:
                    hit()
                return
            super().change(limits)

    return with_admission(parts, StubbornAdmission)


def _counts_by_prefix(description: dict[str, Any]) -> dict[str, Any]:
    hit()
    for table in description["services"].values():
        table["per_ip"]["ipv6_prefix"] = 64
    return description


@fault(
    "counts-ipv6-by-prefix",
    "all IPv6 clients of one /64 count as one",
    breaks="LIM-18",
    services=MAIL_AND_WEB,
    describe=_counts_by_prefix,
)
def counts_ipv6_by_prefix(parts: Parts) -> Parts:
    return parts


@fault(
    "refuses-bursts",
    "of more than ten clients that come at the same moment the others are refused, although there is room",
    breaks="PRT-13",
    consequences="LIM IDL EXP TLS ACL IMP CLS",
    services=MAIL_AND_WEB,
)
def refuses_bursts(parts: Parts) -> Parts:
    class NervousAdmission(Admission):
        def __init__(self, limits: Limits) -> None:
            self.recent: list[float] = []
            super().__init__(limits)

        def admit(self, address: IPAddress) -> Ticket | Refusal:
            now = time.monotonic()
            self.recent = [moment for moment in self.recent if now - moment < 0.05]
            self.recent.append(now)
            if len(self.recent) > 10:
                hit()
                return Refusal.SERVICE_LIMIT
            return super().admit(address)

    return with_admission(parts, NervousAdmission)
