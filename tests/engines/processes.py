"""Processes that die in the middle: what they had taken comes back, what they had sent is there, nothing stays.

These are tests of each engine whose test_processes.py imports them; its room has the fixture `url`.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest

import que
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
