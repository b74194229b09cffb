"""One mailbox of one account: a folder with new/, cur/ and tmp/, and what IMAP wants to know of it.

Owns: the listing of the folder and its agreement with the disk, UIDs, flags, which message is recent.  Knows no
account and no protocol.  Other programs may deliver into new/ and rename in cur/ at any time; whatever they do is
seen at the next look.

A look costs two stat calls while nothing changed.  A folder's time stamp cannot be trusted to tell of changes within
the clock tick in which the folder was listed, so a listing counts as settled only when it is older than that.  Our own
changes need no listing; what another program does in the very tick of one of them is seen a second later at most.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from reference_server import durable, maildir
from reference_server.uid_list import UidList


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


@dataclass(slots=True)
class _Entry:
    """Where a message lies (``cur/NAME:2,S``, ``new/NAME``), and what is told of it."""

    base: str
    place: str
    message: Message


@dataclass(slots=True)
class _Listing:
    """What a folder held when it was listed, and whether its time stamp would tell of any change since.

    ``names`` is None after a change of our own: the entries then tell what is there.
    """

    names: list[str] | None
    stamp: int
    listed: float
    settled: bool


_TICK = 50_000_000
"""Nanoseconds within which two changes may get the same time stamp; Linux has ticks of up to 10 ms."""
_COARSE_TICK = 2_500_000_000
"""The same on file systems that keep whole seconds, or every other one."""
_ADOPTED_FOR = 1.0
"""Seconds for which our own changes are taken to be the only ones within a tick of them."""


class Mailbox:
    """One folder of one account.  Obtained from :class:`~reference_server.mailstore.MailStore`; one object may serve
    several sessions.

    Every method raises :class:`NoSuchMailbox` once the mailbox is deleted, and OSError when the disk fails.
    """

    name: str
    uid_validity: int

    def __init__(self, name: str, folder: Path, uids: UidList, changed: Callable[[], None]) -> None:
        self.name = name
        self.uid_validity = uids.uid_validity
        self.lock = threading.RLock()
        self._uids = uids
        self._changed = changed
        self._entries: dict[int, _Entry] = {}
        self._unclaimed: set[int] = set()
        self._messages: tuple[Message, ...] | None = None
        self._stale = False
        self._gone = False
        self._lies_in(folder)

    # ---- reading

    def messages(self, *, claim_recent: bool = False) -> tuple[Message, ...]:
        """All messages by ascending UID, read afresh; ``claim_recent`` makes what is new recent for this
        caller and for nobody after it (RFC 3501 2.3.2)."""
        with self.lock:
            self._look()
            if self._messages is None:
                self._messages = tuple(self._entries[uid].message for uid in sorted(self._entries))
            seen = self._messages
            if claim_recent and any(message.recent for message in seen):
                self._claim(message.uid for message in seen if message.recent)
            return seen

    def uid_next(self) -> int:
        """The UID that the next message will have, or one below it."""
        with self.lock:
            self._look()
            return self._uids.uid_next

    def read(self, uid: int) -> bytes:
        """The message with CRLF line ends.  Raises :class:`MessageGone`."""
        for path in self._paths(uid):
            with contextlib.suppress(FileNotFoundError):
                return maildir.with_crlf(_contents(path))
        raise MessageGone("the message is gone")

    # ---- changing

    def append(self, message: bytes, flags: Sequence[str] = (), received: datetime | None = None) -> int:
        """Store durably and give back the UID."""
        base = maildir.unique_name(message, None if received is None else int(received.timestamp()))
        draft = maildir.draft_for(base)
        try:
            durable.create(f"{self._folder}/{draft}", message)
        except FileNotFoundError:
            raise NoSuchMailbox("the mailbox was deleted") from None
        with durable.undone(lambda: os.unlink(f"{self._folder}/{draft}")), self.lock:
            self._look()
            wanted = _stored(flags)
            [uid] = self._take_in([(base, wanted, lambda path: os.rename(f"{self._folder}/{draft}", path))])
        self._changed()
        return uid

    def store_flags(self, uid: int, *, add: Sequence[str] = (), remove: Sequence[str] = (),
                    replace: Sequence[str] | None = None) -> Message:
        """Change flags and give back the message as it is now.  Raises :class:`MessageGone`."""
        with self.lock:
            self._look()
            message = self._change_flags(uid, _stored(add), _stored(remove),
                                         None if replace is None else _stored(replace))
        self._changed()
        return message

    def copy(self, uids: Sequence[int], destination: Mailbox) -> list[tuple[int, int]]:
        """Copy with flags and dates, all or none; pairs of old and new UID.  Raises :class:`MessageGone`."""
        with _both(self, destination):
            pairs = self._copy(uids, destination)
        destination._changed()
        return pairs

    def move(self, uids: Sequence[int], destination: Mailbox) -> list[tuple[int, int]]:
        """As :meth:`copy`, and the old ones are removed; a crash between may leave both, never neither."""
        with _both(self, destination):
            pairs = self._copy(uids, destination)
            self._remove(uids)
        self._changed()
        destination._changed()
        return pairs

    def remove(self, uids: Sequence[int]) -> None:
        """Remove for good; those already gone do not matter."""
        with self.lock:
            self._look()
            self._remove(uids)
        self._changed()

    # ---- for the store

    def delivered(self) -> None:
        """Instant: something was put into new/ within this process; time stamps need not tell of it."""
        self._stale = True

    def moved(self, name: str, folder: Path) -> None:
        """The store renamed the folder; the lock is held."""
        self.name = name
        self._lies_in(folder)

    def deleted(self) -> None:
        """The store removed the folder; the lock is held."""
        self._gone = True

    def _lies_in(self, folder: Path) -> None:
        self._folder = str(folder)
        self._uids.path = folder / "uids"
        self._listings: dict[str, _Listing] = {}

    # ---- agreement with the disk; the lock is held in everything below

    def _look(self, *, afresh: bool = False) -> None:
        if self._gone:
            raise NoSuchMailbox("the mailbox was deleted")
        if self._stale or afresh:
            self._stale = False
            self._listings.pop("new", None)
        if afresh:
            self._listings.pop("cur", None)
        # First new/, then cur/: what moves from one to the other meanwhile is seen twice and not never.
        changes = [self._list("new"), self._list("cur")]
        if not any(changes):
            return
        found = self._found()
        if any(entry.base not in found for entry in self._entries.values()):
            # A name that another program is changing may be missing from a listing: look twice.
            self._listings.clear()
            changes = [self._list("new"), self._list("cur")]
            found = self._found()
        self._take_note(found)

    def _list(self, folder: str) -> bool:
        """Bring the listing of one folder up to date; whether it may have changed."""
        known = self._listings.get(folder)
        try:
            stamp = self._stamp(folder)
            if known is not None and known.stamp == stamp and (
                known.settled or (known.names is None and time.monotonic() - known.listed < _ADOPTED_FOR)
            ):
                return False
            age = time.time_ns() - stamp
            names = os.listdir(f"{self._folder}/{folder}")
        except FileNotFoundError:
            raise NoSuchMailbox("the mailbox was deleted") from None
        tick = _TICK if stamp % 1_000_000_000 else _COARSE_TICK
        self._listings[folder] = _Listing(names, stamp, time.monotonic(), settled=age > tick)
        return known is None or known.names != names

    def _stamp(self, folder: str) -> int:
        return os.stat(f"{self._folder}/{folder}").st_mtime_ns

    def _found(self) -> dict[str, str]:
        """The place of every message, by the lasting part of its name."""
        found: dict[str, str] = {}
        for folder in ("new", "cur"):
            names = self._listings[folder].names
            if names is None:
                places = [entry.place for entry in self._entries.values() if entry.place.startswith(folder)]
            else:
                places = [f"{folder}/{name}" for name in names if not name.startswith(".")]
            for place in places:
                found[maildir.base_of(place)] = place
        return found

    def _take_note(self, found: dict[str, str]) -> None:
        known = {entry.base for entry in self._entries.values()}
        for uid, entry in list(self._entries.items()):
            place = found.get(entry.base)
            if place is None:
                self._drop(uid)
            elif place != entry.place:
                if not place.startswith("new/"):
                    self._unclaimed.discard(uid)  # another mail reader has shown it
                entry.place = place
                self._tell_anew(uid, entry)
        self._uids.forget([base for base in self._uids.messages if base not in found])
        fresh = [base for base in found if base not in known]
        self._number([base for base in fresh if base not in self._uids.messages], found)
        for base in fresh:
            numbered = self._uids.messages.get(base)
            if numbered is not None:
                self._enter(numbered.uid, base, found[base])

    def _number(self, bases: list[str], found: dict[str, str]) -> None:
        sizes: list[tuple[str, int]] = []
        for base in sorted(bases, key=maildir.arrival):
            size = maildir.declared_size(base)
            if size is None:
                try:
                    size = maildir.size_with_crlf(_contents(f"{self._folder}/{found[base]}"))
                except (FileNotFoundError, IsADirectoryError, PermissionError):
                    continue
            if "\n" not in base:
                sizes.append((base, size))
        self._uids.number(sizes)

    def _enter(self, uid: int, base: str, place: str) -> None:
        seconds = maildir.arrival(base)[0]
        if not seconds:
            with contextlib.suppress(FileNotFoundError):
                seconds = int(os.stat(f"{self._folder}/{place}").st_mtime)
        if place.startswith("new/"):
            self._unclaimed.add(uid)
        flags = maildir.flags_of(maildir.letters_in(place)) | frozenset(self._uids.keywords.get(uid, ()))
        message = Message(uid, self._uids.messages[base].size, datetime.fromtimestamp(seconds, UTC), flags,
                          uid in self._unclaimed)
        self._entries[uid] = _Entry(base, place, message)
        self._messages = None

    def _tell_anew(self, uid: int, entry: _Entry) -> None:
        flags = maildir.flags_of(maildir.letters_in(entry.place)) | frozenset(self._uids.keywords.get(uid, ()))
        entry.message = replace(entry.message, flags=flags, recent=uid in self._unclaimed)
        self._messages = None

    def _drop(self, uid: int) -> None:
        del self._entries[uid]
        self._unclaimed.discard(uid)
        self._messages = None

    def _paths(self, uid: int) -> Iterator[str]:
        """Where the message lies as far as is known, then where it lies after a look."""
        with self.lock:
            if self._gone or uid not in self._entries:
                self._look()
            known = self._entries.get(uid)
            if known is None:
                return  # a UID that is gone never comes back
            path = f"{self._folder}/{known.place}"
        yield path
        with self.lock:
            self._look(afresh=True)
            known = self._entries.get(uid)
            if known is None:
                return
            path = f"{self._folder}/{known.place}"
        yield path

    # ---- changes of ours

    @contextlib.contextmanager
    def _ours(self) -> Iterator[None]:
        """What the block changes in the folders is known to us: no need to list them again for it."""
        before = {folder: listing for folder, listing in self._listings.items()
                  if self._stamp(folder) == listing.stamp}
        yield
        for folder, listing in before.items():
            stamp = self._stamp(folder)
            if stamp != listing.stamp:
                self._listings[folder] = replace(listing, names=None, stamp=stamp, settled=False)

    def _claim(self, uids: Iterable[int]) -> None:
        with self._ours():
            for uid in uids:
                entry = self._entries[uid]
                if entry.place.startswith("new/"):
                    with contextlib.suppress(FileNotFoundError):  # moved by another program: a look will tell
                        self._put(entry, "")
                self._unclaimed.discard(uid)
                self._tell_anew(uid, entry)

    def _put(self, entry: _Entry, letters: str) -> None:
        place = maildir.place_for(entry.base, letters)
        os.rename(f"{self._folder}/{entry.place}", f"{self._folder}/{place}")
        entry.place = place

    def _change_flags(self, uid: int, add: frozenset[str], remove: frozenset[str],
                      instead: frozenset[str] | None) -> Message:
        for afresh in (False, True):
            if afresh:
                self._look(afresh=True)
            entry = self._entries.get(uid)
            if entry is None:
                raise MessageGone("the message is gone")
            flags = self._spelled((entry.message.flags if instead is None else instead), add, remove)
            before = maildir.letters_in(entry.place)
            letters = maildir.letters_for(flags, before)
            try:
                if letters != before:
                    with self._ours():
                        self._put(entry, letters)
            except FileNotFoundError:
                continue
            keywords = sorted(flag for flag in flags if flag not in maildir.FLAG_LETTERS)
            if tuple(keywords) != self._uids.keywords.get(uid, ()):
                self._uids.set_keywords([(uid, keywords)])
            self._tell_anew(uid, entry)
            return entry.message
        raise MessageGone("the message is gone")

    def _spelled(self, flags: frozenset[str], add: frozenset[str], remove: frozenset[str]) -> frozenset[str]:
        """``flags`` with ``add`` and without ``remove``; keywords are equal without regard to case."""
        gone = {flag.casefold() for flag in remove}
        kept = {flag.casefold(): flag for flag in flags if flag.casefold() not in gone}
        for flag in sorted(add):
            kept.setdefault(flag.casefold(), flag)
        return frozenset(kept.values())

    def _take_in(self, arrivals: Sequence[tuple[str, frozenset[str], Callable[[str], None]]]) -> list[int]:
        """Number messages and put each in its place by the function given with it; all or none, and durably."""
        sizes = [(base, maildir.declared_size(base) or 0) for base, _, _ in arrivals]
        # The UIDs go to the disk first: a message that appeared without one would get another at the next look.
        uids = self._uids.number(sizes)
        keywords = [(uid, sorted(flag for flag in flags if flag not in maildir.FLAG_LETTERS))
                    for uid, (_, flags, _) in zip(uids, arrivals, strict=True)]
        places = [maildir.place_for(base, maildir.letters_for(flags)) for base, flags, _ in arrivals]
        try:
            self._uids.set_keywords([(uid, words) for uid, words in keywords if words])
            with self._ours():
                for place, (_, _, put) in zip(places, arrivals, strict=True):
                    put(f"{self._folder}/{place}")
            durable.sync_folder(f"{self._folder}/cur")
        except BaseException:
            for place in places:
                with contextlib.suppress(OSError):
                    os.unlink(f"{self._folder}/{place}")
            self._uids.forget([base for base, _, _ in arrivals])
            self._listings.pop("cur", None)
            raise
        self._unclaimed.update(uids)
        for uid, place, (base, _, _) in zip(uids, places, arrivals, strict=True):
            self._enter(uid, base, place)
        return uids

    def _copy(self, uids: Sequence[int], destination: Mailbox) -> list[tuple[int, int]]:
        self._look()
        destination._look()
        wanted = sorted(set(uids))
        arrivals: list[tuple[str, frozenset[str], Callable[[str], None]]] = []
        for uid in wanted:
            entry = self._entries.get(uid)
            if entry is None:
                raise MessageGone("a message is gone")
            source = f"{self._folder}/{entry.place}"
            base = maildir.copied_name(entry.base, entry.message.size, int(entry.message.received.timestamp()))
            arrivals.append((base, entry.message.flags, partial(durable.link, source)))
        try:
            return list(zip(wanted, destination._take_in(arrivals), strict=True))
        except FileNotFoundError:
            self._look(afresh=True)
            raise MessageGone("a message is gone") from None

    def _remove(self, uids: Sequence[int]) -> None:
        gone: list[str] = []
        with self._ours():
            for uid in self._entries.keys() & set(uids):
                for path in self._paths(uid):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                        break
                entry = self._entries.get(uid)
                if entry is not None:
                    gone.append(entry.base)
                    self._drop(uid)
        if gone:
            self._uids.forget(gone)
            durable.sync_folder(f"{self._folder}/cur")
            durable.sync_folder(f"{self._folder}/new")


def _stored(flags: Sequence[str]) -> frozenset[str]:
    """The flags that can be stored, each in its one spelling."""
    named = (maildir.flag_named(flag) for flag in flags)
    stored = frozenset(flag for flag in named if flag is not None)
    for flag in stored:
        if not flag.isascii() or not flag.isprintable() or " " in flag or not flag:
            raise MailboxError("a keyword has printable US-ASCII characters only")
    return stored


def _contents(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@contextlib.contextmanager
def _both(one: Mailbox, other: Mailbox) -> Iterator[None]:
    """Both locks, always in the same order, so that two who copy crosswise do not wait for each other for ever."""
    first, second = sorted((one, other), key=id)
    with first.lock, second.lock:
        yield
