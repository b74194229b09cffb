"""IMAP beside a model: what is told fits together and is true, however a client speaks and whoever else acts."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from reference_server.mailstore import Account, Mailbox, MailStore
from reference_server.protocols.imap import ImapSession
from reference_server.session import Policy
from tests.dialogue import TLS
from tests.imap_model import FLAG_LISTS, ITEMS, LINE_LIMIT, MAX_ERRORS, Model
from tests.imap_sessions import ALICE
from tests.sasl_model import b64
from tests.stores import account
from tests.twins import WAYS, Twins, cuts

MEMORY = "/dev/shm"
RIGHT, WRONG, ACTING = b64("\0alice\0ecila"), b64("\0alice\0guess"), b64("bob\0alice\0ecila")
SETS = (b"1", b"2", b"1:*", b"*", b"3:2", b"1,3", b"*:2", b"9", b"2:9")
NO_SETS = (b"0", b"1:", b"x", b"", b"1 2")
NAMES = (b"INBOX", b"inbox", b"Other", b'"Other"', b"{5+}\r\nOther", b"{5}\r\nINBOX", b"Missing", b"", b"a b", b"(")
ANY = [
    b"CAPABILITY", b"CAPABILITY x", b"NOOP", b"noop ", b"NOOP x", b"ID NIL", b"ID (", b"LOGOUT x", b"XYZZY",
    b"XYZZY {3+}\r\na\r\n", b"UID", b"UID NOOP", b"UID XYZZY 1", b"NOOP\0", b"NOOP {2}\r\n\0\xff", b"NOOP{1+}\r\nx",
    b"NOOP {20}", b"NOOP {99999999999}", b"FETCH {0+}\r\n 1", b"", b" ", b"DONE",
]  # fmt: skip
BEFORE = [
    b"LOGIN alice ecila", b"LOGIN alice guess", b'login "alice" "ecila"', b"LOGIN alice", b"LOGIN alice ecila x",
    b"LOGIN {5+}\r\nalice {5+}\r\necila", b"LOGIN {5}\r\nalice ecila", b"LOGIN {1+}\r\n\xff x", b"LOGIN  alice ecila",
    b"AUTHENTICATE PLAIN", b"AUTHENTICATE PLAIN " + RIGHT, b"authenticate plain " + WRONG, b"AUTHENTICATE",
    b"AUTHENTICATE PLAIN " + ACTING, b"AUTHENTICATE PLAIN =", b"AUTHENTICATE LOGIN", b"AUTHENTICATE PLAIN a b",
    b"STARTTLS", b"STARTTLS x",
]  # fmt: skip
ON_ONE = [
    b"CLOSE", b"UNSELECT", b"CHECK", b"NOOP", b"EXPUNGE", b"EXPUNGE x", b"STATUS INBOX", b"STATUS INBOX ()",
    *(uid + b"SEARCH " + key for uid in (b"", b"UID ") for key in (b"ALL", b"UNSEEN", b"NOT DELETED", b"",
      b"KEYWORD $Later FLAGGED")),
    b"APPEND", b"APPEND INBOX", b"APPEND INBOX x", b"APPEND INBOX {9999999999+}", b"APPEND INBOX {999999999}", b"IDLE",
]  # fmt: skip


def words(*words: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of each, with one space between."""
    return st.tuples(*map(st.sampled_from, words)).map(b" ".join)


