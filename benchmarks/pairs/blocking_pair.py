"""que from threads, on memory://: `blocking_pair KIND THREADS`."""

import asyncio
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import que
from benchmarks.pairs.typed import Echo, EchoJob, halves, numbered, submit
from benchmarks.player import IN_FLIGHT, play, play_async, run_loop

Call = Callable[[Echo], Echo]
START_SECONDS = 20.0


def application() -> tuple[que.Que, EchoJob]:
    app = que.Que("memory://")

    @app.job("echo")
    async def echo(params: Echo) -> Echo:
        return params

    return app, echo


@contextmanager
def blocking() -> Generator[tuple[que.BlockingQue, EchoJob]]:
    app, echo = application()
    with app.blocking() as q, q.worker(concurrency=IN_FLIGHT):
        yield q, echo


def play_calls(call: Call, threads: int) -> None:
    """Share the calls among `threads` threads, each of which waits for the answer before its next call."""

    def run(items: Iterator[Echo]) -> None:
        for params in items:
            assert call(params).number == params.number

    with ThreadPoolExecutor(threads) as pool:

        def share(count: int) -> None:
            parts = [count // threads + (number < count % threads) for number in range(threads)]
            list(pool.map(run, map(numbered, parts)))

        play(share)


def call_blocking(threads: int) -> None:
    with blocking() as (q, echo):
        play_calls(lambda params: q.submit(echo, params).result(), threads)


def call_threadsafe(threads: int) -> None:
    """What one does without a blocking face: a loop in a thread, and a coroutine for each call."""
    app, echo = application()
    loop = asyncio.new_event_loop()
    stopping = asyncio.Event()
    working = threading.Event()

    async def work() -> None:
        async with app, app.worker(concurrency=IN_FLIGHT):
            working.set()
            await stopping.wait()

    async def submitted(params: Echo) -> Echo:
        return await echo.submit(params)

    thread = threading.Thread(target=loop.run_until_complete, args=[work()])
    thread.start()
    assert working.wait(START_SECONDS)
    play_calls(lambda params: asyncio.run_coroutine_threadsafe(submitted(params), loop).result(), threads)
    loop.call_soon_threadsafe(stopping.set)
    thread.join()


def submit_many_blocking(_: int) -> None:
    with blocking() as (q, echo):

        def run(count: int) -> None:
            under_way: list[que.BlockingHandle[Echo]] = []
            for half in halves(count):
                leaving = q.submit_many(echo, half)
                for handle in under_way:
                    handle.result()
                under_way = leaving
            for handle in under_way:
                handle.result()

        play(run)


def map_blocking(_: int) -> None:
    with blocking() as (q, echo):

        def run(count: int) -> None:
            for outcome in q.map(echo, numbered(count), in_flight=IN_FLIGHT):
                assert outcome.result.number == outcome.params.number

        play(run)


def submit_many_async(_: int) -> None:
    async def main() -> None:
        app, echo = application()
        async with app, app.worker(concurrency=IN_FLIGHT):
            await play_async(lambda count: submit(echo, count))

    run_loop("asyncio", main())


def map_async(_: int) -> None:
    async def main() -> None:
        app, echo = application()

        async def run(count: int) -> None:
            async for outcome in echo.map(numbered(count), in_flight=IN_FLIGHT):
                assert outcome.result.number == outcome.params.number

        async with app, app.worker(concurrency=IN_FLIGHT):
            await play_async(run)

    run_loop("asyncio", main())


KINDS: dict[str, Callable[[int], None]] = {
    "blocking": call_blocking,
    "threadsafe": call_threadsafe,
    "blocking-submit_many": submit_many_blocking,
    "blocking-map": map_blocking,
    "async-submit_many": submit_many_async,
    "async-map": map_async,
}

if __name__ == "__main__":
    KINDS[sys.argv[1]](int(sys.argv[2]))
