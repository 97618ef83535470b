"""What a server may do to the driver: refuse it, go away, come back, forget everything, stand still, run full."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

import que
from que.model import Completed, Envelope, Failed, Settled, Settlement
from tests.engines.recording import Notices
from tests.engines.wiretap import wiretapped
from tests.redis.conftest import StartRedis
from tests.redis.recording import opened
from tests.redis.server import RedisServer
from tests.redis.test_jobs import declared, doubling, working
from tests.servers import free_port
from tests.unit.loops import in_loop, until

PASSWORD = "open sesame"


async def why_not(url: str) -> str:
    """Return why an app cannot connect, which must name the server and no password."""
    with pytest.raises(que.ConnectError) as caught:
        await que.Que(url).connect()
    assert "127.0.0.1" in str(caught.value)
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


async def doubles(url: str) -> None:
    async with que.Que(url) as client, working(url, doubling()):
        assert await declared(client).submit(4) == 8


@in_loop
async def test_nobody_at_the_port_is_a_connect_error_within_the_timeout() -> None:
    assert "Connect call failed" in await why_not(f"redis://:open%20sesame@127.0.0.1:{free_port()}?timeout=5")


@in_loop
async def test_a_password_opens_the_server_and_a_wrong_one_or_none_does_not(own_redis: StartRedis) -> None:
    server = own_redis("--requirepass", PASSWORD)
    await doubles(f"redis://:open%20sesame@127.0.0.1:{server.port}")
    assert "uthenticat" in await why_not(server.url)
    assert "password" in await why_not(f"redis://:wrong@127.0.0.1:{server.port}")


@in_loop
async def test_a_user_who_may_touch_the_namespace_alone_can_do_everything(own_redis: StartRedis) -> None:
    rules = (
        "user joe on >secret ~{que}:* resetchannels -@all +hello +select +script|load +@scripting +@read +@write +time"
    )
    server = own_redis(*(word for rule in [rules] for word in ("--user", *rule.split()[1:])))
    await doubles(f"redis://joe:secret@127.0.0.1:{server.port}/1")
    with pytest.raises(que.ConnectError, match="permission"):
        await que.Que(f"redis://joe:secret@127.0.0.1:{server.port}?namespace=other").connect()


@in_loop
async def test_a_database_that_is_not_there_is_a_connect_error(url: str) -> None:
    assert "out of range" in await why_not(f"{url}/99")


@in_loop
async def test_databases_and_namespaces_are_apart(redis: RedisServer) -> None:
    urls = [redis.url, f"{redis.url}/1", f"{redis.url}?namespace=mine"]
    for number, url in enumerate(urls):
        async with que.Que(url) as app:
            await declared(app).send(number)
    for number, url in enumerate(urls):
        async with opened(url) as (driver, _):
            consumer = await driver.register(["double"], 10, Notices())
            (delivery,) = await consumer.reserve(10)
            assert delivery.payload == b"%d" % number
    assert all(key.startswith(("{que}:", "{mine}:")) for key in redis.names_of_keys())


@in_loop
async def test_a_replica_is_no_server_to_work_with_and_the_next_host_is(own_redis: StartRedis) -> None:
    primary = own_redis()
    replica = own_redis("--replicaof", "127.0.0.1", str(primary.port))
    assert "replica" in await why_not(replica.url)
    await doubles(f"redis://127.0.0.1:{replica.port},127.0.0.1:{primary.port}")


@in_loop
async def test_a_server_that_is_too_old_is_named_with_its_version() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if line == b"HELLO\r\n":
                writer.write(b"*4\r\n+version\r\n+6.0.20\r\n+role\r\n+master\r\n")
            elif line == b"SETINFO\r\n":
                writer.write(b"-ERR unknown\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert "6.0.20" in await why_not(f"redis://127.0.0.1:{port}?timeout=5")


@in_loop
async def test_valkey_is_served_under_its_own_name_and_version(redis: RedisServer) -> None:
    introduced = 0

    def as_valkey(data: bytes) -> bytes:
        nonlocal introduced
        said, count = re.subn(
            rb"\$5\r\nredis\r\n\$7\r\nversion\r\n\$\d+\r\n[\d.]+\r\n",
            b"$6\r\nvalkey\r\n$7\r\nversion\r\n$5\r\n8.1.3\r\n",
            data,
        )
        introduced += count
        return said

    async with wiretapped(redis.port, as_valkey) as (port, _):
        await doubles(f"redis://127.0.0.1:{port}")
    assert introduced == 2


@in_loop
async def test_all_keys_of_a_cluster_are_in_one_slot(own_redis: StartRedis) -> None:
    server = own_redis("--cluster-enabled", "yes")
    assert server.command("CLUSTER", "ADDSLOTS", *map(str, range(16384))) == b"+OK\r\n"
    await until(lambda: b"cluster_state:ok" in server.command("CLUSTER", "INFO"))
    await doubles(server.url)
    async with que.Que(server.url) as client:
        receipt = await declared(client).send(1, delay=60, unique="key", expires=60)
        assert await client.cancel(receipt)


@in_loop
async def test_durable_is_stated_only_where_the_server_has_an_append_only_file(own_redis: StartRedis) -> None:
    for word, durable in (("yes", True), ("no", False)):
        async with opened(own_redis("--appendonly", word).url) as (driver, _):
            assert bool(driver.capabilities.durable) is durable


@asynccontextmanager
async def a_pair(url: str) -> AsyncGenerator[que.Job[int, int], None]:
    """A client's job, and a worker in another app."""
    async with que.Que(url) as client, working(url, doubling()):
        yield declared(client)


