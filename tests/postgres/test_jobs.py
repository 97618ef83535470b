"""What a job goes through in a database that several apps share; two apps of one test stand for two processes."""

import psycopg
from psycopg.sql import SQL, Identifier

import que
from tests.engines.jobs import *
from tests.postgres.server import Postgres
from tests.unit.loops import in_loop


@in_loop
async def test_settled_jobs_leave_nothing_behind(url: str, postgres: Postgres, database: str) -> None:
    async with que.Que(url) as client, working(url, doubling()):
        await que.gather(*declared(client).submit_many(range(50)))
    with psycopg.connect(postgres.conninfo(database)) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'que'").fetchall()
        left = {
            name: connection.execute(SQL("SELECT count(*) FROM que.{}").format(Identifier(name))).fetchone()
            for (name,) in tables
        }
    assert {name for name, count in left.items() if count != (0,)} == {"version"}
