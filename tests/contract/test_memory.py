"""The memory driver keeps what it promises."""

from tests.contract.contract import Contract


class TestMemory(Contract):
    url = "memory://"
    # Its jobs never leave the process, so they end with it, and no other process sees them.
    not_applicable = frozenset(
        {
            "jobs outlive those who sent them",
            "of many producers and worker processes no job is lost or run twice",
            "no job is lost when workers are killed",
            "no job is lost or run twice when workers are stopped",
            "a frozen worker loses its job to another for good",
            "a job that kills its workers does not take the others along",
        }
    )
