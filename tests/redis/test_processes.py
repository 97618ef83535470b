"""Processes that die in the middle, on Redis."""

import asyncio

import que
from tests.engines.processes import *
from tests.redis.server import RedisServer
from tests.unit.loops import in_loop


@in_loop
async def test_a_killed_workers_job_goes_to_another_when_its_lease_is_over_and_counts_as_a_run(url: str) -> None:
    url = f"{url}?lease=0.5"
    async with que.Que(url) as client, children(WORKER, url) as (first,):
        await first.said("ready")
        job = pid_job(client)
        handle = job.submit(-1)
        await first.said("taken")
        await first.kill()
        async with children(WORKER, url) as (second,):
            await second.said("ready")
            await second.said("taken")
            assert (await handle.status()).running


@in_loop
async def test_a_delayed_job_is_run_in_time_although_the_one_who_kept_the_time_was_killed(redis: RedisServer) -> None:
    async with children(WORKER, redis.url, 2) as (first, second):
        for worker in (first, second):
            await worker.said("ready")
        async with que.Que(redis.url) as client:
            job = pid_job(client)
            handle = job.submit(7, delay=1)
            await handle.accepted()
            await first.kill()
            pid, attempt = await handle.result(timeout=30)
            assert (pid, attempt) == (second.process.pid, 1)


@in_loop
async def test_what_a_killed_submitter_had_sent_runs_and_soon_nothing_is_left_for_it(redis: RedisServer) -> None:
    url = f"{redis.url}?linger=2"
    async with children(SUBMITTER, url) as (submitter,):
        await submitter.said("accepted")
        await submitter.kill()
    async with que.Que(url) as app, children(WORKER, url) as (worker,):
        await worker.said("ready")
        async with asyncio.timeout(30):
            while any(depth.queued or depth.running for depth in (await app.depths())["redis"]):
                await asyncio.sleep(0.01)
            while len([key for key in redis.names_of_keys() if key.startswith("{que}:mail:")]) != 2:
                await asyncio.sleep(0.05)


@in_loop
async def test_killed_workers_are_forgotten(redis: RedisServer) -> None:
    url = f"{redis.url}?linger=2"
    async with children(WORKER, url, 3) as workers:
        for worker in workers:
            await worker.said("ready")
    async with que.Que(url), asyncio.timeout(30):
        while {"{que}:consumers", "{que}:idle:pid", "{que}:idle:poison"} & redis.names_of_keys():
            await asyncio.sleep(0.05)
