"""Accounts and their mail in Maildir, shared by all services.

Owns: who may sign in, whose an address is, which mailboxes an account has, and the delivery of a message to several
accounts or to none.  Knows no protocol and no connection; what a mailbox is on the disk is
:mod:`reference_server.maildir`'s.  Every method that is not marked *instant* may block on the disk and is called from
worker threads (inside a session's ``Perform``); all are safe to call from several threads.

On the disk: one folder an account, which is its INBOX; other mailboxes are folders in it whose names begin with a dot, as
Maildir++ has them, with whatever could be misread escaped (``%2E`` for a dot).
"""

from __future__ import annotations

import hmac
import os
import shutil
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reference_server import passwords
from reference_server.durable import Placing, Publisher, replace_file, sync_folder
from reference_server.maildir import (
    Mailbox,
    MailboxError,
    MailboxExists,
    Message,
    MessageGone,
    NoSuchMailbox,
    create_folder,
    unique_name,
    with_crlf,
)
from reference_server.settings import AccountSettings

__all__ = [
    "Account",
    "DropMessage",
    "MailStore",
    "Mailbox",
    "MailboxError",
    "MailboxExists",
    "Maildrop",
    "Message",
    "MessageGone",
    "NoSuchMailbox",
]

INBOX = "INBOX"
SEPARATOR = "/"
LONGEST_NAME = 200

