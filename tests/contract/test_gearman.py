"""The Gearman driver keeps what it promises, each on a server of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from que.testing import Scenario
from que.testing.scenario import needs_durability
from tests.contract.contract import Contract
from tests.servers import Gearmand, StartGearmand


class TestGearman(Contract):
    not_applicable = frozenset(
        {
            # Its lease is a connection, which ends with its worker and not before.
            "an abandoned job comes back and never before its lease is over",
            "a stale verdict never reaches the submitter",
            "a job that outlasts its lease runs once",
            "a job delayed for longer than a lease runs once",
            "a frozen worker loses its job to another for good",
        }
    )

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
