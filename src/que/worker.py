"""The working side: reserve, run, settle, for every backend that has jobs with handlers."""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Generic, Never, Self

from typing_extensions import TypeVar

from que.address import Address
from que.backend import Backend
from que.errors import ConfigurationError, NotConnected
from que.job import Blocking, Middleware
from que.model import Delivery
from que.run import Runs
from que.station import Jobs, Station

StateT = TypeVar("StateT", default=None)
Lifespan = Callable[[], AbstractAsyncContextManager[StateT]]

DEFAULT_GRACE_SECONDS = 30.0


class Worker(Generic[StateT]):
    """Works the jobs of an app in this process, at most `concurrency` of them at once per backend.

    A job with a limit has slots of its own, beside those: as many as its `concurrency`, or else as the worker has.
    Those whose executor is "process" have slots of their own, too, one for each of their `children`, by default
    one per processor.

    `await run()` until stop() is called, or `async with` it to work for a while. A worker works once.
    """

    def __init__(
        self,
        work: Sequence[tuple[Backend, Jobs]],
        *,
        concurrency: int,
        children: int | None = None,
        lifespan: Lifespan[StateT],
        middleware: Sequence[Middleware[Never]],
        blocking: Callable[[], AbstractAsyncContextManager[Blocking]],
    ) -> None:
        if concurrency < 1:
            raise ConfigurationError(f"concurrency={concurrency}: expected at least 1")
        if children is not None and children < 1:
            raise ConfigurationError(f"children={children}: expected at least 1, or None for one per processor")
        if not work:
            raise ConfigurationError("no job of this app has a handler, so there is nothing to work: use @app.job")
        self._work = work
        self._concurrency = concurrency
        self._children = min(concurrency, children or os.cpu_count() or 1)
        self._lifespan = lifespan
        self._middleware = middleware
        self._blocking = blocking
        self._life: asyncio.Task[None] | None = None
        self._stations: list[Station] = []
        self._opening = False
        self._opened = asyncio.Event()
        self._stopping = asyncio.Event()

    @property
    def is_running(self) -> bool:
        """Whether it has begun, and has not stopped."""
        return self._life is not None and not self._life.done()

    @property
    def is_open(self) -> bool:
        """Whether its lifespan is open and it has begun to take jobs."""
        return self._opened.is_set()

    @property
    def ended(self) -> int:
        """How many jobs it has ended or given back so far."""
        return sum(station.ended for station in self._stations)

    @property
    def serves(self) -> Sequence[tuple[Address, Sequence[str], int]]:
        """Of each consumer the engine's address, the names of its jobs, and its slots."""
        return [(backend.address, list(jobs), slots) for backend, jobs, slots in self._shares()]

    @property
    def running(self) -> Sequence[Delivery]:
        """The jobs that are taken and have not ended, as they are now; safe in any thread while the loop is blocked."""
        return [delivery for station in self._stations for delivery in station.running]

    async def run(self) -> None:
        """Work until stop() has been called and has finished; a cancellation stops without grace.

        Raises what the lifespan or a driver's register() raises, NotConnected if a driver gives no more jobs, and
        ConfigurationError if the worker has worked before. Returns at once if stop() has been called already.
        """
        life = self._begin()
        try:
            await asyncio.wait([life])
        except asyncio.CancelledError:
            await self.stop(grace=0)
            raise
        await life

    async def __aenter__(self) -> Self:
        life = self._begin()
        opened = asyncio.ensure_future(self._opened.wait())
        try:
            await asyncio.wait([life, opened], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.stop(grace=0)
            raise
        finally:
            opened.cancel()
        if life.done():
            await life
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self, grace: float = DEFAULT_GRACE_SECONDS) -> None:
        """Take no more jobs, let the running ones end within `grace` seconds, then cancel and release them.

        Returns when every verdict has been settled and the lifespan is closed; raises what run() raises. Calling it
        again waits for the same end, and cuts the first call's grace short where its own is over sooner.
        """
        self._stopping.set()
        life = self._life
        if life is None:
            return
        if self._opening:
            self._opening = False
            life.cancel()
        release = asyncio.get_running_loop().call_later(grace, self._release)
        await asyncio.wait([life])
        release.cancel()
        if not life.cancelled():
            await life

    def _begin(self) -> asyncio.Task[None]:
        if self._life is not None:
            raise ConfigurationError("this worker has worked already, and a worker works once: make another one")
        self._life = asyncio.get_running_loop().create_task(self._live())
        return self._life

    async def _live(self) -> None:
        """Open everything, wait for stop(), close everything; in one task, as cancel scopes in a lifespan need it."""
        if self._stopping.is_set():
            return
        try:
            async with AsyncExitStack() as stack:
                await self._open(stack)
                await self._work_until_stopped()
        except asyncio.CancelledError:
            # stop() cancels what is not open yet; any other cancellation is somebody else's.
            if self._opened.is_set() or not self._stopping.is_set():
                raise

    async def _open(self, stack: AsyncExitStack) -> None:
        self._opening = True
        try:
            state = await stack.enter_async_context(self._lifespan())
            blocking = await stack.enter_async_context(self._blocking())
            stack.push_async_callback(self._close_stations)
            for backend, jobs, slots in self._shares():
                station = Station(backend, jobs, slots)
                around = (*(each.run for each in backend.observers), *self._middleware)
                await station.open(partial(Runs, jobs, around, state), blocking)
                self._stations.append(station)
        finally:
            self._opening = False
        self._opened.set()

    def _shares(self) -> Iterator[tuple[Backend, Jobs, int]]:
        """Yield the jobs of each consumer and its slots: a job with limits is alone, the others of a backend share.

        Those that run in processes are apart, with a slot for each child: a job that waits for one holds no lease.
        """
        all_slots = {"thread": self._concurrency, "process": self._children}
        for backend, jobs in self._work:
            for executor, slots in all_slots.items():
                alike = {name: job for name, job in jobs.items() if job.executor == executor}
                if shared := {name: job for name, job in alike.items() if job.limits is None}:
                    yield backend, shared, slots
                for name, job in alike.items():
                    if job.limits is not None:
                        yield backend, {name: job}, job.limits.concurrency or slots

    async def _work_until_stopped(self) -> None:
        stopping = asyncio.ensure_future(self._stopping.wait())
        ends = [station.reserving for station in self._stations]
        try:
            await asyncio.wait([stopping, *ends], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        for station, end in zip(self._stations, ends, strict=True):
            if end.done() and not self._stopping.is_set():
                raise NotConnected(f"{station.address}: the driver gives this worker no more jobs") from (
                    None if end.cancelled() else end.exception()
                )

    def _release(self) -> None:
        for station in self._stations:
            station.release()

    async def _close_stations(self) -> None:
        if not self._stopping.is_set():
            # Nobody has asked for a grace: this is a failure, or a cancellation.
            self._release()
        await asyncio.gather(*[station.close() for station in self._stations])
