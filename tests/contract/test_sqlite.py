"""The SQLite driver keeps what it promises."""

from pathlib import Path

import pytest

from tests.contract.contract import Contract


class TestSqlite(Contract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'jobs.db'}?lease=1"
