"""SEARCH (RFC 3501 6.4.4): which messages of the open mailbox a client is looking for.

Owns: the form of the response.  Knows no state and no connection; what matches is
:mod:`~reference_server.protocols.imap_search`'s.  A search of many messages is done some at a time.
"""

from __future__ import annotations

from functools import partial

from reference_server.mailstore import Mailbox, MessageGone
from reference_server.protocols.imap_commands_messages import MESSAGES_AT_ONCE
from reference_server.protocols.imap_grammar import SearchKey
from reference_server.protocols.imap_input import Request
from reference_server.protocols.imap_search import Candidate, matches
from reference_server.protocols.imap_selected import Answer, Client, Job, Outcome, Partly, Selected
from reference_server.protocols.imap_syntax import Cursor
from reference_server.protocols.imap_syntax_messages import UnknownCharset, search_key


def search(client: Client, request: Request, *, by_uid: bool = False) -> Job:
    try:
        key = search_key(Cursor(request.text))
    except UnknownCharset as unknown:
        return partial(Answer, b"NO [BADCHARSET (US-ASCII UTF-8)] %s" % str(unknown).encode("ascii"))
    return partial(_search_some, client.opened, key, by_uid, 0, ())


def _search_some(opened: Selected, key: SearchKey, by_uid: bool, first: int, found: tuple[int, ...]) -> Outcome:
    if not first:
        opened.refresh(expunge=False)
    messages = opened.messages[first : first + MESSAGES_AT_ONCE]
    largest, largest_uid = len(opened.messages), opened.largest_uid
    hits = [
        message.uid if by_uid else number
        for number, message in enumerate(messages, first + 1)
        if matches(
            key,
            Candidate(
                number, opened.as_seen(message), largest, largest_uid, partial(_text, opened.mailbox, message.uid)
            ),
        )
    ]
    found = (*found, *hits)
    if first + len(messages) < largest:
        return Partly(opened.told(), partial(_search_some, opened, key, by_uid, first + len(messages), found))
    opened.tell(b"* SEARCH%s\r\n" % b"".join(b" %d" % number for number in found))
    return Answer(b"OK done")


def _text(mailbox: Mailbox, uid: int) -> bytes:
    try:
        return mailbox.read(uid)
    except MessageGone:
        return b""  # it matches no text, and the client hears of its end soon
