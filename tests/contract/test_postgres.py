"""The PostgreSQL driver keeps what it promises."""

from collections.abc import Callable, Iterator

import pytest

from tests.contract.contract import Contract
from tests.postgres.server import Postgres, running


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running() as server:
        yield server


class TestPostgres(Contract):
    @pytest.fixture
    def url(self, postgres: Postgres) -> str:
        return f"{postgres.url(postgres.new_database())}?lease=1&backoff=1"

    @pytest.fixture
    def restart(self, postgres: Postgres) -> Callable[[], None] | None:
        return postgres.restart
