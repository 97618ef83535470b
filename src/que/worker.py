"""The working side: reserve, run, settle, for every backend that has jobs with handlers."""

import asyncio
import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Generic, Never, Self

from typing_extensions import TypeVar

from que.address import Address
from que.backend import Backend
from que.batch import Batcher
from que.driver import Consumer, Emits
from que.errors import ConfigurationError
from que.job import Blocking, Job, Middleware, Surroundings
from que.model import Delivery, Settled, Settlement, Verdict
from que.run import Runs
from que.slots import Slots, Stop

StateT = TypeVar("StateT", default=None)
Jobs = Mapping[str, Job[object, object]]
Lifespan = Callable[[], AbstractAsyncContextManager[StateT]]

_log = logging.getLogger("que")

DEFAULT_CONCURRENCY = 100
DEFAULT_GRACE_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS = 5.0
# How long a handler that is cancelled may take for its cleaning up.
_STUBBORN_SECONDS = 5.0


class Worker(Generic[StateT]):
    """Works the jobs of an app in this process, at most `concurrency` of them at once per backend.

    `await run()` until stop() is called, or `async with` it to work for a while. A worker works once.
    """

    def __init__(
        self,
        work: Sequence[tuple[Backend, Jobs]],
        *,
        concurrency: int,
        lifespan: Lifespan[StateT],
        middleware: Sequence[Middleware[Never]],
        blocking: Callable[[], AbstractAsyncContextManager[Blocking]],
    ) -> None:
        if concurrency < 1:
            raise ConfigurationError(f"concurrency={concurrency}: expected at least 1")
        if not work:
            raise ConfigurationError("no job of this app has a handler, so there is nothing to work: use @app.job")
        self._work = work
        self._concurrency = concurrency
        self._lifespan = lifespan
        self._middleware = middleware
        self._blocking = blocking
        self._stack = AsyncExitStack()
        self._stations: list[_Station] = []
        self._stopping: asyncio.Task[None] | None = None
        self._begun = False
        self._stopped = asyncio.Event()

    @property
    def is_running(self) -> bool:
        """Whether it has begun, and has not stopped."""
        return self._begun and not self._stopped.is_set()

    @property
    def serves(self) -> Sequence[tuple[Address, Sequence[str]]]:
        """Each engine's address, and the names of the jobs that are worked there."""
        return [(backend.address, list(jobs)) for backend, jobs in self._work]

    async def run(self) -> None:
        """Work until stop() has been called and has finished; a cancellation stops without grace."""
        await self._start()
        try:
            await self._stopped.wait()
        finally:
            await self.stop(grace=0)

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self, grace: float = DEFAULT_GRACE_SECONDS) -> None:
        """Take no more jobs, let the running ones end within `grace` seconds, then cancel and release them.

        Returns when every verdict has been settled. Calling it again waits for the first call, or cuts its grace short.
        """
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(grace))
        elif grace == 0:
            for station in self._stations:
                station.release_all()
        await asyncio.shield(self._stopping)

    async def _start(self) -> None:
        self._begun = True
        state = await self._stack.enter_async_context(self._lifespan())
        blocking = await self._stack.enter_async_context(self._blocking())
        executor = ThreadPoolExecutor(self._concurrency, thread_name_prefix="que-job")
        self._stack.callback(executor.shutdown, wait=False, cancel_futures=True)
        try:
            for backend, jobs in self._work:
                station = _Station(backend, jobs, self._concurrency)
                await station.open(partial(Runs, jobs, self._middleware, state, executor), blocking)
                self._stations.append(station)
        except BaseException:
            await self.stop(grace=0)
            raise

    async def _stop(self, grace: float) -> None:
        try:
            await asyncio.gather(*[station.close(grace) for station in self._stations])
            await self._stack.aclose()
        finally:
            self._stopped.set()


