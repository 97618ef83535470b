"""The pytest plugin of que. Every start of pytest loads it, so it imports que when one of its fixtures is asked for."""

import pytest

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
