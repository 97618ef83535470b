"""Runs of one job, outside of any worker."""

import asyncio
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Never, Unpack, cast

import que
from que.job import Blocking, JobOptions, Middleware, Surroundings
from que.model import Delivery, Verdict
from que.run import Runs


@dataclass(frozen=True, slots=True)
class Size:
    width: int


class Abort(BaseException):
    """What a handler should not raise, and may."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def declared(handler: Callable[..., object], **options: Unpack[JobOptions]) -> que.Job[Size, int]:
    job = que.Job("measure", Size, int, **options)
    job.handler(cast(Callable[[Size], int], handler))
    return job


class Site:
    """Runs of one job, outside of any worker."""

    def __init__(
        self,
        job: que.Job[Size, int],
        middleware: Sequence[Middleware[Never]] = (),
        state: object = None,
        threads: int = 2,
        redelivers: bool = True,
    ) -> None:
        self.executor = ThreadPoolExecutor(threads)
        self.stopped: set[Delivery] = set()
        surroundings = Surroundings(
            driver="memory",
            loop=asyncio.get_running_loop(),
            thread=threading.get_ident(),
            progress=None,
            chunks=None,
            redelivers=redelivers,
            stopped=self.stopped.__contains__,
            blocking=cast(Blocking, self),
        )
        jobs = {job.name: cast(que.Job[object, object], job)}
        self.outlived: list[Future[object]] = []
        self.runs = Runs(jobs, middleware, state, self.executor, self.outlived.append, surroundings)

    async def run(
        self, payload: bytes = b'{"width":3}', run_timeout: float | None = None, attempt: int | None = 2
    ) -> Verdict:
        delivery = Delivery("measure", payload, "id-1", attempt, run_timeout)
        async with asyncio.timeout(20):
            return await self.runs.run(delivery)


@contextmanager
def site(
    job: que.Job[Size, int], middleware: Sequence[Middleware[Never]] = (), state: object = None
) -> Generator[Site, None, None]:
    made = Site(job, middleware, state)
    try:
        yield made
    finally:
        made.executor.shutdown()


async def run_once(
    handler: Callable[..., object], *around: Middleware[Never], **options: Unpack[JobOptions]
) -> Verdict:
    with site(declared(handler, **options), around) as made:
        return await made.run()


async def async_plain(params: Size) -> int:
    return params.width


async def async_with_context(params: Size, context: que.Context[object]) -> int:
    return params.width * (context.attempt or 0)


def plain(params: Size) -> int:
    return params.width


def with_context(params: Size, context: que.Context[object]) -> int:
    return params.width * (context.attempt or 0)
