"""A directory with an app in it, and a server for that app alone."""

from pathlib import Path

import pytest

from tests.cli.commands import APP
from tests.servers import Gearmand, StartGearmand


@pytest.fixture
def server(own_gearmand: StartGearmand) -> Gearmand:
    """A server of the test's own: jobs that no worker can end are given to the next worker that comes."""
    return own_gearmand()


@pytest.fixture
def project(tmp_path: Path, server: Gearmand, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test, with `tasks:app` in it."""
    (tmp_path / "tasks.py").write_text(APP)
    (tmp_path / "broken.py").write_text("raise ValueError('no luck')\n")
    monkeypatch.setenv("TEST_URL", server.url)
    monkeypatch.setenv("TEST_DIRECTORY", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path
