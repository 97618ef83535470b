"""Servers that go and come back, stand still, or are not what they seem: nothing hangs, and nothing is lost unsaid."""

import asyncio
import socket

import psycopg
import pytest

import que
from que.model import Completed, Envelope, Settled
from tests.engines.recording import Notices
from tests.postgres.recording import opened
from tests.postgres.server import Postgres
from tests.servers import free_port
from tests.unit.loops import in_loop, until


def envelope(id: str = "a", background: bool = False) -> Envelope:
    return Envelope(id, "f", id.encode(), background)


def kill_sessions(postgres: Postgres, database: str) -> None:
    """All sessions of that database are gone, as after a blip of the network."""
    with psycopg.connect(postgres.conninfo(), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database,))


@in_loop
async def test_a_worker_that_waits_and_a_submitter_that_waits_go_on_after_a_restart(own_postgres: Postgres) -> None:
    url = f"{own_postgres.url(own_postgres.new_database())}?backoff=0.2"
    async with opened(url) as (client, told), opened(url) as (worker, _):
        await client.submit([envelope("before")])
        taker = await worker.register(["f"], 10, Notices())
        (held,) = await taker.reserve(1)
        reserving = asyncio.create_task(taker.reserve(1))
        await asyncio.to_thread(own_postgres.restart)
        await client.submit([envelope("after")])
        (fresh,) = await reserving
        settled = await taker.settle([(held, Completed(b"1")), (fresh, Completed(b"2"))])
        assert settled == [Settled.CONFIRMED] * 2
        await until(lambda: len(told.ends) == 2)
        # What ended before the client listened again it may not have heard, and then says so.
        assert told.ends["after"] == b"2" or isinstance(told.ends["after"], que.ConnectionLost)


@in_loop
async def test_sessions_that_are_ended_are_replaced_and_no_job_is_lost(
    url: str, postgres: Postgres, database: str
) -> None:
    job = que.Job("f", int, int)
    job.handler(lambda number: number)
    async with que.Que(f"{url}?backoff=0.1&lease=2") as app, que.Que(f"{url}?backoff=0.1&lease=2") as client:
        app.add(job)
        async with app.worker(concurrency=10):
            ends: list[object] = []
            for round in range(5):
                handles = [client.submit(que.Job("f", int, int), 10 * round + n) for n in range(10)]
                kill_sessions(postgres, database)
                for handle in handles:
                    try:
                        ends.append(await handle.result(timeout=30))
                    except (que.ConnectionLost, que.SubmitError) as error:
                        ends.append(error)
            assert len(ends) == 50
            # Afterwards all is as before.
            assert await client.submit(que.Job("f", int, int), 7).result(timeout=30) == 7


@in_loop
async def test_a_server_that_stands_still_ends_an_operation_at_its_deadline(own_postgres: Postgres) -> None:
    url = f"{own_postgres.url(own_postgres.new_database())}?timeout=0.5&backoff=0.1"
    async with opened(url) as (driver, told):
        await driver.submit([envelope("a", background=True)])
        with own_postgres.stopped(), pytest.raises(que.SubmitAmbiguous):
            await driver.submit([envelope("b", background=True)])
        await driver.submit([envelope("c", background=True)])
        assert list(told.receipts) == ["a", "c"]


@in_loop
async def test_what_had_not_left_when_nobody_answers_is_not_sent(own_postgres: Postgres) -> None:
    url = f"{own_postgres.url(own_postgres.new_database())}?timeout=0.5&backoff=0.1"
    async with opened(url) as (driver, _):
        await asyncio.to_thread(own_postgres.stop)
        # The first call may meet the end of a connection, which is told from the server's shutdown.
        with pytest.raises(que.NotSent):
            await driver.submit([envelope("a", background=True)])
        with pytest.raises(que.ConnectError):
            await driver.depths()


