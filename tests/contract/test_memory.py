"""The memory driver keeps what it promises."""

from tests.contract.contract import Contract


class TestMemory(Contract):
    url = "memory://"
    not_applicable = frozenset(
        {
            # Its jobs never leave the process.
            "jobs outlive those who sent them",
            "jobs of a worker that disconnects come back",
            "of many producers and worker processes no job is lost or run twice",
            "a stalled worker takes no more memory however much waits",
            "no job is lost when workers are killed",
            "no job is lost or run twice when workers are stopped",
            "a job that kills its workers does not take the others along",
            # Its lease is the process.
            "an abandoned job comes back and never before its lease is over",
            "a stale verdict never reaches the submitter",
            "a job that outlasts its lease runs once",
            "a job delayed for longer than a lease runs once",
            "a frozen worker loses its job to another for good",
            # Nothing survives it.
            "everyone is back after the engine restarts",
            "durable jobs outlive a restart of the engine",
        }
    )
