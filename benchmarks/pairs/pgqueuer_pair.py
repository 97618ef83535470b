"""pgqueuer, with the settings that made it fastest: `pgqueuer_pair worker|client FUNCTION MODE URL`.

A job's end is awaited by its CompletionWatcher, which tells a status and no result.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from importlib import import_module
from typing import Protocol, Self, cast

import msgspec

from benchmarks.pairs.peer import Place, main
from benchmarks.pairs.typed import Echo, halves, numbered
from benchmarks.player import IN_FLIGHT, play_async, say


class Queries(Protocol):
    async def schema_is_installed(self) -> bool: ...
    async def install(self) -> None: ...
    async def enqueue(
        self, entrypoint: list[str], payload: Sequence[bytes], priority: list[int], /
    ) -> Sequence[object]: ...


class Watcher(Protocol):
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc_info: object) -> None: ...
    def wait_for(self, id: object, /) -> Awaitable[str]: ...


class Work(Protocol):
    @property
    def payload(self) -> bytes: ...


class Manager(Protocol):
    async def run(self, *, batch_size: int, dequeue_timeout: timedelta, mode: object) -> None: ...


class Queuer(Protocol):
    @property
    def qm(self) -> Manager: ...
    def entrypoint(self, name: str, /) -> Callable[[Callable[[Work], Awaitable[None]]], object]: ...


class Library(Protocol):
    """pgqueuer, as far as it is used here: checking the benchmarks shall not take the package."""

    def AsyncpgDriver(self, connection: object, /) -> object: ...
    def Queries(self, driver: object, /) -> Queries: ...
    def PgQueuer(self, driver: object, /) -> Queuer: ...


class ExecutionMode(Protocol):
    continuous: object
    drain: object


class Types(Protocol):
    QueueExecutionMode: ExecutionMode


class Completion(Protocol):
    def CompletionWatcher(self, driver: object, *, queries: Queries, debounce: timedelta) -> Watcher: ...


class Asyncpg(Protocol):
    async def connect(self, dsn: str, /) -> object: ...


Put = Callable[[list[Echo]], Awaitable[Sequence[object]]]


def library() -> Library:
    return cast(Library, import_module("pgqueuer"))


async def opened(dsn: str) -> tuple[object, Queries]:
    driver = library().AsyncpgDriver(await cast(Asyncpg, import_module("asyncpg")).connect(dsn))
    queries = library().Queries(driver)
    if not await queries.schema_is_installed():
        await queries.install()
    return driver, queries


async def submit(put: Put, watcher: Watcher, count: int) -> None:
    under_way: list[Awaitable[str]] = []
    for half in halves(count):
        ids = await put(half)
        for waiter in under_way:
            assert await waiter == "successful"
        under_way = [watcher.wait_for(id) for id in ids]
    for waiter in under_way:
        assert await waiter == "successful"


async def call_from_tasks(put: Put, watcher: Watcher, count: int) -> None:
    """Let IN_FLIGHT tasks call, one job after the other each, as the requests of a web server do."""
    items = numbered(count)

    async def caller() -> None:
        for params in items:
            (id,) = await put([params])
            assert await watcher.wait_for(id) == "successful"

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(caller())


async def send(put: Put, watcher: Watcher, count: int) -> None:
    for half in halves(count):
        await put(half)


async def send_singly(put: Put, _: Watcher, count: int) -> None:
    for half in halves(count):
        await asyncio.gather(*[put([params]) for params in half])


MODES = {"submit": submit, "tasks": call_from_tasks, "send": send, "singly": send_singly, "drain": send}


async def client(place: Place) -> None:
    driver, queries = await opened(place.url)

    async def put(half: list[Echo]) -> Sequence[object]:
        payloads = [msgspec.json.encode(params) for params in half]
        return await queries.enqueue([place.function] * len(half), payloads, [0] * len(half))

    completion = cast(Completion, import_module("pgqueuer.core.completion"))
    async with completion.CompletionWatcher(driver, queries=queries, debounce=timedelta(milliseconds=5)) as watcher:
        await play_async(lambda count: MODES[place.mode](put, watcher, count))


async def worker(place: Place) -> None:
    driver, _ = await opened(place.url)
    modes = cast(Types, import_module("pgqueuer.types")).QueueExecutionMode

    async def echo(job: Work) -> None:
        msgspec.json.decode(job.payload, type=Echo)

    async def run(mode: object) -> None:
        queuer = library().PgQueuer(driver)
        queuer.entrypoint(place.function)(echo)
        await queuer.qm.run(batch_size=500, dequeue_timeout=timedelta(seconds=1), mode=mode)

    if place.mode == "drain":
        await play_async(lambda _: run(modes.drain))
    else:
        say("ready")
        await run(modes.continuous)


if __name__ == "__main__":
    main(client, worker)
