"""The SQLite driver keeps what it promises."""

from pathlib import Path

import pytest

from que.testing import FULL, Sizes
from tests.contract.contract import WITHOUT_A_SERVER, Contract


class TestSqlite(Contract):
    not_applicable = WITHOUT_A_SERVER

    @pytest.fixture
    def url(self, tmp_path: Path, sizes: Sizes) -> str:
        # A lease begins with the transaction that takes the job: it has to outlast one with payloads of 64 MiB.
        return f"sqlite:///{tmp_path / 'jobs.db'}?lease={10 if sizes is FULL else 1}"
