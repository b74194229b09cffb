"""What holds for every test: components that are missing are named, and in CI they must be there."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from tests import components


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*components): programs of the system that the test cannot do without")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        reason = components.missing(mark.args)
        if reason is not None:
            pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if components.REQUIRED and report.skipped and isinstance(report.longrepr, tuple):
        place: tuple[Any, ...] = report.longrepr
        reason = str(place[2]).removeprefix("Skipped: ")
        if reason.startswith("needs "):
            report.outcome = "failed"
            report.longrepr = f"{place[0]}:{place[1]}: {reason}, and here every component must be installed"
    return report