class _Station:
    """One consumer and its slots; a slot counts as taken until the verdict of its job has been settled."""

    def __init__(self, backend: Backend, jobs: Jobs, concurrency: int) -> None:
        self._backend = backend
        self._jobs = jobs
        self._free = concurrency
        self._concurrency = concurrency
        self._loop = backend.loop
        self._room: asyncio.Future[None] | None = None
        self._empty: asyncio.Future[None] | None = None

    async def open(self, runs: Callable[[Surroundings], Runs], blocking: Blocking) -> None:
        """Register the jobs and start to reserve."""
        driver = self._backend.driver
        self._consumer: Consumer = await driver.register(list(self._jobs), self._concurrency, self)
        can = driver.capabilities
        emits = self._consumer if isinstance(self._consumer, Emits) else None
        self._runs = runs(
            Surroundings(
                driver=self._backend.address.scheme,
                loop=self._loop,
                thread=threading.get_ident(),
                progress=emits if can.progress else None,
                chunks=emits if can.chunks else None,
                blocking=blocking,
            )
        )
        self._slots = Slots(self._concurrency, self._runs.run, self._report, self._loop)
        self._settling = Batcher[Settlement](self._settle, driver.calls_in_flight, self._loop)
        self._reserving = self._loop.create_task(self._reserve())

    def lost(self, delivery: Delivery) -> None:
        """The engine has given a job to another worker."""
        self._slots.stop(delivery, Stop.LOST)

    def cancelled(self, delivery: Delivery) -> None:
        """Somebody cancelled a job."""
        self._slots.stop(delivery, Stop.CANCELLED)

    async def _reserve(self) -> None:
        failures = 0
        while True:
            while not self._free:
                self._room = self._loop.create_future()
                await self._room
            try:
                deliveries = await self._consumer.reserve(self._free)
            except Exception:
                failures += 1
                _log.exception("reserve() at %s failed", self._backend.address)
                await asyncio.sleep(random.uniform(0, min(2.0**failures / 10, _LONGEST_PAUSE_SECONDS)))
                continue
            if not deliveries:
                return
            failures = 0
            self._free -= len(deliveries)
            self._slots.add(deliveries)

    def _report(self, delivery: Delivery, verdict: Verdict | None) -> None:
        if verdict is None:
            _log.warning("job %s %s: its lease is gone, so its result is not used", delivery.function, delivery.id)
            self._release_slots(1)
        else:
            self._settling.add((delivery, verdict))

    async def _settle(self, settlements: list[Settlement]) -> None:
        try:
            settled = await self._consumer.settle(settlements)
        except Exception:
            _log.exception("settle() of %d jobs at %s failed", len(settlements), self._backend.address)
        else:
            for (delivery, _), outcome in zip(settlements, settled, strict=True):
                if outcome is not Settled.CONFIRMED:
                    _log.warning("job %s %s: its verdict is %s", delivery.function, delivery.id, outcome.value)
        finally:
            self._release_slots(len(settlements))

    def _release_slots(self, count: int) -> None:
        self._free += count
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if self._empty is not None and self._free == self._concurrency and not self._empty.done():
            self._empty.set_result(None)

    def release_all(self) -> None:
        """Cancel what still runs; its jobs are released."""
        self._slots.stop_all(Stop.SHUTDOWN)

    async def close(self, grace: float) -> None:
        """Take no more, wait for what runs, at most `grace` seconds, then release it; return once all is settled."""
        await self._consumer.close()
        idle = self._loop.create_task(self._until_idle())
        done, _ = await asyncio.wait([idle], timeout=grace)
        if not done:
            self.release_all()
            done, _ = await asyncio.wait([idle], timeout=_STUBBORN_SECONDS)
        if not done:
            _log.critical("%d jobs at %s ignore their cancellation", len(self._slots), self._backend.address)
            idle.cancel()
            self._reserving.cancel()
        await self._slots.close()
        await self._settling.close()

    async def _until_idle(self) -> None:
        await self._reserving
        while self._free < self._concurrency:
            self._empty = self._loop.create_future()
            await self._empty
