"""Play a written dialogue against any session, without an engine.

Owns: the notation below, and four ways of cutting the client's bytes into pieces, all of which must bring the
same answers.  Knows no protocol, no socket and no clock; the rules of ``reference_server.session`` that an
engine keeps are kept here too, and a session that breaks its side of them fails the test.

Each line of a dialogue begins with a mark; empty lines and lines that begin with ``#`` do not count.

    S: 250 ok                 the server sends exactly this line (CRLF is understood)
    S: 250 *                  a ``*`` at the very end: any rest of the line, also none
    S: * OK [UIDNEXT …] …     ``…`` anywhere: any run of octets within the line; any other ``*`` is itself
    S*: 250-*                 none, one or many lines like this
    S> +OK\\r\\nab             octets with the escapes of a Python bytes literal, no CRLF added, no wildcards
    C: NOOP                   the client sends this line (CRLF is understood)
    C> a\\nb                  octets with the escapes of a Python bytes literal, no CRLF added
    A: StartTls               the server wants this done: StartTls, Close, Watch or Unwatch
    E: secured                something happens: secured, idled, stopping, woken or ended
    E: hold                   from here on a job of Perform is kept waiting, and so is what the client sends
    E: release                the waiting job runs (and those after it run at once)
    is: unfinished            what the session says of itself here: unfinished or finished

The first event, ``connected``, comes by itself.  Text is UTF-8.
"""

from __future__ import annotations

import ast
import enum
import re
import textwrap
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from reference_server.session import (
    Actions,
    Close,
    Peer,
    Perform,
    Security,
    Send,
    Session,
    StartTls,
    Unwatch,
    Watch,
)

