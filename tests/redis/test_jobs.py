"""What a job goes through in a namespace that several apps share; two apps of one test stand for two processes."""

import asyncio

import pytest

import que
from que.drivers.redis import RedisDriver
from que.model import Envelope
from tests.engines.jobs import *
from tests.engines.recording import Notices
from tests.redis.recording import opened
from tests.redis.server import RedisServer
from tests.unit.loops import in_loop


@in_loop
async def test_settled_jobs_and_those_who_leave_leave_nothing_behind(redis: RedisServer) -> None:
    async with que.Que(redis.url) as client, working(redis.url, doubling()):
        job = declared(client)
        await que.gather(*job.submit_many(range(50)))
        assert await job.submit(1, unique="key", expires=60) == 2
    assert redis.names_of_keys() == {"{que}:version", "{que}:last", "{que}:jobs", "{que}:held", "{que}:timers"}
    for count in (("HLEN", "{que}:jobs"), ("HLEN", "{que}:held"), ("ZCARD", "{que}:timers")):
        # What is always there.
        assert redis.command(*count) == b":1\r\n"


@in_loop
@pytest.mark.parametrize("size", [0, 31, 32, 255, 256, 65_535, 65_536, 3_000_000])
async def test_payloads_of_every_size_come_and_go_unharmed(url: str, size: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    job = que.Job("same", bytes, bytes, serializer=que.RAW)

    @job.handler
    async def same(data: bytes) -> bytes:
        return data

    async with que.Que(url) as app:
        app.add(job)
        async with app.worker():
            assert await job.submit(payload[:size]) == payload[:size]


@in_loop
@pytest.mark.parametrize("name", ["a:b", "{other}:jobs", "queue:double", "naïve-☃", "x" * 300, "%s", "$1"])
async def test_a_function_of_any_name_has_a_queue_of_its_own(redis: RedisServer, name: str) -> None:
    async with que.Que(redis.url) as client, working(redis.url, doubling()):
        stranger = client.add(que.Job(name, int, int))
        receipt = await stranger.send(1, unique="double")
        assert await declared(client).submit(4, unique="double") == 8
        assert await client.depths() == {
            "redis": sorted(
                [que.QueueDepth(name, 1, 0, 0), que.QueueDepth("double", 0, 0, 1)], key=lambda depth: depth.function
            )
        }
        assert await client.cancel(receipt)
    assert all(key.startswith("{que}:") for key in redis.names_of_keys())


@in_loop
async def test_more_jobs_than_one_script_may_carry_are_all_done_in_their_order(url: str) -> None:
    order: list[int] = []
    job = que.Job("double", int, int)

    @job.handler
    async def double(number: int) -> int:
        order.append(number)
        return 2 * number

    async with que.Que(url) as client:
        handles = declared(client).submit_many(range(5000))
        for handle in handles:
            await handle.accepted()
        async with working(url, job, concurrency=3000):
            assert await que.gather(*handles) == tuple(range(0, 10_000, 2))
    assert order == list(range(5000))


@in_loop
async def test_a_consumer_that_closes_hands_its_wake_up_on(url: str) -> None:
    async with opened(url) as (client, _), opened(url) as (first, _), opened(url) as (second, _):
        asleep = await first.register(["f"], 1, Notices())
        reserving = [asyncio.create_task(asleep.reserve(1))]
        await until_asleep(client)
        awake = await second.register(["f"], 1, Notices())
        reserving.append(asyncio.create_task(awake.reserve(1)))
        await asleep.close()
        await client.submit([Envelope("a", "f", b"", background=True)])
        assert list(await reserving[0]) == []
        (delivery,) = await reserving[1]
        assert delivery.id == "a"


async def until_asleep(driver: RedisDriver) -> None:
    async with asyncio.timeout(20):
        while [depth.workers for depth in await driver.depths()] != [1]:
            await asyncio.sleep(0.005)
