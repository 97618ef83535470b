"""What a job goes through in a database that several apps share; two apps of one test stand for two processes."""

import asyncio

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


_TAKE = "SELECT id FROM que.take_throttled('work', 0, 0, 0, 5, %s, 1, 60, 2, 60) WHERE id IS NOT NULL"
_WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@in_loop
async def test_of_two_who_take_at_once_the_second_counts_what_the_first_has_taken(url: str) -> None:
    async with que.Que(url) as app:
        await app.add(que.Job("work", int, None)).send_many(range(5))
        async with (
            await psycopg.AsyncConnection.connect(url) as first,
            await psycopg.AsyncConnection.connect(url) as second,
            await psycopg.AsyncConnection.connect(url, autocommit=True) as looking,
        ):
            assert len(await (await first.execute(_TAKE, ("first",))).fetchall()) == 2
            taking = asyncio.create_task(second.execute(_TAKE, ("second",)))
            while not taking.done() and await (await looking.execute(_WAITING)).fetchone() == (0,):
                await asyncio.sleep(0.01)
            await first.commit()
            assert await (await taking).fetchall() == []


@in_loop
async def test_what_counts_in_a_rate_no_more_is_forgotten(url: str, postgres: Postgres, database: str) -> None:
    async with que.Que(url) as app:

        @app.job("work", total_rate="2/d")
        async def work(params: int) -> int:
            return params

        async with app.worker():
            assert await que.gather(*work.submit_many(range(2))) == (0, 1)
        with psycopg.connect(postgres.conninfo(database)) as connection:
            taken = connection.execute("SELECT sum(so_far - earlier)::int FROM que.begun WHERE function = 'work'")
            assert taken.fetchone() == (2,)
            connection.execute("UPDATE que.begun SET until = clock_timestamp()")
        async with app.worker():
            assert await work.submit(3).result(20) == 3
        with psycopg.connect(postgres.conninfo(database)) as connection:
            connection.execute("UPDATE que.begun SET until = clock_timestamp()")
            connection.execute("SELECT que.sweep(60)")
            assert connection.execute("SELECT FROM que.begun").fetchall() == []
