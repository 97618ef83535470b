"""What the tests of the Gearman driver share: sinks that write down what they are told, and a worker in the test."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from que.address import Address
from que.driver import Consumer
from que.drivers.gearman import GearmanDriver
from que.drivers.gearman.consumer import GearmanConsumer
from que.errors import JobError, SubmitError
from que.model import Completed, Delivery, Envelope, Failed, Settled, Settlement, Verdict

T = TypeVar("T")
Event = tuple[object, ...]
_ENDS = ("refused", "completed", "failed", "lost")


class Events:
    """An EventSink: everything that each job was told, in order, as tuples that begin with the method's name."""

    def __init__(self) -> None:
        self.of: dict[str, list[Event]] = {}

    def _add(self, id: str, *event: object) -> None:
        self.of.setdefault(id, []).append(event)

    def accepted(self, id: str, receipt: str) -> None:
        self._add(id, "accepted", receipt)

    def refused(self, id: str, error: SubmitError) -> None:
        self._add(id, "refused", error)

    def progress(self, id: str, done: int, total: int) -> None:
        self._add(id, "progress", done, total)

    def chunk(self, id: str, data: bytes) -> None:
        self._add(id, "chunk", data)

    def warned(self, id: str, text: str) -> None:
        self._add(id, "warned", text)

    def completed(self, id: str, payload: bytes) -> None:
        self._add(id, "completed", payload)

    def failed(self, id: str, failure: Failed) -> None:
        self._add(id, "failed", failure)

    def lost(self, id: str, error: JobError) -> None:
        self._add(id, "lost", error)

    def reconnected(self) -> None: ...

    def all(self, kind: str) -> dict[str, Event]:
        """The first event of this kind of each job that had one."""
        firsts = {id: next((event for event in log if event[0] == kind), None) for id, log in self.of.items()}
        return {id: event for id, event in firsts.items() if event is not None}

    def end(self, id: str) -> Event | None:
        """What ended the job, None while it goes on; it must not have ended twice."""
        ends = [event for event in self.of.get(id, []) if event[0] in _ENDS]
        assert len(ends) < 2, ends
        return ends[0] if ends else None

    async def ended(self, *ids: str, seconds: float = 20.0) -> list[Event]:
        """Wait until each of these jobs has ended; return what ended each."""
        await until(lambda: all(self.end(id) for id in ids), f"the end of {ids[:5]}", seconds)
        return [event for id in ids if (event := self.end(id))]

    async def receipt(self, id: str) -> str:
        """Wait until the job is accepted; return its receipt."""
        await until(lambda: id in self.all("accepted"), f"the acceptance of {id}")
        return str(self.all("accepted")[id][1])


class Notices:
    """A ConsumerSink: what it was told."""

    def __init__(self) -> None:
        self.losses: list[Delivery] = []
        self.cancellations: list[Delivery] = []

    def lost(self, delivery: Delivery) -> None:
        self.losses.append(delivery)

    def cancelled(self, delivery: Delivery) -> None:
        self.cancellations.append(delivery)


async def until(probe: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    """Wait until `probe` is true; AssertionError at the deadline."""
    async with _deadline(what, seconds):
        while not probe():
            await asyncio.sleep(0.005)


async def eventually(probe: Callable[[], Awaitable[T]], what: str, seconds: float = 20.0) -> T:
    """Return the first true answer of `probe`; AssertionError at the deadline."""
    async with _deadline(what, seconds):
        while not (answer := await probe()):
            await asyncio.sleep(0.005)
        return answer


@asynccontextmanager
async def _deadline(what: str, seconds: float) -> AsyncGenerator[None, None]:
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            yield
    except TimeoutError:
        if deadline.expired():
            raise AssertionError(f"waited {seconds:g} s in vain: {what}") from None
        raise


def run(scenario: Coroutine[Any, Any, T], seconds: float = 60.0) -> T:
    """Return what the scenario does, in a loop of its own; nothing may hang."""

    async def bounded() -> T:
        async with asyncio.timeout(seconds):
            return await scenario

    return asyncio.run(bounded())


@asynccontextmanager
async def driving(url: str) -> AsyncGenerator[tuple[GearmanDriver, Events], None]:
    """Give a connected driver and what it tells; it is disconnected at the end."""
    driver, events = GearmanDriver(Address.parse(url)), Events()
    await driver.connect(events)
    try:
        yield driver, events
    finally:
        await driver.disconnect()


Handler = Callable[[Delivery], Awaitable[Verdict]]


async def echo(delivery: Delivery) -> Verdict:
    return Completed(delivery.payload)


class Served:
    """What a worker of `serving` has done so far."""

    def __init__(self, consumer: GearmanConsumer, notices: Notices) -> None:
        self.consumer = consumer
        self.notices = notices
        self.deliveries: list[Delivery] = []
        self.settled: list[Settled] = []


@asynccontextmanager
async def serving(
    driver: GearmanDriver, functions: Sequence[str], slots: int = 10, handler: Handler = echo
) -> AsyncGenerator[Served, None]:
    """Work `functions` with a task for each job until the block ends, then close and wait for what runs."""
    notices = Notices()
    consumer = await driver.register(functions, slots, notices)
    served = Served(consumer, notices)
    running: set[asyncio.Task[None]] = set()

    async def handle(delivery: Delivery) -> None:
        served.settled += await consumer.settle([(delivery, await handler(delivery))])

    async def loop() -> None:
        while deliveries := await consumer.reserve(slots - len(running)):
            served.deliveries += deliveries
            for delivery in deliveries:
                task = asyncio.create_task(handle(delivery))
                running.add(task)
                task.add_done_callback(running.discard)
            while len(running) == slots:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)

    serving = asyncio.create_task(loop())
    try:
        yield served
    finally:
        await consumer.close()
        await serving
        await asyncio.gather(*running)


def jobs(function: str, count: int, prefix: str = "job") -> list[Envelope]:
    """Return that many different foreground jobs."""
    return [Envelope(f"{prefix}-{number}", function, b"payload-%d" % number) for number in range(count)]


async def take(consumer: Consumer, count: int) -> list[Delivery]:
    """Return `count` deliveries, reserved one after the other."""
    deliveries: list[Delivery] = []
    while len(deliveries) < count:
        deliveries += await consumer.reserve(count - len(deliveries))
    return deliveries


def completed(deliveries: Sequence[Delivery]) -> list[Settlement]:
    """Return the settlements in which each job returns its own payload."""
    return [(delivery, Completed(delivery.payload)) for delivery in deliveries]
