"""WebMail: folders, messages, writing, for whoever has an account.

Owns: what each page shows and what each button does.  Knows no octets of HTTP, no template language and no file: mail
comes from the store that POP3 and IMAP read, and leaves by the way that SMTP delivers.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

from reference_server.accounts import Account
from reference_server.mailbox import Mailbox, MailboxError, Message
from reference_server.mailstore import MailStore
from reference_server.protocols.http import Request, Response
from reference_server.protocols.smtp_text import Trace
from reference_server.web import messages
from reference_server.web.messages import Summary
from reference_server.web.pages import SAFE, Pages, redirect
from reference_server.web.portal import Call, Portal
from reference_server.web.routing import Route

PAGE: Final = 50
"""Messages on one page of a list."""
SENT, TRASH, DRAFTS = "Sent", "Trash", "Drafts"
_FIRST: Final = ("INBOX", DRAFTS, SENT, TRASH)
#: Heads of messages that are remembered, so that a list need not read every message again.
_REMEMBERED: Final = 20_000


@dataclass(frozen=True, slots=True)
class FolderLine:
    """A folder in the list of folders."""

    name: str
    shown: str
    url: str
    unread: int
    current: bool


@dataclass(frozen=True, slots=True)
class MessageLine:
    """A message in a list."""

    uid: int
    url: str
    seen: bool
    answered: bool
    flagged: bool
    summary: Summary
    when: datetime


class Webmail:
    """See :class:`reference_server.protocols.http.Application`."""

    def __init__(self, store: MailStore, hostname: str, now: Callable[[], float]) -> None:
        self._store = store
        self._hostname = hostname
        self._heads: OrderedDict[tuple[str, str, int, int], Summary] = OrderedDict()
        self._lock = threading.Lock()
        self._pages = Pages(interface="WebMail", pieces=messages.pieces)
        self.portal = Portal(
            self._pages,
            [
                Route("GET", "/", lambda _: redirect("/mail/INBOX")),
                Route("GET", "/mail/{folder}", self._list),
                Route("POST", "/mail/{folder}", self._change_several),
                Route("GET", "/mail/{folder}/{uid:int}", self._read),
                Route("POST", "/mail/{folder}/{uid:int}", self._change_one),
                Route("GET", "/mail/{folder}/{uid:int}/html", self._html),
                Route("GET", "/mail/{folder}/{uid:int}/source", self._source),
                Route("GET", "/mail/{folder}/{uid:int}/part/{number:int}", self._download),
                Route("GET", "/write", self._write),
                Route("POST", "/write", self._send),
                Route("POST", "/folders", self._create_folder),
            ],
            cookie="listenspec_webmail",
            start="/mail/INBOX",
            authenticate=store.authenticate,
            may_enter=lambda _: True,
            still_here=lambda account: store.named(account.name) == account,
            now=now,
        )

    def answer(self, request: Request) -> Response:
        return self.portal.answer(request)

    # ---- lists

    def _list(self, call: Call) -> Response:
        mailbox = self._mailbox(call)
        if mailbox is None:
            return self._no_folder(call)
        words = " ".join(call.request.query.get("q", [""])).split()
        found = [message for message in reversed(mailbox.messages()) if _mentions(mailbox, message, words)]
        pages = max(1, math.ceil(len(found) / PAGE))
        asked = call.request.query.get("page", ["1"])[0]
        page = min(pages, max(1, int(asked) if asked.isascii() and asked.isdigit() else 1))
        lines = [self._line(call, mailbox, message) for message in found[(page - 1) * PAGE : page * PAGE]]

        def url(number: int) -> str:
            query = {**({"q": " ".join(words)} if words else {}), **({"page": str(number)} if number > 1 else {})}
            return _folder_url(mailbox.name) + (f"?{urlencode(query)}" if query else "")

        return self._page(
            call, "list.html", mailbox, lines=lines, words=" ".join(words), total=len(found), page=page, pages=pages,
            newer=url(page - 1) if page > 1 else None, older=url(page + 1) if page < pages else None,
            first=(page - 1) * PAGE + 1,
        )  # fmt: skip

    def _line(self, call: Call, mailbox: Mailbox, message: Message) -> MessageLine:
        key = (call.account.name, mailbox.name, mailbox.uid_validity, message.uid)
        with self._lock:
            summary = self._heads.get(key)
        if summary is None:
            try:
                summary = messages.summary(mailbox.read(message.uid))
            except MailboxError:
                summary = Summary("", "", "(gone)", None)
            with self._lock:
                self._heads[key] = summary
                while len(self._heads) > _REMEMBERED:
                    self._heads.popitem(last=False)
        flags = {flag.casefold() for flag in message.flags}
        return MessageLine(
            message.uid,
            f"{_folder_url(mailbox.name)}/{message.uid}",
            "\\seen" in flags,
            "\\answered" in flags,
            "\\flagged" in flags,
            summary,
            message.received.astimezone(),
        )

    def _change_several(self, call: Call) -> Response:
        mailbox = self._mailbox(call)
        if mailbox is None:
            return self._no_folder(call)
        chosen = {int(uid) for uid in call.form.texts("uid") if uid.isascii() and uid.isdigit()}
        uids = [message.uid for message in mailbox.messages() if message.uid in chosen]
        return self._carry_out(call, mailbox, uids)

    # ---- one message

    def _read(self, call: Call) -> Response:
        found = self._found(call)
        if found is None:
            return self._no_message(call)
        mailbox, message, raw = found
        if "\\Seen" not in message.flags:
            mailbox.store_flags(message.uid, add=("\\Seen",))
        seen = messages.view(raw)
        uids = [each.uid for each in mailbox.messages()]
        at = uids.index(message.uid) if message.uid in uids else 0
        base = _folder_url(mailbox.name)
        return self._page(
            call, "read.html", mailbox, seen=seen, here=f"{base}/{message.uid}", flags=message.flags,
            reply=f"/write?{urlencode({'to': f'{mailbox.name}/{message.uid}'})}",
            reply_all=f"/write?{urlencode({'to': f'{mailbox.name}/{message.uid}', 'all': '1'})}",
            newer=f"{base}/{uids[at + 1]}" if at + 1 < len(uids) else None,
            older=f"{base}/{uids[at - 1]}" if at > 0 else None,
            received=message.received.astimezone(),
        )  # fmt: skip

    def _html(self, call: Call) -> Response:
        found = self._found(call)
        html = messages.view(found[2]).html if found is not None else None
        if html is None:
            return self._no_message(call)
        page = self._pages.page("foreign.html", html=html)
        # In a frame of its own that may do nothing, and even opened by itself it may not.
        policy = "sandbox allow-popups; default-src 'none'; style-src 'self'; img-src data:; frame-ancestors 'self'"
        headers = [(name, policy if name == "Content-Security-Policy" else value) for name, value in page.headers]
        return Response(200, tuple(headers), page.body)

    def _source(self, call: Call) -> Response:
        found = self._found(call)
        if found is None:
            return self._no_message(call)
        return _to_keep(f"{found[1].uid}.eml", "message/rfc822", found[2])

    def _download(self, call: Call) -> Response:
        found = self._found(call)
        part = messages.attachment(found[2], int(call.places["number"])) if found is not None else None
        if part is None:
            return self._no_message(call)
        # Never shown by the browser itself, whatever it claims to be.
        return _to_keep(part[0].name, "application/octet-stream", part[1])

    def _change_one(self, call: Call) -> Response:
        found = self._found(call)
        if found is None:
            return self._no_message(call)
        return self._carry_out(call, found[0], [found[1].uid])

    def _carry_out(self, call: Call, mailbox: Mailbox, uids: list[int]) -> Response:
        """What a button under a message or a list says."""
        count = "1 message" if len(uids) == 1 else f"{len(uids)} messages"
        back = redirect(_folder_url(mailbox.name))
        if not uids:
            call.visit.notice = "No message was chosen."
            return back
        match call.form.text("do"):
            case "delete" if mailbox.name == TRASH:
                mailbox.remove(uids)
                call.visit.notice = f"{count} deleted for good."
            case "delete":
                mailbox.move(uids, self._made(call.account, TRASH))
                call.visit.notice = f"{count} moved to {TRASH}."
            case "move":
                target = call.form.text("target")
                if target not in self._store.mailboxes(call.account):
                    call.visit.notice = "There is no such folder."
                elif target != mailbox.name:
                    mailbox.move(uids, self._store.mailbox(call.account, target))
                    call.visit.notice = f"{count} moved to {target}."
            case "unread" | "read" as wanted:
                change = {"remove" if wanted == "unread" else "add": ("\\Seen",)}
                for uid in uids:
                    mailbox.store_flags(uid, **change)
                call.visit.notice = f"{count} marked as {wanted}."
            case _:
                call.visit.notice = "There is no such button."
        return back

    # ---- writing

    def _write(self, call: Call) -> Response:
        fields = dict.fromkeys(("to", "copies", "subject", "text", "answers"), "")
        fields["to"] = call.request.query.get("address", [""])[0]
        where = call.request.query.get("to", [""])[0]
        original = self._original(call, where)
        if original is not None:
            seen = original[2]
            own = call.account.address.casefold()
            copies = ""
            if call.request.query.get("all"):
                others = [a for a in messages.addresses_in(f"{seen.to}, {seen.copies}") if a.casefold() != own]
                copies = ", ".join(others)
            fields = {
                "to": seen.reply_to, "copies": copies, "subject": messages.answer_subject(seen.subject),
                "text": messages.quoted(seen), "answers": where,
            }  # fmt: skip
        return self._page(call, "write.html", None, fields=fields, trouble="")

    def _send(self, call: Call) -> Response:
        form = call.form
        fields = {name: form.text(name) for name in ("to", "copies", "subject", "text", "answers")}
        addresses = messages.addresses_in(f"{fields['to']}, {fields['copies']}")
        people = {address: self._store.recipient(address) for address in addresses}
        unknown = [address for address, account in people.items() if account is None]
        trouble = ""
        if not addresses:
            trouble = "Who is it for? Please give at least one address."
        elif unknown:
            # As SMTP answers: mail is kept here and passed on to nobody.
            trouble = f"Nobody here has the address {', '.join(unknown)}."
        original = self._original(call, fields["answers"])
        if not trouble:
            try:
                message = messages.written(
                    (call.account.name, call.account.address), to=fields["to"], copies=fields["copies"],
                    subject=fields["subject"], text=fields["text"], uploads=form.uploads.get("files", []),
                    answers=original[2].message_id if original else "",
                    references=original[2].references if original else "",
                )  # fmt: skip
            except ValueError as error:
                trouble = f"Not sent: {error}."
        if trouble:
            page = self._page(call, "write.html", None, fields=fields, trouble=trouble)
            return Response(422, page.headers, page.body)
        self._deliver(call, [account for account in people.values() if account is not None], message)
        if original is not None:
            original[0].store_flags(original[1].uid, add=("\\Answered",))
        call.visit.notice = "The message is sent."
        return redirect("/mail/INBOX")

    def _deliver(self, call: Call, recipients: list[Account], message: bytes) -> None:
        distinct = list({account.name: account for account in recipients}.values())
        only = distinct[0].address if len(distinct) == 1 else None
        protocol = "HTTPS" if call.request.secure else "HTTP"
        trace = Trace(
            call.account.address, "webmail", str(call.request.address), self._hostname, protocol, only
        )
        self._store.deliver(distinct, trace.headers() + message)
        self._made(call.account, SENT).append(message, ("\\Seen",))

    def _original(self, call: Call, where: str) -> tuple[Mailbox, Message, messages.View] | None:
        """The message that is answered, as ``folder/uid``."""
        folder, _, uid = where.rpartition("/")
        found = self._at(call, folder, int(uid)) if uid.isascii() and uid.isdigit() else None
        return None if found is None else (found[0], found[1], messages.view(found[2]))

    # ---- folders

    def _create_folder(self, call: Call) -> Response:
        name = " ".join(call.form.text("name").split())
        try:
            if not name:
                raise MailboxError("a folder needs a name")
            self._store.create(call.account, name)
        except MailboxError as error:
            call.visit.notice = f"No folder was made: {error}."
            return redirect("/mail/INBOX")
        call.visit.notice = f"The folder {name} is there."
        return redirect(_folder_url(name))

    def _folders(self, account: Account, current: str | None) -> list[FolderLine]:
        names = self._store.mailboxes(account)
        lines = []
        for name in sorted(names, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)):
            unread = sum("\\Seen" not in message.flags for message in self._store.mailbox(account, name).messages())
            shown = "Inbox" if name == "INBOX" else name
            lines.append(FolderLine(name, shown, _folder_url(name), unread, name == current))
        return lines

    def _made(self, account: Account, name: str) -> Mailbox:
        if name not in self._store.mailboxes(account):
            self._store.create(account, name)
        return self._store.mailbox(account, name)

    # ---- finding things

    def _mailbox(self, call: Call) -> Mailbox | None:
        try:
            return self._store.mailbox(call.account, call.places["folder"])
        except MailboxError:
            return None

    def _found(self, call: Call) -> tuple[Mailbox, Message, bytes] | None:
        return self._at(call, call.places["folder"], int(call.places["uid"]))

    def _at(self, call: Call, folder: str, uid: int) -> tuple[Mailbox, Message, bytes] | None:
        try:
            mailbox = self._store.mailbox(call.account, folder)
            for message in mailbox.messages():
                if message.uid == uid:
                    return mailbox, message, mailbox.read(uid)
        except MailboxError:
            return None
        return None

    def _page(self, call: Call, template: str, mailbox: Mailbox | None, **details: Any) -> Response:
        notice, call.visit.notice = call.visit.notice, ""
        current = None if mailbox is None else mailbox.name
        return self._pages.page(
            template, visit=call.visit, account=call.account, notice=notice, current=current,
            folders=self._folders(call.account, current), **details,
        )  # fmt: skip

    def _no_folder(self, call: Call) -> Response:
        text = "There is no such folder."
        return self._pages.page("message.html", 404, title="No folder", text=text, visit=call.visit)

    def _no_message(self, call: Call) -> Response:
        text = "The message is gone, or never was here."
        return self._pages.page("message.html", 404, title="No message", text=text, visit=call.visit)


def _mentions(mailbox: Mailbox, message: Message, words: list[str]) -> bool:
    if not words:
        return True
    try:
        return messages.mentions(mailbox.read(message.uid), words)
    except MailboxError:
        return False


def _folder_url(name: str) -> str:
    return f"/mail/{quote(name, safe='')}"


def _to_keep(name: str, kind: str, octets: bytes) -> Response:
    """A file to be stored by the browser (RFC 6266, RFC 8187)."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%;' else "_" for c in name)
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    headers = (
        ("Content-Type", kind),
        ("Content-Disposition", disposition),
        ("Content-Security-Policy", "sandbox; default-src 'none'"),
        ("Cache-Control", "no-store"),
        *SAFE,
    )
    return Response(200, headers, octets)
