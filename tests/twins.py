"""Equal sessions that hear the same octets in other pieces, and must say and do the same.

Owns: how a client's octets are cut (whole, octet by octet, anywhere), what a model expects of a conversation, and the
comparison.  Knows no protocol: models do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from hypothesis import strategies as st

from reference_server.session import Security, Session
from tests.dialogue import Conversation

WAYS = 3
"""Sessions that are compared."""

cuts = st.lists(st.integers(0, 400), max_size=6)
"""Where the third of the sessions has what it hears cut."""


def line(pattern: bytes) -> bytes:
    """What a line of the server looks like; ``pattern`` may leave away how it ends."""
    return pattern + rb"[^\r\n]*\r\n"


def action(name: str) -> bytes:
    """``StartTls``, ``Close``, ``Watch`` or ``Unwatch``."""
    return re.escape(b"\0%s\0" % name.encode())


class Twins:
    """``WAYS`` sessions, equal but for how they are fed; ``same`` takes out of an answer what may differ."""

    def __init__(
        self, sessions: Sequence[Session], security: Security | None, same: Callable[[bytes], bytes] = bytes
    ) -> None:
        assert len(sessions) == WAYS
        self._same = same
        self._talks = [Conversation(session, security=security) for session in sessions]
        for talk in self._talks:
            talk.begin()

    def feed(self, octets: bytes, cut_at: Sequence[int]) -> None:
        """The client says this."""
        places = [0, *sorted(place for place in cut_at if 0 < place < len(octets)), len(octets)]
        whole, by_octets, cut = self._talks
        whole.feed([octets] if octets else [])
        by_octets.feed(list(_by_octets(octets)))
        cut.feed([octets[start:end] for start, end in pairwise(places)])

    def happen(self, event: str) -> None:
        """As in a dialogue; ``stopping`` while a job is under way leaves the session open for its reply."""
        for talk in self._talks:
            if event == "ended" and talk.ended:
                continue  # an engine says so once
            if event == "stopping" and talk.working:
                assert list(talk.session.stopping()) == []
            else:
                talk.happen(event)

    def heard(self) -> bytes:
        """What all of them did since this was last asked, actions as :func:`action` has them."""
        seen = [
            self._same(
                b"".join(part if isinstance(part, bytes) else b"\0%s\0" % part.encode() for part in talk.taken())
            )
            for talk in self._talks
        ]
        assert seen[1:] == seen[:-1], f"fed whole, by octets, in pieces:\n{seen[0]!r}\n{seen[1]!r}\n{seen[2]!r}"
        return seen[0]

    def check(self, expected: list[bytes]) -> None:
        """What was done since the last time is what is expected, patterns in order, which are then forgotten."""
        heard = self.heard()
        if not re.fullmatch(b"".join(expected), heard, re.DOTALL):
            wanted = "\n".join(f"    {pattern!r}" for pattern in expected) or "    nothing"
            shown = "\n".join(f"    {piece!r}" for piece in heard.splitlines(keepends=True)) or "    nothing"
            raise AssertionError(f"expected\n{wanted}\nand saw\n{shown}")
        expected.clear()

    @property
    def unfinished(self) -> bool:
        answers = {talk.session.unfinished for talk in self._talks}
        assert len(answers) == 1, "whether a request is unfinished depends on how it was cut"
        return answers.pop()


def _by_octets(octets: bytes) -> Iterator[bytes]:
    """One by one; what is very long is one piece in its middle."""
    edge = 1500
    if len(octets) <= 2 * edge:
        yield from (octets[at : at + 1] for at in range(len(octets)))
        return
    yield from (octets[at : at + 1] for at in range(edge))
    yield octets[edge:-edge]
    yield from (octets[at : at + 1] for at in range(len(octets) - edge, len(octets)))
