"""Sinks that write down what a driver tells, for tests that use it without the core."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypeVar

from que.driver import Driver
from que.errors import JobError, SubmitError
from que.model import Delivery, Failed

DriverT = TypeVar("DriverT", bound=Driver)


class Told:
    """An EventSink; every id may end once."""

    def __init__(self) -> None:
        self.receipts: dict[str, str] = {}
        self.ends: dict[str, object] = {}
        self.chapters: list[object] = []

    def accepted(self, id: str, receipt: str) -> None:
        self.receipts[id] = receipt

    def refused(self, id: str, error: SubmitError) -> None:
        self._end(id, error)

    def progress(self, id: str, done: int, total: int) -> None:
        self.chapters.append((id, done, total))

    def chunk(self, id: str, data: bytes) -> None:
        self.chapters.append((id, data))

    def warned(self, id: str, text: str) -> None:
        self.chapters.append((id, text))

    def completed(self, id: str, payload: bytes) -> None:
        self._end(id, payload)

    def failed(self, id: str, failure: Failed) -> None:
        self._end(id, failure)

    def lost(self, id: str, error: JobError) -> None:
        self._end(id, error)

    def reconnected(self) -> None: ...

    def _end(self, id: str, end: object) -> None:
        assert id not in self.ends, f"{id} ended twice"
        self.ends[id] = end


class Notices:
    """A ConsumerSink."""

    def __init__(self) -> None:
        self.lost_ones: list[Delivery] = []
        self.cancelled_ones: list[Delivery] = []

    def lost(self, delivery: Delivery) -> None:
        self.lost_ones.append(delivery)

    def cancelled(self, delivery: Delivery) -> None:
        self.cancelled_ones.append(delivery)


@asynccontextmanager
async def connected(driver: DriverT) -> AsyncGenerator[tuple[DriverT, Told], None]:
    """The driver, connected, and what it has told."""
    told = Told()
    await driver.connect(told)
    try:
        yield driver, told
    finally:
        await driver.disconnect()
