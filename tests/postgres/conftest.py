"""One server for the run and a database for each test; apps of one test stand for processes, each with its own pool."""

from collections.abc import Iterator

import pytest

from tests.postgres.server import Postgres, running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server that the whole run shares: never stop it."""
    with running() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server for this test alone."""
    with running() as server:
        yield server


@pytest.fixture
def database(postgres: Postgres) -> str:
    return postgres.new_database()


@pytest.fixture
def url(postgres: Postgres, database: str) -> str:
    return postgres.url(database)
