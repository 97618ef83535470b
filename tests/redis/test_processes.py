"""Processes that die in the middle: what they had taken comes back, what they had sent is there, nothing stays."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest

import que
from tests.redis.server import RedisServer
from tests.unit.loops import in_loop

WORKER = """
import asyncio, os, sys
import que

app = que.Que(sys.argv[1])

@app.job("pid", retry=que.Retry(attempts=4))
async def pid(number: int, context: que.Context) -> tuple[int, int]:
    if number < 0:
        print("taken", flush=True)
        await asyncio.get_running_loop().create_future()
    return os.getpid(), context.attempt or 0

@app.job("poison", retry=que.Retry(attempts=3))
async def poison(number: int) -> int:
    os.kill(os.getpid(), 9)
    return number

async def main() -> None:
    async with app, app.worker(concurrency=4):
        print("ready", flush=True)
        await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""

SUBMITTER = """
import asyncio, sys
import que

app = que.Que(sys.argv[1])
job = app.add(que.Job("pid", int, tuple[int, int]))

async def main() -> None:
    await app.connect()
    handles = [job.submit(number) for number in range(5)]
    for handle in handles:
        await handle.accepted()
    print("accepted", flush=True)
    await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""


class Child:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def said(self, word: str) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            line = await self.process.stdout.readline()
        assert line.decode().strip() == word

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def children(program: str, url: str, count: int = 1) -> AsyncGenerator[Sequence[Child], None]:
    started: list[Child] = []
    try:
        for _ in range(count):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", program, url, stdout=asyncio.subprocess.PIPE
            )
            started.append(Child(process))
        yield started
    finally:
        for child in started:
            if child.process.returncode is None:
                await child.kill()


def pid_job(app: que.Que[None]) -> que.Job[int, tuple[int, int]]:
    return app.add(que.Job("pid", int, tuple[int, int]))


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
async def test_a_job_that_kills_its_worker_stops_after_its_attempts_and_the_others_run(url: str) -> None:
    async with que.Que(f"{url}?lease=0.5") as client, children(WORKER, f"{url}?lease=0.5", 4) as workers:
        for worker in workers:
            await worker.said("ready")
        poison = client.add(que.Job("poison", int, int))
        job = pid_job(client)
        deadly = poison.submit(1)
        healthy = job.submit_many(range(20))
        with pytest.raises(que.JobFailed, match="lost in each of 3 runs") as caught:
            await deadly.result(timeout=50)
        assert caught.value.kind == "crashed"
        for handle in healthy:
            await handle.result(timeout=20)


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
