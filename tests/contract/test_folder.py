"""The example of a driver of one's own keeps what it promises."""

from pathlib import Path

import pytest

import folder_driver
from tests.contract.contract import WITHOUT_A_SERVER, WITHOUT_TIMED_LEASES, Contract


class TestFolder(Contract):
    imports = (folder_driver.__name__,)
    not_applicable = WITHOUT_TIMED_LEASES | WITHOUT_A_SERVER

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        (tmp_path / "spool").mkdir()
        return f"folder://{tmp_path / 'spool'}"
