"""The suite as pytest sees it: options, collection, fixtures, verdicts.

Owns: every pytest hook and fixture, and :func:`certify`, which runs pytest on the packaged checks.  Nothing here
judges a server.  The plugin is loaded into every pytest run of an environment that has listenspec installed; it
imports and does next to nothing until a check is collected.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conformance.certification import Certification
    from conformance.suite import Case, Suite
    from conformance.transcript import Transcript
    from conformance.visit import Endpoint
    from conformance.watch import Seen

CHECKS = "conformance.checks"
_NO_AUTOLOAD = "PYTEST_DISABLE_PLUGIN_AUTOLOAD"
INI = Path(__file__).parent / "checks" / "pytest.ini"

_suite: pytest.StashKey[Suite] = pytest.StashKey()
_transcript: pytest.StashKey[Transcript] = pytest.StashKey()
_begun: pytest.StashKey[bool] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("listenspec", "listenspec: conformance of listening mail services")
    group.addoption("--target", metavar="NAME", help="implementation to examine (default: reference)")
    group.addoption("--driver", metavar="'CMD ARGS'", help="driver program of another implementation")
    group.addoption("--service", action="append", default=[], metavar="NAME", help="examine only this service")
    group.addoption("--family", action="append", default=[], metavar="LIM", help="examine only this family")
    group.addoption("--only", action="append", default=[], metavar="ID", help="examine only this result id")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "listenspec: a conformance check")


# -- collection ------------------------------------------------------------------------------------------------------


def _suite_of(config: pytest.Config) -> Suite:
    """The run's suite, made at the first check that is collected."""
    if _suite not in config.stash:
        from conformance.suite import DriverError, Selection, Suite, UsageError

        options = config.option
        selection = Selection(tuple(options.service), tuple(options.family), tuple(options.only))
        try:
            config.stash[_suite] = Suite.create(options.target, options.driver, selection)
        except (UsageError, DriverError) as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[_suite]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    check = getattr(metafunc.function, "listenspec_check", None)
    if check is None:
        return
    cases = list(_suite_of(metafunc.config).cases(check))
    metafunc.parametrize("endpoint", cases, indirect=True, ids=[case.id for case in cases])


def _case_of(item: pytest.Item) -> Case | None:
    from conformance.suite import Case

    callspec = getattr(item, "callspec", None)
    case = callspec.params.get("endpoint") if callspec is not None else None
    return case if isinstance(case, Case) else None


def _is_check(item: pytest.Item) -> bool:
    return hasattr(getattr(item, "function", None), "listenspec_check")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    checks = [item for item in items if _is_check(item)]
    if not checks:
        return
    # A check that has nothing to examine in this target was given an empty parameter set by pytest.
    examined = [item for item in checks if _case_of(item) is not None]
    others = [item for item in items if not _is_check(item)]
    distributed = "PYTEST_XDIST_WORKER" in os.environ
    for item in examined:
        case = _case_of(item)
        assert case is not None
        group = "idle" if case.check.watches else case.check.scenario
        item.add_marker(pytest.mark.xdist_group(group))

    cases = [case for item in examined if (case := _case_of(item)) is not None]
    # In the order in which they are started, so that nobody waits for a server that comes up last.
    scenarios = config.stash[_suite].scenarios(cases)

    def order(item: pytest.Item) -> tuple[bool, int]:
        case = _case_of(item)
        assert case is not None
        # Alone, what only collects observations comes last; on several workers one of them begins with it.
        waits = bool(case.check.watches)
        return (not waits if distributed else waits), scenarios.index(case.check.scenario)

    items[:] = [*others, *sorted(examined, key=order)]


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each scenario's server is used by one worker: a limit can be filled only by one check at a time."""
    if config.option.target or config.option.driver or config.pluginmanager.hasplugin("listenspec-certify"):
        from xdist.scheduler import LoadGroupScheduling

        config.option.loadgroup = True
        return LoadGroupScheduling(config, log)
    return None


def pytest_collection_finish(session: pytest.Session) -> None:
    config = session.config
    if _suite not in config.stash or config.option.collectonly:
        return
    suite = config.stash[_suite]
    cases = [case for item in session.items if (case := _case_of(item)) is not None]
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # which checks this worker gets is not known yet
    suite.target.prepare(suite.scenarios(cases))
    suite.observatory.begin(suite.keys(cases))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """On a worker: the first check that reads observations begins all of them."""
    config = item.config
    case = _case_of(item) if _is_check(item) else None
    if case is None or not case.check.watches or _begun in config.stash:
        return
    config.stash[_begun] = True
    suite = config.stash[_suite]
    suite.observatory.begin(suite.keys(c for i in item.session.items if (c := _case_of(i)) is not None))


# -- fixtures --------------------------------------------------------------------------------------------------------


