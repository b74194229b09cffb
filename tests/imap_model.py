"""What an IMAP session may answer, for :mod:`tests.test_imap_session_machine`: a mailbox is a dictionary here.

Owns: requests as they are put together from lines and literals, what one client was told, and what is true.  Knows no
code of the server.  Arguments are understood as far as the machine writes them; everything else is BAD.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.sasl_model import Outcome, SaslModel, is_right
from tests.twins import action, line

LINE_LIMIT = 65536
LITERAL_BEFORE_LOGIN = 4096
MESSAGE_LIMIT = 50 * 1024 * 1024
MAX_ERRORS, MAX_FAILED_LOGINS = 20, 5
ALWAYS = rb"IMAP4rev1 LITERAL\+ SASL-IR IDLE NAMESPACE ID CHILDREN UNSELECT UIDPLUS MOVE"
SYSTEM = ("\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft")
SPECIAL = rb"\x00-\x20\x7f-\xff(){%*\"\\"
TOKEN = re.compile(rb'"([A-Za-z]*)"|\{([0-9]+)\+?\}\r\n|([^' + SPECIAL + rb"]+)")
ITEMS = {
    b"FLAGS": ["FLAGS"], b"(UID FLAGS)": ["UID", "FLAGS"], b"UID": ["UID"], b"RFC822.SIZE": ["SIZE"],
    b"BODY.PEEK[]": ["PEEK[]"], b"BODY[]": ["BODY[]"], b"(FLAGS BODY[TEXT])": ["FLAGS", "BODY[TEXT]"],
    b"(UID BODY.PEEK[TEXT])": ["UID", "PEEK[TEXT]"],
}  # fmt: skip
FLAG_LISTS = {
    b"()": (), b"(\\Seen)": ("\\Seen",), b"\\Deleted": ("\\Deleted",), b"(\\deleted $Later)": ("\\Deleted", "$Later"),
    b"(\\Flagged \\Seen)": ("\\Flagged", "\\Seen"), b"work": ("work",),
}  # fmt: skip
BEFORE, OPENED = ("before",), ("selected",)
AFTER = ("after", "selected")
STATES = {
    **dict.fromkeys((b"CAPABILITY", b"NOOP", b"ID", b"LOGOUT"), (*BEFORE, *AFTER)),
    **dict.fromkeys((b"STARTTLS", b"LOGIN", b"AUTHENTICATE"), BEFORE),
    **dict.fromkeys((b"SELECT", b"EXAMINE", b"STATUS", b"APPEND", b"IDLE"), AFTER),
    **dict.fromkeys((b"CHECK", b"CLOSE", b"UNSELECT", b"EXPUNGE", b"UID EXPUNGE"), OPENED),
    **dict.fromkeys((uid + verb for uid in (b"", b"UID ") for verb in (b"FETCH", b"STORE", b"COPY", b"MOVE")), OPENED),
    **dict.fromkeys((b"SEARCH", b"UID SEARCH"), OPENED),
}
BARE = (
    b"CAPABILITY", b"NOOP", b"LOGOUT", b"STARTTLS", b"IDLE", b"CHECK", b"CLOSE", b"UNSELECT", b"EXPUNGE",
)  # fmt: skip
GONE = rb"NO \[EXPUNGEISSUED\]"


class Bad(Exception):
    """A request whose fault shows while it is carried out."""


class Broken(Exception):
    """The disk failed."""


@dataclass
class Mail:
    text: bytes
    flags: frozenset[str]


@dataclass
class Box:
    mails: dict[int, Mail] = field(default_factory=dict)
    next: int = 1

    def add(self, text: bytes, flags: frozenset[str] = frozenset()) -> int:
        self.mails[self.next] = Mail(text, flags)
        self.next += 1
        return self.next - 1


@dataclass
class View:
    """What the client was told of the mailbox that is open."""

    box: Box
    read_only: bool
    known: list[tuple[int, frozenset[str]]]
    keywords: set[str]
    last: int


Job: TypeAlias = Callable[[], None]


class Model:
    """The mailboxes for good, and the state of the client that is connected."""

    def __init__(self) -> None:
        self.boxes = {"INBOX": Box(), "Other": Box()}
        self.fails = False
        self.over = True

    def connect(self, *, offers_tls: bool, strict: bool, secure: bool) -> None:
        self.offers_tls, self.strict, self.secure = offers_tls, strict, secure
        self.expected: list[bytes] = []
        self.over = self.awaiting_tls = self.holding = self.stopping = self.skipping = self.stirred = False
        self.waits_for: str = ""  # "login" or "done", when it is no request
        self.logged_in = False
        self.view: View | None = None
        self.buffer = self.begun = self.tag = b""
        self.message: bytes | None = None
        self.refused: bytes | None = None
        self.wanted = self.skip = 0
        self.job: Job | None = None
        self.errors = self.failures = 0
        self.say(rb"\* OK \[CAPABILITY %s\]" % self.capabilities())

    @property
    def state(self) -> str:
        return "before" if not self.logged_in else "after" if self.view is None else "selected"

    @property
    def idling(self) -> bool:
        return self.waits_for == "done" and self.view is not None

    @property
    def unfinished(self) -> bool:
        begun = self.buffer or self.begun or self.skipping or self.refused is not None
        return not self.over and (self.waits_for == "login" or bool(begun))

    # ---- requests from octets

    def hear(self, octets: bytes) -> None:
        if not self.awaiting_tls:
            self.buffer += octets
            self.go_on()

    def go_on(self) -> None:
        while not (self.over or self.awaiting_tls or self.job is not None):
            if self.skip:
                self.skip, self.buffer = max(0, self.skip - len(self.buffer)), self.buffer[self.skip :]
                if self.skip:
                    return
            if self.wanted:
                if len(self.buffer) < self.wanted:
                    return
                piece, self.buffer = self.buffer[: self.wanted], self.buffer[self.wanted :]
                self.wanted = 0
                if self.message is None:
                    self.begun += piece
                else:
                    self.message += piece
            heard, end, rest = self.buffer.partition(b"\n")
            if self.skipping:
                self.buffer, self.skipping = rest, not end
                if not end:
                    return
            elif self.waits_for and len(heard) >= LINE_LIMIT:
                self.buffer, self.skipping = rest, not end
                self.plain_line(None)
            elif not end:
                return
            else:
                self.buffer = rest
                whole = heard.endswith(b"\r") and len(heard) < LINE_LIMIT
                if self.waits_for:
                    self.plain_line(heard[:-1] if whole else None)
                else:
                    self.request_line(heard.removesuffix(b"\r"), whole=whole)

    def request_line(self, heard: bytes, *, whole: bool) -> None:
        found = re.search(rb"\{([0-9]+)(\+?)\}\Z", heard)
        literal = None if found is None else (int(found[1]), bool(found[2]), len(found[0]))
        if self.refused is not None:
            self.refuse(self.refused, literal)
        elif not whole or (self.message is not None and heard):
            self.refuse(b"BAD", literal)
        elif self.message is not None:
            self.complete()
        else:
            self.begun += heard
            if len(self.begun) > LINE_LIMIT:
                self.refuse(b"BAD", literal)
            elif literal is None:
                self.complete()
            else:
                self.announced(*literal)

    def announced(self, size: int, comes: bool, length: int) -> None:
        read = self.parse(self.begun)
        before = b"" if read is None else read[2][:-length]
        if read is None:
            self.refuse(b"BAD", (size, comes, length))
            return
        if self.logged_in and read[1] == b"APPEND" and before:
            if size > MESSAGE_LIMIT:
                self.refuse(rb"NO \[LIMIT\]", (size, comes, length))
                return
            if self.append_prefix(before) is None:
                self.refuse(b"BAD", (size, comes, length))
                return
            self.message = b""
        elif size > LINE_LIMIT - len(self.begun) or not (self.logged_in or size <= LITERAL_BEFORE_LOGIN):
            self.refuse(b"BAD", (size, comes, length))
            return
        else:
            self.begun += b"\r\n"
        self.wanted = size
        if not comes:
            self.say(rb"\+ ")

    def refuse(self, condition: bytes, literal: tuple[int, bool, int] | None) -> None:
        """Refused; a literal that comes in any case belongs to it, and so does the line behind that."""
        self.begun, self.message = b"", None
        if literal is None or not literal[1]:
            self.refused = None
            self.tag = rb"[^ \r\n]+"
            self.condition(condition)
        elif literal[0] > (2 * MESSAGE_LIMIT if self.logged_in else LITERAL_BEFORE_LOGIN):
            self.farewell()
        else:
            self.refused, self.skip = condition, literal[0]

    def complete(self) -> None:
        read, message = self.parse(self.begun), self.message
        self.begun, self.message = b"", None
        if read is None:
            self.refuse(b"BAD", None)
            return
        tag, verb, text = read
        self.tag = re.escape(tag)
        if self.state not in STATES.get(verb, ()):
            self.condition(b"BAD")
        elif verb in (b"LOGIN", b"AUTHENTICATE") and self.strict and not self.secure:
            self.condition(rb"NO \[PRIVACYREQUIRED\]")
        elif verb in BARE and text:
            self.condition(b"BAD")
        else:
            self.request(verb, text, message)

    def parse(self, octets: bytes) -> tuple[bytes, bytes, bytes] | None:
        found = re.match(rb"([^" + SPECIAL + rb"+]+) ((?:UID )?[A-Z0-9]+)(?: |\Z)", octets, re.IGNORECASE)
        return None if found is None else (found[1], found[2].upper(), octets[found.end() :])

    # ---- requests

    def plain_line(self, heard: bytes | None) -> None:
        waited, self.waits_for = self.waits_for, ""
        if waited == "login":
            if heard is None:
                self.condition(b"BAD")
            else:
                self.step(self.exchange.respond(heard))
            return
        self.condition(b"OK" if heard is not None and heard.upper() == b"DONE" else b"BAD", patience=False)
        if self.view is not None:
            self.expected.append(action("Unwatch"))
        self.lose_patience()

    def request(self, verb: bytes, text: bytes, message: bytes | None) -> None:
        match verb.removeprefix(b"UID "):
            case b"CAPABILITY":
                self.say(rb"\* CAPABILITY %s\r\n" % self.capabilities(), whole=True)
                self.condition(b"OK")
            case b"NOOP" if self.view is None:
                self.condition(b"OK")
            case b"NOOP" | b"CHECK":
                self.work(lambda: b"OK")
            case b"ID":
                if text.upper() == b"NIL":
                    self.say(rb"\* ID ")
                self.condition(b"OK" if text.upper() == b"NIL" else b"BAD")
            case b"LOGOUT":
                self.say(rb"\* BYE")
                self.condition(b"OK", patience=False)
                self.close()
            case b"STARTTLS" if self.secure or not self.offers_tls:
                self.condition(b"BAD")
            case b"STARTTLS":
                self.condition(b"OK")
                self.expected.append(action("StartTls"))
                self.awaiting_tls, self.buffer = True, b""
            case b"LOGIN":
                words = self.strings(text)
                try:
                    name, password = [word.decode() for word in words or ()]
                except ValueError:  # too few, too many, not UTF-8
                    self.condition(b"BAD")
                else:
                    self.verify((name, password))
            case b"AUTHENTICATE":
                self.authenticate(text.split(b" "))
            case b"IDLE":
                self.idle()
            case b"APPEND":
                self.append(text, message)
            case b"SELECT" | b"EXAMINE" | b"STATUS":
                self.on_a_mailbox(verb, text)
            case _:
                self.on_messages(verb, text)

    def on_a_mailbox(self, verb: bytes, text: bytes) -> None:
        asked = b" (MESSAGES UIDNEXT UNSEEN)" if verb == b"STATUS" else b""
        words = self.strings(text.removesuffix(asked)) if text.endswith(asked) else None
        if words is None or len(words) != 1:
            self.condition(b"BAD")
        elif verb == b"STATUS":
            name = words[0]
            self.work(lambda: self.status(name))
        else:
            name = words[0]
            self.work(lambda: self.select(name, read_only=verb == b"EXAMINE"))

    def on_messages(self, verb: bytes, text: bytes) -> None:
        by_uid, verb = verb.startswith(b"UID "), verb.removeprefix(b"UID ")
        numbers, _, rest = text.partition(b" ")
        if verb == b"SEARCH":
            self.search(text, by_uid=by_uid)
        elif verb == b"CLOSE":
            self.work(self.close_mailbox)
        elif verb == b"UNSELECT":
            self.work(self.unselect)
        elif verb == b"EXPUNGE" and not by_uid:
            self.work(lambda: self.expunge(None))
        elif not self.is_set(numbers):
            self.condition(b"BAD")
        elif verb == b"EXPUNGE" and b" " not in text:
            self.work(lambda: self.expunge(numbers))
        elif verb == b"FETCH" and rest.upper() in ITEMS:
            items = ITEMS[rest.upper()]
            if by_uid and "UID" not in items:
                items = ["UID", *items]
            self.work(lambda: self.fetch(numbers, items, by_uid=by_uid), expunge=by_uid)
        elif verb == b"STORE" and (found := re.fullmatch(rb"([+-]?)FLAGS(\.SILENT)? (.+)", rest)):
            flags = self.flags_in(found[3])
            if flags is None:
                self.condition(b"BAD")
                return
            how, silent = found[1], bool(found[2])
            self.work(lambda: self.store(numbers, how, flags, silent=silent, by_uid=by_uid), expunge=by_uid)
        elif verb in (b"COPY", b"MOVE") and (words := self.strings(rest)) is not None and len(words) == 1:
            name = words[0]
            self.work(lambda: self.copy(numbers, name, by_uid=by_uid, moves=verb == b"MOVE"))
        else:
            self.condition(b"BAD")

    # ---- logging in

    def authenticate(self, words: list[bytes]) -> None:
        if len(words) > 2 or not words[0]:
            self.condition(b"BAD")
        elif words[0].upper() != b"PLAIN":
            self.condition(b"NO")
        else:
            self.exchange = SaslModel(b"PLAIN")
            self.step(self.exchange.begin(words[1] if len(words) == 2 else None))

    def step(self, outcome: Outcome) -> None:
        match outcome:
            case "challenge":
                self.waits_for = "login"
                self.say(rb"\+ ")
            case "malformed" | "cancelled":
                self.condition(b"BAD")
            case "denied":
                self.condition(rb"NO \[AUTHORIZATIONFAILED\]")
            case credentials:
                self.verify(credentials)

    def verify(self, credentials: tuple[str, str]) -> None:
        def verified() -> None:
            try:
                self.disk()
            except Broken:
                self.condition(rb"NO \[UNAVAILABLE\]")
                return
            if is_right(credentials) and credentials[0] == "alice":
                self.logged_in = True
                self.condition(rb"OK \[CAPABILITY %s\]" % ALWAYS)
                return
            self.failures += 1
            self.condition(rb"NO \[AUTHENTICATIONFAILED\]")
            if self.failures == MAX_FAILED_LOGINS:
                self.farewell()

        self.begin(verified)

    def capabilities(self) -> bytes:
        if self.logged_in:
            return ALWAYS
        starttls = b" STARTTLS" if self.offers_tls and not self.secure else b""
        return ALWAYS + starttls + (b" LOGINDISABLED" if self.strict and not self.secure else b" AUTH=PLAIN")

    # ---- mailboxes

    def box(self, name: bytes) -> Box | None:
        self.disk()
        return self.boxes.get("INBOX" if name.upper() == b"INBOX" else name.decode("latin-1"))

    def select(self, name: bytes, *, read_only: bool) -> bytes:
        self.view = None
        box = self.box(name)
        if box is None:
            return rb"NO \[NONEXISTENT\]"
        known = [(uid, mail.flags) for uid, mail in sorted(box.mails.items())]
        keywords = {flag for _, flags in known for flag in flags if flag not in SYSTEM}
        view = View(box, read_only, known, keywords, known[-1][0] if known else 0)
        unseen = next((number for number, (_, flags) in enumerate(known, 1) if "\\Seen" not in flags), None)
        self.say_flags(view)
        self.say(rb"\* %d EXISTS\r\n\* [0-9]+ RECENT\r\n" % len(known), whole=True)
        if unseen is not None:
            self.say(rb"\* OK \[UNSEEN %d\]" % unseen)
        self.say(rb"\* OK \[PERMANENTFLAGS \(%s\)\]" % (b"" if read_only else rb"[^\r\n]* \\\*"))
        self.say(rb"\* OK \[UIDVALIDITY V\]")
        self.say(rb"\* OK \[UIDNEXT %d\]" % box.next)
        self.view = view
        return rb"OK \[READ-ONLY\]" if read_only else rb"OK \[READ-WRITE\]"

    def status(self, name: bytes) -> bytes:
        box = self.box(name)
        if box is None:
            return rb"NO \[NONEXISTENT\]"
        unseen = sum("\\Seen" not in mail.flags for mail in box.mails.values())
        told = b"MESSAGES %d UIDNEXT %d UNSEEN %d" % (len(box.mails), box.next, unseen)
        self.say(rb'\* STATUS "%s" \(%s\)\r\n' % (name, told), whole=True)
        return b"OK"

    def append_prefix(self, before: bytes) -> tuple[bytes, frozenset[str]] | None:
        """Mailbox and flags."""
        found = TOKEN.match(before)
        if found is None:
            return None
        name, at = self.token(before, found)
        rest = before[at:]
        if rest == b" ":
            return name, frozenset()
        flags = self.flags_in(rest[1:-1]) if rest.startswith(b" (") and rest.endswith(b") ") else None
        return None if flags is None else (name, flags)

    def append(self, text: bytes, message: bytes | None) -> None:
        if not message or b"\0" in message:
            self.condition(b"BAD")
            return
        prefix = self.append_prefix(text[: text.rindex(b"{")])
        assert prefix is not None
        name, flags = prefix

        def kept() -> bytes:
            box = self.box(name)
            if box is None:
                return rb"NO \[TRYCREATE\]"
            return rb"OK \[APPENDUID V %d\]" % box.add(message, flags)

        self.work(kept)

    def close_mailbox(self) -> bytes:
        view, self.view = self.opened, None
        if not view.read_only:
            for uid in [uid for uid, mail in view.box.mails.items() if "\\Deleted" in mail.flags]:
                del view.box.mails[uid]
        return b"OK"

    def unselect(self) -> bytes:
        self.view = None
        return b"OK"

    # ---- messages

    @property
    def opened(self) -> View:
        assert self.view is not None
        return self.view

    def refresh(self, *, expunge: bool) -> None:
        view = self.opened
        lines: list[bytes] = []
        mails = view.box.mails
        if expunge:
            for place in range(len(view.known) - 1, -1, -1):
                if view.known[place][0] not in mails:
                    del view.known[place]
                    lines.append(rb"\* %d EXPUNGE\r\n" % (place + 1))
        for place, (uid, flags) in enumerate(view.known):
            if uid in mails and mails[uid].flags != flags:
                view.known[place] = (uid, mails[uid].flags)
                lines.append(rb"\* %d FETCH \(FLAGS %s\)\r\n" % (place + 1, self.flags(mails[uid].flags)))
        fresh = sorted(uid for uid in mails if uid > view.last)
        if fresh:
            view.known += [(uid, mails[uid].flags) for uid in fresh]
            view.last = fresh[-1]
            lines.append(rb"\* %d EXISTS\r\n\* [0-9]+ RECENT\r\n" % len(view.known))
        self.new_keywords(flag for mail in mails.values() for flag in mail.flags)
        self.expected += lines

    def new_keywords(self, flags: object) -> None:
        view = self.opened
        assert not isinstance(flags, str)
        new = {flag for flag in flags if flag not in SYSTEM} - view.keywords  # type: ignore[attr-defined]
        if new:
            view.keywords |= new
            self.say_flags(view)

    def say_flags(self, view: View) -> None:
        self.say(rb"\* FLAGS \(%s\)\r\n" % re.escape(" ".join((*SYSTEM, *sorted(view.keywords)))).encode(), whole=True)

    def flags(self, flags: frozenset[str]) -> bytes:
        words = " ".join(map(re.escape, sorted(flags))).encode()
        return rb"\(%s(?: \\Recent)?\)" % words if words else rb"\((?:\\Recent)?\)"

    def is_set(self, text: bytes) -> bool:
        return bool(re.fullmatch(rb"(?:[1-9][0-9]{0,8}|\*)(?:[:,](?:[1-9][0-9]{0,8}|\*))*", text)) and not any(
            piece.count(b":") > 1 for piece in text.split(b",")
        )

    def chosen(self, text: bytes, *, by_uid: bool) -> list[int]:
        """Places in what is known."""
        known = self.opened.known
        uids = [uid for uid, _ in known]
        largest = (uids[-1] if uids else 0) if by_uid else len(known)
        found: set[int] = set()
        for piece in text.split(b","):
            ends = [largest if end == b"*" else int(end) for end in piece.split(b":")]
            if not by_uid:
                if known and any(end != b"*" and int(end) > len(known) for end in piece.split(b":")):
                    raise Bad
                if not known and b"*" not in piece:
                    raise Bad
            wanted = range(min(ends), max(ends) + 1)
            found.update(place for place, uid in enumerate(uids) if (uid if by_uid else place + 1) in wanted)
        return sorted(found)

    def fetch(self, numbers: bytes, items: Sequence[str], *, by_uid: bool) -> bytes:
        self.refresh(expunge=False)
        view = self.opened
        gone = False
        for place in self.chosen(numbers, by_uid=by_uid):
            uid, flags = view.known[place]
            mail = view.box.mails.get(uid)
            body = next((item for item in items if item.endswith("]")), "")
            if body and mail is None:
                gone = True
                continue
            news = body.startswith("BODY") and not view.read_only and "\\Seen" not in flags
            if mail is not None and news:
                mail.flags = flags = mail.flags | {"\\Seen"}
                view.known[place] = (uid, flags)
            told: list[bytes] = []
            for item in items:
                match item:
                    case "UID":
                        told.append(b"UID %d" % uid)
                    case "FLAGS":
                        told.append(b"FLAGS " + self.flags(flags))
                        news = False
                    case "SIZE":
                        told.append(rb"RFC822\.SIZE %s" % (b"[0-9]+" if mail is None else b"%d" % len(mail.text)))
                    case _:
                        assert mail is not None
                        text = mail.text if item.endswith("[]") else mail.text.partition(b"\r\n\r\n")[2]
                        label = "BODY" + item[item.index("[") :]
                        text = text.replace(b"\0", b"\x80")
                        told.append(re.escape(b"%s {%d}\r\n%s" % (label.encode(), len(text), text)))
            if news:
                told.append(b"FLAGS " + self.flags(flags))
            self.say(rb"\* %d FETCH \(%s\)\r\n" % (place + 1, b" ".join(told)), whole=True)
        return GONE if gone else b"OK"

    def store(self, numbers: bytes, how: bytes, flags: frozenset[str], *, silent: bool, by_uid: bool) -> bytes:
        view = self.opened
        if view.read_only:
            return rb"NO \[NOPERM\]"
        self.refresh(expunge=False)
        gone = False
        for place in self.chosen(numbers, by_uid=by_uid):
            uid, _ = view.known[place]
            mail = view.box.mails.get(uid)
            if mail is None:
                gone = True
                continue
            mail.flags = mail.flags | flags if how == b"+" else mail.flags - flags if how == b"-" else flags
            view.known[place] = (uid, mail.flags)
            self.new_keywords(mail.flags)
            if not silent:
                with_uid = b"UID %d " % uid if by_uid else b""
                self.say(rb"\* %d FETCH \(%sFLAGS %s\)\r\n" % (place + 1, with_uid, self.flags(mail.flags)), whole=True)
        return GONE if gone else b"OK"

    def copy(self, numbers: bytes, name: bytes, *, by_uid: bool, moves: bool) -> bytes:
        view = self.opened
        if moves and view.read_only:
            return rb"NO \[NOPERM\]"
        uids = [view.known[place][0] for place in self.chosen(numbers, by_uid=by_uid)]
        box = self.box(name)
        if box is None:
            return rb"NO \[TRYCREATE\]"
        if not uids:
            return b"OK"
        if any(uid not in view.box.mails for uid in uids):
            return GONE
        for uid in uids:
            mail = view.box.mails[uid]
            box.add(mail.text, mail.flags)
        if moves:
            for uid in uids:
                del view.box.mails[uid]
            self.say(rb"\* OK \[COPYUID V [0-9:,]+ [0-9:,]+\]")
            return b"OK"
        return rb"OK \[COPYUID V [0-9:,]+ [0-9:,]+\]"

    def expunge(self, numbers: bytes | None) -> bytes:
        view = self.opened
        if view.read_only:
            return rb"NO \[NOPERM\]"
        self.refresh(expunge=True)
        places = range(len(view.known)) if numbers is None else self.chosen(numbers, by_uid=True)
        for uid, flags in [view.known[place] for place in places]:
            if "\\Deleted" in flags:
                del view.box.mails[uid]
        return b"OK"

    def search(self, text: bytes, *, by_uid: bool) -> None:
        keys: dict[bytes, Callable[[frozenset[str]], bool]] = {
            b"ALL": lambda _: True,
            b"UNSEEN": lambda flags: "\\Seen" not in flags,
            b"NOT DELETED": lambda flags: "\\Deleted" not in flags,
            b"KEYWORD $Later FLAGGED": lambda flags: "$Later" in flags and "\\Flagged" in flags,
        }
        if text not in keys:
            self.condition(b"BAD")
            return

        def found() -> bytes:
            self.refresh(expunge=False)
            hits = [
                uid if by_uid else number
                for number, (uid, flags) in enumerate(self.opened.known, 1)
                if keys[text](flags)
            ]
            self.say(rb"\* SEARCH%s\r\n" % b"".join(b" %d" % hit for hit in hits), whole=True)
            return b"OK"

        self.work(found, expunge=by_uid)

    # ---- waiting for news

    def idle(self) -> None:
        self.waits_for = "done"
        self.say(rb"\+ ")
        if self.view is not None:
            self.expected.append(action("Watch"))
            self.stirred = False
            self.begin(lambda: self.refresh(expunge=True))

    # ---- work

    def disk(self) -> None:
        if self.fails:
            self.fails = False
            raise Broken

    def work(self, do: Callable[[], bytes], *, expunge: bool = True) -> None:
        def job() -> None:
            try:
                condition = do()
            except Bad:
                condition = b"BAD"
            except Broken:
                self.condition(rb"NO \[UNAVAILABLE\]")
                return
            if self.view is not None:
                self.refresh(expunge=expunge)
            self.condition(condition)

        self.begin(job)

    def begin(self, job: Job) -> None:
        self.job = job
        if not self.holding:
            self.finish()

    def finish(self) -> None:
        job, self.job = self.job, None
        if job is None:
            return
        job()
        if self.stopping and not self.over:
            self.farewell()
        self.go_on()

    # ---- what is said

    def say(self, pattern: bytes, *, whole: bool = False) -> None:
        self.expected.append(pattern if whole else line(pattern))

    def condition(self, condition: bytes, *, patience: bool = True) -> None:
        self.say(b"%s %s " % (self.tag, condition))
        self.errors = self.errors + 1 if condition == b"BAD" else 0
        if patience:
            self.lose_patience()

    def lose_patience(self) -> None:
        if self.errors >= MAX_ERRORS and not self.over:
            self.farewell()

    def farewell(self) -> None:
        self.say(rb"\* BYE")
        self.close()

    def close(self) -> None:
        self.expected.append(action("Close"))
        self.over, self.buffer = True, b""

    # ---- arguments

    def strings(self, text: bytes) -> list[bytes] | None:
        """Words with one space between, each an atom, a quoted string or a literal; None where it is not so."""
        found: list[bytes] = []
        at = 0
        while word := TOKEN.match(text, at):
            value, at = self.token(text, word)
            found.append(value)
            if at == len(text):
                return found
            if text[at : at + 1] != b" ":
                return None
            at += 1
        return None

    def flags_in(self, text: bytes) -> frozenset[str] | None:
        if text in FLAG_LISTS:
            return frozenset(FLAG_LISTS[text])
        # Words of the machine that ran into each other are keywords, too.
        bare = text[1:-1] if text.startswith(b"(") and text.endswith(b")") else text
        if re.fullmatch(rb"[^" + SPECIAL + rb"\]]+(?: [^" + SPECIAL + rb"\]]+)*", bare):
            return frozenset(bare.decode().split(" "))
        return None

    def token(self, text: bytes, word: re.Match[bytes]) -> tuple[bytes, int]:
        if word[2] is None:
            return (word[3] if word[1] is None else word[1]), word.end()
        end = word.end() + int(word[2])
        return text[word.end() : end], end
