"""IMAP commands that change the messages of the open mailbox: flags, copies, and removing them.

Owns: STORE, COPY, MOVE, EXPUNGE, CLOSE (RFC 3501 6.4) and UNSELECT (3691), with their UID forms and UIDPLUS (4315).
Knows no state and no connection.  Each function reads its arguments and gives back the job that carries the command out
where it may block; a job that could take long does some of it at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from reference_server.mailstore import Mailbox, Message, MessageGone, NoSuchMailbox
from reference_server.protocols.imap_grammar import Change, SequenceSet, as_set
from reference_server.protocols.imap_input import Request
from reference_server.protocols.imap_selected import Answer, Client, Job, Outcome, Partly, Selected
from reference_server.protocols.imap_syntax import Cursor, store_arguments

MESSAGES_AT_ONCE: Final = 500
"""After so many messages, others have their turn."""

SOME_ARE_GONE: Final = Answer(b"NO [EXPUNGEISSUED] some of these messages are gone")
_READ_ONLY: Final = Answer(b"NO [NOPERM] the mailbox is open read-only")
_DONE: Final = Answer(b"OK done")
_NOWHERE: Final = Answer(b"NO [TRYCREATE] there is no such mailbox")


# ---- flags


def store(client: Client, request: Request, *, by_uid: bool = False) -> Job:
    which, change, silent, flags = store_arguments(Cursor(request.text))
    wish = _Wish(client.opened, partial(_change, change=change, flags=flags), silent, by_uid)
    return partial(_store, wish, which)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What one STORE is to do; ``change`` takes mailbox and UID."""

    opened: Selected
    change: Callable[[Mailbox, int], Message]
    silent: bool
    by_uid: bool


def _store(wish: _Wish, which: SequenceSet) -> Outcome:
    if wish.opened.read_only:
        return _READ_ONLY
    wish.opened.refresh(expunge=False)
    return _store_some(wish, wish.opened.chosen(which, by_uid=wish.by_uid), gone=False)


def _store_some(wish: _Wish, left: list[tuple[int, Message]], *, gone: bool) -> Outcome:
    opened = wish.opened
    changed: dict[int, Message] = {}
    for number, before in left[:MESSAGES_AT_ONCE]:
        try:
            after = wish.change(opened.mailbox, before.uid)
        except MessageGone:
            gone = True
            continue
        changed[number] = after
        opened.new_keywords(after.flags)
        if not wish.silent:
            opened.tell(opened.flags_line(number, after, with_uid=wish.by_uid))
    opened.retell(changed)
    left = left[MESSAGES_AT_ONCE:]
    if left:
        return Partly(opened.told(), partial(_store_some, wish, left, gone=gone))
    return SOME_ARE_GONE if gone else _DONE


def _change(mailbox: Mailbox, uid: int, change: Change, flags: tuple[str, ...]) -> Message:
    match change:
        case Change.REPLACE:
            return mailbox.store_flags(uid, replace=flags)
        case Change.ADD:
            return mailbox.store_flags(uid, add=flags)
        case Change.REMOVE:
            return mailbox.store_flags(uid, remove=flags)


# ---- copies


def copy(client: Client, request: Request, *, by_uid: bool = False) -> Job:
    return partial(_copy, client, *_set_and_mailbox(request), by_uid)


def _copy(client: Client, which: SequenceSet, name: str, by_uid: bool) -> Answer:
    uids, destination = _source_and_destination(client, which, name, by_uid)
    if destination is None:
        return _NOWHERE
    if not uids:
        return Answer(b"OK there was nothing to copy")
    pairs = client.opened.mailbox.copy(uids, destination)
    return Answer(b"OK [%s] copied" % _copied(destination, pairs))


def move(client: Client, request: Request, *, by_uid: bool = False) -> Job:
    return partial(_move, client, *_set_and_mailbox(request), by_uid)


def _move(client: Client, which: SequenceSet, name: str, by_uid: bool) -> Answer:
    if client.opened.read_only:
        return _READ_ONLY
    uids, destination = _source_and_destination(client, which, name, by_uid)
    if destination is None:
        return _NOWHERE
    if not uids:
        return Answer(b"OK there was nothing to move")
    pairs = client.opened.mailbox.move(uids, destination)
    # RFC 6851 4.3: the new UIDs come first, then EXPUNGE for each message, which are news as any other.
    return Answer(_DONE.condition, b"* OK [%s] moved\r\n" % _copied(destination, pairs))


def _source_and_destination(
    client: Client, which: SequenceSet, name: str, by_uid: bool
) -> tuple[list[int], Mailbox | None]:
    uids = [message.uid for _, message in client.opened.chosen(which, by_uid=by_uid)]
    try:
        return uids, client.store.mailbox(client.account, name)
    except NoSuchMailbox:
        return uids, None


def _copied(destination: Mailbox, pairs: list[tuple[int, int]]) -> bytes:
    # RFC 4315 3: both sets name the messages in the same order.
    pairs = sorted(pairs)
    old, new = (as_set(uids) for uids in zip(*pairs, strict=True))
    return b"COPYUID %d %s %s" % (destination.uid_validity, old, new)


def _set_and_mailbox(request: Request) -> tuple[SequenceSet, str]:
    cursor = Cursor(request.text)
    which = cursor.sequence_set()
    cursor.expect(b" ")
    name = cursor.mailbox()
    cursor.end()
    return which, name


# ---- removing


def expunge(client: Client, request: Request) -> Job:
    Cursor(request.text).end()
    return partial(_expunge, client.opened, None)


def uid_expunge(client: Client, request: Request) -> Job:
    cursor = Cursor(request.text)
    which = cursor.sequence_set()
    cursor.end()
    return partial(_expunge, client.opened, which)


def _expunge(opened: Selected, which: SequenceSet | None) -> Answer:
    if opened.read_only:
        return _READ_ONLY
    opened.refresh(expunge=True)
    uids = [
        message.uid
        for message in opened.messages
        if "\\Deleted" in message.flags and (which is None or which.contains(message.uid, opened.largest_uid))
    ]
    opened.mailbox.remove(uids)
    return _DONE


def close(client: Client, request: Request) -> Job:
    Cursor(request.text).end()
    return partial(_close, client)


def _close(client: Client) -> Answer:
    opened, client.selected = client.opened, None
    if not opened.read_only:
        try:
            # RFC 3501 6.4.2: without a word about which.
            opened.mailbox.remove(
                [message.uid for message in opened.mailbox.messages() if "\\Deleted" in message.flags]
            )
        except NoSuchMailbox:
            return Answer(b"OK closed; the mailbox has been deleted")
    return _DONE


def unselect(client: Client, request: Request) -> Job:
    Cursor(request.text).end()
    return partial(_unselect, client)


def _unselect(client: Client) -> Answer:
    client.selected = None  # RFC 3691: nothing is removed
    return _DONE
