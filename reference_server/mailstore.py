"""Accounts and their mail in Maildir, shared by all services.

Owns: where each account's mail lies, the durability of what was accepted, the tree of mailboxes, who has a maildrop
locked, who wants to hear of changes.  A mailbox itself is :mod:`~reference_server.mailbox`, who may sign in
:mod:`~reference_server.accounts`.  Knows no protocol and no connection.  Every method that is not marked *instant*
may block on the disk and is called from worker threads (inside a session's ``Perform``); all are safe to call from
several threads.  One process at a time has a store: two would give the same UID twice.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reference_server import durable, maildir
from reference_server.accounts import Account, Accounts
from reference_server.mailbox import (
    Mailbox,
    MailboxError,
    MailboxExists,
    Message,
    MessageGone,
    NoSuchMailbox,
)
from reference_server.settings_model import AccountSettings
from reference_server.uid_list import UidList

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

_log = logging.getLogger(__name__)
_ABANDONED_AFTER = 36 * 3600
"""Seconds after which a file in tmp/ is nobody's any more, by the custom of Maildir."""
_KEPT_OPEN = 64
"""Accounts whose new/ stays open: a file each, of those that a process may have."""


@dataclass(frozen=True, slots=True)
class DropMessage:
    """A message of a maildrop: ``number`` from 1, ``size`` in octets with CRLF, ``unique_id`` for UIDL."""

    number: int
    size: int
    unique_id: str


class Maildrop:
    """INBOX as POP3 sees it: locked for one session and unchanging while it lasts (RFC 1939 section 4)."""

    messages: tuple[DropMessage, ...]

    def __init__(self, inbox: Mailbox, release: Callable[[], None]) -> None:
        self._inbox = inbox
        self._release = release
        found = inbox.messages()
        self._uids = [message.uid for message in found]
        # RFC 1939 section 7: a unique-id is never given to another message, which UIDVALIDITY and UID together keep.
        self.messages = tuple(
            DropMessage(number, message.size, f"{inbox.uid_validity}.{message.uid}")
            for number, message in enumerate(found, 1)
        )

    def read(self, number: int) -> bytes:
        """The message with CRLF line ends, without byte-stuffing.  Raises :class:`MessageGone`."""
        return self._inbox.read(self._uids[number - 1])

    def remove(self, numbers: Sequence[int]) -> None:
        """The UPDATE state: remove these for good.  ``release`` is still due."""
        self._inbox.remove([self._uids[number - 1] for number in numbers])

    def release(self) -> None:
        """Instant and idempotent: let the next session in."""
        self._release()


