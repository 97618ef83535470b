"""The Gearman driver keeps what it promises."""

import pytest

from tests.contract.contract import Contract
from tests.servers import Gearmand


class TestGearman(Contract):
    not_applicable = frozenset(
        {
            # A lease is a connection.
            "a frozen worker loses its job to another for good",
        }
    )

    @pytest.fixture
    def url(self, gearmand: Gearmand) -> str:
        return gearmand.url
