"""IMAP sessions for dialogues: with strangers, and with alice after her login."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from reference_server.mailstore import Account, MailStore
from reference_server.protocols.imap import ImapSession
from reference_server.session import Policy, Security
from reference_server.settings import AccountSettings
from tests.dialogue import Conversation, Feed, play
from tests.memory_store import MemoryStore

OPEN = Policy("mail.example.test", offers_tls=True)
STRICT = Policy("mail.example.test", offers_tls=True, login_needs_tls=True)
NO_TLS = Policy("mail.example.test")
ALICE = Account("alice", "alice@example.test")
LOGIN = """
    S: * OK *
    C: l LOGIN alice ecila
    S: l OK *
"""

NewStore: TypeAlias = Callable[[], MailStore]


def stranger(script: str, policy: Policy = OPEN, security: Security | None = None) -> list[Conversation]:
    """Play with a store without a disk."""
    return play(lambda: ImapSession(policy, MemoryStore()), script, security=security)


def stores_below(folder: Path) -> NewStore:
    """Makes stores on the disk, one after the other, with an empty INBOX for alice."""
    account = AccountSettings.model_validate({"name": "alice", "address": "alice@example.test", "password": "ecila"})
    count = itertools.count()
    return lambda: MailStore(folder / f"store-{next(count)}", [account])


def logged_in(
    new_store: NewStore, script: str, inbox: Sequence[bytes] = (), feeds: Sequence[Feed] = tuple(Feed)
) -> list[MailStore]:
    """Play after a login, once for each way of feeding; the stores as they are afterwards.

    ``inbox`` is what INBOX holds at the beginning, UIDs from 1.
    """
    stores: list[MailStore] = []

    def session() -> ImapSession:
        store = new_store()
        stores.append(store)
        for message in inbox:
            store.mailbox(ALICE, "INBOX").append(message)
        return ImapSession(OPEN, store)

    # UIDVALIDITY is the time of day.
    play(session, LOGIN + script, same=False, feeds=feeds)
    return stores


class Talk:
    """One client, logged in, with INBOX open."""

    def __init__(self, store: MailStore, how: str = "SELECT INBOX") -> None:
        self.conversation = Conversation(ImapSession(OPEN, store))
        self.conversation.begin()
        self.say("LOGIN alice ecila")
        self.say(how)

    def say(self, command: str) -> list[str]:
        """Lines of the answer, without the tag."""
        return self.hear(f"t {command}\r\n".encode())

    def hear(self, octets: bytes = b"") -> list[str]:
        before = len(self.conversation.sent)
        self.conversation.feed([octets] if octets else [])
        return bytes(self.conversation.sent[before:]).decode().removesuffix("\r\n").split("\r\n")

    def woken(self) -> list[str]:
        before = len(self.conversation.sent)
        self.conversation.happen("woken")
        return bytes(self.conversation.sent[before:]).decode().removesuffix("\r\n").split("\r\n")
