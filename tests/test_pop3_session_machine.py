"""POP3 beside a model: what may be answered, what is in the maildrop, and that only QUIT takes anything out of it."""

from __future__ import annotations

import re

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from reference_server.protocols.pop3 import MAX_ERRORS, MAX_FAILED_LOGINS, Pop3Session
from reference_server.protocols.sasl import LINE_LIMIT
from reference_server.session import Policy
from tests.dialogue import TLS
from tests.memory_store import MemoryStore
from tests.sasl_model import FOUND, Outcome, SaslModel, b64, is_right
from tests.twins import WAYS, Twins, action, cuts, line

RIGHT, WRONG, ACTING = b64("\0alice\0ecila"), b64("\0alice\0guess"), b64("bob\0alice\0ecila")
BEFORE, AFTER = ("auth",), ("trans",)
STATES = {
    **dict.fromkeys((b"CAPA", b"QUIT"), BEFORE + AFTER),
    **dict.fromkeys((b"STLS", b"USER", b"PASS", b"AUTH"), BEFORE),
    **dict.fromkeys((b"STAT", b"LIST", b"UIDL", b"RETR", b"TOP", b"DELE", b"RSET", b"NOOP"), AFTER),
}
BARE = (b"CAPA", b"QUIT", b"STLS", b"STAT", b"RSET", b"NOOP")
REFUSED = rb"-ERR (?!\[)"


