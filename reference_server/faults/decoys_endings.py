"""Decoys of endings: mail and locks that take their time, and other words, all of which are legal.

None of them may be taken for a fault.  ``consequences`` names what each tempts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from reference_server.faults.ledger import fault, hit
from reference_server.faults.meddling import Meddler, meddled, with_speakers
from reference_server.mailstore import Account, MailStore
from reference_server.protocols.pop3 import Pop3Session
from reference_server.server import Parts, Speaker
from reference_server.settings import Service

#: How long a message is under way (seconds).
QUEUED: Final = 0.5
#: How long a maildrop takes to be free again: well within the time in which it must be.
RELEASED: Final = 0.6


def _later(seconds: float, act: Callable[[], object]) -> None:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()


class _Queue:
    """A store into which mail comes by way of a queue."""

    def __init__(self, store: MailStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def deliver(self, recipients: Sequence[Account], message: bytes) -> None:
        hit()
        _later(QUEUED, lambda: self._store.deliver(recipients, message))


@fault(
    "delivers-through-a-queue",
    "a message is accepted at once and shows half a second later",
    consequences="CLS-03 CLS-04",
    services=("smtp",),
)
def delivers_through_a_queue(parts: Parts) -> Parts:
    def queueing(_: Service, speaker: Speaker) -> Speaker:
        return replace(speaker, session=lambda policy, store: speaker.session(policy, _Queue(store)))

    return with_speakers(parts, queueing, (Service.SMTP,))


@fault(
    "frees-maildrops-slowly",
    "a maildrop can be had again a while after its session has ended",
    consequences="CLS-01 CLS-02 CLS-09 CLS-10 CLS-11 CLS-14",
    services=("pop3",),
)
def frees_maildrops_slowly(parts: Parts) -> Parts:
    class Slow(Pop3Session):
        def _end(self) -> None:
            drop, self._drop = self._drop, None
            if drop is not None:
                hit()
                _later(RELEASED, drop.release)
            super()._end()

    def slow(_: Service, speaker: Speaker) -> Speaker:
        return replace(speaker, session=Slow)

    return with_speakers(parts, slow, (Service.POP3,))


@fault(
    "answers-in-other-words",
    "unknown SMTP commands get 502; POP3 and IMAP take leave in many words, or hardly any",
    consequences="CLS-05 CLS-09 CLS-14",
)
def answers_in_other_words(parts: Parts) -> Parts:
    words = {
        b"500 5.5.1 no such command\r\n": b"502-5.5.1 not here,\r\n502 5.5.1 nor anywhere else\r\n",
        b"221 2.0.0 mail.example.test goodbye\r\n": b"221-that was all\r\n221\r\n",
        b"+OK goodbye\r\n": b"+OK\r\n",
        b"* BYE goodbye\r\n": b"* OK one moment\r\n* bye it was a pleasure\r\n",
    }

    class Wordy(Meddler):
        def says(self, octets: bytes) -> bytes:
            for said, instead in words.items():
                if said in octets:
                    hit()
                    octets = octets.replace(said, instead)
            return octets

    return meddled(parts, Wordy)
