"""taskiq over Redis streams: `taskiq_redis_pair LOOP worker|client URL FUNCTION MODE`."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import Protocol, cast

from benchmarks.pairs.typed import Echo, halves
from benchmarks.player import IN_FLIGHT, play_async, run_loop, say

POLL_SECONDS = 0.002


class Result(Protocol):
    return_value: dict[str, object]


class Sent(Protocol):
    async def wait_result(self, *, check_interval: float) -> Result: ...


class Task(Protocol):
    async def kiq(self, number: int, text: str) -> Sent: ...


class Broker(Protocol):
    is_worker_process: bool

    def with_result_backend(self, backend: object) -> "Broker": ...
    def register_task(self, function: object, *, task_name: str) -> Task: ...
    async def startup(self) -> None: ...


class Library(Protocol):
    def RedisStreamBroker(self, url: str, *, queue_name: str, max_connection_pool_size: int) -> Broker: ...
    def RedisAsyncResultBackend(self, url: str, *, result_ex_time: int) -> object: ...


class Api(Protocol):
    async def run_receiver_task(self, broker: Broker, *, max_async_tasks: int, run_startup: bool) -> None: ...


async def echo(number: int, text: str) -> dict[str, object]:
    return {"number": number, "text": text}


def opened(url: str, name: str) -> tuple[Broker, Task]:
    library = cast(Library, import_module("taskiq_redis"))
    backend = library.RedisAsyncResultBackend(url, result_ex_time=60)
    broker = library.RedisStreamBroker(url, queue_name=name, max_connection_pool_size=IN_FLIGHT)
    broker = broker.with_result_backend(backend)
    return broker, broker.register_task(echo, task_name="echo")


async def call_one(task: Task, params: Echo) -> None:
    sent = await task.kiq(params.number, params.text)
    result = await sent.wait_result(check_interval=POLL_SECONDS)
    assert result.return_value["number"] == params.number


async def call(task: Task, count: int) -> None:
    for half in halves(count):
        await asyncio.gather(*[call_one(task, params) for params in half])


async def send(task: Task, count: int) -> None:
    for half in halves(count):
        await asyncio.gather(*[task.kiq(params.number, params.text) for params in half])


MODES: Mapping[str, Callable[[Task, int], Awaitable[None]]] = {"submit": call, "send": send}


async def client(url: str, function: str, mode: str) -> None:
    broker, task = opened(url, function)
    await broker.startup()
    await play_async(lambda count: MODES[mode](task, count))


async def worker(url: str, function: str, mode: str) -> None:
    broker, _ = opened(url, function)
    broker.is_worker_process = True
    api = cast(Api, import_module("taskiq.api"))
    running = asyncio.create_task(api.run_receiver_task(broker, max_async_tasks=IN_FLIGHT, run_startup=True))
    say("ready")
    await running


ROLES: dict[str, Callable[..., Awaitable[None]]] = {"client": client, "worker": worker}

if __name__ == "__main__":
    loop, role, *arguments = sys.argv[1:]
    run_loop(loop, ROLES[role](*arguments))
