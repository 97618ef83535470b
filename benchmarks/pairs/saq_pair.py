"""saq over Redis, with the settings that made it fastest: `saq_pair worker|client FUNCTION MODE URL`."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import import_module
from typing import Protocol, cast

from benchmarks.pairs.peer import Place, main
from benchmarks.pairs.typed import halves
from benchmarks.player import IN_FLIGHT, play_async, say

POLL_SECONDS = 0.02
LONE_POLL_SECONDS = 0.001
OPERATIONS = 50
CONCURRENCY = 100


class Queue(Protocol):
    async def connect(self) -> None: ...
    async def enqueue(self, job: str, /, **params: object) -> object: ...
    async def map(
        self, job: str, params: Sequence[Mapping[str, object]], /, *, poll_interval: float
    ) -> list[dict[str, object]]: ...


class Queues(Protocol):
    def from_url(self, url: str, *, name: str, max_concurrent_ops: int) -> Queue: ...


class Workers(Protocol):
    def __call__(self, queue: Queue, functions: Sequence[object], *, concurrency: int) -> "Worker": ...


class Worker(Protocol):
    async def start(self) -> None: ...


class Library(Protocol):
    Queue: Queues
    Worker: Workers


def opened(url: str, name: str) -> tuple[Library, Queue]:
    library = cast(Library, import_module("saq"))
    return library, library.Queue.from_url(
        f"{url}?max_connections={IN_FLIGHT}", name=name, max_concurrent_ops=OPERATIONS
    )


async def echo(_: object, *, number: int, text: str) -> dict[str, object]:
    return {"number": number, "text": text}


async def call(queue: Queue, count: int) -> None:
    """Keep between half of IN_FLIGHT and all of it under way; saq asks for a half's results until all are there."""

    async def call_half(items: Sequence[Mapping[str, object]]) -> None:
        # Each look at the results of many holds the worker up; a lone job's is cheap.
        answers = await queue.map("echo", items, poll_interval=POLL_SECONDS if len(items) > 1 else LONE_POLL_SECONDS)
        assert [answer["number"] for answer in answers] == [item["number"] for item in items]

    under_way: asyncio.Task[None] | None = None
    for half in halves(count):
        leaving = asyncio.create_task(call_half([{"number": item.number, "text": item.text} for item in half]))
        if under_way is not None:
            await under_way
        under_way = leaving
    if under_way is not None:
        await under_way


async def send(queue: Queue, count: int) -> None:
    for half in halves(count):
        await asyncio.gather(*[queue.enqueue("echo", number=item.number, text=item.text) for item in half])


MODES: Mapping[str, Callable[[Queue, int], Awaitable[None]]] = {"submit": call, "send": send}


async def client(place: Place) -> None:
    _, queue = opened(place.url, place.function)
    await queue.connect()
    await play_async(lambda count: MODES[place.mode](queue, count))


async def worker(place: Place) -> None:
    library, queue = opened(place.url, place.function)
    running = asyncio.create_task(library.Worker(queue, [echo], concurrency=CONCURRENCY).start())
    say("ready")
    await running


if __name__ == "__main__":
    main(client, worker)
