"""The Gearman driver keeps what it promises, on a server of its own with a persistent queue."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.contract import Contract
from tests.servers import Gearmand, StartGearmand


class TestGearman(Contract):
    not_applicable = frozenset(
        {
            # Its lease is a connection, which ends with its worker and not before.
            "an abandoned job comes back and never before its lease is over",
            "a stale verdict never reaches the submitter",
            "a job that outlasts its lease runs once",
            "a frozen worker loses its job to another for good",
        }
    )

    @pytest.fixture
    def server(self, own_gearmand: StartGearmand, tmp_path: Path) -> Gearmand:
        return own_gearmand("--queue-type=libsqlite3", f"--libsqlite3-db={tmp_path / 'queue.db'}")

    @pytest.fixture
    def url(self, server: Gearmand) -> str:
        # While its queue writes a batch of thousands, one fsync() each, gearmand answers nobody.
        return f"{server.url}?durable=true&connect_timeout=60&heartbeat=60&deadline=60"

    @pytest.fixture
    def restart(self, server: Gearmand) -> Callable[[], None]:
        return server.restart
