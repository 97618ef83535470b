"""Who holds a job of PostgreSQL, and for how long."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import cast

import psycopg

from que.model import Completed, Settled
from tests.engines.leases import *
from tests.engines.recording import Notices
from tests.postgres.server import Postgres
from tests.unit.loops import in_loop, until


def leases(connection: psycopg.Connection) -> Mapping[str, datetime]:
    """Return until when each job is held."""
    rows = connection.execute("SELECT job_id, lease_until FROM que.jobs").fetchall()
    return {str(job_id): cast(datetime, lease_until) for job_id, lease_until in rows}


@in_loop
async def test_a_verdict_that_travels_for_longer_than_a_lease_is_written(
    url: str, postgres: Postgres, database: str
) -> None:
    async with lender(f"{url}?lease=1") as (driver, told):
        await driver.submit([envelope()])
        held = await one(taker := await consumer(driver))
        with psycopg.connect(postgres.conninfo(database), autocommit=True) as looking:
            first = leases(looking)["a"]
            with psycopg.connect(postgres.conninfo(database)) as in_the_way:
                # settle() waits for this table before it looks at the job, as it does for the rest of a large result.
                in_the_way.execute("LOCK TABLE que.dead_letters IN SHARE MODE")
                settling = asyncio.create_task(taker.settle([(held, Completed(b"good"))]))
                over = "SELECT clock_timestamp() > %s + interval '0.5 seconds'"
                await until(lambda: looking.execute(over, (first,)).fetchone() == (True,))
            assert await settling == [Settled.CONFIRMED]
        await until(lambda: told.ends)
        assert told.ends == {"a": b"good"}


@in_loop
async def test_a_job_that_is_being_settled_does_not_hold_up_the_renewal_of_the_others(
    url: str, postgres: Postgres, database: str
) -> None:
    notices = Notices()
    async with lender(f"{url}?lease=30") as (driver, _), asyncio.timeout(20):
        await driver.submit([envelope("a"), envelope("b")])
        taker = await consumer(driver, notices)
        held = [await one(taker), await one(taker)]
        with psycopg.connect(postgres.conninfo(database)) as in_the_way:
            before = leases(in_the_way)
            in_the_way.execute("SELECT FROM que.jobs WHERE job_id = 'a' FOR UPDATE")
            async with asyncio.timeout(5):
                await taker.extend(held)
            after = leases(in_the_way)
        assert (after["a"] == before["a"], after["b"] > before["b"]) == (True, True)
        assert notices.lost_ones == []
