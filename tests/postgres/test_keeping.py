"""What is kept leaves no row behind, and who attends to it is told, or told that it is lost, whatever befalls it."""

import asyncio

import psycopg
import pytest

import que
from que.address import Address
from que.drivers.postgres import PostgresDriver, schema
from que.drivers.postgres.session import Session
from que.model import Completed, Failed, Kept
from tests.postgres.recording import opened
from tests.postgres.server import Postgres
from tests.unit.loops import in_loop, until

LONG_SECONDS = 3600.0


def count(postgres: Postgres, database: str, table: str) -> int:
    with psycopg.connect(postgres.conninfo(database)) as connection:
        row = connection.execute(f"SELECT count(*) FROM que.{table}".encode()).fetchone()
    assert row is not None
    assert isinstance(row[0], int)
    return row[0]


def session_of(driver: PostgresDriver) -> Session:
    session = driver._open  # pyright: ignore[reportPrivateUsage] - only from inside can it be made deaf, or sweep
    assert session is not None
    return session


@in_loop
async def test_what_is_kept_goes_when_its_time_is_over_and_who_attends_leaves_nothing_behind(
    url: str, postgres: Postgres, database: str
) -> None:
    async with opened(url) as (driver, _):
        async with opened(url) as (leaves, _):
            await leaves.attend([("1", "a"), ("2", "never")])
            await driver.keep([Kept("a", Completed(b"1"), 0), Kept("b", Completed(b"2"), LONG_SECONDS)])
            assert count(postgres, database, "attending") == 1
        assert count(postgres, database, "attending") == 0
        await session_of(driver).pool.call("sweep", "float8", LONG_SECONDS)
        assert count(postgres, database, "kept") == 1
        await driver.forget(["b"])
        assert count(postgres, database, "kept") == 0


@in_loop
@pytest.mark.parametrize("options", ["", "?listen=0&poll=0.02"], ids=["listens", "polls"])
async def test_endings_of_any_length_are_told_and_keys_of_any_kind_are_kept(url: str, options: str) -> None:
    failure = Failed("cancelled", "JobCancelled", "x" * 9000)
    keys = ["nul \0", "k" * 3000, "'\"%s{schema}"]
    async with opened(url + options) as (waits, told), opened(url) as (keeper, _):
        await waits.attend([("long", "long"), *((str(number), key) for number, key in enumerate(keys))])
        entries = [Kept(key, Completed(key.encode()), LONG_SECONDS) for key in keys]
        kept = await keeper.keep([*entries, Kept("long", failure, LONG_SECONDS)], [*keys, "long"])
        assert list(kept) == [*(entry.ending for entry in entries), failure]
        await until(lambda: len(told.ends) == 4)
        assert told.ends == {"long": failure, **{str(number): key.encode() for number, key in enumerate(keys)}}


@in_loop
async def test_who_was_deaf_finds_what_was_kept_loses_what_is_gone_and_waits_for_the_rest(url: str) -> None:
    async with opened(url) as (waits, told), opened(url) as (keeper, _):
        await waits.attend([(key, key) for key in ("kept", "gone", "late")])
        session = session_of(waits)
        ear = session._ear  # pyright: ignore[reportPrivateUsage] - only from inside can it be made deaf
        assert ear is not None
        await ear.close()
        await keeper.keep([Kept("kept", Completed(b"1"), LONG_SECONDS), Kept("gone", Completed(b"2"), 0)])
        await ear.open()
        await session.back()
        await until(lambda: len(told.ends) == 2)
        assert told.ends["kept"] == b"1"
        assert isinstance(told.ends["gone"], que.ConnectionLost)
        await keeper.keep([Kept("late", Completed(b"3"), 0)])
        await until(lambda: told.ends.get("late") == b"3")


@in_loop
async def test_who_writes_or_attends_sees_what_another_has_written_and_not_committed_yet(url: str) -> None:
    one = Completed(b"1")
    async with opened(url) as (driver, told):
        with psycopg.connect(url) as other, psycopg.connect(url, autocommit=True) as watching:

            def waiting() -> int:
                return len(watching.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall())

            other.execute("SELECT que.keep('{a,b}', '{0,0}', '{1,1}'::bytea[], '{60,60}', '{}')")
            keeping = asyncio.create_task(driver.keep([Kept("c", one, LONG_SECONDS)], ["a", "b", "c"]))
            attending = asyncio.create_task(driver.attend([("1", "a")]))
            await until(lambda: waiting() == 2 or keeping.done() or attending.done())
            other.commit()
        assert list(await keeping) == [one] * 3
        await attending
        await until(lambda: told.ends == {"1": b"1"})


@in_loop
async def test_who_was_forgotten_attends_again(url: str, postgres: Postgres, database: str) -> None:
    async with opened(f"{url}?poll=0.05") as (waits, told), opened(url) as (keeper, _):
        await waits.attend([("1", "a")])
        with psycopg.connect(postgres.conninfo(database)) as connection:
            connection.execute("SELECT que.forget(array_agg(name)) FROM que.peers")
        assert count(postgres, database, "attending") == 0
        await until(lambda: count(postgres, database, "attending") == 1)
        await keeper.keep([Kept("a", Completed(b"1"), 0)])
        await until(lambda: told.ends == {"1": b"1"})


@pytest.mark.parametrize("version", range(1, len(schema.VERSIONS)))
@in_loop
async def test_a_schema_of_an_older_version_is_brought_up_to_date_with_its_jobs(
    url: str, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    newest = len(schema.VERSIONS)
    job = que.Job("f", int, int)
    job.handler(lambda number: number)
    with monkeypatch.context() as older:
        older.setattr(schema, "VERSIONS", schema.VERSIONS[:version])
        if version == 1:
            older.setattr(schema, "_FUNCTIONS", ("telling.sql", "submitting.sql", "working.sql", "looking.sql"))
        assert f"from version 0 to {version}" in await PostgresDriver(Address.parse(url)).migrate()
    with psycopg.connect(url) as connection:
        connection.execute("SELECT que.que_send('f', '7', result_ttl => 60)")
    with pytest.raises(que.ConnectError, match=f"version {version} of que's tables, not {newest}: run `que migrate"):
        await que.Que(f"{url}?migrate=0").connect()
    assert f"from version {version} to {newest}" in await PostgresDriver(Address.parse(url)).migrate()
    async with que.Que(f"{url}?migrate=0") as app:
        app.add(job)
        async with app.worker():
            assert await job.as_flow().submit(5).result(20) == 5
            async with asyncio.timeout(20):
                while any(depth.queued or depth.running for depth in (await app.depths())["postgresql"]):
                    await asyncio.sleep(0.01)