class Model:
    """The maildrops for good, and the state of the client that is connected."""

    def __init__(self) -> None:
        self.kept: dict[str, list[bytes]] = {name: [] for name in FOUND}
        self.elsewhere: set[str] = set()
        self.fails = False
        self.over = True

    def connect(self, policy: Policy, secure: bool) -> None:
        self.policy, self.secure = policy, secure
        self.expected = [line(rb"\+OK mail.example.test POP3")]
        self.state = "auth"
        self.over = self.awaiting_tls = self.holding = self.stopping = self.skipping = False
        self.buffer = b""
        self.user: str | None = None
        self.owner = ""
        self.drop: list[bytes] = []
        self.marked: set[int] = set()
        self.job: tuple[str, str] | tuple[int, int | None] | str | None = None
        self.errors = self.failures = 0

    @property
    def claimed(self) -> set[str]:
        return self.elsewhere | ({self.owner} if self.owner and not self.over else set())

    @property
    def unfinished(self) -> bool:
        return not self.over and (self.state == "login" or bool(self.buffer) or self.skipping)

    # ---- what is heard

    def hear(self, octets: bytes) -> None:
        if not self.awaiting_tls:
            self.buffer += octets
            self.go_on()

    def go_on(self) -> None:
        while not (self.over or self.awaiting_tls or self.job is not None):
            heard, end, rest = self.buffer.partition(b"\n")
            if self.skipping:
                self.buffer, self.skipping = rest, not end
            elif len(heard) >= (LINE_LIMIT if self.state == "login" else 255):
                self.buffer, self.skipping = rest, not end
                self.flawed()
            elif not end:
                return
            else:
                self.buffer = rest
                if heard.endswith(b"\r"):
                    self.line(heard[:-1])
                else:
                    self.flawed()
            if self.skipping:
                return

    def flawed(self) -> None:
        if self.state == "login":
            self.state = "auth"
        self.refuse()

    def line(self, heard: bytes) -> None:
        if self.state == "login":
            self.state = "auth"
            self.step(self.exchange.respond(heard))
            return
        verb, _, rest = heard.partition(b" ")
        verb = verb.upper()
        needs_tls = verb in (b"USER", b"PASS", b"AUTH") and self.policy.login_needs_tls and not self.secure
        if self.state not in STATES.get(verb, ()) or needs_tls or (verb in BARE and rest.strip(b" ")):
            self.refuse()
        elif self.state == "auth":
            self.before_login(verb, rest)
        else:
            self.after_login(verb, rest.strip(b" "))

    def before_login(self, verb: bytes, rest: bytes) -> None:
        match verb:
            case b"CAPA":
                self.capabilities()
            case b"QUIT":
                self.say(rb"\+OK")
                self.close()
            case b"STLS" if self.secure or not self.policy.offers_tls:
                self.refuse()
            case b"STLS":
                self.say(rb"\+OK")
                self.expected.append(action("StartTls"))
                self.awaiting_tls, self.buffer = True, b""
            case b"USER":
                try:
                    self.user = rest.strip(b" ").decode() or None
                except UnicodeDecodeError:
                    self.user = None
                self.refuse() if self.user is None else self.say(rb"\+OK")
            case b"PASS":
                name, self.user = self.user, None
                if name is None or not rest:
                    self.refuse()
                else:
                    self.begin((name, rest.decode("utf-8", "replace")))
            case _:
                words = rest.split()
                if not words:
                    self.expected.append(rb"\+OK\r\nPLAIN\r\nLOGIN\r\n\.\r\n")
                elif words[0].upper() not in (b"PLAIN", b"LOGIN") or len(words) > 2:
                    self.refuse()
                else:
                    self.exchange = SaslModel(words[0].upper())
                    self.step(self.exchange.begin(words[1] if len(words) == 2 else None))

    def step(self, outcome: Outcome) -> None:
        match outcome:
            case "challenge":
                self.state = "login"
                self.say(rb"\+ ")
            case "cancelled" | "malformed":
                self.refuse()
            case "denied":
                self.refuse(rb"-ERR \[AUTH\]")
            case credentials:
                self.begin(credentials)

    def after_login(self, verb: bytes, rest: bytes) -> None:
        present = [number for number in range(1, len(self.drop) + 1) if number not in self.marked]
        total = sum(len(self.drop[number - 1]) for number in present)
        number = int(rest) if re.fullmatch(rb"[0-9]{1,10}", rest) else 0
        match verb:
            case b"CAPA":
                self.capabilities()
            case b"QUIT":
                if self.marked:
                    self.begin("update")
                else:
                    self.say(rb"\+OK")
                    self.close()
            case b"STAT":
                self.expected.append(rb"\+OK %d %d\r\n" % (len(present), total))
            case b"RSET":
                self.marked.clear()
                self.summary()
            case b"NOOP":
                self.expected.append(rb"\+OK\r\n")
            case b"LIST" | b"UIDL" if not rest:
                self.expected.append(rb"\+OK\r\n%s\.\r\n" % b"".join(self.listed(verb, each) for each in present))
            case b"TOP":
                found = re.fullmatch(rb"([0-9]{1,10}) +([0-9]{1,10})", rest)
                if found is None or int(found[1]) not in present:
                    self.refuse()
                else:
                    self.begin((int(found[1]), int(found[2])))
            case _ if number not in present:
                self.refuse()
            case b"LIST" | b"UIDL":
                self.expected.append(rb"\+OK " + self.listed(verb, number))
            case b"RETR":
                self.begin((number, None))
            case _:
                self.marked.add(number)
                self.say(rb"\+OK")

    def listed(self, verb: bytes, number: int) -> bytes:
        return b"%d %d\r\n" % (number, len(self.drop[number - 1])) if verb == b"LIST" else b"%d id-%d\r\n" % (
            number, number
        )  # fmt: skip

    def summary(self) -> None:
        present = [text for number, text in enumerate(self.drop, 1) if number not in self.marked]
        self.expected.append(rb"\+OK %d messages \(%d octets\)\r\n" % (len(present), sum(map(len, present))))

    def capabilities(self) -> None:
        words = [rb"\+OK", b"TOP", b"UIDL", b"RESP-CODES", b"AUTH-RESP-CODE", b"PIPELINING"]
        if self.secure or not self.policy.login_needs_tls:
            words += [b"USER", b"SASL PLAIN LOGIN"]
        if not self.secure and self.policy.offers_tls and self.state == "auth":
            words.append(b"STLS")
        self.expected.append(b"\r\n".join([*words, b"EXPIRE NEVER", b"IMPLEMENTATION listenspec", rb"\.", b""]))

    # ---- work

    def begin(self, job: tuple[str, str] | tuple[int, int | None] | str) -> None:
        self.job = job
        if not self.holding:
            self.finish()

    def finish(self) -> None:
        job, self.job = self.job, None
        if job is None:
            return
        fails, self.fails = self.fails, False
        match job:
            case "update":
                if not fails:
                    gone = [self.drop[number - 1] for number in self.marked]
                    self.kept[self.owner] = [text for text in self.kept[self.owner] if text not in gone]
                self.say(rb"-ERR \[SYS/TEMP\]" if fails else rb"\+OK")
                self.close()
                return
            case (str(name), str(password)):
                self.open((name, password), fails)
            case (int(number), int() | None as count):
                self.told(self.drop[number - 1], count, fails)
        if self.over:
            return
        if self.stopping:
            self.say(rb"-ERR \[SYS/TEMP\]")
            self.close()
        self.go_on()

    def open(self, credentials: tuple[str, str], fails: bool) -> None:
        name = credentials[0]
        if fails:
            self.say(rb"-ERR \[SYS/TEMP\]")
        elif not is_right(credentials):
            self.failures += 1
            self.say(rb"-ERR \[AUTH\]")
            if self.failures == MAX_FAILED_LOGINS:
                self.close()
        elif name in self.elsewhere:
            self.say(rb"-ERR \[IN-USE\]")
        else:
            self.state, self.owner, self.errors = "trans", name, 0
            self.drop = list(self.kept[name])
            self.summary()

    def told(self, text: bytes, count: int | None, fails: bool) -> None:
        if fails:
            self.say(rb"-ERR \[SYS/TEMP\]")
            return
        lines = text.split(b"\r\n")
        if not lines[-1]:
            lines.pop()
        if count is not None and b"" in lines:
            lines = lines[: lines.index(b"") + 1 + count]
        stuffed = b"".join((b"." if each.startswith(b".") else b"") + each + b"\r\n" for each in lines)
        self.expected.append(rb"\+OK\r\n" if count is not None else rb"\+OK %d octets\r\n" % len(text))
        self.expected.append(re.escape(stuffed + b".\r\n"))

    # ---- what is said

    def say(self, pattern: bytes) -> None:
        self.expected.append(line(pattern))

    def refuse(self, pattern: bytes = REFUSED) -> None:
        self.errors += 1
        self.say(pattern if self.errors < MAX_ERRORS else b"-ERR too many errors")
        if self.errors >= MAX_ERRORS:
            self.close()

    def close(self) -> None:
        self.expected.append(action("Close"))
        self.over, self.buffer = True, b""