PEER = Peer(ip_address("192.0.2.7"), 40007, ip_address("192.0.2.1"), 25)
TLS = Security("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256)


class Feed(enum.Enum):
    """How the client's octets are cut before the session gets them."""

    TURN = "all that the client says before the server's next words, in one piece"
    PIPELINE = "all that the client says up to the next event, in one piece"
    LINE = "line by line"
    OCTET = "one octet at a time"


@dataclass
class Conversation:
    """One session and what came of it: what an engine would do, done at once and on the spot."""

    session: Session
    peer: Peer = PEER
    security: Security | None = None
    outcome: list[bytes | str] = field(default_factory=list)
    """What the server did, in order: octets sent (neighbours joined) and names of other actions."""
    sent: bytearray = field(default_factory=bytearray)
    """Everything that the server sent, from the beginning."""
    closed: bool = False
    ended: bool = False
    awaiting_tls: bool = False
    holding: bool = False
    wake_subscription: Callable[[], None] | None = None
    _job: Perform | None = None
    _waiting: deque[bytes] = field(default_factory=deque)
    _woken: bool = False

    @property
    def working(self) -> bool:
        """Whether a job is under way."""
        return self._job is not None

    def begin(self) -> None:
        self._carry_out(self.session.connected(self.peer, self.security))

    def feed(self, pieces: Sequence[bytes]) -> None:
        """Hand over the pieces one by one; those that an engine would not read any more are dropped."""
        self._waiting.extend(pieces)
        while self._waiting and self._job is None:
            piece = self._waiting.popleft()
            if not (self.closed or self.awaiting_tls):
                self._carry_out(self.session.received(piece))

    def happen(self, event: str) -> None:
        match event:
            case "secured":
                assert self.awaiting_tls, "the server has not asked for a handshake"
                self.awaiting_tls = False
                self._carry_out(self.session.secured(TLS))
            case "idled":
                assert self._job is None, "the clock rests while a job is under way"
                self._carry_out(self.session.idled())
                self.closed = True
            case "stopping":
                self._carry_out(self.session.stopping())
                self.closed = True
            case "woken":
                assert self._woken, "nothing woke the session"
                self._woken = False
                self._carry_out(self.session.woken())
            case "hold":
                self.holding = True
            case "release":
                self.holding = False
                self._run()
                self.feed(())
            case "ended":
                self.end()
            case _:
                raise ValueError(f"unknown event {event!r}")

    def end(self) -> None:
        """The connection is gone; a job under way finishes first, and what comes of it is of no use."""
        self.closed = self.ended = True
        self.holding = False
        self._run()
        if self.wake_subscription is not None:
            self.wake_subscription()
        self.session.ended()

    def taken(self) -> list[bytes | str]:
        """What the server did since this was last asked."""
        outcome, self.outcome = self.outcome, []
        return outcome

    def _carry_out(self, actions: Actions) -> None:
        for place, action in enumerate(actions):
            if self.closed:
                return
            match action:
                case Send(data):
                    assert isinstance(data, bytes)
                    assert data, "an empty Send is no action"
                    self.sent += data
                    if self.outcome and isinstance(self.outcome[-1], bytes):
                        self.outcome[-1] += data
                    else:
                        self.outcome.append(data)
                case StartTls():
                    self.awaiting_tls = True
                    self.outcome.append("StartTls")
                case Close():
                    self.closed = True
                    self.outcome.append("Close")
                case Perform():
                    assert place == len(actions) - 1, "nothing can stand behind a Perform"
                    assert self._job is None, "one job at a time"
                    self._job = action
                    if not self.holding:
                        self._run()
                case Watch(subscribe):
                    if self.wake_subscription is not None:
                        self.wake_subscription()
                    self.wake_subscription = subscribe(self._wake)
                    self.outcome.append("Watch")
                case Unwatch():
                    if self.wake_subscription is not None:
                        self.wake_subscription()
                    self.wake_subscription = None
                    self.outcome.append("Unwatch")

    def _wake(self) -> None:
        self._woken = True

    def _run(self) -> None:
        perform, self._job = self._job, None
        if perform is None:
            return
        try:
            result = perform.job()
        except Exception as error:  # the engine, too, tells the session of whatever a job raises
            self._carry_out(self.session.failed(error))
        else:
            self._carry_out(perform.done(result))


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    mark: str
    text: str


def play(
    make: Callable[[], Session],
    script: str,
    *,
    security: Security | None = None,
    peer: Peer = PEER,
    feeds: Sequence[Feed] = tuple(Feed),
    same: bool = True,
) -> list[Conversation]:
    """Play ``script`` once for each way of feeding, each time with a session fresh from ``make``.

    Every way must match the script, and with ``same`` every way must bring the same octets (turn it off where
    replies carry the time of day or something random).  ``make`` must set up whatever the session changes.
    Gives back the conversations, which have all ended.  Raises AssertionError that shows the place.
    """
    lines = _parse(script)
    conversations = []
    for feed in feeds:
        conversation = Conversation(make(), peer, security)
        _play_once(conversation, lines, feed)
        conversations.append(conversation)
    if same:
        for feed, conversation in zip(feeds, conversations, strict=True):
            assert conversation.sent == conversations[0].sent, f"answers differ when fed {feed.value}"
    return conversations


def _play_once(conversation: Conversation, lines: Sequence[_Line], feed: Feed) -> None:
    conversation.begin()
    said: list[bytes] = []
    expected: list[_Line] = []

    def settle() -> None:
        if said:
            conversation.feed(_cut(said, feed))
        _compare(conversation.taken(), expected, feed)
        said.clear()
        expected.clear()

    for line in lines:
        match line.mark:
            case "C:" | "C>":
                # A client waits for its handshake, so what follows StartTls is a new piece in any case.
                if expected and (feed is not Feed.PIPELINE or not said or expected[-1].mark == "A:"):
                    settle()
                said.append(line.text.encode() + b"\r\n" if line.mark == "C:" else _octets(line))
            case "S:" | "S*:" | "S>" | "A:":
                expected.append(line)
            case "E:":
                settle()
                conversation.happen(line.text)
            case "is:":
                settle()
                assert conversation.session.unfinished == (line.text == "unfinished"), (
                    f"line {line.number}: the session is not {line.text} when fed {feed.value}"
                )
    settle()
    if not (lines and lines[-1].mark == "E:" and lines[-1].text == "ended"):
        conversation.end()


def _parse(script: str) -> list[_Line]:
    lines = []
    for number, raw in enumerate(textwrap.dedent(script).splitlines(), 1):
        if not raw.strip() or raw.lstrip().startswith("#"):
            continue
        found = re.match(r"\s*(C:|C>|S:|S\*:|S>|A:|E:|is:)(?: (.*))?$", raw)
        if found is None:
            raise ValueError(f"line {number} of the dialogue has no mark: {raw!r}")
        lines.append(_Line(number, found[1], found[2] or ""))
    return lines


def _octets(line: _Line) -> bytes:
    text = line.text.replace('"', '\\"')
    value = ast.literal_eval(f'b"{text}"')
    assert isinstance(value, bytes)
    return value


def _cut(said: Sequence[bytes], feed: Feed) -> list[bytes]:
    whole = b"".join(said)
    match feed:
        case Feed.TURN | Feed.PIPELINE:
            return [whole]
        case Feed.LINE:
            return whole.splitlines(keepends=True) if b"\r" not in whole.replace(b"\r\n", b"") else list(said)
        case Feed.OCTET:
            return [whole[place : place + 1] for place in range(len(whole))]


def _compare(outcome: Sequence[bytes | str], expected: Sequence[_Line], feed: Feed) -> None:
    """Match by one regular expression over octets and actions; an action is a line of NUL and its name."""
    seen = b"".join(part if isinstance(part, bytes) else b"\0%s\0" % part.encode() for part in outcome)
    if re.fullmatch(b"".join(map(_pattern, expected)), seen, re.DOTALL) is None:
        matched = 0
        while re.match(b"".join(map(_pattern, expected[: matched + 1])), seen, re.DOTALL) and matched < len(expected):
            matched += 1
        wanted = "\n".join(f"    {line.mark} {line.text}" for line in expected) or "    nothing"
        where = f"line {expected[matched].number}" if matched < len(expected) else "what follows them"
        shown = "\n".join(f"    {piece!r}" for piece in seen.splitlines(keepends=True)) or "    nothing"
        raise AssertionError(f"fed {feed.value}; expected\n{wanted}\nand saw\n{shown}\nwhich differs at {where}")


def _pattern(line: _Line) -> bytes:
    match line.mark:
        case "A:":
            return re.escape(b"\0%s\0" % line.text.encode())
        case "S>":
            return re.escape(_octets(line))
    text = line.text
    rest = b""
    if text.endswith("*"):
        text, rest = text[:-1], rb"[^\r\n]*"
        if text.endswith(" "):
            text, rest = text[:-1], rb"(?: [^\r\n]*)?"
    pattern = rb"[^\r\n]*".join(re.escape(piece.encode()) for piece in text.split("…")) + rest + b"\r\n"
    return b"(?:" + pattern + b")*" if line.mark == "S*:" else pattern
