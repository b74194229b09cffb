"""Mail in an account of the server under test: put there, counted, and taken for what it proves.

Owns: the accounts whose mail is counted, and the ways in and out of them, by whatever protocol the target has.  Knows
no requirement; what a count means is for checks and watches to say.
"""

from __future__ import annotations

import time
from dataclasses import replace

from conformance.check import EVERY_CHANNEL, Channel, Inconclusive, NotAssessable
from conformance.dialects import NotServed, imap, pop3, smtp
from conformance.dialects.dialect import Credentials, Malformed
from conformance.scenarios import ACCOUNTS
from conformance.visit import Endpoint, Visit
from conformance.wire import Ended, Silent
from reference_server.settings import Service

#: A message that has come must show within this many seconds: it may pass through a queue.
DELIVERED_WITHIN = 8.0
#: Where a message does not show at once, others may come so many seconds later.
SETTLED_AFTER = 0.3
MESSAGE = b"From: sender@example.org\r\nTo: keeper@example.test\r\nSubject: whole\r\n\r\nto the last line\r\n"


class Locked(Inconclusive):
    """The maildrop was not to be had in time (RFC 1939 4); ``str()`` is the reply."""


def keeper_of(service: Service, channel: Channel) -> str:
    """The account whose mail only one service and channel touches.  ``Channel.NONE`` shares that of plain."""
    return f"keeper-{service}-{Channel.PLAIN if channel is Channel.NONE else channel}"


def keeper(endpoint: Endpoint) -> Credentials:
    """How to sign in to the account of which ``endpoint`` alone changes the mail."""
    name = keeper_of(endpoint.service, endpoint.channel)
    return replace(endpoint.credentials, name=name, address=f"{name}@example.test")


def newcomer(endpoint: Endpoint, number: int) -> Credentials:
    """An account that nobody else uses: whose maildrop nobody can have locked, not for a moment."""
    name = ACCOUNTS[1 + 3 * number + EVERY_CHANNEL.index(endpoint.channel)]
    return replace(endpoint.credentials, name=name, address=f"{name}@example.test")


def sign_in(endpoint: Endpoint, account: Credentials, within: float | None = None) -> Visit:
    """A session of the account's, as soon as its maildrop is free.

    Raises :class:`Locked` when it was not within so many seconds (the release time), :class:`Mismatch` when the
    service is not to be had at all.
    """
    deadline = time.monotonic() + (endpoint.release if within is None else within)
    while True:
        visit = endpoint.visit()
        try:
            endpoint.dialect.login(visit.wire, account)
        except (NotServed, Ended) as refusal:
            visit.close()
            if time.monotonic() > deadline:
                raise Locked(str(refusal)) from None
            time.sleep(0.02)
        except (Silent, Malformed) as error:
            raise Inconclusive(f"no login: {error}") from None
        else:
            return visit


def takes_logins(endpoint: Endpoint) -> bool:
    """Whether clients can sign in there: not every SMTP server lets them."""
    if endpoint.service is not Service.SMTP:
        return True
    with endpoint.visit() as visit:
        try:
            return "AUTH PLAIN" in endpoint.dialect.offered_logins(visit.wire)
        except (NotServed, Malformed, Ended, Silent) as error:
            raise Inconclusive(f"no list of capabilities: {error}") from None


def through(endpoint: Endpoint, service: Service) -> Endpoint | None:
    """Another service of the same server, or the same; None where there is none."""
    if service is endpoint.service:
        return endpoint
    return next((other for other in endpoint.other_services() if other.service is service), None)


def count(endpoint: Endpoint, account: Credentials) -> int:
    """How many messages are in the account's INBOX.

    POP3 counts its own, all others look through IMAP, or POP3.  Raises :class:`NotAssessable` where there is neither,
    :class:`Locked` when another session has the maildrop.
    """
    order = (Service.POP3, Service.IMAP) if endpoint.service is Service.POP3 else (Service.IMAP, Service.POP3)
    for service in order:
        if (reader := through(endpoint, service)) is not None:
            break
    else:
        raise NotAssessable("nothing of it can be seen from outside: there is neither IMAP nor POP3")
    with sign_in(reader, account) as visit:
        found = _counted(visit, service)
        visit.goodbye()
    return found


def _counted(visit: Visit, service: Service) -> int:
    try:
        if service is Service.IMAP:
            return imap.messages(visit.wire)
        return pop3.messages(visit.wire)
    except (NotServed, Malformed, Ended, Silent) as error:
        raise Inconclusive(f"the mail cannot be counted: {error}") from None


def put(endpoint: Endpoint, account: Credentials) -> None:
    """Put one message there.  Raises :class:`NotAssessable` where there is no way."""
    for service in (Service.IMAP, Service.SMTP):
        writer = through(endpoint, service)
        if writer is None:
            continue
        try:
            if service is Service.IMAP:
                with sign_in(writer, account) as visit:
                    imap.append(visit.wire, MESSAGE)
                    visit.goodbye()
            else:
                deliver(writer, account)
        except (NotServed, Malformed, Ended, Silent) as error:
            raise Inconclusive(f"no message could be put there: {error}") from None
        return
    raise NotAssessable("there is no way to put mail there: neither IMAP nor SMTP")


def deliver(endpoint: Endpoint, account: Credentials) -> None:
    """Send the account one message.  May raise what the dialect raises."""
    with begun(endpoint, account) as visit:
        visit.wire.send(MESSAGE + b".\r\n")
        code, reply = smtp.read_reply(visit.wire)
        if code != 250:
            raise NotServed(reply)
        visit.goodbye()


def begun(endpoint: Endpoint, account: Credentials) -> Visit:
    """A session of SMTP in which the text of a message to the account may come now."""
    visit = arrived(endpoint, account)
    smtp.begin_text(visit.wire, account)
    return visit


def arrived(endpoint: Endpoint, account: Credentials) -> Visit:
    """A session of SMTP in which mail can be sent: signed in, where that is asked for."""
    return sign_in(endpoint, account) if endpoint.declared.login.role == "submission" else endpoint.visit()


def stock(endpoint: Endpoint, account: Credentials, wanted: int) -> int:
    """See to it that so many messages are there, or more: how many."""
    found = count(endpoint, account)
    for _ in range(wanted - found):
        put(endpoint, account)
    return await_count(endpoint, account, wanted)


def await_count(endpoint: Endpoint, account: Credentials, wanted: int) -> int:
    """How many messages there are, as soon as there are so many.  Raises :class:`Inconclusive` when there never are."""
    deadline = time.monotonic() + DELIVERED_WITHIN
    while (found := count(endpoint, account)) < wanted:
        if time.monotonic() > deadline:
            raise Inconclusive(f"of {wanted} messages that should be there {found} are: nothing can be told from them")
        time.sleep(0.02)
    return found


def surplus(endpoint: Endpoint, account: Credentials, before: int) -> int:
    """How many messages have come since there were ``before``, beside a whole one that is put there now.

    When that one shows, the others would, too.  SMTP delivers it itself.
    """
    if endpoint.service is Service.SMTP:
        try:
            deliver(endpoint, account)
        except (NotServed, Malformed, Ended, Silent) as error:
            raise Inconclusive(f"no whole message could be delivered: {error}") from None
    else:
        put(endpoint, account)
    found = count(endpoint, account)
    if found <= before:
        await_count(endpoint, account, before + 1)
        # What passes through a queue may come in another order.
        time.sleep(SETTLED_AFTER)
        found = count(endpoint, account)
    return found - before - 1
