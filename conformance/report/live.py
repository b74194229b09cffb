"""A run as a person watches it: two lines that live on a terminal, a few plain ones anywhere else.

Owns: what is shown while a run lasts, on standard error, so that it never mixes with what the run has to say in the
end.  Knows only :mod:`conformance.report.model`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from conformance.report.model import Result, Run, Verdict, printable

#: Without a terminal there is a line this often, seconds; failures are told at once.
EVERY: Final = 5.0
#: On a terminal, how often a second the line is drawn: enough to look alive, too seldom to slow the run.
DRAWN: Final = 4

_STYLES: Final = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.LATITUDE: "yellow",
    Verdict.INCONCLUSIVE: "bold magenta",
    Verdict.ERROR: "bold magenta",
}
_TOLD_AT_ONCE: Final = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.ERROR)


class LiveProgress:
    """Tells how far a run has come.  To be closed, or used in a ``with`` statement; ``finished`` closes it too."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._clock = clock
        self._begun = self._told = clock()
        self._target = ""
        self._total = 0
        self._activity = ""
        self._counts: Counter[Verdict] = Counter()
        self._live: Live | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self._lines,
                refresh_per_second=DRAWN,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )

    def started(self, target: str, total: int) -> None:
        """The run has begun: ``total`` results of ``target`` are to come."""
        self._target, self._total = target, total
        if self._live is not None:
            self._live.start(refresh=True)
        else:
            self._say(Text(f"examining {printable(target)}: {total} results to come"))

    def waiting(self, text: str) -> None:
        """What is going on just now."""
        self._activity = text
        self._now_and_then()

    def result(self, result: Result) -> None:
        """One more is known."""
        self._counts[result.verdict] += 1
        self._activity = result.id
        if result.verdict in _TOLD_AT_ONCE:
            first, *_ = (result.actual or result.reason).splitlines() or [""]
            words = printable(first)
            head = f"{result.verdict} {printable(result.id)}: "
            self._say(
                Text.assemble((head, _STYLES[result.verdict]), words if len(words) <= 160 else f"{words[:156]} ...")
            )
        self._now_and_then()

    def finished(self, run: Run) -> None:
        """The run has ended."""
        del run  # what it found is told by the summary
        self.close()

    def close(self) -> None:
        """Take the lines away.  May be called again."""
        if self._live is not None:
            self._live.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _say(self, text: Text) -> None:
        self._told = self._clock()
        self._console.print(text, soft_wrap=True)

    def _now_and_then(self) -> None:
        if self._live is None and self._clock() - self._told >= EVERY:
            self._say(self._numbers())

    def _numbers(self) -> Text:
        text = Text(f"{self._counts.total()} of {self._total} after {self._clock() - self._begun:.0f} s")
        for verdict, style in _STYLES.items():
            if self._counts[verdict]:
                text.append(f"  {self._counts[verdict]} {verdict}", style)
        unexamined = sum(count for verdict, count in self._counts.items() if verdict not in _STYLES)
        if unexamined:
            text.append(f"  {unexamined} not examined")
        return text

    def _lines(self) -> Text:
        """The target and the numbers; below, what is going on.  Never folded: the cursor could not find back."""
        numbers = Text.assemble((f"{printable(self._target)}  ", "bold"), self._numbers())
        activity = Text(f"  {printable(self._activity)}", "dim")
        for line in (numbers, activity):
            line.truncate(self._console.width - 1, overflow="ellipsis")
        text = Text("\n").join((numbers, activity))
        text.no_wrap = True
        return text
