"""A run as a person reads it once it has ended: in a terminal of 80 columns, without colours, or in a file.

Owns: what is said of a run, in which order, and how it is laid out.  Knows only :mod:`conformance.report.model`.  Text
that came from a peer is never trusted: what is not printable is shown escaped, so that no server moves our cursor.
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.report.live import LiveProgress
from conformance.report.model import (
    FAMILIES,
    SERVICES,
    Conformance,
    Result,
    Run,
    Verdict,
    printable,
    suite_version,
)

__all__ = ["LiveProgress", "explain", "summary"]

#: Of a transcript, the end: what led to the verdict.  All of it is in the JSON report.
EXCERPT: Final = 12
#: Lines that one entry of a transcript may take.
TALLEST_ENTRY: Final = 3
#: Nothing is folded to less than this many columns, however small a window says that it is.
NARROWEST: Final = 40
#: Of results that share a reason, as many are named unless more are asked for.
NAMED: Final = 8

Line = tuple[str, str]
"""A line of text and its style."""


def summary(run: Run, verbose: int = 0, console: Console | None = None) -> None:
    """Print what ``run`` found to standard output: a table, each failure, what was not examined and why, the verdict.

    ``verbose`` from 1 names every single latitude and every result that was not examined.
    """
    console = console or Console(highlight=False)
    width = max(console.width, NARROWEST)
    version = run.suite_version or suite_version()
    driver = f", driver {run.target.driver}" if run.target.driver else ""
    _print(console, [(f"{run.target}{driver}, examined by listenspec {version}", "bold")])
    if run.results:
        console.print()
        console.print(_table(run.results))
    for section in (_failures, _unsettled, _troubles, _latitude, _not_examined):
        _print(console, section(run, verbose, width))
    console.print()
    _print(console, _verdict(run, width))


def explain(result: Result, width: int = 100) -> str:
    """One result that did not pass, as plain text: what was required, what was seen, and how to see it again."""
    return "\n".join(printable(line) for line, _ in _details(result, width))


def _print(console: Console, lines: Iterable[Line]) -> None:
    for line, style in lines:
        # Commands must survive being copied, so nothing is folded here that was not folded already.
        console.print(Text(printable(line), style), soft_wrap=True)


# -- the table -------------------------------------------------------------------------------------------------------


def _table(results: Sequence[Result]) -> Table:
    unsettled = any(result.verdict.unsettled for result in results)
    table = Table(box=None, pad_edge=False, padding=(0, 1 if unsettled else 2, 0, 0), header_style="bold")
    table.add_column("service", no_wrap=True, min_width=max(map(len, SERVICES)))
    table.add_column("family", no_wrap=True, overflow="ellipsis")
    for title in ("pass", "fail", "latitude", "not examined", *(["unsettled"] if unsettled else [])):
        table.add_column(title, justify="right", no_wrap=True, min_width=len(title))

    def cells_of(verdicts: Sequence[Verdict]) -> list[Text]:
        return [Text(count, style) for count, style in _counts(verdicts)][: 5 if unsettled else 4]

    found: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for result in results:
        found[result.service, result.family].append(result.verdict)
    before = None
    rows = sorted(found, key=_usual_order)
    for service, family in rows:
        names = (service if service != before else "", f"{family} {FAMILIES.get(family, '')}")
        table.add_row(*map(printable, names), *cells_of(found[service, family]))
        before = service
    if len(rows) > 1:
        table.add_row("", "all", *cells_of([result.verdict for result in results]))
    return table


def _counts(verdicts: Sequence[Verdict]) -> Iterator[Line]:
    unsettled = sum(verdict.unsettled for verdict in verdicts)
    examined = sum(verdict.examined for verdict in verdicts)
    for count, style in (
        (verdicts.count(Verdict.PASS), "green"),
        (verdicts.count(Verdict.FAIL), "bold red"),
        (verdicts.count(Verdict.LATITUDE), "yellow"),
        (len(verdicts) - examined - unsettled, ""),
        (unsettled, "bold magenta"),
    ):
        yield (str(count), style) if count else ("-", "dim")


def _usual_order(row: tuple[str, str]) -> tuple[int, int]:
    service, family = row
    families = list(FAMILIES)
    return (
        SERVICES.index(service) if service in SERVICES else len(SERVICES),
        families.index(family) if family in families else len(families),
    )


# -- what did not pass -----------------------------------------------------------------------------------------------


def _failures(run: Run, _verbose: int, width: int) -> Iterator[Line]:
    failed = [result for result in run.results if result.verdict is Verdict.FAIL]
    for result in sorted(failed, key=lambda result: not result.binding):
        yield "", ""
        yield from _details(result, width)


def _details(result: Result, width: int) -> Iterator[Line]:
    style = "bold red" if result.verdict is Verdict.FAIL else "bold magenta"
    yield f"{result.verdict.upper().replace('_', ' ')}  {printable(result.id)}  ({result.level})", style
    for line in textwrap.wrap(printable(result.text), width - 2):
        yield f"  {line}", "italic"
    for name, words in (("expected", result.expected), ("actual", result.actual), ("reason", result.reason)):
        yield from _field(name, words, width)
    if result.transcript:
        skipped = len(result.transcript) - EXCERPT
        yield "  transcript" + (f", its last {EXCERPT} of {len(result.transcript)} entries" if skipped > 0 else ""), ""
        yield from _transcript(result, width)
    yield from _field("check", result.check, width)
    if result.repro:
        yield f"  {'repeat':<9} {printable(result.repro)}", "bold"


def _transcript(result: Result, width: int) -> Iterator[Line]:
    """Time in seconds, connection, C or S, a mark where it went through TLS, and what was said."""
    for event in result.transcript[-EXCERPT:]:
        source = {"client": "C:", "server": "S:"}.get(event.source, "--")
        mark = "TLS" if event.tls else "   "
        prefix = f"  {event.at:8.3f} #{event.connection:<2} {mark} {source} "
        room = max(20, width - len(prefix))
        folded = textwrap.wrap(printable(event.data), room, drop_whitespace=False, break_on_hyphens=False) or [""]
        if len(folded) > TALLEST_ENTRY:
            folded = [*folded[: TALLEST_ENTRY - 1], folded[TALLEST_ENTRY - 1][:-4].rstrip() + " ..."]
        for line in folded:
            yield (prefix + line).rstrip(), "cyan" if event.source == "client" else ""
            prefix = " " * len(prefix)


def _field(name: str, words: str, width: int) -> Iterator[Line]:
    for paragraph in words.splitlines():
        for line in textwrap.wrap(printable(paragraph), max(20, width - 12)) or [""]:
            yield f"  {name:<9} {line}".rstrip(), ""
            name = ""


def _unsettled(run: Run, verbose: int, width: int) -> Iterator[Line]:
    for verdict, advice in (
        (Verdict.INCONCLUSIVE, "A control failed, so nothing was decided. Run these again, on a quieter machine:"),
        (Verdict.ERROR, "The driver or the suite broke; this says nothing about the server:"),
    ):
        groups = _by_reason(run, verdict)
        if not groups:
            continue
        yield "", ""
        yield from _folded(f"{sum(map(len, groups.values()))} {verdict}. {advice}", width, "bold magenta")
        # One broken driver spoils everything that it was asked: its reason is told once.
        for reason, results in groups.items():
            for line in reason.splitlines():
                yield from _folded(line, width, "", "  ")
            names = [f"{result.id} ({result.level})" for result in results]
            yield from _folded(", ".join(names if verbose else _shortened(names)), width, "dim", "    ")
            yield f"    {'repeat':<7} {printable(results[0].repro)}", "bold"


def _by_reason(run: Run, verdict: Verdict) -> dict[str, list[Result]]:
    """The results with ``verdict``, those that share a reason together, the largest group first."""
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in run.results:
        if result.verdict is verdict:
            groups[result.reason].append(result)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def _troubles(run: Run, _verbose: int, width: int) -> Iterator[Line]:
    if not run.troubles:
        return
    yield "", ""
    yield "What went wrong besides:", "bold magenta"
    for trouble in run.troubles:
        indent = "- "
        for line in trouble.splitlines():
            yield from _folded(line, width, "", indent)
            indent = "  "


# -- what did not have to --------------------------------------------------------------------------------------------


def _latitude(run: Run, verbose: int, width: int) -> Iterator[Line]:
    found = [result for result in run.results if result.verdict is Verdict.LATITUDE]
    if not found:
        return
    yield "", ""
    hint = "" if verbose else " (-v lists them)"
    yield from _folded(f"{len(found)} latitude: declined in a way that is allowed{hint}", width, "bold yellow")
    if verbose:
        for result in found:
            yield from _folded(f"{result.id}: {result.reason}", width, "", "  ")


def _not_examined(run: Run, verbose: int, width: int) -> Iterator[Line]:
    for verdict, words in (
        (Verdict.NOT_OFFERED, "not examined, as the implementation declares that it does not have it:"),
        (Verdict.NOT_ASSESSABLE, "not examined, as it cannot be judged here:"),
    ):
        groups = _by_reason(run, verdict)
        if not groups:
            continue
        yield "", ""
        yield from _folded(f"{sum(map(len, groups.values()))} {words}", width, "bold")
        for reason, results in groups.items():
            yield from _folded(reason, width, "", "  ")
            every = [result.id for result in results]
            names = every if verbose else _shortened(result.requirement for result in results)
            yield from _folded(", ".join(names), width, "dim", "    ")


def _shortened(names: Iterable[str]) -> list[str]:
    names = list(dict.fromkeys(names))
    return names if len(names) <= NAMED else [*names[:NAMED], f"and {len(names) - NAMED} more (-v names them)"]


# -- the verdict -----------------------------------------------------------------------------------------------------


def _verdict(run: Run, width: int) -> Iterator[Line]:
    binding = [result for result in run.results if result.binding]
    after = f"after {run.duration:.1f} s"
    match run.verdict:
        case Conformance.CONFORMANT:
            style, words = "bold green", f"CONFORMANT {after}: every MUST that was examined holds."
            if declined := {result.requirement for result in run.results if result.verdict is Verdict.FAIL}:
                words = f"{words[:-1]}; {_of(len(declined), 'lesser requirement')} failed."
        case Conformance.NON_CONFORMANT:
            broken = {result.requirement for result in binding if result.verdict is Verdict.FAIL}
            style, words = "bold red", f"NOT CONFORMANT {after}: {_of(len(broken), 'MUST requirement')} broken."
        case Conformance.INCOMPLETE:
            style, words = "bold magenta", f"INCOMPLETE {after}: {_incomplete(run, binding)}"
    if run.results:
        examined = {result.requirement for result in run.results if result.verdict.examined}
        totals = {verdict: count for verdict, count in run.totals.items() if verdict.examined or verdict.unsettled}
        numbers = [f"{count} {verdict}" for verdict, count in totals.items() if count]
        if unexamined := len(run.results) - sum(totals.values()):
            numbers.append(f"{unexamined} not examined")
        words += f" {_of(len(examined), 'requirement')} examined: {', '.join(numbers)}."
    yield from _folded(words, width, style)


def _incomplete(run: Run, binding: Sequence[Result]) -> str:
    unsettled = sum(result.verdict.unsettled for result in binding)
    if unsettled:
        return f"{_of(unsettled, 'MUST result')} could not be settled."
    if run.troubles:
        return "the run went wrong, see above."
    if any(result.verdict.examined for result in run.results):
        return "no MUST was examined."
    return "nothing was examined."


def _of(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _folded(text: str, width: int, style: str, indent: str = "") -> Iterator[Line]:
    hanging = " " * len(indent)
    for line in textwrap.wrap(
        printable(text), width, initial_indent=indent, subsequent_indent=hanging, break_on_hyphens=False
    ):
        yield line, style
