"""streaq over Redis: `streaq_pair worker|client FUNCTION MODE URL`."""

import asyncio

from streaq import Worker
from streaq.task import AsyncRegisteredTask, Task

from benchmarks.pairs.peer import Answer, Place, echo, main, play_peer
from benchmarks.player import say

CONCURRENCY = 64
CONNECTIONS = 200


def declared(place: Place) -> tuple[Worker, AsyncRegisteredTask]:
    queue = Worker(
        f"{place.url}?max_connections={CONNECTIONS}",
        queue_name=place.function,
        concurrency=CONCURRENCY,
        handle_signals=False,
    )
    return queue, queue.task(ttl=60)(echo)


async def client(place: Place) -> None:
    queue, task = declared(place)

    async def put(number: int, text: str) -> Task:
        return await task.enqueue(number, text)

    # Each wait for a result holds a connection of its own.
    waiting = asyncio.Semaphore(CONNECTIONS // 2)

    async def result(sent: Task) -> Answer:
        async with waiting:
            return (await sent.result(timeout=60)).result

    async with queue:
        await play_peer(place.mode, put, result)


async def worker(place: Place) -> None:
    queue, _task = declared(place)
    say("ready")
    await queue.run_async()


if __name__ == "__main__":
    main(client, worker)