@in_loop
async def test_jobs_that_waited_over_a_restart_are_heard_of_after_it(own_redis: StartRedis) -> None:
    server = own_redis("--appendonly", "yes")
    async with que.Que(server.url) as client:
        job = declared(client)
        handles = job.submit_many(range(50))
        for handle in handles:
            await handle.accepted()
        await asyncio.to_thread(server.restart)
        async with working(server.url, doubling()):
            assert await que.gather(*handles) == tuple(range(0, 100, 2))
            assert await job.submit(5) == 10


@in_loop
async def test_a_handler_outlives_an_outage_and_its_verdict_is_delivered_after_it(own_redis: StartRedis) -> None:
    server = own_redis("--appendonly", "yes")
    begun, gate = asyncio.Event(), asyncio.Event()
    job = que.Job("double", int, int)

    @job.handler
    async def double(number: int) -> int:
        begun.set()
        await gate.wait()
        return 2 * number

    async with que.Que(server.url) as client, working(server.url, job):
        handle = declared(client).submit(4)
        await begun.wait()
        await asyncio.to_thread(server.stop)
        gate.set()
        await asyncio.to_thread(server.restart)
        assert await handle == 8


@in_loop
@pytest.mark.parametrize("loss", ["FLUSHALL", "restart"])
async def test_who_watched_hears_that_the_server_has_forgotten_and_work_goes_on(
    own_redis: StartRedis, loss: str
) -> None:
    server = own_redis()
    async with a_pair(server.url) as job, que.Que(server.url) as other:
        assert await job.submit(1) == 2
        waiting = other.add(que.Job("nobody-works-this", int, int)).submit(1)
        await waiting.accepted()
        if loss == "restart":
            await asyncio.to_thread(server.restart)
        else:
            server.command(loss)
        with pytest.raises(que.ConnectionLost, match="forgotten"):
            await waiting
        assert await job.submit(2) == 4


@in_loop
async def test_a_job_that_waits_for_the_way_back_is_not_among_those_that_were_forgotten(own_redis: StartRedis) -> None:
    server = own_redis()
    async with que.Que(server.url) as client:
        job = declared(client)
        forgotten = job.submit(1)
        await forgotten.accepted()
        server.stop()
        with pytest.raises(TimeoutError):
            # Long enough for the end of the connection to be noticed.
            await job.submit(3).result(timeout=0.2)
        waiting = job.submit(2)
        await asyncio.to_thread(server.restart)
        async with working(server.url, doubling()):
            assert await waiting == 4
        with pytest.raises(que.ConnectionLost):
            await forgotten


@in_loop
async def test_a_server_that_has_forgotten_the_scripts_is_told_them_again(own_redis: StartRedis) -> None:
    server = own_redis()
    async with a_pair(server.url) as job:
        server.command("SCRIPT", "FLUSH")
        assert await que.gather(*job.submit_many(range(20))) == tuple(range(0, 40, 2))


@in_loop
async def test_a_job_that_could_not_leave_in_time_is_not_sent(own_redis: StartRedis) -> None:
    server = own_redis()
    async with que.Que(f"{server.url}?timeout=0.3") as client:
        server.kill()
        with pytest.raises(que.NotSent):
            await declared(client).send(1)


@in_loop
async def test_a_job_whose_answer_did_not_come_in_time_is_ambiguous(own_redis: StartRedis) -> None:
    server = own_redis()
    async with que.Que(f"{server.url}?timeout=0.3") as client:
        job = declared(client)
        with server.stopped(), pytest.raises(que.SubmitAmbiguous):
            await job.send(1)
        # Back, and in step.
        assert (await job.send(2)).reference


@in_loop
async def test_a_parting_from_a_server_that_is_gone_is_quick_and_tells_everybody(own_redis: StartRedis) -> None:
    server = own_redis()
    notices = Notices()
    async with opened(f"{server.url}?timeout=30") as (driver, told):
        await driver.submit([Envelope("a", "f", b""), Envelope("b", "f", b"")])
        held = await (await driver.register(["f"], 1, notices)).reserve(1)
        server.kill()
        async with asyncio.timeout(10):
            await driver.disconnect()
        assert notices.lost_ones == list(held)
        assert {type(end) for end in told.ends.values()} == {que.ConnectionLost}


@in_loop
async def test_a_full_server_refuses_jobs_and_still_takes_verdicts(own_redis: StartRedis) -> None:
    server = own_redis()
    async with opened(server.url) as (driver, told):
        await driver.submit([Envelope(id, "f", b"x" * 100, background=id == "c") for id in "abc"])
        consumer = await driver.register(["f"], 10, Notices())
        first, second, third = await consumer.reserve(10)
        server.command("CONFIG", "SET", "maxmemory", "1")
        await driver.submit([Envelope("d", "f", b"")])
        assert isinstance(told.ends["d"], que.QueueFull)
        verdicts: list[Settlement] = [
            (first, Completed(b"1")),
            (second, Failed("handler", "E", "")),
            (third, Failed("handler", "E", "")),
        ]
        assert await consumer.settle(verdicts) == [Settled.CONFIRMED] * 3
        await until(lambda: len(told.ends) == 3)
        assert len(await driver.dead_letters("f", 10)) == 1
        assert [depth.queued + depth.running for depth in await driver.depths()] == [0]


@in_loop
async def test_callers_who_are_cancelled_leave_their_answers_to_nobody_else(url: str) -> None:
    async with que.Que(url) as client:
        job = declared(client)
        receipts = [await job.send(number, delay=3600) for number in range(2)]
        assert await client.cancel(receipts[1])
        for round in range(200):
            asking = asyncio.ensure_future(client.status(receipts[round % 2]))
            for _ in range(round % 7):
                await asyncio.sleep(0)
            asking.cancel()
            known = (await client.status(receipts[0])).known, (await client.status(receipts[1])).known
            assert known == (True, False)
            await asyncio.gather(asking, return_exceptions=True)
