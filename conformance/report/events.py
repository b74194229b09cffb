"""The event file: one line of JSON for each thing that a run has to say, written while it runs.

Owns: writing such a file and reading it back.  Every other form of a report is a view of what stands here, so a run
that was cut short can be told from one that ended: it has no footer.  Deliberately knows nothing of checks, and nothing
of how a report looks.

    {"event": "header", "format": 1, "suite": {...}, "target": {...}, "started": "..."}
    {"event": "result", "id": "LIM-11/imap/implicit", ...}
    {"event": "footer", "duration": 9.8, "verdict": "conformant", "totals": {...}}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from conformance.report.model import FORMAT, SUITE, ReportError, Result, Run, TargetName, suite_version


class EventWriter:
    """Writes the events of one run.  The header stands in the file once this exists, each result once it was told."""

    def __init__(self, path: Path, target: TargetName, started: str) -> None:
        """``started`` is a UTC time as RFC 3339 writes it.  ``OSError`` when the file cannot be written."""
        self._file = path.open("w", encoding="utf-8")
        suite = {"name": SUITE, "version": suite_version()}
        self._write("header", {"format": FORMAT, "suite": suite, "target": target.to_dict(), "started": started})

    def result(self, result: Result) -> None:
        """Add one result."""
        self._write("result", result.to_dict())

    def finish(self, run: Run) -> None:
        """Add the footer: the run has ended, however it went."""
        self._write("footer", run.summary_dict())

    def close(self) -> None:
        """Close the file.  Without :meth:`finish` before, it is not that of a finished run."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, event: str, fields: dict[str, Any]) -> None:
        # ASCII only: also a lone surrogate, should a peer's bytes ever have become one, is written as its escape.
        self._file.write(json.dumps({"event": event, **fields}) + "\n")
        self._file.flush()


def read_events(path: Path) -> Run:
    """The finished run that ``path`` tells of.

    ``OSError`` when it cannot be read; :class:`ReportError`, with the number of the line, when it is not an event file,
    or not that of a finished run.
    """
    header: dict[str, Any] | None = None
    footer: dict[str, Any] | None = None
    results: list[dict[str, Any]] = []
    for number, fields in _lines(path):
        event = fields.pop("event", None)
        if footer is not None:
            raise ReportError(f"{path}, line {number}: there is something behind the footer")
        if (event == "header") is not (header is None):
            raise ReportError(f"{path}, line {number}: an event file has one header, and begins with it")
        match event:
            case "header":
                header = fields
            case "result":
                try:
                    Result.from_dict(fields)
                except ReportError as error:
                    raise ReportError(f"{path}, line {number}: {error}") from None
                results.append(fields)
            case "footer":
                footer = fields
            case _:
                raise ReportError(f"{path}, line {number}: {event!r} is not an event")
    if header is None:
        raise ReportError(f"{path}: the file is empty; this is not a finished run")
    if footer is None:
        raise ReportError(f"{path}: there is no footer after {len(results)} results; this is not a finished run")
    try:
        return Run.from_dict({**header, **footer, "results": results})
    except ReportError as error:
        raise ReportError(f"{path}: {error}") from None


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError):
                shown = line[:40].decode("utf-8", "backslashreplace").rstrip()
                raise ReportError(f"{path}, line {number}: not JSON: {shown!r}") from None
            if not isinstance(fields, dict):
                raise ReportError(f"{path}, line {number}: an object is wanted, not {fields!r:.40}")
            yield number, fields
