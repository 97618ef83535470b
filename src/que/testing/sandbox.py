"""A place to test jobs in: no server, a clock that can be advanced, and a record of what was sent."""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar
from unittest.mock import patch

import que
from que.address import Address
from que.driver import Consumer, ConsumerSink, Driver, Emits, EventSink
from que.drivers.memory import MemoryDriver
from que.job import Job, StateT
from que.model import (
    Capabilities,
    Delivery,
    Envelope,
    Failed,
    JobStatus,
    QueueDepth,
    Redeliver,
    Settled,
    Settlement,
    Verdict,
)
from que.testing.clock import Clock

ParamsT = TypeVar("ParamsT")
ResultT = TypeVar("ResultT")


class Sandbox(Generic[StateT]):
    """`async with Sandbox(app)`: the app is connected, and each of its engines is memory:// until the block ends.

    What is sent waits until run() or advance() works it, in this process and loop; or use `async with app.worker()`
    for code that awaits results. What memory:// cannot, such as kept results, is refused as it would be there.
    """

    def __init__(self, app: "que.Que[StateT]", clock: Clock | None = None) -> None:
        self.app: que.Que[StateT] = app
        self.clock: Clock = clock or Clock()
        self._engines = {alias: _Engine(self.clock) for alias in app.backends}
        self._patched_time = patch.object(time, "time", self.clock.time)

    async def __aenter__(self) -> Self:
        self._replaced = {alias: backend.driver for alias, backend in self.app.backends.items()}
        self._put(self._engines)
        try:
            await self.app.connect()
        except BaseException:
            self._put(self._replaced)
            raise
        self.clock.install(asyncio.get_running_loop())
        self._patched_time.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.app.disconnect()
        finally:
            self._patched_time.stop()
            self._put(self._replaced)

    def _put(self, drivers: "Mapping[str, Driver]") -> None:
        for alias, backend in self.app.backends.items():
            backend.driver = drivers[alias]

    def sent(self, job: Job[ParamsT, ResultT], /) -> list[ParamsT]:
        """Return the params of every job of this kind so far, by send() and by submit(), in the order they left."""
        return [job.load_params(envelope.payload) for envelope in self.envelopes(job)]

    def envelopes(self, job: Job[ParamsT, ResultT], /) -> list[Envelope]:
        """Return what sent() does with everything else that was said: `due`, `priority`, `unique`, …"""
        every = [envelope for engine in self._engines.values() for envelope in engine.envelopes]
        return [envelope for envelope in every if envelope.function == job.name]

    async def run(self) -> None:
        """Everything that is due has run, and what that has sent, too; jobs without a handler here stay.

        Raises the JobFailed of the first job that failed for good while nobody waited for it, ConfigurationError if
        the app has no handler at all.
        """
        async with self.app.worker():
            await self.app.drain()
            while any([await engine.has_work() for engine in self._engines.values()]):
                await asyncio.sleep(0.001)
        for engine in self._engines.values():
            if engine.failures:
                first = engine.failures[0]
                engine.failures.clear()
                raise que.JobFailed(first.kind, first.type, first.message)

    async def advance(self, seconds: float) -> None:
        """So many seconds have passed, and what became due in them has run, each job at its time, as by run().

        The whole loop sees the time leap, a timeout around the test as well.
        """
        end = self.clock.time() + seconds
        await self.run()
        while (due := await self._next_due()) is not None and due <= end:
            self._go_to(due)
            await self.run()
        self._go_to(end)
        await self.run()

    def _go_to(self, moment: float) -> None:
        self.clock.advance(max(0.0, moment - self.clock.time()))

    async def _next_due(self) -> float | None:
        now = self.clock.time()
        dues = [due for engine in self._engines.values() for due in await engine.living() if due > now]
        return min(dues, default=None)


class _Engine:
    """A memory driver that writes down what comes, and knows what is due."""

    calls_in_flight: int | None = None

    def __init__(self, clock: Clock) -> None:
        self.failures: list[Failed] = []
        self._jobs: dict[str, Envelope] = {}
        self._dues: dict[str, float] = {}
        self._served: set[str] = set()
        self._clock = clock
        self._memory = MemoryDriver(Address.parse("memory://"))

    @property
    def envelopes(self) -> list[Envelope]:
        """Everything that has come."""
        return list(self._jobs.values())

    @property
    def capabilities(self) -> Capabilities:
        return self._memory.capabilities

    async def connect(self, events: EventSink) -> None:
        await self._memory.connect(events)

    async def disconnect(self) -> None:
        await self._memory.disconnect()
        self._dues.clear()

    async def submit(self, envelopes: Sequence[Envelope]) -> None:
        self._jobs.update((envelope.id, envelope) for envelope in envelopes)
        self._dues.update((envelope.id, envelope.due or 0.0) for envelope in envelopes)
        await self._memory.submit(envelopes)

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> Consumer:
        self._served.update(functions)
        return _Watched(self, await self._memory.register(functions, slots, notices))

    async def cancel(self, receipt: str) -> bool:
        return await self._memory.cancel(receipt)

    async def status(self, receipt: str) -> JobStatus:
        return await self._memory.status(receipt)

    async def depths(self) -> Sequence[QueueDepth]:
        return await self._memory.depths()

    async def living(self) -> list[float]:
        """Return when each job that lives and has a handler here is, or was, due."""
        for id in list(self._dues):
            # One that coalesced, expired or was cancelled is not known under its id.
            if not (await self._memory.status(id)).known:
                del self._dues[id]
        return [due for id, due in self._dues.items() if self._jobs[id].function in self._served]

    async def has_work(self) -> bool:
        """Whether a job is due, or runs, and has a handler here."""
        now = self._clock.time()
        return any(due <= now for due in await self.living())

    def settled(self, delivery: Delivery, verdict: Verdict) -> None:
        """Write down when it is due again, or that nobody hears of its failure."""
        if isinstance(verdict, Redeliver):
            self._dues[delivery.id] = self._clock.time() + verdict.after
        elif isinstance(verdict, Failed) and self._jobs[delivery.id].background:
            self.failures.append(verdict)


class _Watched:
    """A memory consumer whose verdicts the engine hears of."""

    def __init__(self, engine: _Engine, inner: Consumer) -> None:
        assert isinstance(inner, Emits)
        self._engine = engine
        self._inner = inner
        self.reserve = inner.reserve
        self.close = inner.close
        self.progress = inner.progress
        self.chunk = inner.chunk
        self.warned = inner.warned

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        for delivery, verdict in settlements:
            self._engine.settled(delivery, verdict)
        return await self._inner.settle(settlements)
