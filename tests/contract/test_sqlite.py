"""The SQLite driver keeps what it promises."""

from pathlib import Path

import pytest

from que.testing import FULL, Sizes
from tests.contract.contract import Contract


class TestSqlite(Contract):
    not_applicable = frozenset(
        {
            # There is no server that could be restarted: its engine is whoever opens the file.
            "everyone is back after the engine restarts",
            "durable jobs outlive a restart of the engine",
        }
    )

    @pytest.fixture
    def url(self, tmp_path: Path, sizes: Sizes) -> str:
        # A lease begins with the transaction that takes the job: it has to outlast one with payloads of 64 MiB.
        return f"sqlite:///{tmp_path / 'jobs.db'}?lease={10 if sizes is FULL else 1}"