STATUS = (b"(MESSAGES UIDNEXT UNSEEN)",)
MESSAGES = (b"{3+}\r\nnew", b"{9}\r\nA: b\r\n\r\nc", b"{2+}\r\n\0\0", b"{0+}\r\n", b"{4+}\r\nx\r\ny z")
FETCHES, STORES = (b"FETCH", b"UID FETCH"), (b"STORE", b"UID STORE")
TO_OTHERS = (b"COPY", b"UID COPY", b"MOVE", b"UID MOVE")
HOW = (b"FLAGS", b"+FLAGS", b"-FLAGS", b"+FLAGS.SILENT", b"FLAGS.SILENT")
well_written = st.one_of(
    words((b"SELECT", b"EXAMINE"), NAMES[:7]), words((b"STATUS",), NAMES[:7], STATUS),
    words((b"APPEND",), NAMES[:7], MESSAGES),
    words((b"APPEND",), NAMES[:7], (b"(\\Seen)", b"(\\deleted $Later)"), MESSAGES),
    words(FETCHES, SETS, list(ITEMS)), words(STORES, SETS, HOW, list(FLAG_LISTS)),
    words(STORES, SETS, HOW, list(FLAG_LISTS)), words((b"UID EXPUNGE",), SETS), words(TO_OTHERS, SETS, NAMES[:7]),
    st.sampled_from(ON_ONE), st.sampled_from(ON_ONE),
)  # fmt: skip
badly_written = st.one_of(
    words((b"SELECT", b"EXAMINE"), NAMES[7:]), words((b"STATUS",), NAMES[7:], STATUS),
    words((b"APPEND",), NAMES, (b"(\\Recent)", b"(", b"()  "), MESSAGES), words((b"APPEND",), NAMES[7:], MESSAGES),
    words(FETCHES, NO_SETS, list(ITEMS)), words(FETCHES, SETS, (b"", b"(", b"FLAG", b"BODY[")),
    words(STORES, NO_SETS, HOW, list(FLAG_LISTS)), words(STORES, SETS, (b"FLAG", b""), list(FLAG_LISTS)),
    words(STORES, SETS, HOW, (b"(\\Recent)", b"(", b"")), words((b"UID EXPUNGE",), NO_SETS),
    words(TO_OTHERS, NO_SETS, NAMES), words(TO_OTHERS, SETS, NAMES[7:]),
)  # fmt: skip
RAW = (
    b"DONE",
    b"done",
    b"*",
    b"=",
    b"!",
    RIGHT,
    WRONG,
    b"",
    b"+ NOOP",
    b"\0",
    b"\xff\xfe",
    b"a",
    b"a \0",
    b'"',
    b"{1+}",
)
ends = st.sampled_from((b"\r\n",) * 12 + (b"\n", b"\r\r\n", b"\r", b"", b" {3+}\r\nx\r\n\r\n", b"{2+}\n\r\n\r\n"))
tagged = st.builds(
    lambda tag, command, end: tag + b" " + command + end,
    st.sampled_from((b"a", b"b1", b"c.")),
    st.one_of(st.sampled_from(ANY), st.sampled_from(BEFORE), well_written, badly_written),
    ends,
)
raw = st.builds(bytes.__add__, st.sampled_from(RAW) | st.binary(max_size=12), ends)
lines = st.lists(tagged | tagged | raw, max_size=5)
requests = st.lists(well_written.map(lambda command: b"t " + command + b"\r\n"), min_size=1, max_size=5)
mostly = st.sampled_from((True, True, True, False))
bodies = st.lists(st.sampled_from((b"\r\n", b"a", b".", b"\0\xff", b")\r\n", b"\r\n\r\n"))).map(b"".join)


class Disk(MailStore):
    """Fails once when it is told to, where a mailbox is looked for or a password."""

    fails = False

    def mailbox(self, account: Account, name: str) -> Mailbox:
        self._may_fail()
        return super().mailbox(account, name)

    def authenticate(self, name: str, password: str) -> Account | None:
        self._may_fail()
        return super().authenticate(name, password)

    def _may_fail(self) -> None:
        fails, self.fails = self.fails, False
        if fails:
            raise OSError("disk")


