"""procrastinate over PostgreSQL: `procrastinate_pair worker|client FUNCTION MODE URL`.

It keeps no results: jobs are awaited by counting those that have not ended.
"""

import asyncio
from collections.abc import Sequence

from procrastinate import App, PsycopgConnector
from procrastinate.tasks import Task

from benchmarks.pairs.peer import Place, echo, main
from benchmarks.pairs.typed import Echo, halves
from benchmarks.player import IN_FLIGHT, play_async, say

POLL_SECONDS = 0.005
CONCURRENCY = 50
UNFINISHED = "SELECT count(*) AS jobs FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
INSTALLED = "SELECT to_regclass('procrastinate_jobs') IS NOT NULL AS is_so"


def declared(place: Place) -> tuple[App, Task]:
    app = App(connector=PsycopgConnector(conninfo=place.url, min_size=8, max_size=8))
    return app, app.task(name=place.function, queue=place.function)(echo)


async def install(app: App) -> None:
    if not (await app.connector.execute_query_one_async(INSTALLED))["is_so"]:
        await app.schema_manager.apply_schema_async()


async def client(place: Place) -> None:
    app, task = declared(place)

    async def at_most(jobs: int) -> None:
        """Return once so many, or fewer, have not ended."""
        while (await app.connector.execute_query_one_async(UNFINISHED))["jobs"] > jobs:
            await asyncio.sleep(POLL_SECONDS)

    async def put(half: Sequence[Echo]) -> None:
        await task.batch_defer_async(*[{"number": params.number, "text": params.text} for params in half])

    async def send(count: int) -> None:
        for half in halves(count):
            await put(half)

    async def singly(count: int) -> None:
        for half in halves(count):
            await asyncio.gather(*[task.defer_async(number=params.number, text=params.text) for params in half])

    async def call(count: int) -> None:
        for half in halves(count):
            await put(half)
            await at_most(IN_FLIGHT // 2)
        await at_most(0)

    modes = {"submit": call, "send": send, "singly": singly, "drain": send}
    async with app.open_async():
        await install(app)
        await play_async(modes[place.mode])


async def worker(place: Place) -> None:
    app, _ = declared(place)

    async def run(*, wait: bool) -> None:
        await app.run_worker_async(
            queues=[place.function],
            concurrency=CONCURRENCY,
            wait=wait,
            fetch_job_polling_interval=POLL_SECONDS,
            delete_jobs="successful",
            install_signal_handlers=False,
        )

    async with app.open_async():
        await install(app)
        if place.mode == "drain":
            await play_async(lambda _: run(wait=False))
        else:
            say("ready")
            await run(wait=True)


if __name__ == "__main__":
    main(client, worker)
