"""SMTP beside a model that is one function a state: whatever is said, in whatever pieces, at whatever moment."""

from __future__ import annotations

import errno
import re

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from reference_server.protocols.smtp import MAX_ERRORS, MAX_FAILED_LOGINS, SmtpSession
from reference_server.session import Policy
from tests.dialogue import TLS
from tests.memory_store import MemoryStore
from tests.sasl_model import Outcome, SaslModel, b64, is_right
from tests.twins import WAYS, Twins, action, cuts, line

LIMIT = 12288
LONGEST = {b"MAIL": 1055, b"AUTH": LIMIT}
BARE = (b"DATA", b"STARTTLS", b"RSET", b"QUIT")
#: What stands behind the verb: the reply, and what is meant.
NAMES = {b"client.test": "client.test", b"[192.0.2.7]": "[192.0.2.7]", b" x-y.z ": "x-y.z"}
SENDERS = {
    b"FROM:<carol@elsewhere.test>": (b"250", "carol@elsewhere.test"),
    b'from: <"a b"@c.test> SIZE=10 body=8bitmime': (b"250", '"a b"@c.test'),
    b"FROM:<>": (b"250", ""),
    b"FROM:<> AUTH=<>": (b"250", ""),
    b"FROM:<> SIZE=99999999999": (b"552", ""),
    b"FROM:<> SIZE=1 SIZE=1": (b"501", ""),
    b"FROM:<> RET=HDRS": (b"555", ""),
    b"FROM:<\xff@x.test>": (b"553", ""),
    b"FROM:carol@elsewhere.test": (b"501", ""),
}
RECIPIENTS = {
    b"TO:<alice@example.test>": (b"250", "alice"),
    b"TO:<ALICE@example.test>": (b"250", "alice"),
    b"to: <@relay.test:bob@example.test>": (b"250", "bob"),
    b"TO:<postmaster>": (b"250", "root"),
    b"TO:<sink@example.test>": (b"250", "sink"),
    b"TO:<nobody@example.test>": (b"550 5.1.1", ""),
    b"TO:<carol@elsewhere.test>": (b"550 5.7.1", ""),
    b"TO:<alice@example.test> NOTIFY=NEVER": (b"555", ""),
    b"TO:<\0@example.test>": (b"501", ""),
    b"TO:<>": (b"501", ""),
}


RIGHT, WRONG, ACTING = b64("\0alice\0ecila"), b64("\0alice\0guess"), b64("bob\0alice\0ecila")


