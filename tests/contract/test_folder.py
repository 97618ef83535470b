"""The example of a driver of one's own keeps what it promises."""

from pathlib import Path

import pytest

import folder_driver
from tests.contract.contract import Contract


class TestFolder(Contract):
    imports = (folder_driver.__name__,)
    not_applicable = frozenset(
        {
            # Its lease is a lock of the kernel's, which ends with its worker and not before.
            "an abandoned job comes back and never before its lease is over",
            "a stale verdict never reaches the submitter",
            "a job that outlasts its lease runs once",
            "a job delayed for longer than a lease runs once",
            "a frozen worker loses its job to another for good",
            # Its engine is whoever opens the folder.
            "everyone is back after the engine restarts",
            "durable jobs outlive a restart of the engine",
        }
    )

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        (tmp_path / "spool").mkdir()
        return f"folder://{tmp_path / 'spool'}"
