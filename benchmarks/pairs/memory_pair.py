"""One process, no server: `memory_pair LOOP KIND`; the handler runs in the caller's loop."""

import asyncio
import sys
from collections.abc import Awaitable, Callable

import msgspec

import que
from benchmarks.pairs.typed import Echo, halves, numbered, submit
from benchmarks.player import IN_FLIGHT, play_async, run_loop

DEADLINE_SECONDS = 30.0


async def que_memory(run_timeout: float | None) -> None:
    app = que.Que("memory://")

    @app.job("echo", run_timeout=run_timeout)
    async def echo(params: Echo) -> Echo:
        return params

    async with app, app.worker(concurrency=IN_FLIGHT):
        await play_async(lambda count: submit(echo, count))


async def taskiq_memory(deadline: float | None) -> None:
    """taskiq at its best setting: the job runs inside kiq(), and its result is looked up once."""
    from taskiq import InMemoryBroker

    broker = InMemoryBroker(await_inplace=True)
    labels = {} if deadline is None else {"timeout": deadline}

    @broker.task(task_name="echo", **labels)
    async def echo(params: Echo) -> Echo:
        return params

    async def run(count: int) -> None:
        for params in numbered(count):
            task = await echo.kiq(params)
            result = await task.wait_result(check_interval=0)
            assert result.return_value.number == params.number

    await broker.startup()
    await play_async(run)
    await broker.shutdown()


async def bare_tasks() -> None:
    """The floor of a loop with a task for each job: encode, run, encode, decode, and nothing else."""
    encode = msgspec.json.Encoder().encode
    decode = msgspec.json.Decoder(Echo).decode

    async def echo(params: Echo) -> Echo:
        return params

    async def work(payload: bytes, answer: asyncio.Future[bytes]) -> None:
        answer.set_result(encode(await echo(decode(payload))))

    async def run(count: int) -> None:
        loop = asyncio.get_running_loop()
        for half in halves(count):
            answers: list[asyncio.Future[bytes]] = [loop.create_future() for _ in half]
            tasks = [loop.create_task(work(encode(params), answers[i])) for i, params in enumerate(half)]
            for params, answer in zip(half, answers, strict=True):
                assert decode(await answer).number == params.number
            del tasks

    await play_async(run)


KINDS: dict[str, Callable[[], Awaitable[None]]] = {
    "que": lambda: que_memory(None),
    "que-deadline": lambda: que_memory(DEADLINE_SECONDS),
    "taskiq": lambda: taskiq_memory(None),
    "taskiq-deadline": lambda: taskiq_memory(DEADLINE_SECONDS),
    "tasks": bare_tasks,
}

if __name__ == "__main__":
    run_loop(sys.argv[1], KINDS[sys.argv[2]]())
