"""The schema: made, brought up to date and refused, and who may call it what."""

import asyncio
import subprocess
import sys

import psycopg
import pytest

import que
from que.address import Address
from que.drivers.postgres import PostgresDriver, schema
from tests.postgres.server import Postgres
from tests.unit.loops import in_loop


def migrate(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "que", "migrate", url], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_command_makes_the_schema_and_a_second_time_does_nothing(url: str) -> None:
    first, second = migrate(url), migrate(url)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert f"from version 0 to {len(schema.VERSIONS)}" in first.stderr
    assert "up to date" in second.stderr


def test_the_command_says_in_a_line_that_nobody_answers() -> None:
    done = migrate("postgresql://que:secret@127.0.0.1:1/jobs?timeout=1")
    assert done.returncode == 1
    assert done.stderr.startswith("que: cannot connect to postgresql://que:***@127.0.0.1:1/jobs")
    assert "secret" not in done.stderr


def test_the_command_has_nothing_to_do_for_other_engines() -> None:
    done = migrate("memory://")
    assert done.returncode == 1
    assert "no schema to migrate" in done.stderr


@in_loop
async def test_many_may_migrate_at_once(url: str) -> None:
    drivers = [PostgresDriver(Address.parse(url)) for _ in range(8)]
    said = await asyncio.gather(*[driver.migrate() for driver in drivers])
    assert sum("from version 0" in line for line in said) == 1


@in_loop
async def test_an_app_that_may_not_migrate_names_the_command(url: str) -> None:
    with pytest.raises(que.ConnectError, match=r"que migrate postgresql://que@127\.0\.0\.1"):
        await que.Que(f"{url}?migrate=0").connect()
    async with que.Que(url):
        pass
    async with que.Que(f"{url}?migrate=0"):
        pass


@in_loop
async def test_a_schema_of_a_newer_que_is_refused(url: str, postgres: Postgres, database: str) -> None:
    async with que.Que(url):
        pass
    with psycopg.connect(postgres.conninfo(database), autocommit=True) as connection:
        connection.execute("INSERT INTO que.version VALUES (99)")
    with pytest.raises(que.ConnectError, match="update que"):
        await que.Que(url).connect()


@in_loop
async def test_schemas_of_one_database_share_no_jobs(url: str) -> None:
    job = que.Job("f", int, int)
    async with que.Que(url) as one, que.Que(f"{url}?schema=Other-1") as other:
        await one.send(job, 1)
        assert len((await one.depths())["postgresql"]) == 1
        assert await other.depths() == {"postgresql": []}


@pytest.mark.parametrize("name", ['a"b', "a'b", "pg_x", "1a", "", "a b", "x" * 41, "a;drop table x"])
def test_a_schema_that_needs_care_in_quoting_is_refused(name: str) -> None:
    with pytest.raises(que.ConfigurationError, match="schema"):
        PostgresDriver(Address("postgresql", options=(("schema", name),)))


@in_loop
async def test_a_name_of_a_job_cannot_break_a_statement(url: str) -> None:
    names = ["'; DROP SCHEMA que CASCADE; --", '"', "\\", "%s", "$1", "名" * 100, "a{schema}b"]
    names = [name.replace(" ", "_") for name in names]
    async with que.Que(url) as app:
        jobs = [app.add(que.Job(name, str, str)) for name in names]
        for job in jobs:
            job.handler(lambda text: text)
        async with app.worker():
            handles = [job.submit(job.name, unique="'\"\\%s\0" + "k" * 3000) for job in jobs]
            assert await que.gather(*handles) == tuple(names)


@in_loop
@pytest.mark.parametrize("size", [1999, 2000, 2001, 6000, 100_000])
async def test_results_of_any_length_come_back_as_they_were(url: str, size: int) -> None:
    job = que.Job("f", bytes, bytes, serializer=que.RAW)
    job.handler(lambda payload: payload)
    payload = bytes(range(256)) * (size // 256 + 1)
    async with que.Que(url) as app:
        app.add(job)
        async with app.worker():
            assert await job.submit(payload[:size]) == payload[:size]
