"""Jobs that exist if and only if the user's own transaction was committed, whichever library it is."""

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import asyncpg
import psycopg
import pytest
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import que
from que.model import Envelope
from que.options import CallOptions
from tests.postgres.server import Postgres
from tests.unit.loops import in_loop

Job = que.Job[list[int], int]


class Undone(Exception):
    """The user's own reason to roll back."""


@asynccontextmanager
async def psycopg_transaction(dsn: str) -> AsyncGenerator[object, None]:
    async with await psycopg.AsyncConnection[dict[str, object]].connect(dsn, row_factory=dict_row) as connection:
        yield connection


@asynccontextmanager
async def blocking_psycopg_transaction(dsn: str) -> AsyncGenerator[object, None]:
    with psycopg.connect(dsn) as connection:
        yield connection


@asynccontextmanager
async def asyncpg_transaction(dsn: str) -> AsyncGenerator[object, None]:
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def asyncpg_pool_transaction(dsn: str) -> AsyncGenerator[object, None]:
    pooled = asyncpg.create_pool(dsn, min_size=1, max_size=1)
    async with pooled as pool, pool.acquire() as connection, connection.transaction():
        yield connection


def alchemy(library: str, dsn: str) -> str:
    return dsn.replace("postgresql://", f"postgresql+{library}://")


@asynccontextmanager
async def sqlalchemy_transaction(dsn: str, library: str = "asyncpg") -> AsyncGenerator[AsyncConnection, None]:
    engine = create_async_engine(alchemy(library, dsn))
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


@asynccontextmanager
async def sqlalchemy_session(dsn: str) -> AsyncGenerator[AsyncSession, None]:
    async with sqlalchemy_transaction(dsn, "psycopg") as connection, AsyncSession(connection) as session:
        yield session


@asynccontextmanager
async def blocking_sqlalchemy_session(dsn: str) -> AsyncGenerator[object, None]:
    engine = sqlalchemy.create_engine(alchemy("psycopg", dsn))
    try:
        with Session(engine) as session, session.begin():
            yield session
    finally:
        engine.dispose()


Transaction = Callable[[str], AbstractAsyncContextManager[object]]
LIBRARIES: dict[str, Transaction] = {
    "psycopg": psycopg_transaction,
    "psycopg, blocking": blocking_psycopg_transaction,
    "asyncpg": asyncpg_transaction,
    "asyncpg, of a pool": asyncpg_pool_transaction,
    "SQLAlchemy on asyncpg": sqlalchemy_transaction,
    "SQLAlchemy's session on psycopg": sqlalchemy_session,
    "SQLAlchemy's blocking session": blocking_sqlalchemy_session,
}
every_library = pytest.mark.parametrize("transaction", LIBRARIES.values(), ids=LIBRARIES)


def total(numbers: list[int]) -> int:
    return sum(numbers)


def adding() -> Job:
    job = que.Job("add", list[int], int)
    job.handler(total)
    return job


@every_library
@in_loop
async def test_a_job_of_a_transaction_runs_once_that_is_committed(url: str, transaction: Transaction) -> None:
    async with que.Que(url) as app:
        job = app.add(adding())
        async with app.worker():
            async with transaction(url) as connection:
                receipt = await job.send([1, 2], connection=connection, result_ttl=60)
                assert (await app.depths())["postgresql"][0].queued == 0
            assert await app.handle(job, receipt) == 3


class Answers(que.Observer):
    """Writes down what it is told of submissions."""

    def __init__(self) -> None:
        self.all: list[que.QueError | None] = []

    def submitting(self, envelope: Envelope, headers: object) -> Callable[[que.QueError | None], None]:
        return self.all.append


@every_library
@in_loop
async def test_an_observer_is_told_once_a_job_is_in_its_transaction(url: str, transaction: Transaction) -> None:
    answers = Answers()
    async with que.Que(url, observers=[lambda engine: answers]) as app:
        job = app.add(adding())
        async with transaction(url) as connection:
            sending = job.send([1, 2], connection=connection)
            assert answers.all == []
            await sending
            assert answers.all == [None]
        with pytest.raises(que.ConfigurationError):
            await job.send([1], connection="postgresql://")
    assert [type(answer) for answer in answers.all] == [type(None), que.ConfigurationError]


@every_library
@in_loop
async def test_a_job_of_a_transaction_that_is_undone_never_was(url: str, transaction: Transaction) -> None:
    async with que.Que(url) as app:
        job = app.add(adding())
        receipts: list[que.Receipt] = []
        with suppress(Undone):
            async with transaction(url) as connection:
                receipts.append(await job.send([1, 2], connection=connection, result_ttl=60))
                raise Undone
        assert await app.depths() == {"postgresql": []}
        with pytest.raises(que.JobUnknown):
            await app.handle(job, receipts[0])


