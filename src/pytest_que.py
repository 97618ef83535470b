"""The pytest plugin of que. Every start of pytest loads it, so it imports que when one of its fixtures is asked for."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import que
    from que.testing import Clock, Sandbox

# What que.testing's DriverSuite leaves in a test's user_properties.
_PROPERTY = "que.testing"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the ledgers and figures of the conformance kit, also of what passed."""
    told = [
        (report.nodeid, str(value))
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == _PROPERTY
    ]
    if told:
        terminalreporter.section("que.testing")
    for nodeid, line in told:
        terminalreporter.line(f"{nodeid}: {line}")


@pytest.fixture
def que_app() -> "que.Que[None]":
    """An app on memory://, not connected, for jobs that the test itself declares."""
    import que

    return que.Que("memory://")


@pytest.fixture
def que_clock() -> "Clock":
    """The clock of this test's sandboxes: `que_clock.advance(60)`."""
    from que.testing import Clock

    return Clock()


@pytest.fixture
def que_sandbox(que_clock: "Clock") -> "Callable[[que.Que[None]], Sandbox[None]]":
    """What puts an app of yours on memory:// and records what it sends: `async with que_sandbox(app) as sandbox:`."""
    from que.testing import Sandbox

    return lambda app: Sandbox(app, que_clock)