class ImapBesideModel(RuleBasedStateMachine):
    """Mailboxes, clients that come one after the other, and somebody else who changes what is there."""

    def __init__(self) -> None:
        super().__init__()
        # What is only looked at here need not outlast a crash; a file system in memory is the fastest.
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if os.path.isdir(MEMORY) else None))
        self.stores = [Disk(self.folder / str(number), [account("alice", password="ecila")]) for number in range(WAYS)]
        for store in self.stores:
            store.create(ALICE, "Other")
        self.model = Model()
        self.arrived = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def boxes(self, name: str) -> list[Mailbox]:
        return [MailStore.mailbox(store, ALICE, name) for store in self.stores]

    def check(self) -> None:
        self.twins.check(self.model.expected)
        if self.model.job is None:
            assert self.twins.unfinished == self.model.unfinished
        for name, box in self.model.boxes.items():
            for mailbox in self.boxes(name):
                assert {message.uid: message.flags for message in mailbox.messages()} == {
                    uid: mail.flags for uid, mail in box.mails.items()
                }

    def hear(self, octets: bytes, cut_at: list[int]) -> None:
        self.model.hear(octets)
        self.twins.feed(octets, cut_at)
        self.check()

    @initialize(bodies=st.lists(bodies, max_size=4), opens=mostly)
    def first(self, bodies: list[bytes], opens: bool) -> None:
        for body in bodies:
            self.arrives("INBOX", body, frozenset())
        self.meet(offers_tls=True, strict=False, secure=False)
        if opens:
            self.hear(b"a LOGIN alice ecila\r\nb SELECT INBOX\r\n", [])

    @precondition(lambda self: self.model.over)
    @rule(offers_tls=mostly, strict=st.booleans(), secure=st.booleans(), opens=mostly)
    def next(self, offers_tls: bool, strict: bool, secure: bool, opens: bool) -> None:
        self.twins.happen("ended")
        self.check()
        self.meet(offers_tls=offers_tls, strict=strict, secure=secure)
        if opens:
            self.hear(b"a LOGIN alice ecila\r\nb SELECT INBOX\r\n", [])

    def meet(self, *, offers_tls: bool, strict: bool, secure: bool) -> None:
        policy = Policy("mail.example.test", offers_tls=offers_tls, login_needs_tls=strict)
        self.model.connect(offers_tls=offers_tls, strict=strict, secure=secure)
        # UIDVALIDITY is the time of day.
        self.twins = Twins(
            [ImapSession(policy, store) for store in self.stores],
            TLS if secure else None,
            lambda heard: re.sub(rb"(UIDVALIDITY|APPENDUID|COPYUID) [0-9]+", rb"\1 V", heard),
        )
        self.check()

    # ---- what a client says

    @precondition(lambda self: not self.model.over)
    @rule(said=lines, cut_at=cuts)
    def anything(self, said: list[bytes], cut_at: list[int]) -> None:
        self.hear(b"".join(said), cut_at)

    @precondition(lambda self: not self.model.over and self.model.state == "before" and not self.model.waits_for)
    @rule(
        said=st.sampled_from(
            (
                (b"a LOGIN alice ecila",), (b"a LOGIN {5}", b"alice {5+}", b"ecila"), (b"a LOGIN alice guess",) * 2,
                (b"a AUTHENTICATE PLAIN", RIGHT), (b"a AUTHENTICATE PLAIN", WRONG), (b"a AUTHENTICATE PLAIN", b"*"),
                (b"a AUTHENTICATE PLAIN", b"x" * LINE_LIMIT), (b"a AUTHENTICATE PLAIN", b"", b"b NOOP"),
            )
        ),
        more=lines,
        cut_at=cuts,
    )  # fmt: skip
    def login(self, said: tuple[bytes, ...], more: list[bytes], cut_at: list[int]) -> None:
        self.hear(b"".join(piece + b"\r\n" for piece in (*said, b"c SELECT INBOX")) + b"".join(more), cut_at)

    @precondition(lambda self: not self.model.over and self.model.state == "selected" and not self.model.waits_for)
    @rule(said=requests, cut_at=cuts)
    def on_messages(self, said: list[bytes], cut_at: list[int]) -> None:
        self.hear(b"".join(said), cut_at)

    @precondition(lambda self: not self.model.over and self.model.state == "selected" and not self.model.waits_for)
    @rule(said=requests, who=st.integers(0, 4), fails=st.booleans(), cut_at=cuts)
    def on_messages_that_change(self, said: list[bytes], who: int, fails: bool, cut_at: list[int]) -> None:
        self.somebody_else("INBOX", who, frozenset(), b"")
        if fails:
            self.the_disk_fails_once()
        self.hear(b"".join(said), cut_at)

    @precondition(lambda self: not self.model.over and self.model.waits_for == "done")
    @rule(
        said=st.sampled_from((b"DONE\r\n", b"done\r\na NOOP\r\n", b"DONE\r\na IDLE\r\n", b"DO\r\n", b"DONE\n")),
        cut_at=cuts,
    )
    def enough(self, said: bytes, cut_at: list[int]) -> None:
        self.hear(said, cut_at)

    @precondition(lambda self: not self.model.over)
    @rule(
        said=st.builds(
            lambda ahead, length, end: ahead.ljust(length, b"x") + end,
            st.sampled_from((b"a NOOP ", b"", b"a LOGIN alice ")),
            st.sampled_from((LINE_LIMIT - 8, LINE_LIMIT - 2, LINE_LIMIT - 1, LINE_LIMIT, LINE_LIMIT + 9)),
            st.sampled_from(
                (b"\r\n", b"\n", b" {11+}\r\na LOGOUT \r\n\r\n", b" {11}\r\n", b" {9999+}\r\n" + b"x" * 9999 + b"\r\n")
            ),
        )
        | st.sampled_from((b"a XYZZY\r\n", b"\n", b"+\r\n")).map(lambda said: said * (MAX_ERRORS - 2)),
        cut_at=cuts,
    )
    def too_much(self, said: bytes, cut_at: list[int]) -> None:
        self.hear(said, cut_at)

    @precondition(lambda self: not self.model.over)
    @rule(
        said=st.sampled_from(
            (b"a LOGIN alice ecila\r\nb SELECT INBOX\r\n", b"a IDLE\r\n", b"a NOOP\r\nb FETCH 1:* FLAGS\r\n")
        ),
        more=lines,
        then=st.sampled_from(("release", "release", "stopping", "ended")),
        who=st.integers(0, 3),
        cut_at=cuts,
    )
    def work_takes_its_time(self, said: bytes, more: list[bytes], then: str, who: int, cut_at: list[int]) -> None:
        self.model.holding = True
        self.twins.happen("hold")
        self.hear(said, cut_at)
        if self.model.over:
            return
        if who:
            self.somebody_else("INBOX", who, frozenset(), b"")
        if then == "ended":
            self.it_ends("ended")
            return
        self.hear(b"".join(more), cut_at)
        if self.model.job is not None and then == "stopping":
            self.model.stopping = True
            self.twins.happen("stopping")
            self.check()
        self.model.holding = False
        self.model.finish()
        self.twins.happen("release")
        self.check()

    # ---- what else happens

    @precondition(lambda self: self.model.awaiting_tls and not self.model.over)
    @rule()
    def handshake(self) -> None:
        self.model.awaiting_tls, self.model.secure = False, True
        self.twins.happen("secured")
        self.check()

    @rule(
        name=st.sampled_from(("INBOX", "INBOX", "Other")),
        who=st.integers(0, 6),
        flags=st.sampled_from(list(FLAG_LISTS.values())).map(frozenset),
        body=bodies,
    )
    def somebody_else(self, name: str, who: int, flags: frozenset[str], body: bytes) -> None:
        """Mail comes (0), or the message with that UID is given flags, or is removed if there are none."""
        box = self.model.boxes[name]
        if who == 0:
            self.arrives(name, body, flags)
        elif who not in box.mails:
            return
        elif flags:
            box.mails[who].flags = flags
            for mailbox in self.boxes(name):
                mailbox.store_flags(who, replace=sorted(flags))
        else:
            del box.mails[who]
            for mailbox in self.boxes(name):
                mailbox.remove([who])
        if not self.model.over and self.model.idling:
            self.model.stirred = True

    def arrives(self, name: str, body: bytes, flags: frozenset[str]) -> None:
        self.arrived += 1
        text = b"Number: %d\r\n\r\n" % self.arrived + body
        self.model.boxes[name].add(text, flags)
        for mailbox in self.boxes(name):
            mailbox.append(text, sorted(flags))

    @precondition(lambda self: not self.model.over and self.model.job is None)
    @precondition(lambda self: self.model.idling and self.model.stirred)
    @rule()
    def there_are_news(self) -> None:
        self.model.stirred = False
        self.model.begin(lambda: self.model.refresh(expunge=True))
        self.twins.happen("woken")
        self.check()

    @precondition(lambda self: not self.model.fails and self.model.state == "selected")
    @rule()
    def the_disk_fails_once(self) -> None:
        self.model.fails = True
        for store in self.stores:
            store.fails = True

    @precondition(lambda self: not self.model.over)
    @rule(how=st.sampled_from(("", "", "", "idled", "stopping", "ended")))
    def it_ends(self, how: str) -> None:
        if not how:
            return
        if self.model.job is not None:
            how = "ended"  # the clock rests during work
            self.model.finish()
            self.model.expected.clear()
        elif how != "ended":
            self.model.farewell()
        self.model.over = True
        self.twins.happen(how)
        self.check()


TestImapBesideModel = ImapBesideModel.TestCase
TestImapBesideModel.settings = settings(
    max_examples=70, stateful_step_count=40, deadline=None, derandomize=True, report_multiple_bugs=False
)