NUMBERS = (b"1", b"2", b"3", b"02", b"0", b"-1", b"99999999999", b"", b" ", b"one", b"1 1", b"2  0", b"1 99", b"1 -1")
COMMANDS = [
    *(verb + b" " + rest for verb in (b"LIST", b"uidl", b"RETR", b"Top", b"DELE") for rest in NUMBERS),
    b"CAPA", b"CAPA x", b"QUIT now", b"STLS", b"stls now", b"STAT", b"STAT 1", b"RSET", b"RSET 1", b"NOOP", b"NOOP  ",
    b"LIST", b"UIDL", b"RETR", b"TOP", b"DELE", b"USER", b"USER alice", b"user  bob ", b"USER \xff", b"USER a b",
    b"PASS", b"PASS ecila", b"PASS  ecila", b"PASS \xff", b"PASS bob", b"AUTH", b"AUTH PLAIN", b"AUTH login", b"AUTH X",
    b"AUTH PLAIN =", b"AUTH PLAIN " + RIGHT, b"AUTH PLAIN " + WRONG, b"AUTH PLAIN " + ACTING, b"AUTH PLAIN a b",
    b"AUTH LOGIN " + b64("bob"), RIGHT, b64("alice"), b64("ecila"), b64("bob"),
    b"*", b"=", b"!", b"", b" ", b".", b"\0",
    b"\xff\xfe", b"XYZZY", b"\tNOOP", b"NOOP\0", b"RETR\xa01", b"\x16\x03\x01", b"APOP alice 0",
]  # fmt: skip
READING = (
    *(b"DELE 1", b"DELE 2", b"DELE 3", b"RETR 1", b"RETR 2", b"RETR 3", b"TOP 1 1", b"TOP 2 0", b"TOP 3 2", b"LIST 1"),
    *(b"UIDL 2", b"RSET", b"CAPA", b"USER alice", b"PASS ecila"),
)
ends = st.sampled_from((b"\r\n",) * 8 + (b"\n", b"\r\r\n", b"\r", b""))
lines = st.lists(st.builds(bytes.__add__, st.sampled_from(COMMANDS) | st.binary(max_size=20), ends), max_size=6)
bodies = st.lists(st.sampled_from((b"\r", b"\r\n", b".", b"..", b"a", b"\0\xff", b"\r\n\r\n", b"\r\n.\r\n"))).map(
    b"".join
)