@every_library
@in_loop
async def test_options_travel_into_the_transaction(url: str, transaction: Transaction) -> None:
    async with que.Que(url) as app:
        job = app.add(adding())
        async with transaction(url) as connection:
            options = CallOptions(
                connection=connection, unique="k", priority=que.Priority.HIGH, expires=600, run_timeout=5, delay=0
            )
            receipts = [await job.send(numbers, **options) for numbers in ([1], [2, 3])]
        assert receipts[0].reference == receipts[1].reference
        (depth,) = (await app.depths())["postgresql"]
        assert (depth.function, depth.queued) == ("add", 1)


@in_loop
async def test_what_the_server_refuses_is_raised_where_it_was_awaited(url: str) -> None:
    async with que.Que(url) as app:
        job = app.add(adding())
        async with await psycopg.AsyncConnection.connect(url) as connection:
            with pytest.raises(psycopg.Error):
                await connection.execute("SELECT no_such_column")
            with pytest.raises(que.Rejected, match="aborted"):
                await job.send([1], connection=connection)
            await connection.rollback()


@in_loop
async def test_what_is_no_connection_is_refused_with_a_way_out(url: str) -> None:
    async with que.Que(url) as app:
        with pytest.raises(que.ConfigurationError, match="que_send"):
            await app.add(adding()).send([1], connection="postgresql://")


@in_loop
async def test_a_job_that_is_awaited_as_a_result_goes_into_no_transaction(url: str) -> None:
    async with que.Que(url) as app:
        job = app.add(adding())
        async with await psycopg.AsyncConnection.connect(url) as connection:
            with pytest.raises(que.UnsupportedFeature, match="send"):
                job.submit([1], connection=connection)


@in_loop
async def test_a_driver_without_transactions_refuses_a_connection() -> None:
    async with que.Que("memory://") as app:
        with pytest.raises(que.UnsupportedFeature, match="memory driver has no transactional send"):
            app.add(adding()).send([1], connection=object())


@in_loop
async def test_a_job_that_was_never_awaited_is_in_no_transaction_and_says_so(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with que.Que(url) as app:
        job = app.add(adding())
        async with await psycopg.AsyncConnection.connect(url) as connection:
            job.send([1], connection=connection)
        gc.collect()
        assert "never awaited" in caplog.text
        assert await app.depths() == {"postgresql": []}


@in_loop
async def test_a_job_that_several_await_is_queued_once(url: str) -> None:
    async with que.Que(url) as app:
        job = app.add(adding())
        async with await psycopg.AsyncConnection.connect(url) as connection:
            sending = job.send([1], connection=connection)

            async def wait() -> que.Receipt:
                return await sending

            receipts = await asyncio.gather(wait(), wait())
        assert receipts[0] == receipts[1]
        assert (await app.depths())["postgresql"][0].queued == 1


def test_threads_send_inside_a_transaction_of_theirs(url: str) -> None:
    job = adding()
    app = que.Que(url)
    app.add(job)
    with app.blocking() as blocking:
        with psycopg.connect(url) as connection:
            kept = blocking.send(job, [1], connection=connection).result(timeout=0)
        with psycopg.connect(url) as connection:
            undone = blocking.send(job, [2], connection=connection).result(timeout=0)
            connection.rollback()
        assert [blocking.status(receipt).known for receipt in (kept, undone)] == [True, False]


def test_threads_cannot_send_on_a_connection_that_needs_a_loop(url: str) -> None:
    job = adding()
    app = que.Que(url)
    app.add(job)

    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(url) as connection:
            with pytest.raises(que.ConfigurationError, match="blocking connection"):
                await asyncio.to_thread(blocking.send, job, [1], connection=connection)

    with app.blocking() as blocking:
        asyncio.run(main())


@in_loop
async def test_plain_sql_queues_a_job_too(url: str, postgres: Postgres, database: str) -> None:
    async with que.Que(url) as app:
        job = app.add(adding())
        async with app.worker():
            with psycopg.connect(postgres.conninfo(database), autocommit=True) as connection:
                statement = "SELECT que.que_send('add', '[20, 22]', priority => 1, result_ttl => 60)"
                row = connection.execute(statement).fetchone()
            assert row is not None
            assert await app.handle(job, que.Receipt("postgresql", "add", "", str(row[0]))) == 42