class _Room:
    """One account's folder, with the mailboxes of it that were opened so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self.opened: dict[str, Mailbox] = {}
        self.maildrop: object | None = None
        self._watching = threading.Lock()
        self._watchers: dict[object, Callable[[], None]] = {}

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        ticket = object()
        with self._watching:
            self._watchers[ticket] = wake

        def cancel() -> None:
            with self._watching:
                self._watchers.pop(ticket, None)

        return cancel

    def changed(self) -> None:
        with self._watching:
            waiting = tuple(self._watchers.values())
        for wake in waiting:
            try:
                wake()
            except Exception:
                # Whoever listens badly must not make a delivery fail that is on the disk.
                _log.exception("a session could not be told of new mail")

    def folder_of(self, name: str) -> Path:
        return self.folder if name == "INBOX" else self.folder / maildir.folder_of(name)


class MailStore:
    """All accounts and their mail below one folder."""

    def __init__(self, root: Path, accounts: Sequence[AccountSettings]) -> None:
        """Folders that are missing are made, ``inbox`` messages are delivered, once.  Raises OSError."""
        self._root = root.absolute()
        self._lock = threading.Lock()
        self._rooms: dict[str, _Room] = {}
        self._trash = itertools.count(1)
        self._open_folders = durable.OpenFolders(_KEPT_OPEN)
        self.configure(accounts)

    def configure(self, accounts: Sequence[AccountSettings]) -> None:
        """Let these be the accounts from now on; sessions and mail of those who were left out stay untouched.

        Raises OSError; then everything is as before, but for empty folders.
        """
        fresh = Accounts(accounts)
        rooms = self._furnished(fresh.all)
        for settings in accounts:
            self._seed(rooms[settings.name], settings.inbox)
        with self._lock:
            self._rooms = self._rooms | rooms
            self._accounts = fresh

    # ---- accounts

    def everybody(self) -> Sequence[Account]:
        """Instant: all who have an account."""
        return self._accounts.all

    def named(self, name: str) -> Account | None:
        """Instant: who has that name, without regard to case."""
        return self._accounts.named(name)

    def recipient(self, address: str) -> Account | None:
        """Instant: whose address this is (domain and local part compared without regard to case)."""
        return self._accounts.recipient(address)

    def authenticate(self, name: str, password: str) -> Account | None:
        """Whose name and password these are; takes the same time whether the name or the password is wrong."""
        return self._accounts.authenticate(name, password)

    # ---- mail

    def deliver(self, recipients: Sequence[Account], message: bytes) -> None:
        """Put the message (CRLF line ends, trace headers included) into each INBOX; on return it is on the disk.

        Accounts with ``discard`` keep nothing.  Raises OSError; then nobody has got it.
        """
        rooms = list({account.name: self._room(account) for account in recipients if not account.discard}.values())
        if not rooms:
            return
        base = maildir.unique_name(message)
        drafts = [f"{room.folder}/{maildir.draft_for(base)}" for room in rooms]
        places = [f"{room.folder}/new/{base}" for room in rooms]
        try:
            durable.create(drafts[0], message)
            # What can go wrong goes wrong before anybody has the message: the same file in every tmp/ first.
            for draft in drafts[1:]:
                durable.link(drafts[0], draft)
            with contextlib.ExitStack() as stack:
                folders = [stack.enter_context(self._open_folders.opened(f"{room.folder}/new")) for room in rooms]
                for draft, folder in zip(drafts, folders, strict=True):
                    os.rename(draft, base, dst_dir_fd=folder)
                for folder in folders:
                    os.fsync(folder)
        except BaseException:
            for path in (*drafts, *places):
                with contextlib.suppress(OSError):
                    os.unlink(path)
            raise
        for room in rooms:
            inbox = room.opened.get("INBOX")
            if inbox is not None:
                inbox.delivered()
            room.changed()

    def claim_maildrop(self, account: Account) -> Maildrop | None:
        """Lock INBOX for a POP3 session; None when another session has it."""
        room = self._room(account)
        claim = object()
        with self._lock:
            if room.maildrop is not None:
                return None
            room.maildrop = claim

        def release() -> None:
            with self._lock:
                if room.maildrop is claim:
                    room.maildrop = None

        try:
            return Maildrop(self.mailbox(account, "INBOX"), release)
        except BaseException:
            release()
            raise

    def watch(self, account: Account, wake: Callable[[], None]) -> Callable[[], None]:
        """Instant: have ``wake`` called (from any thread) when any mailbox of the account changes; returns what
        cancels it."""
        return self._room(account).watch(wake)

    # ---- the tree of mailboxes

    def mailbox(self, account: Account, name: str) -> Mailbox:
        """Open by name (hierarchy separator ``/``; INBOX in any case).  Raises :class:`NoSuchMailbox`."""
        room = self._room(account)
        try:
            name = maildir.mailbox_named(name)
        except maildir.BadName as problem:
            raise NoSuchMailbox(str(problem)) from None
        with room.lock:
            known = room.opened.get(name)
            folder = room.folder_of(name)
            if not (folder / "cur").is_dir():
                raise NoSuchMailbox("there is no such mailbox")
            if known is None:
                uids = UidList.opened(folder / "uids", lambda: self._new_uid_validity(room))
                known = room.opened[name] = Mailbox(name, folder, uids, room.changed)
            return known

    def mailboxes(self, account: Account) -> list[str]:
        """Names of all mailboxes, INBOX first."""
        room = self._room(account)
        found = (maildir.mailbox_in(entry.name) for entry in os.scandir(room.folder) if entry.is_dir())
        return ["INBOX", *sorted(name for name in found if name is not None)]

    def create(self, account: Account, name: str) -> None:
        """Raises :class:`MailboxExists`.  Parents are created (RFC 3501 6.3.3)."""
        room = self._room(account)
        # RFC 3501 6.3.3: a separator at the end says that the client means to create names below it.
        name = _well_named(name.removesuffix("/"))
        with room.lock:
            if _exists(room, name):
                raise MailboxExists("there is a mailbox of that name")
            self._create(room, name)
        room.changed()

    def delete(self, account: Account, name: str) -> None:
        """Remove the mailbox with all its mail; those below it stay (RFC 3501 6.3.4).

        Raises :class:`NoSuchMailbox`, and :class:`MailboxError` for INBOX.
        """
        room = self._room(account)
        name = _well_named(name)
        if name == "INBOX":
            raise MailboxError("INBOX cannot be deleted")
        with room.lock:
            if not _exists(room, name):
                raise NoSuchMailbox("there is no such mailbox")
            # In one step, so that a crash leaves no half of it.
            doomed = room.folder / f"deleted.{os.getpid()}.{next(self._trash)}"
            mailbox = room.opened.pop(name, None)
            with mailbox.lock if mailbox is not None else contextlib.nullcontext():
                os.rename(room.folder_of(name), doomed)
                if mailbox is not None:
                    mailbox.deleted()
            durable.sync_folder(room.folder)
        shutil.rmtree(doomed, ignore_errors=True)
        room.changed()

    def rename(self, account: Account, old: str, new: str) -> None:
        """With all children; renaming INBOX moves its messages and leaves it empty (RFC 3501 6.3.5).

        Raises :class:`NoSuchMailbox` or :class:`MailboxExists`.
        """
        room = self._room(account)
        old, new = _well_named(old), _well_named(new.removesuffix("/"))
        with room.lock:
            if old == "INBOX":
                if _exists(room, new):
                    raise MailboxExists("there is a mailbox of that name")
                self._create(room, new)
                inbox = self.mailbox(account, old)
                inbox.move([message.uid for message in inbox.messages()], self.mailbox(account, new))
                return
            moves = [(name, new + name[len(old) :]) for name in self.mailboxes(account)
                     if name == old or name.startswith(f"{old}/")]
            if not moves:
                raise NoSuchMailbox("there is no such mailbox")
            for _, target in moves:
                _well_named(target)
            leaving = {name for name, _ in moves}
            if _exists(room, new) or any(_exists(room, target) for _, target in moves if target not in leaving):
                raise MailboxExists("there is a mailbox of that name")
            # One that takes the place of another waits until that one has left.
            for name, target in sorted(moves, key=lambda move: len(move[0]), reverse=len(new) > len(old)):
                self._move(room, name, target)
            self._create_parents(room, new)
            durable.sync_folder(room.folder)
        room.changed()

    def subscriptions(self, account: Account) -> list[str]:
        """Names, whether or not there are such mailboxes (RFC 3501 6.3.6)."""
        room = self._room(account)
        with room.lock:
            return _subscribed(room)

    def subscribe(self, account: Account, name: str) -> None:
        """Raises :class:`MailboxError` when no mailbox can have that name."""
        room = self._room(account)
        with room.lock:
            _subscribe(room, {*_subscribed(room), _well_named(name)})

    def unsubscribe(self, account: Account, name: str) -> None:
        """Not to be subscribed already does not matter."""
        room = self._room(account)
        with room.lock:
            _subscribe(room, {*_subscribed(room)} - {_well_named(name)})

    # ---- on the disk

    def _room(self, account: Account) -> _Room:
        try:
            return self._rooms[account.name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "there is no such account any more", account.name) from None

    def _furnished(self, accounts: Iterable[Account]) -> dict[str, _Room]:
        """By name, the rooms of all, made where they are missing."""
        rooms = {account.name: self._rooms.get(account.name) for account in accounts}
        fresh = {name: _Room(self._root / maildir.account_folder(name)) for name, room in rooms.items() if room is None}
        durable.make_folders(room.folder / part for room in fresh.values() for part in ("tmp", "cur", "new"))
        for room in fresh.values():
            _sweep(room)
        return {name: room or fresh[name] for name, room in rooms.items()}

    def _seed(self, room: _Room, messages: Sequence[Path]) -> None:
        done = room.folder / "seeded"
        if not messages or done.exists():
            return
        seconds = int(max(path.stat().st_mtime for path in messages))
        there = {maildir.base_of(f"{part}/{name}")
                 for part in ("new", "cur") for name in os.listdir(room.folder / part)}
        for position, path in enumerate(messages):
            message = path.read_bytes()
            base = maildir.seeded_name(message, seconds, position)
            if base not in there:
                draft = room.folder / maildir.draft_for(base)
                durable.create(draft, message)
                os.rename(draft, room.folder / "new" / base)
        durable.sync_folder(room.folder / "new")
        durable.replace(done, b"")

    def _create(self, room: _Room, name: str) -> None:
        """The lock is held, and there is no such mailbox."""
        self._create_parents(room, name)
        folder = room.folder_of(name)
        # Ready first, and then there in one step.
        draft = room.folder / f"creating.{os.getpid()}.{next(self._trash)}"
        try:
            for part in ("tmp", "cur", "new"):
                durable.make_folder(draft / part)
            durable.create(draft / "maildirfolder", b"")  # tells Maildir++ programs that this is no account
            UidList.opened(draft / "uids", lambda: self._new_uid_validity(room))
            os.rename(draft, folder)
        except OSError as problem:
            shutil.rmtree(draft, ignore_errors=True)
            if problem.errno == errno.ENAMETOOLONG:
                raise MailboxError("that mailbox name is too long") from None
            raise
        durable.sync_folder(room.folder)

    def _create_parents(self, room: _Room, name: str) -> None:
        parent = name.rpartition("/")[0]
        if parent and not _exists(room, parent):
            self._create(room, parent)

    def _move(self, room: _Room, name: str, target: str) -> None:
        folder = room.folder_of(target)
        mailbox = room.opened.pop(name, None)
        with mailbox.lock if mailbox is not None else contextlib.nullcontext():
            os.rename(room.folder_of(name), folder)
            if mailbox is not None:
                mailbox.moved(target, folder)
                room.opened[target] = mailbox

    def _new_uid_validity(self, room: _Room) -> int:
        # RFC 3501 2.3.1.1: greater than any before it, also for a mailbox that takes the name of a deleted one.
        path = room.folder / "uidvalidity"
        with room.lock:
            last = int(path.read_bytes()) if path.exists() else 0
            fresh = max(last + 1, int(time.time()))
            durable.replace(path, b"%d\n" % fresh)
            return fresh


def _well_named(name: str) -> str:
    try:
        return maildir.mailbox_named(name)
    except maildir.BadName as problem:
        raise MailboxError(str(problem)) from None


def _exists(room: _Room, name: str) -> bool:
    return room.folder_of(name).is_dir()


def _subscribed(room: _Room) -> list[str]:
    path = room.folder / "subscriptions"
    return path.read_text("utf-8").split("\n")[:-1] if path.exists() else []


def _subscribe(room: _Room, names: set[str]) -> None:
    durable.replace(room.folder / "subscriptions", "".join(f"{name}\n" for name in sorted(names)).encode())


def _sweep(room: _Room) -> None:
    """Throw away what a dead process has left: messages half written, mailboxes half made or half deleted."""
    long_ago = time.time() - _ABANDONED_AFTER
    for folder in _folders(room):
        for entry in os.scandir(folder / "tmp"):
            if entry.name.startswith(maildir.INCOMPLETE) or entry.stat(follow_symlinks=False).st_mtime < long_ago:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
    for entry in os.scandir(room.folder):
        if entry.name.startswith(("creating.", "deleted.")):
            shutil.rmtree(entry.path, ignore_errors=True)


def _folders(room: _Room) -> Iterator[Path]:
    yield room.folder
    for entry in os.scandir(room.folder):
        if maildir.mailbox_in(entry.name) is not None and Path(entry.path, "tmp").is_dir():
            yield Path(entry.path)