#: Checked when nobody has the name, so that a wrong name takes as long as a wrong password.
_NOBODY = "$scrypt$ln=15,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
_VALIDITY = "listenspec-uidvalidity"
_SUBSCRIPTIONS = "listenspec-subscriptions"
_SAFE = "!#$&'()+,;=@[]^_`{}~ -"


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who has mail here."""

    name: str
    address: str
    admin: bool = False
    discard: bool = False


@dataclass(frozen=True, slots=True)
class DropMessage:
    """A message of a maildrop: ``number`` from 1, ``size`` in octets with CRLF, ``unique_id`` for UIDL."""

    number: int
    size: int
    unique_id: str


class Maildrop:
    """INBOX as POP3 sees it: locked for one session and unchanging while it lasts (RFC 1939 section 4)."""

    def __init__(self, mailbox: Mailbox, release: Callable[[], None]) -> None:
        self._mailbox = mailbox
        self._release: Callable[[], None] | None = release
        found = mailbox.messages()
        self._uids = [message.uid for message in found]
        self.messages: tuple[DropMessage, ...] = tuple(
            DropMessage(number, message.size, f"{mailbox.uid_validity}.{message.uid}")
            for number, message in enumerate(found, 1)
        )

    def read(self, number: int) -> bytes:
        """The message with CRLF line ends, without byte-stuffing.  Raises OSError when it is gone."""
        try:
            return self._mailbox.read(self._uids[number - 1])
        except MailboxError as error:
            raise FileNotFoundError(str(error)) from None

    def remove(self, numbers: Sequence[int]) -> None:
        """The UPDATE state: remove these for good.  ``release`` is still due."""
        self._mailbox.remove([self._uids[number - 1] for number in numbers])

    def release(self) -> None:
        """Instant and idempotent: let the next session in."""
        release, self._release = self._release, None
        if release is not None:
            release()


class MailStore:
    """All accounts and their mail below one folder."""

    def __init__(self, root: Path, accounts: Iterable[AccountSettings]) -> None:
        """Makes folders for accounts that have none, with the mail that their settings begin with.

        Raises OSError.
        """
        self.root = root
        self._lock = threading.RLock()
        self._publisher = Publisher()
        self._mailboxes: dict[tuple[str, str], Mailbox] = {}
        self._claimed: set[str] = set()
        self._watchers: dict[str, dict[object, Callable[[], None]]] = {}
        self.change_accounts(accounts)

    def change_accounts(self, accounts: Iterable[AccountSettings]) -> None:
        """Other accounts from now on.  Mail of those that are no longer there stays on the disk.  Raises OSError."""
        known: dict[str, tuple[Account, AccountSettings]] = {}
        for settings in accounts:
            account = Account(settings.name, settings.address, settings.admin, settings.discard)
            known[account.name] = (account, settings)
            if not account.discard:
                self._prepare(account, settings.inbox)
        self._accounts = known
        self._by_address = {account.address.lower(): account for account, _ in known.values()}
        self._domains = {address.rpartition("@")[2] for address in self._by_address}
        self._hashes = any(settings.password_hash is not None for _, settings in known.values())

    # -- accounts ----------------------------------------------------------------------------------------------------

    def recipient(self, address: str) -> Account | None:
        """Instant: whose address this is (domain and local part compared without regard to case).

        ``postmaster``, with one of our domains or without any, is the account of that name, else the first
        administrator (RFC 5321 4.5.1).
        """
        address = address.lower()
        found = self._by_address.get(address)
        if found is None:
            local, _, domain = address.rpartition("@") if "@" in address else (address, "", "")
            if local == "postmaster" and (not domain or domain in self._domains):
                accounts = [account for account, _ in self._accounts.values()]
                named = (account for account in accounts if account.name.lower() == "postmaster")
                return next(named, next((account for account in accounts if account.admin), None))
        return found

    def authenticate(self, name: str, password: str) -> Account | None:
        """Whose name (or address) and password these are; a wrong name takes as long as a wrong password."""
        found = self._accounts.get(name)
        if found is None and (by_address := self._by_address.get(name.lower())) is not None:
            found = self._accounts[by_address.name]
        if found is None:
            if self._hashes:
                passwords.matches(password, _NOBODY)
            return None
        account, settings = found
        if settings.password_hash is not None:
            right = passwords.matches(password, settings.password_hash.get_secret_value())
        elif settings.password is not None:
            expected = settings.password.get_secret_value()
            right = hmac.compare_digest(expected.encode(), password.encode("utf-8", "surrogatepass"))
        else:
            right = False
        return account if right else None

    # -- delivery ----------------------------------------------------------------------------------------------------

    def deliver(self, recipients: Sequence[Account], message: bytes) -> None:
        """Put the message (CRLF line ends, trace headers included) into each INBOX; on return it is on the disk.

        Accounts with ``discard`` keep nothing.  Raises OSError; then nobody has got it.
        """
        mailboxes = [self._inbox(account) for account in dict.fromkeys(recipients) if not account.discard]
        if not mailboxes:
            return
        staged = mailboxes[0].stage(message)
        try:
            self._publisher.publish(
                [Placing(staged, mailbox.folder / "new" / unique_name(len(message))) for mailbox in mailboxes]
            )
        finally:
            staged.unlink(missing_ok=True)
        for mailbox in mailboxes:
            mailbox.delivered()

    def claim_maildrop(self, account: Account) -> Maildrop | None:
        """Lock INBOX for a POP3 session; None when another session has it."""
        with self._lock:
            if account.name in self._claimed:
                return None
            self._claimed.add(account.name)
        try:
            return Maildrop(self._inbox(account), lambda: self._claimed.discard(account.name))
        except BaseException:
            self._claimed.discard(account.name)
            raise

    def watch(self, account: Account, wake: Callable[[], None]) -> Callable[[], None]:
        """Instant: have ``wake`` called (from any thread) when any mailbox of the account changes; returns what
        cancels it."""
        key = object()
        with self._lock:
            self._watchers.setdefault(account.name, {})[key] = wake

        def cancel() -> None:
            with self._lock:
                self._watchers.get(account.name, {}).pop(key, None)

        return cancel

    # -- mailboxes ---------------------------------------------------------------------------------------------------

    def mailbox(self, account: Account, name: str) -> Mailbox:
        """Open by name (hierarchy separator ``/``; INBOX in any case).  Raises :class:`NoSuchMailbox`."""
        name = _usual(name)
        with self._lock:
            known = self._mailboxes.get((account.name, name))
            if known is None:
                if account.discard and name == INBOX:
                    self._prepare(account, ())
                folder = self._folder(account, name)
                if not (folder / "cur").is_dir():
                    raise NoSuchMailbox("there is no such mailbox")
                known = Mailbox(name, folder, self._publisher, lambda: self._wake(account.name))
                self._mailboxes[account.name, name] = known
            return known

    def mailboxes(self, account: Account) -> list[str]:
        """Names of all mailboxes, INBOX first."""
        home = self._home(account)
        found = [
            _name(entry.name)
            for entry in (os.scandir(home) if home.is_dir() else ())
            if entry.name.startswith(".") and (Path(entry.path) / "cur").is_dir()
        ]
        return [INBOX, *sorted(found)]

    def create(self, account: Account, name: str) -> None:
        """Raises :class:`MailboxExists`.  Parents are created (RFC 3501 6.3.3)."""
        name = _usual(name.removesuffix(SEPARATOR))
        with self._lock:
            if (self._folder(account, name) / "cur").is_dir():
                raise MailboxExists("there is a mailbox of that name")
            parts = name.split(SEPARATOR)
            for depth in range(1, len(parts) + 1):
                create_folder(self._folder(account, _usual(SEPARATOR.join(parts[:depth]))), self._validity(account))
        self._wake(account.name)

    def delete(self, account: Account, name: str) -> None:
        """With its messages, not with its children.  Raises :class:`NoSuchMailbox`, or MailboxError for INBOX."""
        name = _usual(name)
        if name == INBOX:
            raise MailboxError("INBOX cannot be deleted")
        with self._lock:
            folder = self._existing(account, name)
            # Out of sight first: half a mailbox is never seen.
            doomed = self._home(account) / f"tmp/{unique_name(0)}"
            folder.rename(doomed)
            self._mailboxes.pop((account.name, name), None)
        shutil.rmtree(doomed, ignore_errors=True)
        self._wake(account.name)

    def rename(self, account: Account, old: str, new: str) -> None:
        """With all children; renaming INBOX moves its messages and leaves it empty (RFC 3501 6.3.5)."""
        old, new = _usual(old), _usual(new)
        with self._lock:
            source = self._existing(account, old)
            if (self._folder(account, new) / "cur").is_dir():
                raise MailboxExists("there is a mailbox of the new name")
            if old == INBOX:
                self.create(account, new)
                inbox = self.mailbox(account, INBOX)
                inbox.move([message.uid for message in inbox.messages()], self.mailbox(account, new))
                return
            if new.startswith(old + SEPARATOR):
                raise MailboxError("a mailbox cannot become its own child")
            parent = new.rpartition(SEPARATOR)[0]
            if parent and not (self._folder(account, parent) / "cur").is_dir():
                self.create(account, parent)
            children = [name for name in self.mailboxes(account) if name.startswith(old + SEPARATOR)]
            source.rename(self._folder(account, new))
            for child in children:
                self._folder(account, child).rename(self._folder(account, new + child[len(old) :]))
            for name in (old, *children):
                self._mailboxes.pop((account.name, name), None)
            sync_folder(self._home(account))
        self._wake(account.name)

    def subscriptions(self, account: Account) -> list[str]:
        """Names that were subscribed to; a mailbox of that name need not exist (RFC 3501 6.3.9)."""
        file = self._home(account) / _SUBSCRIPTIONS
        return file.read_text("utf-8").splitlines() if file.exists() else []

    def subscribe(self, account: Account, name: str) -> None:
        """Of no effect when it is subscribed already."""
        self._subscriptions(account, lambda names: names | {_usual(name)})

    def unsubscribe(self, account: Account, name: str) -> None:
        """Of no effect when it is not subscribed."""
        self._subscriptions(account, lambda names: names - {_usual(name)})

    # -- below -------------------------------------------------------------------------------------------------------

    def _subscriptions(self, account: Account, change: Callable[[set[str]], set[str]]) -> None:
        with self._lock:
            names = sorted(change(set(self.subscriptions(account))))
            self._home(account).mkdir(parents=True, exist_ok=True)
            replace_file(self._home(account) / _SUBSCRIPTIONS, "".join(f"{name}\n" for name in names).encode())

    def _prepare(self, account: Account, inbox: Sequence[Path]) -> None:
        home = self._home(account)
        if (home / "cur").is_dir():
            return
        home.parent.mkdir(parents=True, exist_ok=True)
        home.mkdir(exist_ok=True)
        create_folder(home, self._validity(account))
        for file in inbox:
            self.mailbox(account, INBOX).append(with_crlf(file.read_bytes()))

    def _inbox(self, account: Account) -> Mailbox:
        return self._mailboxes.get((account.name, INBOX)) or self.mailbox(account, INBOX)

    def _home(self, account: Account) -> Path:
        # Settings see to it that a name has no slash and does not begin with a dot.
        return self.root / account.name

    def _folder(self, account: Account, name: str) -> Path:
        home = self._home(account)
        return home if name == INBOX else home / _file_name(name)

    def _existing(self, account: Account, name: str) -> Path:
        folder = self._folder(account, name)
        if not (folder / "cur").is_dir():
            raise NoSuchMailbox("there is no such mailbox")
        return folder

    def _validity(self, account: Account) -> int:
        """A UIDVALIDITY that no mailbox of the account has had (RFC 3501 2.3.1.1)."""
        file = self._home(account) / _VALIDITY
        with self._lock:
            last = int(file.read_text()) if file.exists() else 0
            validity = max(int(time.time()), last + 1)
            replace_file(file, str(validity).encode())
        return validity

    def _wake(self, name: str) -> None:
        with self._lock:
            watchers = list(self._watchers.get(name, {}).values())
        for wake in watchers:
            wake()


def _usual(name: str) -> str:
    """INBOX as it is always spelt, also as the beginning of another name.  Raises MailboxError for an unusable one."""
    first, separator, rest = name.partition(SEPARATOR)
    if first.upper() == INBOX:
        name = INBOX + separator + rest
    if not name or any(not part for part in name.split(SEPARATOR)):
        raise MailboxError("a mailbox name has no empty part")
    if len(_file_name(name).encode()) > LONGEST_NAME:
        raise MailboxError("the mailbox name is too long")
    return name


def _file_name(name: str) -> str:
    return "".join(f".{urllib.parse.quote(part, safe=_SAFE, errors='surrogatepass').replace('.', '%2E')}"
                   for part in name.split(SEPARATOR))  # fmt: skip


def _name(file_name: str) -> str:
    return SEPARATOR.join(urllib.parse.unquote(part, errors="replace") for part in file_name[1:].split("."))