class Model:
    """One server: its store for good, and the state of the client that is connected."""

    def __init__(self) -> None:
        self.kept: dict[str, list[bytes]] = {"alice": [], "bob": [], "root": [], "sink": []}
        self.fault: OSError | None = None
        self.over = True

    def connect(self, policy: Policy, secure: bool) -> None:
        self.policy, self.secure = policy, secure
        self.expected = [line(b"220 mail.example.test ESMTP")]
        self.state = "start"
        self.over = self.awaiting_tls = self.holding = self.stopping = self.skipping = False
        self.buffer = b""
        self.client = self.sender = self.account = ""
        self.extended = False
        self.recipients: list[str] = []
        self.job: tuple[str, str] | bytes | None = None
        self.errors = self.failures = 0

    @property
    def unfinished(self) -> bool:
        return not self.over and (self.state in ("text", "login") or bool(self.buffer) or self.skipping)

    # ---- what is heard

    def hear(self, octets: bytes) -> None:
        if not self.awaiting_tls:
            self.buffer += octets
            self.go_on()

    def go_on(self) -> None:
        while not (self.over or self.awaiting_tls or self.job is not None):
            if self.state == "text":
                text, end, rest = (b"\r\n" + self.buffer).partition(b"\r\n.\r\n")
                if not end:
                    return
                self.buffer = rest
                self.whole_text(text[2:] + (b"\r\n" if text else b""))
                continue
            heard, end, rest = self.buffer.partition(b"\n")
            if self.skipping:
                self.buffer, self.skipping = rest, not end
            elif len(heard) >= LIMIT:
                self.buffer, self.skipping = rest, not end
                self.flawed(b"500")
            elif not end:
                return
            else:
                self.buffer = rest
                if heard.endswith(b"\r"):
                    self.line(heard[:-1])
                else:
                    self.flawed(b"501" if self.state == "login" else b"500")
            if self.skipping:
                return

    def flawed(self, code: bytes) -> None:
        if self.state == "login":
            self.state = "ready"
        self.say(code)

    def line(self, heard: bytes) -> None:
        if self.state == "login":
            self.response(heard)
            return
        verb, _, rest = heard.partition(b" ")
        verb = verb.upper()
        order = {
            b"MAIL": ("ready",), b"RCPT": ("mail", "rcpt"), b"DATA": ("rcpt",), b"AUTH": ("ready",),
            **dict.fromkeys(
                (b"EHLO", b"HELO", b"STARTTLS", b"RSET", b"NOOP", b"VRFY", b"EXPN", b"HELP", b"QUIT"),
                ("start", "ready", "mail", "rcpt"),
            ),
        }  # fmt: skip
        if verb not in order or len(heard) + 2 > LONGEST.get(verb, 512):
            self.say(b"500")
        elif self.state not in order[verb]:
            self.say(b"503")
        elif verb == b"AUTH" and self.policy.login_needs_tls and not self.secure:
            self.say(b"538")
        elif verb in BARE and rest.strip():
            self.say(b"501")
        else:
            self.command(verb, rest)

    def command(self, verb: bytes, rest: bytes) -> None:
        match verb:
            case b"EHLO" | b"HELO":
                if rest not in NAMES:
                    self.say(b"501")
                    return
                self.client, self.extended = NAMES[rest], verb == b"EHLO"
                self.reset("ready")
                self.expected.append(self.extensions() if self.extended else line(b"250 mail.example.test"))
            case b"MAIL":
                code, self.sender = SENDERS.get(rest.rstrip(b" "), (b"501|553|555", ""))
                self.state = "mail" if code == b"250" else "ready"
                self.say(code)
            case b"RCPT":
                code, account = RECIPIENTS.get(rest, (b"501|553|555", ""))
                if account:
                    self.state = "rcpt"
                    self.recipients += [account] if account not in self.recipients else []
                self.say(code)
            case b"DATA":
                self.state = "text"
                self.say(b"354")
            case b"RSET":
                self.reset("start" if self.state == "start" else "ready")
                self.say(b"250")
            case b"STARTTLS":
                if self.secure or not self.policy.offers_tls:
                    self.say(b"503" if self.secure else b"454")
                    return
                self.say(b"220")
                self.expected.append(action("StartTls"))
                self.awaiting_tls, self.buffer = True, b""
            case b"QUIT":
                self.say(b"221")
                self.close()
            case b"AUTH":
                self.auth(rest.split())
            case b"VRFY":
                self.say(b"252" if rest.strip() else b"501")
            case b"EXPN":
                self.say(b"502")
            case _:
                self.say(b"250|214")

    def extensions(self) -> bytes:
        words = [b"250-mail.example.test\r\n"]
        if self.policy.offers_tls and not self.secure:
            words.append(b"250-STARTTLS\r\n")
        if not self.account and (self.secure or not self.policy.login_needs_tls):
            words.append(b"250-AUTH PLAIN LOGIN\r\n")
        return b"".join(words) + rb"250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE [0-9]+\r\n250 ENHANCEDSTATUSCODES\r\n"

    def reset(self, state: str) -> None:
        self.state, self.sender, self.recipients = state, "", []

    # ---- logging in

    def auth(self, words: list[bytes]) -> None:
        if self.account:
            self.say(b"503")
        elif not 1 <= len(words) <= 2:
            self.say(b"501")
        elif words[0].upper() not in (b"PLAIN", b"LOGIN"):
            self.say(b"504")
        else:
            self.exchange = SaslModel(words[0].upper())
            self.step(self.exchange.begin(words[1] if len(words) == 2 else None))

    def response(self, heard: bytes) -> None:
        self.state = "ready"
        self.step(self.exchange.respond(heard))

    def step(self, outcome: Outcome) -> None:
        match outcome:
            case "challenge":
                self.state = "login"
                self.say(b"334")
            case "cancelled":
                self.say(b"501 5.7.0")
            case "malformed":
                self.say(b"501 5.5.2")
            case "denied":
                self.say(b"535 5.7.8")
            case credentials:
                self.begin(credentials)

    # ---- work

    def whole_text(self, raw: bytes) -> None:
        lines = [piece.removeprefix(b".") for piece in raw.split(b"\r\n")]
        text = re.sub(rb"(?<!\r)\n", b"\r\n", b"\r\n".join(lines))
        if self.recipients == ["sink"]:
            self.reset("ready")
            self.errors = 0
            self.say(b"250")
        else:
            self.begin(text)

    def begin(self, job: tuple[str, str] | bytes) -> None:
        self.job = job
        if not self.holding:
            self.finish()

    def finish(self) -> None:
        job, self.job = self.job, None
        if job is None:
            return
        fault, self.fault = self.fault, None
        if isinstance(job, bytes):
            if fault is None:
                self.deliver(job)
                self.errors = 0
            self.reset("ready")
            self.say(b"250" if fault is None else b"452" if fault.errno == errno.ENOSPC else b"451")
        elif fault is not None:
            self.say(b"454")
        elif is_right(job):
            self.account = "alice"
            self.say(b"235")
        else:
            self.failures += 1
            self.say(b"421" if self.failures == MAX_FAILED_LOGINS else b"535", counts=False)
            if self.failures == MAX_FAILED_LOGINS:
                self.close()
                return
        if self.stopping:
            self.say(b"421")
            self.close()
        self.go_on()

    def deliver(self, text: bytes) -> None:
        only = f"\r\n\tfor <{self.recipients[0]}@example.test>" if len(self.recipients) == 1 else ""
        how = f"ESMTP{'S' * self.secure}{'A' * bool(self.account)}" if self.extended else "SMTP"
        trace = (
            f"Return-Path: <{self.sender}>\r\nReceived: from {self.client} ([192.0.2.7])\r\n"
            f"\tby mail.example.test with {how}{only};\r\n\tDATE\r\n"
        ).encode()
        for name in self.recipients:
            if name != "sink":
                self.kept[name].append(trace + text)

    # ---- what is said

    def say(self, code: bytes, *, counts: bool = True) -> None:
        if counts and code.startswith(b"5"):
            self.errors += 1
            if self.errors == MAX_ERRORS:
                self.expected.append(line(b"421"))
                self.close()
                return
        self.expected.append(line(b"(?:%s) " % code))

    def close(self) -> None:
        self.expected.append(action("Close"))
        self.over, self.buffer, self.job = True, b"", None


