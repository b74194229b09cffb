"""The dialogue player itself: it must notice what is wrong, or every dialogue is worth nothing."""

from __future__ import annotations

import pytest

from reference_server.session import (
    Actions,
    Close,
    Peer,
    Perform,
    Security,
    Send,
    StartTls,
)
from tests.dialogue import Feed, play


class Parrot:
    """Repeats each line; ``TLS`` asks for a handshake, ``JOB`` works first, ``BYE`` closes."""

    def __init__(self, *, hasty: bool = False) -> None:
        self.buffer = b""
        self.hasty = hasty
        self.over = False

    @property
    def unfinished(self) -> bool:
        return bool(self.buffer)

    def connected(self, peer: Peer, security: Security | None) -> Actions:
        del peer, security
        return [Send(b"hello\r\n")]

    def received(self, data: bytes) -> Actions:
        if self.hasty:  # answers pieces instead of lines: what feeding by octets is there to find
            return [Send(data)]
        self.buffer += data
        return self.go_on(None)

    def go_on(self, _: object) -> Actions:
        while b"\r\n" in self.buffer:
            line, self.buffer = self.buffer.split(b"\r\n", 1)
            match line:
                case b"TLS":
                    self.buffer = b""
                    return [Send(b"go\r\n"), StartTls()]
                case b"JOB":
                    return [Perform(lambda: None, lambda _: [Send(b"done\r\n"), *self.go_on(None)])]
                case b"BUG":
                    return [Perform(lambda: 1 // 0, self.go_on)]
                case b"BYE":
                    return [Close()]
            return [Send(line + b"\r\n"), *self.go_on(None)]
        return []

    def secured(self, security: Security) -> Actions:
        del security
        return [Send(b"safe\r\n")]

    def failed(self, error: Exception) -> Actions:
        return [Send(type(error).__name__.encode() + b"\r\n"), *self.go_on(None)]

    def woken(self) -> Actions:
        return []

    def idled(self) -> Actions:
        return [Send(b"wake up\r\n")]

    def stopping(self) -> Actions:
        return [Send(b"stop\r\n")]

    def ended(self) -> None:
        self.over = True


def test_a_dialogue_goes_through_every_mark() -> None:
    for conversation in play(
        Parrot,
        r"""
        S: hello
        # a remark
        C: one
        S: o…e
        C: two
        C: three *
        S: two
        S*: fo*
        S: thr*
        C> fo
        is: unfinished
        C> ur "4"\r\n
        S> four "4"\r
        S> \n
        is: finished
        C: BUG
        S: ZeroDivisionError
        C: TLS
        S: go *
        A: StartTls
        E: secured
        S: safe
        E: hold
        C: JOB
        C: after
        E: release
        S: done
        S: after
        C: BYE
        A: Close
        """,
    ):
        assert isinstance(conversation.session, Parrot)
        assert conversation.session.over


@pytest.mark.parametrize(
    "script",
    [
        "S: hello\nC: a\nS: b",
        "S: hello\nC: a\nS: a\nS: more",
        "S: hello\nC: a",
        "S: hello there",
        "S: hello\nC: TLS\nS: go",
        "S: hello\nC: a\nS: a\nA: Close",
        "S: hello\nC> a\nis: finished",
        "S: hello\nE: idled",
    ],
)
def test_a_dialogue_that_is_not_kept_fails(script: str) -> None:
    with pytest.raises(AssertionError):
        play(Parrot, script)


def test_a_session_that_depends_on_how_octets_arrive_is_caught() -> None:
    script = "S: hello\nC: ab\nC: c\nS: ab\nS: c"
    play(Parrot, script)
    lines = iter(range(9))

    def sometimes() -> Parrot:
        return Parrot(hasty=next(lines) > 0)

    play(sometimes, script, feeds=[Feed.TURN, Feed.LINE])
    with pytest.raises(AssertionError):
        play(sometimes, script + "\nC> ab\nis: unfinished")


def test_a_line_without_a_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="no mark"):
        play(Parrot, "hello")
