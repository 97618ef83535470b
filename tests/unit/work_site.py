"""Workers of one job, on engines that do as they are told."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest

import que
from que.model import Delivery
from que.worker import Worker
from tests.unit.fakes import FakeConsumer, FakeDriver, url_of
from tests.unit.loops import until

LONG_SECONDS = 1000.0


async def returns(params: int) -> int:
    return params


async def waits(params: int) -> int:
    await asyncio.Event().wait()
    return params


async def clings(params: int) -> int:
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


def delivery(payload: bytes = b"1") -> Delivery:
    return Delivery("work", payload, f"job-{payload.decode()}")


class Life:
    """A lifespan that writes down what becomes of it, and in which task."""

    def __init__(self) -> None:
        self.trail: list[str] = []
        self.tasks: list[asyncio.Task[object] | None] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.end_error: Exception | None = None

    @asynccontextmanager
    async def __call__(self) -> AsyncGenerator[None, None]:
        self.tasks.append(asyncio.current_task())
        self.trail.append("opening")
        try:
            await self.gate.wait()
            self.trail.append("open")
            yield None
        finally:
            self.tasks.append(asyncio.current_task())
            await asyncio.sleep(0)
            self.trail.append("closed")
            if self.end_error is not None:
                raise self.end_error


class Site:
    """An app whose one job is worked, on one fake engine or several."""

    def __init__(self, handler: Callable[..., object] = returns, *drivers: FakeDriver, life: Life | None = None):
        self.drivers = drivers or (FakeDriver(),)
        self.life = life or Life()
        urls = [url_of(driver) for driver in self.drivers]
        self.app: que.Que[None] = que.Que(*urls, lifespan=self.life)
        for url in urls:
            job = que.Job("work", int, int, driver=url.removesuffix("://"))
            job.handler(cast(Callable[[int], int], handler))
            self.app.add(job)

    def worker(self, concurrency: int = 2) -> "Worker[None]":
        return self.app.worker(concurrency=concurrency)

    @property
    def consumers(self) -> list[FakeConsumer]:
        return [consumer for driver in self.drivers for consumer in driver.consumers]

    async def consumer(self) -> FakeConsumer:
        """Return the first engine's consumer once a worker waits there for jobs."""
        await until(lambda: self.consumers and self.consumers[0].limits)
        return self.consumers[0]


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]
