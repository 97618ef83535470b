"""The Gearman driver keeps what it promises, each on a server of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from que.testing import Scenario
from que.testing.scenario import needs_durability
from tests.contract.contract import WITHOUT_TIMED_LEASES, Contract
from tests.servers import Gearmand, StartGearmand


class TestGearman(Contract):
    not_applicable = WITHOUT_TIMED_LEASES

    @pytest.fixture
    def is_durable(self, scenario: Scenario) -> bool:
        """Only where it matters: while its queue writes thousands of jobs, an fsync() each, gearmand answers nobody."""
        return needs_durability in scenario.hurdles

    @pytest.fixture
    def server(self, own_gearmand: StartGearmand, tmp_path: Path, is_durable: bool) -> Gearmand:
        queue = ("--queue-type=libsqlite3", f"--libsqlite3-db={tmp_path / 'queue.db'}") if is_durable else ()
        return own_gearmand(*queue)

    @pytest.fixture
    def url(self, server: Gearmand, is_durable: bool) -> str:
        return f"{server.url}?durable=true" if is_durable else server.url

    @pytest.fixture
    def restart(self, server: Gearmand) -> Callable[[], None]:
        return server.restart
