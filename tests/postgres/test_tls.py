"""sslmode=verify-full, with a PostgreSQL that speaks TLS."""

from collections.abc import Iterator

import psycopg
import pytest

import que
from tests.certificates import Certificates
from tests.engines.tls import *
from tests.engines.tls import PASSWORD, Secured, files
from tests.postgres.server import Postgres, running
from tests.unit.loops import in_loop


@pytest.fixture(scope="module")
def tls_postgres(certificates: Certificates) -> Iterator[Postgres]:
    with running(certificates) as server:
        yield server


@pytest.fixture
def secured(tls_postgres: Postgres, postgres: Postgres, certificates: Certificates) -> Secured:
    trust, identity = files(certificates, "sslrootcert", "sslcert", "sslkey")
    url = f"postgresql://que:{PASSWORD}@{{place}}/{tls_postgres.new_database()}"
    return Secured(url, trust, f"sslmode=verify-full&{identity}", tls_postgres.port, postgres.port)


@in_loop
async def test_every_connection_is_over_tls_the_one_that_listens_too(secured: Secured, tls_postgres: Postgres) -> None:
    async with que.Que(secured.at("localhost", secured.port, secured.trust, secured.identity)):
        with psycopg.connect(tls_postgres.conninfo()) as connection:
            rows = connection.execute(
                "SELECT ssl, query LIKE 'LISTEN%' OR query LIKE 'NOTIFY%'"
                " FROM pg_stat_ssl NATURAL JOIN pg_stat_activity WHERE application_name = 'que'"
            ).fetchall()
    assert {encrypted for encrypted, _ in rows} == {True}
    assert {listens for _, listens in rows} == {True, False}
