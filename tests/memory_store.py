"""A mail store that keeps everything in memory, for dialogues that are about words and not about disks."""

from __future__ import annotations

from collections.abc import Sequence

from reference_server.mailstore import Account, DropMessage, Maildrop, MailStore

ALICE = Account("alice", "alice@example.test")
BOB = Account("bob", "bob@example.test")
ROOT = Account("root", "root@example.test", admin=True)
SINK = Account("sink", "sink@example.test", discard=True)


class MemoryStore(MailStore):
    """Accounts whose password is their name spelled backwards.

    ``fault`` is raised by the next thing that would touch the disk.
    """

    def __init__(self, *accounts: Account) -> None:
        self.accounts = accounts or (ALICE, BOB, ROOT, SINK)
        self.inboxes: dict[str, list[bytes]] = {account.name: [] for account in self.accounts}
        self.claimed: set[str] = set()
        self.fault: Exception | None = None

    def recipient(self, address: str) -> Account | None:
        address = address.lower()
        if address in ("postmaster", "postmaster@example.test"):
            return next((account for account in self.accounts if account.admin), None)
        return next((account for account in self.accounts if account.address == address), None)

    def everybody(self) -> Sequence[Account]:
        return self.accounts

    def named(self, name: str) -> Account | None:
        return next((account for account in self.accounts if account.name == name.casefold()), None)

    def authenticate(self, name: str, password: str) -> Account | None:
        self._may_fail()
        for account in self.accounts:
            if account.name == name and password == name[::-1]:
                return account
        return None

    def deliver(self, recipients: Sequence[Account], message: bytes) -> None:
        self._may_fail()
        for account in recipients:
            if not account.discard:
                self.inboxes[account.name].append(message)

    def claim_maildrop(self, account: Account) -> Maildrop | None:
        self._may_fail()
        if account.name in self.claimed:
            return None
        self.claimed.add(account.name)
        return MemoryMaildrop(self, account)

    def _may_fail(self) -> None:
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault


class MemoryMaildrop(Maildrop):
    """The messages of one inbox, as they were when it was claimed."""

    def __init__(self, store: MemoryStore, account: Account) -> None:
        self._store = store
        self._account = account
        self._texts = tuple(store.inboxes[account.name])
        self.messages = tuple(
            DropMessage(number, len(text), f"id-{number}") for number, text in enumerate(self._texts, 1)
        )

    def read(self, number: int) -> bytes:
        self._store._may_fail()
        return self._texts[number - 1]

    def remove(self, numbers: Sequence[int]) -> None:
        self._store._may_fail()
        gone = [self._texts[number - 1] for number in numbers]
        inbox = self._store.inboxes[self._account.name]
        self._store.inboxes[self._account.name] = [text for text in inbox if text not in gone]

    def release(self) -> None:
        self._store.claimed.discard(self._account.name)
