"""One certification, from the question to the exit status.

Owns: what happens around the checks: the preflight that decides whether a driver can be used at all, and the reports,
which are written whatever the verdict.  Knows pytest only as whoever calls it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from conformance.examination import Examination, Examined
from conformance.report import json_report, junit
from conformance.report.events import EventWriter
from conformance.report.model import Result, Run, TargetName
from conformance.report.terminal import LiveProgress, summary
from conformance.suite import Case, DriverError, Selection, Suite, Unavailable, UsageError


@dataclass
class Certification:
    """Takes results as they come, and turns them into reports and an exit status."""

    suite: Suite
    json_file: Path | None
    junit_file: Path | None
    verbose: int
    progress: LiveProgress
    events: EventWriter | None
    honest: Future[None]
    began: float = field(default_factory=time.monotonic)
    started: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    results: list[Result] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    usable: bool = True
    _resources: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def begin(
        cls,
        target: str | None,
        driver: str | None,
        selection: Selection,
        *,
        json_file: Path | None = None,
        junit_file: Path | None = None,
        events_file: Path | None = None,
        verbose: int = 0,
    ) -> Self:
        """Raises UsageError, DriverError (the driver cannot even describe its server) or OSError (a report)."""
        began = time.monotonic()
        for file in (json_file, junit_file):
            if file is not None:
                _must_be_writable(file)
        suite = Suite.create(target, driver, selection)
        try:
            suite.require_something()
        except UsageError:
            suite.close()
            raise
        resources = ExitStack()
        preflight = resources.enter_context(ThreadPoolExecutor(1, thread_name_prefix="preflight"))
        certification = cls(
            suite,
            json_file,
            junit_file,
            verbose,
            LiveProgress(),
            None,
            preflight.submit(suite.target.check_honesty),
            began,
            _resources=resources,
        )
        if events_file is not None:
            try:
                certification.events = EventWriter(events_file, certification.target, certification.started)
            except OSError:
                certification.close()
                raise
            resources.enter_context(certification.events)
        return certification

    @property
    def target(self) -> TargetName:
        """What is examined, as reports name it."""
        description = self.suite.target.description
        return TargetName(description.name, description.version, self.suite.target.name)

    def examine(self, examined: Sequence[Examined]) -> None:
        """Call all these checks, as far as anything can be examined through this driver."""
        cases = [each.case for each in examined]
        if self.ready(cases):
            Examination(self.suite, self.result).run(examined)

    def ready(self, cases: Sequence[Case]) -> bool:
        """Begin; False when nothing can be examined through this driver, and then it is known why."""
        self.progress.started(str(self.target), len(cases))
        try:
            self.honest.result()
            self.suite.target.site("general")
        except (DriverError, Unavailable) as error:
            self.trouble(str(error))
            self.usable = False
        return self.usable

    def result(self, result: Result) -> None:
        """One result has come."""
        self.results.append(result)
        self.progress.result(result)
        if self.events is not None:
            self.events.result(result)

    def trouble(self, text: str) -> None:
        """Something went wrong beside the results."""
        self.troubles.append(text)

    def finish(self) -> int:
        """Stop everything, write the reports, say what was found; the exit status."""
        complaints = self.suite.close()
        if self.usable:  # otherwise it has been told what is the matter with the driver
            self.troubles += complaints
        run = Run(
            self.target,
            self.started,
            round(time.monotonic() - self.began, 2),
            tuple(self.results),
            tuple(dict.fromkeys(self.troubles)),
        ).in_order()
        self.progress.finished(run)
        if self.events is not None:
            self.events.finish(run)
        if self.json_file is not None:
            json_report.write(run, self.json_file)
        if self.junit_file is not None:
            junit.write(run, self.junit_file)
        summary(run, self.verbose)
        return run.exit_status

    def close(self) -> None:
        """Give back whatever is still held."""
        self.suite.close()
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _must_be_writable(file: Path) -> None:
    """A report that cannot be written is known before the run, not after it."""
    existed = file.exists()
    with file.open("ab"):
        pass
    if not existed:
        file.unlink()