@in_loop
async def test_a_job_whose_end_nobody_could_hear_is_reported_lost_and_a_kept_result_is_told(
    url: str, postgres: Postgres, database: str
) -> None:
    async with opened(f"{url}?backoff=0.5") as (client, told), opened(url) as (worker, _):
        kept = Envelope("kept", "f", b"", result_ttl=60)
        await client.submit([envelope("lost"), kept, envelope("late")])
        taker = await worker.register(["f"], 10, Notices())
        taken = {delivery.id: delivery for delivery in await taker.reserve(10)}
        assert client._open is not None  # pyright: ignore[reportPrivateUsage] - only from inside can it be made deaf
        ear = client._open._ear  # pyright: ignore[reportPrivateUsage] - only from inside can it be made deaf
        assert ear is not None
        # Its listening stops before the jobs end, and begins again after that.
        assert ear._listening is not None  # pyright: ignore[reportPrivateUsage] - only from inside can it be made deaf
        ear._listening.cancel()  # pyright: ignore[reportPrivateUsage] - only from inside can it be made deaf
        await taker.settle([(taken["lost"], Completed(b"1")), (taken["kept"], Completed(b"2"))])
        await ear.close()
        await ear.open()
        await client._open.back()  # pyright: ignore[reportPrivateUsage] - only from inside can it be made deaf
        await until(lambda: len(told.ends) == 2)
        assert isinstance(told.ends["lost"], que.ConnectionLost)
        assert told.ends["kept"] == b"2"
        await taker.settle([(taken["late"], Completed(b"3"))])
        await until(lambda: "late" in told.ends)
        assert told.ends["late"] == b"3"


@in_loop
async def test_an_app_that_polls_does_all_without_listening(url: str, postgres: Postgres, database: str) -> None:
    job = que.Job("f", bytes, bytes, serializer=que.RAW)

    @job.handler
    async def handle(payload: bytes, context: que.Context) -> bytes:
        context.progress(1, 2)
        return payload

    async with que.Que(f"{url}?listen=0&poll=0.02") as client, que.Que(f"{url}?listen=0&poll=0.02") as app:
        app.add(job)
        async with app.worker():
            handles = [client.submit(que.Job("f", bytes, bytes, serializer=que.RAW), b"x" * size) for size in (1, 9000)]
            assert await que.gather(*handles) == (b"x", b"x" * 9000)
            with psycopg.connect(postgres.conninfo()) as connection:
                listening = connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND query LIKE 'LISTEN%%'", (database,)
                ).fetchone()
            assert listening == (0,)


@in_loop
async def test_nobody_there_is_a_connect_error_without_the_password() -> None:
    with pytest.raises(que.ConnectError) as caught:
        await que.Que(f"postgresql://que:secret@127.0.0.1:{free_port()}/jobs").connect()
    assert "secret" not in str(caught.value)


@in_loop
async def test_a_port_that_never_answers_is_a_connect_error_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(que.ConnectError):
            await que.Que(f"postgresql://que@127.0.0.1:{port}/jobs?timeout=0.5").connect()


@in_loop
async def test_a_database_that_is_not_there_is_a_connect_error_that_names_it(postgres: Postgres) -> None:
    with pytest.raises(que.ConnectError, match='"nowhere" does not exist'):
        await que.Que(postgres.url("nowhere")).connect()


@in_loop
async def test_a_server_that_is_too_old_is_named_with_its_version() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client asks for encryption first, in a packet of 8 bytes.
        while int.from_bytes(size := await reader.readexactly(4)) == 8:
            await reader.readexactly(4)
            writer.write(b"N")
        await reader.readexactly(int.from_bytes(size) - 4)
        status = b"server_version\x0012.19\0", b"client_encoding\0UTF8\0"
        authenticated, ready = (b"R", bytes(4)), (b"Z", b"I")
        for kind, body in (authenticated, *((b"S", pair) for pair in status), ready):
            writer.write(kind + (len(body) + 4).to_bytes(4) + body)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(que.ConnectError, match=r"PostgreSQL 12\.19 is too old: 13 or later"):
            await que.Que(f"postgresql://que@127.0.0.1:{port}/jobs?timeout=5").connect()
