"""A PostgreSQL that stands still."""

import pytest

from tests.engines.stillness import *
from tests.engines.stillness import Freezable
from tests.postgres.server import Postgres


@pytest.fixture
def freezable(postgres: Postgres, url: str) -> Freezable:
    return Freezable(f"{url}?timeout=0.5&backoff=0.1&lease=1", postgres.stopped)