COMMANDS = [
    *(verb + b" " + name for verb in (b"EHLO", b"helo") for name in (*NAMES, b"", b"a b", b"\xe4", b"[1.2.3.4")),
    *(b"MAIL " + rest for rest in (*SENDERS, b"")), *(b"RCPT " + rest for rest in (*RECIPIENTS, b"")),
    b"DATA", b"data ", b"DATA now", b"RSET", b"RSET x", b"NOOP", b"NOOP \0\xff", b"VRFY", b"VRFY alice", b"EXPN x",
    b"HELP", b"QUIT", b"QUIT now", b"STARTTLS", b"starttls now", b"AUTH", b"AUTH PLAIN", b"AUTH LOGIN", b"AUTH X",
    b"AUTH PLAIN =", b"AUTH PLAIN " + RIGHT, b"auth plain " + WRONG, b"AUTH PLAIN " + ACTING, b"AUTH PLAIN a b",
    b"AUTH LOGIN " + b64("alice"), RIGHT, WRONG, ACTING, b64("alice"), b64("ecila"), b64("\xff\0"), b"*", b"=", b"!",
    b"", b" ", b".", b"..", b"\0", b"\xff\xfe", b"XYZZY", b"\tNOOP", b"NOOP\0", b"MAIL\xa0FROM:<>", b"\x16\x03\x01",
]  # fmt: skip
ends = st.sampled_from((b"\r\n",) * 8 + (b"\n", b"\r\r\n", b"\r", b""))
lines = st.lists(st.builds(bytes.__add__, st.sampled_from(COMMANDS) | st.binary(max_size=20), ends), max_size=6)
texts = st.lists(
    st.sampled_from((b"\r", b"\n", b"\r\n", b".", b"\r\n.", b"a", b"\0\xff", b"\r\n.\r\n", b"\n.\n", b"NOOP\r\n")),
    max_size=12,
).map(b"".join)