@pytest.fixture
def endpoint(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    """The service and channel that a check examines, under the scenario that it names."""
    suite = request.config.stash[_suite]
    transcript = request.node.stash[_transcript] = suite.transcript()
    found = suite.endpoint(request.param, transcript)
    yield found
    found.close_all()


@pytest.fixture
def observed(request: pytest.FixtureRequest, endpoint: Endpoint) -> Callable[..., Seen]:
    """What the observers saw of the endpoint, by the name of the watch and, where it matters, the channel."""
    from conformance.examination import observer

    return observer(request.config.stash[_suite], endpoint)


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest, endpoint: Endpoint) -> Callable[[str], Endpoint]:
    """The same service and channel under another scenario, by its name."""
    suite = request.config.stash[_suite]
    return lambda scenario: suite.endpoint_elsewhere(scenario, endpoint)


# -- verdicts --------------------------------------------------------------------------------------------------------


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    case = _case_of(item) if _is_check(item) else None
    if case is None or call.when == "teardown" or (call.when == "setup" and call.excinfo is None):
        return
    from conformance.report.model import Verdict

    suite = item.config.stash[_suite]
    error = call.excinfo.value if call.excinfo is not None else None
    result = suite.result(case, error, call.duration, item.stash.get(_transcript, None))
    if result.verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.ERROR):
        suite.target.discard(case.check.scenario)
    report: pytest.TestReport = outcome.get_result()
    report.listenspec = result.to_dict()  # type: ignore[attr-defined]
    match result.verdict:
        case Verdict.PASS | Verdict.LATITUDE if call.when == "call":
            report.outcome, report.longrepr = "passed", None
        case Verdict.FAIL | Verdict.INCONCLUSIVE:
            from conformance.report.terminal import explain

            report.outcome, report.longrepr = "failed", explain(result)
        case Verdict.ERROR:
            pass  # the traceback is what is wanted
        case _:
            # Also what was settled before the check was called, which must not be called then.
            report.outcome = "skipped"
            report.longrepr = (str(item.path), 0, f"{result.verdict}: {result.reason}")


def pytest_report_teststatus(report: Any) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    found = getattr(report, "listenspec", None)
    if found is None or found["verdict"] == "fail":
        return None
    verdict = found["verdict"]
    if verdict == "pass":
        return "passed", ".", ("PASS", {"green": True})
    category = verdict if verdict in ("latitude", "inconclusive", "error") else "skipped"
    return category, verdict[0], (verdict.upper(), {"yellow": True})


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    if _suite in config.stash:
        for complaint in config.stash[_suite].close():
            config.issue_config_time_warning(pytest.PytestWarning(complaint), 2)


# -- certify ---------------------------------------------------------------------------------------------------------


class _Certified:
    """Stands in for pytest's terminal: hands on the results as they come, and what went wrong besides."""

    def __init__(self, certification: Certification) -> None:
        self.certification = certification

    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[_suite] = self.certification.suite
        config.option.tbstyle = "native"  # the one that is made without reading sources

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of pytest's own, which calls one after the other."""
        from conformance.examination import Examined

        self.certification.examine(
            [
                Examined(case, item.function, item._fixtureinfo.argnames)
                for item in session.items
                if isinstance(item, pytest.Function) and (case := _case_of(item)) is not None
            ]
        )
        return True

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.certification.trouble(report.longreprtext)

    def pytest_internalerror(self, excrepr: object) -> None:
        self.certification.trouble(str(excrepr))


@contextlib.contextmanager
def _without_others_plugins() -> Iterator[None]:
    """Whatever else is installed for pytest's users has no part in an examination."""
    before = os.environ.get(_NO_AUTOLOAD)
    os.environ[_NO_AUTOLOAD] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_NO_AUTOLOAD]
        else:
            os.environ[_NO_AUTOLOAD] = before


def certify(
    *,
    target: str | None = None,
    driver: str | None = None,
    services: Sequence[str] = (),
    families: Sequence[str] = (),
    only: Sequence[str] = (),
    json_file: Path | None = None,
    junit_file: Path | None = None,
    events_file: Path | None = None,
    verbose: int = 0,
) -> int:
    """Examine one implementation and report; the exit status of the contract.

    The reports are written whatever the verdict.  Raises OSError, before anything is examined, when one cannot be.
    """
    from conformance.certification import Certification
    from conformance.suite import Selection

    selection = Selection(tuple(services), tuple(families), tuple(only))
    with Certification.begin(
        target,
        driver,
        selection,
        json_file=json_file,
        junit_file=junit_file,
        events_file=events_file,
        verbose=verbose,
    ) as certification:
        # Nothing of pytest's that looks through all that was ever made.
        unwanted = [
            word for name in ("terminal", "unraisableexception", "threadexception") for word in ("-p", f"no:{name}")
        ]
        arguments = ["--pyargs", CHECKS, "-c", str(INI), *unwanted]
        arguments += [f"--only={wanted}" for wanted in only]
        # Nearly everything that is made lives until the end: looking for what is not needed finds nothing.
        gc.disable()
        try:
            with _without_others_plugins():
                pytest.main(arguments, plugins=[sys.modules[__name__], _Certified(certification)])
        finally:
            gc.enable()
        return certification.finish()
