"""IMAP commands about mailboxes as a whole: which there are, opening one, putting a message into one.

Owns: LIST to APPEND (RFC 3501 6.3), with UIDPLUS (4315) and CHILDREN (3348).  Knows no state and no connection.  Each
function reads its arguments and gives back the job that carries the command out where it may block.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from reference_server.mailstore import NoSuchMailbox
from reference_server.protocols import imap_names
from reference_server.protocols.imap_input import Message, Request
from reference_server.protocols.imap_selected import SYSTEM_FLAGS, Answer, Client, Job, Selected
from reference_server.protocols.imap_syntax import BadSyntax, Cursor

LONGEST_PATTERN: Final = 1000
"""Octets of reference and pattern; nothing that is longer can match a mailbox."""

_STATUS_ITEMS: Final = (b"MESSAGES", b"RECENT", b"UIDNEXT", b"UIDVALIDITY", b"UNSEEN")


# ---- opening one


def select(client: Client, request: Request) -> Job:
    return partial(_select, client, _one_mailbox(request), read_only=False)


def examine(client: Client, request: Request) -> Job:
    return partial(_select, client, _one_mailbox(request), read_only=True)


def _select(client: Client, name: str, *, read_only: bool) -> Answer:
    client.selected = None  # RFC 3501 6.3.1: also when the new one cannot be opened
    mailbox = client.store.mailbox(client.account, name)
    selected = Selected(mailbox, read_only=read_only)
    messages = selected.messages
    unseen = next((number for number, message in enumerate(messages, 1) if "\\Seen" not in message.flags), None)
    # RFC 3501 7.1: \* says that keywords can be made up.
    lasting = b"" if read_only else b"%s \\*" % " ".join(SYSTEM_FLAGS).encode("ascii")
    lines = [
        selected.flags_known(),
        b"* %d EXISTS\r\n" % len(messages),
        b"* %d RECENT\r\n" % len(selected.recent),
        b"" if unseen is None else b"* OK [UNSEEN %d] the first that nobody has seen\r\n" % unseen,
        b"* OK [PERMANENTFLAGS (%s)] these are kept\r\n" % lasting,
        b"* OK [UIDVALIDITY %d] UIDs are valid\r\n" % mailbox.uid_validity,
        b"* OK [UIDNEXT %d] the next UID\r\n" % mailbox.uid_next(),
    ]
    client.selected = selected
    access = b"READ-ONLY" if read_only else b"READ-WRITE"
    return Answer(b"OK [%s] it is open" % access, b"".join(lines))


def status(client: Client, request: Request) -> Job:
    cursor = Cursor(request.text)
    name = cursor.mailbox()
    cursor.expect(b" ")
    items = list(dict.fromkeys(cursor.parenthesised(cursor.word)))
    cursor.end()
    if any(item not in _STATUS_ITEMS for item in items):
        raise BadSyntax("STATUS tells MESSAGES, RECENT, UIDNEXT, UIDVALIDITY and UNSEEN")
    return partial(_status, client, name, items)


def _status(client: Client, name: str, items: list[bytes]) -> Answer:
    mailbox = client.store.mailbox(client.account, name)
    messages = mailbox.messages()
    values = {
        b"MESSAGES": len(messages),
        b"RECENT": sum(message.recent for message in messages),
        b"UIDNEXT": mailbox.uid_next(),
        b"UIDVALIDITY": mailbox.uid_validity,
        b"UNSEEN": sum("\\Seen" not in message.flags for message in messages),
    }
    told = b" ".join(b"%s %d" % (item, values[item]) for item in items)
    return Answer(b"OK done", b"* STATUS %s (%s)\r\n" % (_on_wire(name), told))


# ---- which there are


def list_(client: Client, request: Request) -> Job:
    reference, pattern = _looked_for(request)
    if not pattern:
        # RFC 3501 6.3.8: an empty pattern asks for the separator and the root of the reference.
        return partial(Answer, b"OK done", b'* LIST (\\Noselect) "/" ""\r\n')
    return partial(_list, client, reference + pattern)


def _list(client: Client, pattern: str) -> Answer:
    names = client.store.mailboxes(client.account)
    there = set(names)
    with_children = {parent for name in names for parent in imap_names.parents(name)}
    lines = []
    for name in (*names, *sorted(with_children - there)):
        if imap_names.matches(pattern, name):
            flags = b"\\HasChildren" if name in with_children else b"\\HasNoChildren"
            if name not in there:
                flags = b"\\Noselect " + flags  # what was deleted while it had children
            lines.append(b'* LIST (%s) "/" %s\r\n' % (flags, _on_wire(name)))
    return Answer(b"OK done", b"".join(lines))


def lsub(client: Client, request: Request) -> Job:
    reference, pattern = _looked_for(request)
    if not pattern:
        return partial(Answer, b"OK done", b'* LSUB (\\Noselect) "/" ""\r\n')
    return partial(_lsub, client, reference + pattern)


def _lsub(client: Client, pattern: str) -> Answer:
    names = client.store.subscriptions(client.account)
    lines = [b'* LSUB () "/" %s\r\n' % _on_wire(name) for name in names if imap_names.matches(pattern, name)]
    if pattern.endswith("%"):
        # RFC 3501 6.3.9: where % hides a subscribed name, the parent that it matches is told as \Noselect.
        hidden = {parent for name in names for parent in imap_names.parents(name)} - set(names)
        lines += [
            b'* LSUB (\\Noselect) "/" %s\r\n' % _on_wire(name)
            for name in sorted(hidden)
            if imap_names.matches(pattern, name)
        ]
    return Answer(b"OK done", b"".join(lines))


def namespace(_client: Client, request: Request) -> Job:
    Cursor(request.text).end()
    return partial(Answer, b"OK done", b'* NAMESPACE (("" "/")) NIL NIL\r\n')  # RFC 2342 5


# ---- changing which there are


def create(client: Client, request: Request) -> Job:
    # RFC 3501 6.3.3: a separator at the end says that there will be names below; it is not part of the name.
    name = _one_mailbox(request).removesuffix(imap_names.SEPARATOR)
    return partial(_done, partial(client.store.create, client.account, name))


def delete(client: Client, request: Request) -> Job:
    return partial(_delete, client, _one_mailbox(request))


def _delete(client: Client, name: str) -> Answer:
    opened = client.selected.mailbox if client.selected else None
    # Asked before it is gone; to delete what is open is to close it.
    ours = opened is not None and opened is client.store.mailbox(client.account, name)
    client.store.delete(client.account, name)
    if ours:
        client.selected = None
    return Answer(b"OK done")


def rename(client: Client, request: Request) -> Job:
    cursor = Cursor(request.text)
    old = cursor.mailbox()
    cursor.expect(b" ")
    new = cursor.mailbox()
    cursor.end()
    return partial(_done, partial(client.store.rename, client.account, old, new))


def subscribe(client: Client, request: Request) -> Job:
    return partial(_subscribe, client, _one_mailbox(request))


def _subscribe(client: Client, name: str) -> Answer:
    # RFC 3501 6.3.6: a server may see to it that the mailbox exists, and a client had better hear of a slip.
    client.store.mailbox(client.account, name)
    client.store.subscribe(client.account, name)
    return Answer(b"OK done")


def unsubscribe(client: Client, request: Request) -> Job:
    return partial(_done, partial(client.store.unsubscribe, client.account, _one_mailbox(request)))


def _done(change: partial[None]) -> Answer:
    change()
    return Answer(b"OK done")


# ---- a message for one


def append(client: Client, request: Request) -> Job:
    message = request.message
    if message is None:
        raise BadSyntax("APPEND takes a mailbox and a message as a literal")
    if not message.text:
        raise BadSyntax("a message has at least one octet")
    if b"\0" in message.text:  # RFC 3501 9: not in a literal, and RFC 3516, which has one for it, is not offered
        raise BadSyntax("a message has no NUL in it")
    return partial(_append, client, message)


def _append(client: Client, message: Message) -> Answer:
    arguments = message.arguments
    try:
        mailbox = client.store.mailbox(client.account, arguments.mailbox)
    except NoSuchMailbox:
        return Answer(b"NO [TRYCREATE] there is no such mailbox")
    uid = mailbox.append(message.text, arguments.flags, arguments.received)
    return Answer(b"OK [APPENDUID %d %d] kept" % (mailbox.uid_validity, uid))


# ---- small things


def _on_wire(name: str) -> bytes:
    """The name as an astring."""
    wire = imap_names.encoded(name)
    return b'"%s"' % wire.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def _one_mailbox(request: Request) -> str:
    cursor = Cursor(request.text)
    name = cursor.mailbox()
    cursor.end()
    return name


def _looked_for(request: Request) -> tuple[str, str]:
    cursor = Cursor(request.text)
    reference = cursor.mailbox()
    cursor.expect(b" ")
    pattern = cursor.pattern()
    cursor.end()
    if len(reference) + len(pattern) > LONGEST_PATTERN:
        raise BadSyntax("no mailbox has so long a name")
    return reference, pattern
