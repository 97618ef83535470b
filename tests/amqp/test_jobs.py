"""What a job goes through on RabbitMQ; two apps of one test stand for two processes."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

import que
from que.drivers.amqp.channel import Channel
from que.drivers.amqp.wire import Method, Properties
from tests.amqp.raw import depth, prefix_of, publish, raw_channel, take
from tests.amqp.server import RabbitMQ
from tests.unit.loops import in_loop, until


def declared(app: que.Que[None], name: str = "double") -> que.Job[int, int]:
    return app.add(que.Job(name, int, int))


def doubling(name: str = "double") -> que.Job[int, int]:
    job = que.Job(name, int, int)

    @job.handler
    async def double(number: int) -> int:
        return 2 * number

    return job


@asynccontextmanager
async def working(url: str, *jobs: que.Job[int, int], concurrency: int = 10) -> AsyncGenerator[que.Que[None], None]:
    """Another app, which works `jobs`."""
    async with que.Que(url) as app:
        for job in jobs:
            app.add(job)
        async with app.worker(concurrency=concurrency):
            yield app


@in_loop
async def test_results_come_back_to_the_process_that_submitted(url: str) -> None:
    async with que.Que(url) as client, working(url, doubling()):
        job = declared(client)
        assert await que.gather(*job.submit_many(range(500))) == tuple(range(0, 1000, 2))


@in_loop
async def test_what_was_sent_waits_for_a_worker_that_comes_later(url: str) -> None:
    async with que.Que(url) as client:
        job = declared(client)
        handle = job.submit(21)
        await handle.accepted()
        async with working(url, doubling()):
            assert await handle == 42


@pytest.mark.parametrize("name", ["a.*.#", "größe-ändern", "x" * 400, "!dead.double", "amq.direct"])
@in_loop
async def test_any_name_has_a_queue_of_its_own(url: str, name: str) -> None:
    async with que.Que(url) as client, working(url, doubling(name)):
        job = declared(client, name)
        assert await job.submit(21) == 42
        assert await job.submit(4, delay=0.01) == 8


@in_loop
async def test_a_delay_waits_behind_no_longer_one_and_is_never_early(url: str) -> None:
    async with que.Que(url) as client, working(url, doubling()):
        job = declared(client)
        begun = time.time()
        long, short = job.submit(1, delay=30), job.submit(2, delay=0.3)
        assert await short == 4
        assert time.time() - begun >= 0.3
        assert (await long.accepted()) is not None


@in_loop
async def test_a_delay_beyond_what_the_queues_hold_is_refused(url: str) -> None:
    async with que.Que(url) as client:
        with pytest.raises(que.Rejected, match="397 days"):
            await declared(client).send(1, delay=400 * 86_400)


@in_loop
async def test_an_awaited_job_that_nobody_takes_in_time_expires_and_never_runs(url: str) -> None:
    async with que.Que(url) as client:
        job = declared(client)
        handle = job.submit(1, expires=0.05)
        with pytest.raises(que.JobExpired):
            await handle.result(timeout=20)
        async with working(url, doubling()), raw_channel(url) as channel:
            assert await job.submit(2) == 4
            await until_empty(channel, f"{prefix_of(url)}.double")


async def until_empty(channel: Channel, queue: str) -> None:
    async with asyncio.timeout(20):
        while await depth(channel, queue):
            await asyncio.sleep(0.01)


@in_loop
async def test_a_job_that_was_taken_in_time_does_not_expire_while_it_runs(url: str) -> None:
    slow = que.Job("double", int, int)

    @slow.handler
    async def double(number: int) -> int:
        await asyncio.sleep(1.2)
        return 2 * number

    async with que.Que(url) as client, working(url, slow):
        assert await declared(client).submit(21, expires=0.4) == 42


@in_loop
async def test_a_dead_letter_tells_what_happened_and_can_be_replayed_and_dropped(url: str) -> None:
    runs: list[int] = []
    failing = que.Job("double", int, int)

    @failing.handler
    async def double(number: int) -> int:
        runs.append(number)
        raise que.Reject(f"no {number}")

    async with que.Que(url) as client, working(url, failing):
        job = declared(client)
        for number in (1, 2, 3):
            await job.send(number)
            await until(lambda: len(runs) == number)  # noqa: B023 -- it is called before the next number comes
        async with asyncio.timeout(20):
            while len(letters := await client.dead_letters(job)) < 3:
                await asyncio.sleep(0.01)
        assert [(each.payload, each.failure.message, each.attempts) for each in letters] == [
            (b"1", "no 1", 1), (b"2", "no 2", 1), (b"3", "no 3", 1),
        ]  # fmt: skip
        assert await client.dead_letters(job, limit=2) == letters[:2]
        assert await client.drop(job, letters[:1]) == 1
        assert await client.drop(job, letters[:1]) == 0
        assert await client.replay(job, letters) == 2
        await until(lambda: len(runs) == 5)
        assert runs[3:] == [2, 3]


@in_loop
async def test_a_program_in_another_language_may_submit_and_hears_the_plain_result(url: str) -> None:
    async with working(url, doubling()), raw_channel(url) as channel:
        await channel.call(Method.BASIC_CONSUME, 0, "amq.rabbitmq.reply-to", "", False, True, False, False, {})
        heard = asyncio.get_running_loop().create_future()
        channel.on_message = heard.set_result
        properties = Properties(
            correlation_id="mine", reply_to="amq.rabbitmq.reply-to", content_type="application/json"
        )
        publish(channel, f"{prefix_of(url)}.double", b"21", properties)
        message = await asyncio.wait_for(heard, 20)
        assert message.body == b"42"
        assert (message.properties.correlation_id, message.properties.type) == ("mine", "completed")
        assert message.properties.content_type == "application/json"


@in_loop
async def test_a_worker_in_another_language_may_answer_with_the_plain_result_and_may_reject(url: str) -> None:
    async with que.Que(url) as client, raw_channel(url) as channel:
        job = declared(client)
        handle = job.submit(21)
        await handle.accepted()
        queue = f"{prefix_of(url)}.double"
        taken = await take(channel, queue)
        assert json.loads(taken.body) == 21
        assert taken.properties.reply_to is not None
        answer = Properties(correlation_id=taken.properties.correlation_id)
        publish(channel, taken.properties.reply_to, b"42", answer)
        channel.send(Method.BASIC_ACK, taken.args[0], False)
        assert await handle == 42
        await job.send(7)
        rejected = await take(channel, queue)
        channel.send(Method.BASIC_REJECT, rejected.args[0], False)
        async with asyncio.timeout(20):
            while not (letters := await client.dead_letters(job)):
                await asyncio.sleep(0.01)
        assert (letters[0].payload, letters[0].failure.kind) == (b"7", "rejected")


@in_loop
async def test_settled_jobs_leave_nothing_in_the_queues(url: str) -> None:
    async with que.Que(url) as client, working(url, doubling()):
        job = declared(client)
        await que.gather(*job.submit_many(range(100)))
        await job.send(1)
        async with raw_channel(url) as channel:
            await until_empty(channel, f"{prefix_of(url)}.double")
    async with raw_channel(url) as channel:
        await until_empty(channel, f"{prefix_of(url)}.double")
        assert await depth(channel, f"{prefix_of(url)}!dead.double") == 0


@in_loop
async def test_two_prefixes_share_nothing(url: str) -> None:
    async with que.Que(url) as client, working(url.replace("prefix=", "prefix=x"), doubling()):
        handle = declared(client).submit(1)
        await handle.accepted()
        async with raw_channel(url) as channel:
            assert await depth(channel, f"{prefix_of(url)}.double") == 1


@in_loop
async def test_a_result_that_the_server_would_not_take_fails_its_job_once(url: str) -> None:
    long = que.Job("long", int, str)
    runs: list[int] = []

    @long.handler
    async def handler(number: int) -> str:
        runs.append(number)
        return "x" * number

    async with que.Que(f"{url}&max_payload=5000") as app:
        app.add(long)
        async with app.worker():
            assert len(await long.submit(3000)) == 3000
            with pytest.raises(que.ResultInvalid, match="5000"):
                await long.submit(6000)
    assert runs == [3000, 6000]


@in_loop
async def test_jobs_dead_letters_and_delays_are_in_quorum_queues(node: RabbitMQ, url: str) -> None:
    async with que.Que(url) as client:
        await declared(client).send(1)
        await declared(client, "late").send(1, delay=0.02)
        listed = await asyncio.to_thread(node.control, "list_queues", "name", "type", "--no-table-headers")
    kinds = dict(line.split("\t") for line in listed.splitlines() if line.startswith(prefix_of(url)))
    assert len(kinds) >= 5
    assert set(kinds.values()) == {"quorum"}
