"""The memory driver keeps what it promises."""

from tests.contract.contract import WITHIN_A_PROCESS, WITHOUT_A_SERVER, WITHOUT_TIMED_LEASES, Contract


class TestMemory(Contract):
    url = "memory://"
    not_applicable = WITHIN_A_PROCESS | WITHOUT_TIMED_LEASES | WITHOUT_A_SERVER
