"""Accounts and their mail in Maildir, shared by all services.

Owns: who may sign in, where each account's mail lies, the durability of what was accepted, UIDs and flags.
Knows no protocol and no connection.  Every method that is not marked *instant* may block on the disk and is
called from worker threads (inside a session's ``Perform``); all are safe to call from several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who has mail here."""

    name: str
    address: str
    admin: bool = False
    discard: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a mailbox, as it was when the mailbox was looked at.

    ``size`` is in octets with CRLF line ends, as POP3 and IMAP count them; ``flags`` are IMAP flags and keywords
    (``\\Seen`` ...), without ``\\Recent``, which is ``recent``.
    """

    uid: int
    size: int
    received: datetime
    flags: frozenset[str]
    recent: bool = False


class MailboxError(Exception):
    """A mailbox operation that cannot be done; ``str()`` is fit to be shown to the client."""


class NoSuchMailbox(MailboxError):
    """The mailbox does not exist."""


class MailboxExists(MailboxError):
    """A mailbox of that name exists already."""


class MessageGone(MailboxError):
    """Another session removed the message meanwhile."""


class Mailbox:
    """One folder of one account.  Obtained from :class:`MailStore`; one object may serve several sessions."""

    name: str
    uid_validity: int

    def messages(self, *, claim_recent: bool = False) -> tuple[Message, ...]:
        """All messages by ascending UID, read afresh; ``claim_recent`` makes what is new recent for this
        caller and for nobody after it (RFC 3501 2.3.2)."""
        raise NotImplementedError

    def uid_next(self) -> int:
        raise NotImplementedError

    def read(self, uid: int) -> bytes:
        """The message with CRLF line ends.  Raises :class:`MessageGone`."""
        raise NotImplementedError

    def append(self, message: bytes, flags: Sequence[str] = (), received: datetime | None = None) -> int:
        """Store durably and give back the UID."""
        raise NotImplementedError

    def store_flags(self, uid: int, *, add: Sequence[str] = (), remove: Sequence[str] = (),
                    replace: Sequence[str] | None = None) -> Message:
        """Change flags and give back the message as it is now.  Raises :class:`MessageGone`."""
        raise NotImplementedError

    def copy(self, uids: Sequence[int], destination: Mailbox) -> list[tuple[int, int]]:
        """Copy with flags and dates, all or none; pairs of old and new UID."""
        raise NotImplementedError

    def move(self, uids: Sequence[int], destination: Mailbox) -> list[tuple[int, int]]:
        raise NotImplementedError

    def remove(self, uids: Sequence[int]) -> None:
        """Remove for good; those already gone do not matter."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class DropMessage:
    """A message of a maildrop: ``number`` from 1, ``size`` in octets with CRLF, ``unique_id`` for UIDL."""

    number: int
    size: int
    unique_id: str


class Maildrop:
    """INBOX as POP3 sees it: locked for one session and unchanging while it lasts (RFC 1939 section 4)."""

    messages: tuple[DropMessage, ...]

    def read(self, number: int) -> bytes:
        """The message with CRLF line ends, without byte-stuffing."""
        raise NotImplementedError

    def remove(self, numbers: Sequence[int]) -> None:
        """The UPDATE state: remove these for good.  ``release`` is still due."""
        raise NotImplementedError

    def release(self) -> None:
        """Instant and idempotent: let the next session in."""
        raise NotImplementedError


class MailStore:
    """All accounts and their mail below one folder."""

    def recipient(self, address: str) -> Account | None:
        """Instant: whose address this is (domain and local part compared without regard to case)."""
        raise NotImplementedError

    def authenticate(self, name: str, password: str) -> Account | None:
        """Whose name and password these are; takes the same time whether the name or the password is wrong."""
        raise NotImplementedError

    def deliver(self, recipients: Sequence[Account], message: bytes) -> None:
        """Put the message (CRLF line ends, trace headers included) into each INBOX; on return it is on the disk.

        Accounts with ``discard`` keep nothing.  Raises OSError; then nobody has got it.
        """
        raise NotImplementedError

    def claim_maildrop(self, account: Account) -> Maildrop | None:
        """Lock INBOX for a POP3 session; None when another session has it."""
        raise NotImplementedError

    def watch(self, account: Account, wake: Callable[[], None]) -> Callable[[], None]:
        """Instant: have ``wake`` called (from any thread) when any mailbox of the account changes; returns what
        cancels it."""
        raise NotImplementedError

    def mailbox(self, account: Account, name: str) -> Mailbox:
        """Open by name (hierarchy separator ``/``; INBOX in any case).  Raises :class:`NoSuchMailbox`."""
        raise NotImplementedError

    def mailboxes(self, account: Account) -> list[str]:
        """Names of all mailboxes, INBOX first."""
        raise NotImplementedError

    def create(self, account: Account, name: str) -> None:
        """Raises :class:`MailboxExists`.  Parents are created (RFC 3501 6.3.3)."""
        raise NotImplementedError

    def delete(self, account: Account, name: str) -> None:
        raise NotImplementedError

    def rename(self, account: Account, old: str, new: str) -> None:
        """With all children; renaming INBOX moves its messages and leaves it empty (RFC 3501 6.3.5)."""
        raise NotImplementedError

    def subscriptions(self, account: Account) -> list[str]:
        raise NotImplementedError

    def subscribe(self, account: Account, name: str) -> None:
        raise NotImplementedError

    def unsubscribe(self, account: Account, name: str) -> None:
        raise NotImplementedError
