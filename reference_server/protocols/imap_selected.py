"""The mailbox that a client has open, as that client sees it; and what commands are answered with.

Owns: message numbers, which messages and flags the client was told of, what it still has to be told (RFC 3501 7.4.1).
Knows no command.  Everything but :class:`Answer` and :class:`Partly` runs where it may block: a session hands its
:class:`Client` over to the job of a command, and touches it only when the job is done.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias

from reference_server.mailstore import (
    Account,
    Mailbox,
    MailboxError,
    MailboxExists,
    MailStore,
    Message,
    MessageGone,
    NoSuchMailbox,
)
from reference_server.protocols.imap_grammar import SequenceSet
from reference_server.protocols.imap_syntax import BadSyntax

SYSTEM_FLAGS: Final = ("\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft")


@dataclass(frozen=True, slots=True)
class Answer:
    """``condition`` is what the tag stands before: ``OK done``; ``untagged`` are whole lines that go before that.

    ``fatal``: the mailbox that was open is no more, and neither is the session.
    """

    condition: bytes
    untagged: bytes = b""
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class Partly:
    """Lines that can go out already, and how to go on."""

    untagged: bytes
    rest: Callable[[], Outcome]


Outcome: TypeAlias = Answer | Partly
Job: TypeAlias = Callable[[], Outcome]


class Client:
    """Somebody who has logged in, and the mailbox that is open."""

    __slots__ = ("account", "selected", "store")

    def __init__(self, store: MailStore, account: Account) -> None:
        self.store = store
        self.account = account
        self.selected: Selected | None = None

    @property
    def opened(self) -> Selected:
        """The open mailbox, for commands that come only while there is one."""
        assert self.selected is not None
        return self.selected


class Selected:
    """One mailbox, from SELECT or EXAMINE on.

    ``messages`` are those that the client knows, in the order of their numbers and with the flags that it was told.
    While nothing is withheld from it they are the very tuple that the mailbox gives to all its sessions.
    """

    __slots__ = ("_keywords", "_last", "_latest", "_untold", "mailbox", "messages", "read_only", "recent")

    def __init__(self, mailbox: Mailbox, *, read_only: bool) -> None:
        self.mailbox = mailbox
        self.read_only = read_only
        self._latest = self.messages = mailbox.messages(claim_recent=not read_only)
        self.recent = {message.uid for message in self.messages if message.recent}
        self._last = self.messages[-1].uid if self.messages else 0
        self._keywords = _keywords(self.messages)
        self._untold: list[bytes] = []

    # ---- whom the client means

    @property
    def largest_uid(self) -> int:
        """What ``*`` stands for among UIDs."""
        return self.messages[-1].uid if self.messages else 0

    def chosen(self, which: SequenceSet, *, by_uid: bool) -> list[tuple[int, Message]]:
        """Numbers and messages.  Raises :class:`BadSyntax` for a number that no message has."""
        if not by_uid:
            # RFC 3501 9: a message number beyond the last is an error, a UID that is not there is none.
            if which.largest_named > len(self.messages) and self.messages:
                raise BadSyntax("there is no message of that number")
            if which.fixed and not self.messages:
                raise BadSyntax("there are no messages")
            return [(number, self.messages[number - 1]) for number in which.numbers(len(self.messages))]
        found: list[tuple[int, Message]] = []
        if not self.messages:
            return found
        for low, high in which.resolved(self.largest_uid):
            place = bisect_left(self.messages, low, key=lambda message: message.uid)
            while place < len(self.messages) and self.messages[place].uid <= high:
                found.append((place + 1, self.messages[place]))
                place += 1
        return found

    def number_of(self, uid: int) -> int | None:
        """The number of a message, if the client knows it."""
        place = bisect_left(self.messages, uid, key=lambda message: message.uid)
        if place < len(self.messages) and self.messages[place].uid == uid:
            return place + 1
        return None

    def as_seen(self, message: Message) -> Message:
        """The message with ``recent`` as it is for this client."""
        recent = message.uid in self.recent
        return message if message.recent == recent else replace(message, recent=recent)

    # ---- what the client is told

    def tell(self, *lines: bytes) -> None:
        """Lines for the client, which are not lost whatever becomes of the command: numbers depend on them."""
        self._untold += lines

    def told(self) -> bytes:
        """All that there is to tell; whoever asks sees to it that it is sent."""
        lines = b"".join(self._untold)
        self._untold.clear()
        return lines

    def refresh(self, *, expunge: bool) -> None:
        """Tell what has changed since the client was last told; that messages are gone only where ``expunge`` says so.

        Raises :class:`~reference_server.mailstore.NoSuchMailbox`, and OSError.
        """
        now = self.mailbox.messages(claim_recent=not self.read_only)
        if now is self._latest and (self.messages is now or not expunge):
            return
        current = {message.uid: message for message in now}
        known = list(self.messages)
        lines: list[bytes] = []
        if expunge:
            # The last one first, so that no number changes before it is told.
            for place in range(len(known) - 1, -1, -1):
                if known[place].uid not in current:
                    self.recent.discard(known.pop(place).uid)
                    lines.append(b"* %d EXPUNGE\r\n" % (place + 1))
        for place, before in enumerate(known):
            after = current.get(before.uid, before)
            if after.flags != before.flags:
                lines.append(self.flags_line(place + 1, after))
            known[place] = after
        # A UID below one that the client knows would need a number in the middle, which nothing can give it.
        fresh = [message for message in now if message.uid > self._last]
        if fresh:
            known += fresh
            self._last = fresh[-1].uid
            self.recent.update(message.uid for message in fresh if message.recent)
            lines += [b"* %d EXISTS\r\n" % len(known), b"* %d RECENT\r\n" % len(self.recent)]
        self._latest = now
        self.messages = now if _same(known, now) else tuple(known)
        self.new_keywords(_keywords(now))
        self.tell(*lines)

    def retell(self, changed: Mapping[int, Message]) -> None:
        """The client knows of these, by number."""
        messages = list(self.messages)
        for number, message in changed.items():
            messages[number - 1] = message
        self.messages = tuple(messages)

    def flags_line(self, number: int, message: Message, *, with_uid: bool = False) -> bytes:
        """``* 3 FETCH (FLAGS (\\Seen))``."""
        uid = b"UID %d " % message.uid if with_uid else b""
        return b"* %d FETCH (%sFLAGS %s)\r\n" % (number, uid, self.flags_of(message))

    def flags_of(self, message: Message) -> bytes:
        """The flags as a list on the wire."""
        flags = sorted(message.flags)
        if message.uid in self.recent:
            flags.append("\\Recent")
        return b"(%s)" % " ".join(flags).encode("ascii", "replace")

    def flags_known(self) -> bytes:
        """``* FLAGS (...)``: the flags and keywords that messages here can have or have."""
        return b"* FLAGS (%s)\r\n" % " ".join((*SYSTEM_FLAGS, *sorted(self._keywords))).encode("ascii", "replace")

    def new_keywords(self, flags: Iterable[str]) -> None:
        """RFC 3501 7.2.6: a keyword is announced before a message has it."""
        new = {flag for flag in flags if not flag.startswith("\\")} - self._keywords
        if new:
            self._keywords |= new
            self.tell(self.flags_known())


def _keywords(messages: Iterable[Message]) -> set[str]:
    flags: set[str] = set().union(*{message.flags for message in messages})
    return {flag for flag in flags if not flag.startswith("\\")}


def _same(known: list[Message], now: tuple[Message, ...]) -> bool:
    return len(known) == len(now) and all(one is other for one, other in zip(known, now, strict=True))


# ---- carrying out


def carried_out(client: Client, job: Job, expunge: bool) -> Outcome:
    """The job of a command, then what else has changed in the mailbox that is open."""
    outcome: Outcome
    try:
        outcome = job()
    except BadSyntax as fault:
        outcome = Answer(b"BAD %s" % _words(fault))
    except NoSuchMailbox as error:
        outcome = Answer(b"NO [NONEXISTENT] %s" % _words(error))
    except MailboxExists as error:
        outcome = Answer(b"NO [ALREADYEXISTS] %s" % _words(error))
    except MessageGone as error:
        outcome = Answer(b"NO [EXPUNGEISSUED] %s" % _words(error))
    except MailboxError as error:
        outcome = Answer(b"NO [CANNOT] %s" % _words(error))
    if isinstance(outcome, Partly):
        return Partly(outcome.untagged, partial(carried_out, client, outcome.rest, expunge))
    if client.selected is None:
        return outcome
    try:
        client.selected.refresh(expunge=expunge)
    except NoSuchMailbox:
        return Answer(outcome.condition, outcome.untagged + client.selected.told(), fatal=True)
    return Answer(outcome.condition, outcome.untagged + client.selected.told())


def _words(error: Exception) -> bytes:
    return str(error).encode("ascii", "replace")
