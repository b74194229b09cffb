"""Which IMAP commands look at mail or change it, and when they may come (RFC 3501 6.3, 6.4).

Owns: the states of a session, and the table of these commands.  Knows no connection and no bytes: the modules
``imap_commands_...`` read arguments and do the work, the session has them do it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from reference_server.protocols import imap_commands_fetch as fetching
from reference_server.protocols import imap_commands_mailboxes as mailboxes
from reference_server.protocols import imap_commands_messages as messages
from reference_server.protocols import imap_commands_search as searching
from reference_server.protocols.imap_input import Request
from reference_server.protocols.imap_selected import Client, Job

Read: TypeAlias = Callable[[Client, Request], Job]
"""Makes a job of a request.  Raises BadSyntax for arguments that it cannot read."""


class State(enum.Enum):
    """RFC 3501 3."""

    NOT_AUTHENTICATED = "nobody has logged in"
    AUTHENTICATED = "no mailbox is open"
    SELECTED = "a mailbox is open"


BEFORE: Final = (State.NOT_AUTHENTICATED,)
AFTER: Final = (State.AUTHENTICATED, State.SELECTED)
ANY: Final = tuple(State)
OPEN: Final = (State.SELECTED,)


@dataclass(frozen=True, slots=True)
class MailCommand:
    """``expunge``: whether its answer may tell that messages are gone (RFC 3501 7.4.1)."""

    read: Read
    states: tuple[State, ...] = OPEN
    expunge: bool = True


ON_MAIL: Final[dict[bytes, MailCommand]] = {
    b"NAMESPACE": MailCommand(mailboxes.namespace, AFTER),
    b"SELECT": MailCommand(mailboxes.select, AFTER),
    b"EXAMINE": MailCommand(mailboxes.examine, AFTER),
    b"CREATE": MailCommand(mailboxes.create, AFTER),
    b"DELETE": MailCommand(mailboxes.delete, AFTER),
    b"RENAME": MailCommand(mailboxes.rename, AFTER),
    b"SUBSCRIBE": MailCommand(mailboxes.subscribe, AFTER),
    b"UNSUBSCRIBE": MailCommand(mailboxes.unsubscribe, AFTER),
    b"LIST": MailCommand(mailboxes.list_, AFTER),
    b"LSUB": MailCommand(mailboxes.lsub, AFTER),
    b"STATUS": MailCommand(mailboxes.status, AFTER),
    b"APPEND": MailCommand(mailboxes.append, AFTER),
    b"UNSELECT": MailCommand(messages.unselect),
    b"CLOSE": MailCommand(messages.close),
    b"EXPUNGE": MailCommand(messages.expunge),
    b"UID EXPUNGE": MailCommand(messages.uid_expunge),
    b"SEARCH": MailCommand(searching.search, expunge=False),
    b"UID SEARCH": MailCommand(partial(searching.search, by_uid=True)),
    b"FETCH": MailCommand(fetching.fetch, expunge=False),
    b"UID FETCH": MailCommand(partial(fetching.fetch, by_uid=True)),
    b"STORE": MailCommand(messages.store, expunge=False),
    b"UID STORE": MailCommand(partial(messages.store, by_uid=True)),
    b"COPY": MailCommand(messages.copy),
    b"UID COPY": MailCommand(partial(messages.copy, by_uid=True)),
    b"MOVE": MailCommand(messages.move),
    b"UID MOVE": MailCommand(partial(messages.move, by_uid=True)),
}