class Pop3BesideModel(RuleBasedStateMachine):
    """Stores, and clients that come one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stores = [MemoryStore() for _ in range(WAYS)]
        self.model = Model()
        self.arrived = 0

    def check(self) -> None:
        self.twins.check(self.model.expected)
        if self.model.job is None:
            assert self.twins.unfinished == self.model.unfinished
        for store in self.stores:
            assert store.inboxes == self.model.kept
            assert store.claimed == self.model.claimed

    def hear(self, octets: bytes, cut_at: list[int]) -> None:
        self.model.hear(octets)
        self.twins.feed(octets, cut_at)
        self.check()

    @initialize(inbox=st.lists(bodies, max_size=4))
    def first(self, inbox: list[bytes]) -> None:
        for body in inbox:
            self.mail_comes(body, "alice")
        self.meet(Policy("mail.example.test", offers_tls=True), secure=False)

    @precondition(lambda self: self.model.over)
    @rule(offers_tls=st.booleans(), strict=st.booleans(), secure=st.booleans(), logs_in=st.booleans())
    def next(self, offers_tls: bool, strict: bool, secure: bool, logs_in: bool) -> None:
        self.twins.happen("ended")
        self.check()
        self.meet(Policy("mail.example.test", offers_tls=offers_tls, login_needs_tls=strict), secure)
        if logs_in:
            self.hear(b"USER alice\r\nPASS ecila\r\n", [])

    def meet(self, policy: Policy, secure: bool) -> None:
        self.model.connect(policy, secure)
        self.twins = Twins([Pop3Session(policy, store) for store in self.stores], TLS if secure else None)
        self.check()

    # ---- what a client says

    @precondition(lambda self: not self.model.over)
    @rule(said=lines, cut_at=cuts)
    def anything(self, said: list[bytes], cut_at: list[int]) -> None:
        self.hear(b"".join(said), cut_at)

    @precondition(lambda self: not self.model.over and self.model.state == "auth")
    @rule(
        said=st.sampled_from(
            (
                (b"USER alice", b"PASS ecila"), (b"USER alice", b"PASS ecila"), (b"USER bob", b"PASS bob"),
                (b"USER alice", b"PASS guess", b"PASS ecila"),
                (b"AUTH PLAIN", b"*", b"CAPA".ljust(300), b"AUTH PLAIN", RIGHT),
                (*(b"XYZZY",) * 15, b"USER alice", b"PASS ecila", *(b"XYZZY",) * 15),
                (b"AUTH PLAIN", RIGHT), (b"AUTH PLAIN", WRONG), (b"AUTH PLAIN", b"*"), (b"AUTH PLAIN", ACTING),
                (b"AUTH LOGIN", b64("alice"), b64("ecila")), (b"AUTH LOGIN", b64("alice"), b"*"),
                (b"AUTH LOGIN " + b64("alice"), b64("guess")), (b"AUTH PLAIN", b"x" * LINE_LIMIT), (b"AUTH PLAIN", b""),
            )
        ),
        more=lines,
        cut_at=cuts,
    )  # fmt: skip
    def login(self, said: tuple[bytes, ...], more: list[bytes], cut_at: list[int]) -> None:
        self.hear(b"".join(piece + b"\r\n" for piece in said) + b"".join(more), cut_at)

    @precondition(lambda self: not self.model.over and self.model.state == "trans")
    @rule(
        said=st.lists(st.sampled_from(READING), max_size=8),
        leaves=st.booleans(),
        cut_at=cuts,
    )
    def collection(self, said: list[bytes], leaves: bool, cut_at: list[int]) -> None:
        said = [*said, b"UIDL", b"LIST", b"STAT", *([b"QUIT", b"STAT"] if leaves else [])]
        self.hear(b"".join(piece + b"\r\n" for piece in said), cut_at)

    @precondition(lambda self: not self.model.over)
    @rule(
        said=st.builds(
            lambda verb, length, end: verb.ljust(length, b" " if verb == b"NOOP " else b"x") + end,
            st.sampled_from((b"NOOP ", b"XYZZY ", b"AUTH PLAIN ", b"USER ", b"PASS ", b"")),
            st.sampled_from((252, 253, 254, 255, LINE_LIMIT - 2, LINE_LIMIT - 1, LINE_LIMIT)),
            ends,
        )
        | st.sampled_from((b"XYZZY\r\n", b"\n", b"RETR\r\n")).map(lambda said: said * (MAX_ERRORS - 2)),
        cut_at=cuts,
    )
    def too_much(self, said: bytes, cut_at: list[int]) -> None:
        self.hear(said, cut_at)

    # ---- what else happens

    @precondition(lambda self: self.model.awaiting_tls and not self.model.over)
    @rule()
    def handshake(self) -> None:
        self.model.awaiting_tls, self.model.secure, self.model.user = False, True, None
        self.twins.happen("secured")
        self.check()

    @rule(
        what=st.sampled_from(("mail", "mail", "login", "fault")),
        body=bodies,
        who=st.sampled_from(("alice", "bob")),
    )
    def meanwhile(self, what: str, body: bytes, who: str) -> None:
        match what:
            case "mail":
                self.mail_comes(body, who)
            case "login":
                self.another_session_comes_or_goes(who)
            case "fault":
                self.model.fails = True
                for store in self.stores:
                    store.fault = OSError("disk")

    def mail_comes(self, body: bytes, to: str) -> None:
        self.arrived += 1
        text = b"Number: %d" % self.arrived + body
        self.model.kept[to].append(text)
        for store in self.stores:
            store.inboxes[to].append(text)

    def another_session_comes_or_goes(self, name: str) -> None:
        if name not in self.model.claimed:
            self.model.elsewhere.add(name)
        else:
            self.model.elsewhere.discard(name)
        for store in self.stores:
            store.claimed = set(self.model.claimed)

    @precondition(lambda self: not self.model.over)
    @rule(
        said=st.sampled_from(
            (
                b"USER alice\r\nPASS ecila\r\nRETR 1\r\n",
                b"RETR 1\r\nNOOP\r\n",
                b"TOP 2 1\r\nXYZ",
                b"DELE 1\r\nQUIT\r\nNOOP\r\n",
            )
        ),
        more=lines,
        then=st.sampled_from(("release", "release", "stopping", "ended")),
        cut_at=cuts,
    )
    def work_takes_its_time(self, said: bytes, more: list[bytes], then: str, cut_at: list[int]) -> None:
        self.model.holding = True
        self.twins.happen("hold")
        self.hear(said, cut_at)
        if not self.model.over and then == "ended":
            self.it_ends("ended")
            return
        if not self.model.over:
            self.hear(b"".join(more), cut_at)
        if self.model.job is not None and then == "stopping":
            self.model.stopping = True
            self.twins.happen("stopping")
            self.check()
        self.model.holding = False
        self.model.finish()
        self.twins.happen("release")
        self.check()

    @precondition(lambda self: not self.model.over)
    @rule(how=st.sampled_from(("idled", "stopping", "ended")))
    def it_ends(self, how: str) -> None:
        if self.model.job is not None:
            how = "ended"  # the clock rests during work
            self.model.finish()
            self.model.expected.clear()
        elif how == "stopping":
            self.model.say(rb"-ERR \[SYS/TEMP\]")
        self.model.over = True
        self.twins.happen(how)
        self.check()


TestPop3BesideModel = Pop3BesideModel.TestCase
TestPop3BesideModel.settings = settings(
    max_examples=110, stateful_step_count=40, deadline=None, derandomize=True, report_multiple_bugs=False
)
