"""The suite as this repository runs it: short in every run, at full size with --soak."""

import pytest

from que.testing import FULL, QUICK, DriverSuite, Sizes

# What cannot be played where a lease ends with its worker's connection, process or lock, and not before.
WITHOUT_TIMED_LEASES = frozenset(
    {
        "an abandoned job comes back and never before its lease is over",
        "a stale verdict never reaches the submitter",
        "a job that outlasts its lease runs once",
        "a job delayed for longer than a lease runs once",
        "a frozen worker loses its job to another for good",
    }
)
# What cannot be played where there is no server: the engine is whoever opens it.
WITHOUT_A_SERVER = frozenset(
    {"everyone is back after the engine restarts", "durable jobs outlive a restart of the engine"}
)
# What cannot be played where no job leaves its process.
WITHIN_A_PROCESS = frozenset(
    {
        "jobs outlive those who sent them",
        "jobs of a worker that disconnects come back",
        "of many producers and worker processes no job is lost or run twice",
        "a stalled worker takes no more memory however much waits",
        "no job is lost when workers are killed",
        "no job is lost or run twice when workers are stopped",
        "a job that kills its workers does not take the others along",
    }
)


class Contract(DriverSuite):
    pytestmark = pytest.mark.timeout(900)

    @pytest.fixture
    def sizes(self, request: pytest.FixtureRequest) -> Sizes:
        return FULL if request.config.getoption("--soak") else QUICK