class SmtpBesideModel(RuleBasedStateMachine):
    """One store, and clients that come one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stores = [MemoryStore() for _ in range(WAYS)]
        self.model = Model()

    def check(self) -> None:
        self.twins.check(self.model.expected)
        if self.model.job is None:
            assert self.twins.unfinished == self.model.unfinished
        for store in self.stores:
            found = {
                name: [re.sub(rb"\A(.*?;\r\n\t)[^\r\n]*", rb"\1DATE", text, count=1, flags=re.DOTALL) for text in inbox]
                for name, inbox in store.inboxes.items()
            }
            assert found == self.model.kept

    def hear(self, octets: bytes, cut_at: list[int]) -> None:
        self.model.hear(octets)
        self.twins.feed(octets, cut_at)
        self.check()

    @initialize()
    def first(self) -> None:
        self.meet(Policy("mail.example.test", offers_tls=True), secure=False)

    @precondition(lambda self: self.model.over)
    @rule(offers_tls=st.booleans(), strict=st.booleans(), secure=st.booleans())
    def next(self, offers_tls: bool, strict: bool, secure: bool) -> None:
        self.twins.happen("ended")
        self.check()
        self.meet(Policy("mail.example.test", offers_tls=offers_tls, login_needs_tls=strict), secure)

    def meet(self, policy: Policy, secure: bool) -> None:
        self.model.connect(policy, secure)
        self.twins = Twins([SmtpSession(policy, store) for store in self.stores], TLS if secure else None)
        self.check()

    # ---- what a client says

    @precondition(lambda self: not self.model.over)
    @rule(said=lines, cut_at=cuts)
    def anything(self, said: list[bytes], cut_at: list[int]) -> None:
        self.hear(b"".join(said), cut_at)

    @precondition(lambda self: not self.model.over)
    @rule(
        name=st.sampled_from((b"", b"EHLO client.test\r\n", b"HELO [192.0.2.7]\r\n")),
        to=st.lists(st.sampled_from(list(RECIPIENTS)), max_size=4),
        text=texts,
        more=lines,
        cut_at=cuts,
    )
    def transaction(self, name: bytes, to: list[bytes], text: bytes, more: list[bytes], cut_at: list[int]) -> None:
        said = [b"MAIL FROM:<carol@elsewhere.test>", *(b"RCPT " + path for path in to), b"DATA", text, b".", *more]
        self.hear(name + b"\r\n".join(said), cut_at)

    @precondition(lambda self: not self.model.over)
    @rule(text=texts, cut_at=cuts)
    def text(self, text: bytes, cut_at: list[int]) -> None:
        self.hear(text, cut_at)

    @precondition(lambda self: not self.model.over)
    @rule(
        ahead=st.sampled_from((b"", b"EHLO client.test\r\n")),
        said=st.sampled_from(
            (
                (b"AUTH PLAIN", RIGHT), (b"AUTH PLAIN", WRONG), (b"AUTH PLAIN", b"*"), (b"AUTH PLAIN", ACTING),
                (b"AUTH LOGIN", b64("alice"), b64("ecila")), (b"AUTH LOGIN", b64("alice"), b"*"),
                (b"AUTH LOGIN " + b64("alice"), b64("guess")), (b"AUTH PLAIN", b"x" * LIMIT), (b"AUTH PLAIN", b""),
            )
        ),
        cut_at=cuts,
    )  # fmt: skip
    def login(self, ahead: bytes, said: tuple[bytes, ...], cut_at: list[int]) -> None:
        self.hear(ahead + b"".join(piece + b"\r\n" for piece in said), cut_at)

    @precondition(lambda self: not self.model.over)
    @rule(
        verb=st.sampled_from((b"NOOP ", b"XYZZY ", b"AUTH PLAIN ", b"MAIL FROM:<>", b"")),
        length=st.sampled_from((510, 511, 1053, 1054, LIMIT - 2, LIMIT - 1, LIMIT, LIMIT + 9)),
        end=ends,
        cut_at=cuts,
    )
    def long_line(self, verb: bytes, length: int, end: bytes, cut_at: list[int]) -> None:
        self.hear(verb.ljust(length, b" " if verb.startswith(b"MAIL") else b"x") + end, cut_at)

    @precondition(lambda self: not self.model.over)
    @rule(line=st.sampled_from((b"XYZZY\r\n", b"\n", b"RCPT\r\n")), cut_at=cuts)
    def nonsense(self, line: bytes, cut_at: list[int]) -> None:
        self.hear(line * (MAX_ERRORS - 2), cut_at)

    # ---- what else happens

    @precondition(lambda self: self.model.awaiting_tls and not self.model.over)
    @rule()
    def handshake(self) -> None:
        self.model.awaiting_tls, self.model.secure = False, True
        self.model.account, self.model.client, self.model.extended = "", "", False
        self.model.reset("start")
        self.twins.happen("secured")
        self.check()

    @rule(number=st.sampled_from((errno.ENOSPC, errno.EIO)))
    def the_disk_fails_once(self, number: int) -> None:
        self.model.fault = OSError(number, "")
        for store in self.stores:
            store.fault = OSError(number, "")

    @precondition(lambda self: not self.model.over)
    @rule()
    def work_takes_time(self) -> None:
        self.model.holding = True
        self.twins.happen("hold")

    @precondition(lambda self: self.model.holding and not self.model.over)
    @rule()
    def work_is_done(self) -> None:
        self.model.holding = False
        self.model.finish()
        self.twins.happen("release")
        self.check()

    @precondition(lambda self: self.model.job is not None and not self.model.stopping)
    @rule()
    def the_server_stops_during_work(self) -> None:
        self.model.stopping = True
        self.twins.happen("stopping")
        self.check()

    @precondition(lambda self: not self.model.over)
    @rule(how=st.sampled_from(("idled", "stopping", "ended")))
    def it_ends(self, how: str) -> None:
        if self.model.job is not None:
            how = "ended"  # the clock rests during work
        self.model.over = True
        if how == "ended":
            # What is under way comes to its end; nobody hears of it.
            self.model.finish()
            self.model.expected.clear()
        else:
            self.model.expected.append(line(b"421"))
        self.twins.happen(how)
        self.check()


TestSmtpBesideModel = SmtpBesideModel.TestCase
TestSmtpBesideModel.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, derandomize=True, report_multiple_bugs=False
)
