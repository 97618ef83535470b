"""One consumer of a worker: its slots and threads, and the way of each job through them."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, cast

from que.address import Address
from que.backend import Backend
from que.batch import Batcher
from que.driver import Consumer, Emits, Extends, Throttles
from que.errors import UnsupportedFeature
from que.job import Blocking, Job, Surroundings
from que.model import Capabilities, Delivery, Settled, Settlement, Verdict
from que.observer import ObservedConsumer, tell_settled
from que.records import Records
from que.run import InProcess, Runs
from que.slots import Slots, Stop

if TYPE_CHECKING:
    from que.limits import Limits, Tokens

Jobs = Mapping[str, Job[object, object]]
Outlived = Callable[[Future[object]], None]
MakeRuns = Callable[[Executor, Outlived, Surroundings, InProcess | None], Runs]

_log = logging.getLogger("que")

_LONGEST_PAUSE_SECONDS = 5.0
# How long a handler that is cancelled may take for its cleaning up.
_STUBBORN_SECONDS = 5.0
# How long an engine may take to let a worker go.
_PARTING_SECONDS = 10.0


class Station:
    """One consumer, its slots and its threads; a slot counts as taken until the verdict of its job has been settled.

    `reserving` is done when no more jobs come.
    """

    def __init__(self, backend: Backend, jobs: Jobs, concurrency: int) -> None:
        self.address: Address = backend.address
        self.reserving: asyncio.Task[None]
        self.ended: int = 0
        self._backend = backend
        self._driver = backend.driver
        self._jobs = jobs
        self._free = concurrency
        self._concurrency = concurrency
        self._loop = backend.loop
        self._change: asyncio.Future[None] | None = None
        self._closing = asyncio.Event()
        self._released = False
        # Of its own: with one for all stations, a job could wait for a thread although it has a slot.
        from concurrent.futures import ThreadPoolExecutor  # what only submits needs no threads

        self._executor = ThreadPoolExecutor(concurrency, thread_name_prefix="que-job")
        self._limits = next(iter(jobs.values())).limits
        self._tokens = None if self._limits is None else _tokens_of(self._limits)
        self._outliving: set[Future[object]] = set()
        self._exits = AsyncExitStack()
        self._extending: asyncio.Task[None] | None = None

    async def open(self, runs: MakeRuns, blocking: Blocking) -> None:
        """Start the processes that are needed, register the jobs and start to reserve."""
        can = self._driver.capabilities
        total_rate = None if self._limits is None else self._limits.total_rate
        if total_rate is not None and not can.total_rate:
            hint = "rate= holds in each worker: divide it by their number"
            raise UnsupportedFeature(self.address.scheme, "total_rate", hint)
        in_process = await self._open_processes(can)
        try:
            # With a rate, one more than is ever asked for: so no driver takes each settled job for room for another.
            slots = self._concurrency + (self._tokens is not None)
            consumer = await self._driver.register(list(self._jobs), slots, self)
            if total_rate is not None:
                cast(Throttles, consumer).throttle(*total_rate)
        except BaseException:
            await self._exits.aclose()
            raise
        emits = consumer if isinstance(consumer, Emits) else None
        surroundings = Surroundings(
            driver=self.address.scheme,
            loop=self._loop,
            thread=threading.get_ident(),
            progress=emits if can.progress else None,
            chunks=emits if can.chunks else None,
            redelivers=bool(can.retry),
            stopped=self._is_stopped,
            blocking=blocking,
        )
        runners = runs(self._executor, self._outlived, surroundings, in_process).runners
        observers = self._backend.observers
        self._consumer: Consumer = ObservedConsumer(consumer, observers) if observers else consumer
        self._settling = Batcher[Settlement](self._settle, self._driver.calls_in_flight, self._loop)
        self._records = Records(self._backend, self._jobs.values(), runners, self._settling.add)
        self._slots = Slots(self._concurrency, self._records.run, self._report, self._loop)
        self.reserving = self._loop.create_task(self._reserve())
        if can.lease_seconds is not None and isinstance(consumer, Extends):
            self._extending = self._loop.create_task(self._extend(consumer, can.lease_seconds))

    async def _open_processes(self, can: Capabilities) -> InProcess | None:
        if not any(job.executor == "process" for job in self._jobs.values()):
            return None
        # What runs in threads needs no processes.
        from que.child import Channels
        from que.processes import processes

        channels = Channels(self.address.scheme, progress=bool(can.progress), chunks=bool(can.chunks))
        opening = processes(self._jobs.values(), self._concurrency, channels, self._hold)
        return await self._exits.enter_async_context(opening)

    @property
    def running(self) -> Iterable[Delivery]:
        """What waits for a slot or runs."""
        return self._slots

    def lost(self, delivery: Delivery) -> None:
        """The engine has given a job to another worker."""
        self._slots.stop(delivery, Stop.LOST)

    def cancelled(self, delivery: Delivery) -> None:
        """Somebody cancelled a job."""
        self._slots.stop(delivery, Stop.CANCELLED)

    def _is_stopped(self, delivery: Delivery) -> bool:
        return self._slots.is_stopped(delivery)

    async def _reserve(self) -> None:
        failures = 0
        tokens = self._tokens
        while not self._closing.is_set():
            limit = self._free if tokens is None else min(self._free, tokens.free(self._loop.time()))
            if limit <= 0:
                await self._until_room(tokens)
                continue
            try:
                deliveries = await self._consumer.reserve(limit)
            except (Exception, asyncio.CancelledError):
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                _log.exception("reserve() at %s failed", self.address)
                await self._pause(failures)
                failures += 1
                continue
            if not deliveries:
                return
            failures = 0
            self._free -= len(deliveries)
            if tokens is not None:
                tokens.take(len(deliveries), self._loop.time())
            self._slots.add(deliveries)
            # Or the last jobs' payloads would live until the next ones are here.
            del deliveries

    async def _extend(self, consumer: Extends, lease_seconds: float) -> None:
        """Renew the leases of what runs or waits for a slot, early enough for two tries to fail."""
        while True:
            await asyncio.sleep(lease_seconds / 4)
            held = [*self._slots, *self._records.held]
            if held:
                try:
                    async with asyncio.timeout(lease_seconds / 4):
                        await consumer.extend(held)
                except Exception:
                    _log.exception("extend() of %d leases at %s failed", len(held), self.address)

    async def _pause(self, failures: int) -> None:
        """Wait longer after each failure, with jitter, but not when the worker stops."""
        import random  # only failures pay for it

        longest = min(0.2 * 2.0 ** min(failures, 10), _LONGEST_PAUSE_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(0, longest)):
                await self._closing.wait()

    def _report(self, delivery: Delivery, verdict: Verdict | None) -> None:
        if verdict is None:
            line = "job %s %s: its lease is gone, so its result is not used"
            _log.warning(line, delivery.function, delivery.id, extra=delivery.facts)
            tell_settled(self._backend.observers, delivery, None, Settled.LOST)
            self._give_room(1)
        elif delivery.function in self._records.ttls or delivery.id.startswith("flow-"):
            self._records.add((delivery, verdict))
        else:
            self._settling.add((delivery, verdict))

    async def _settle(self, settlements: list[Settlement]) -> None:
        try:
            settled = await self._consumer.settle(settlements)
        except Exception:
            _log.exception("settle() of %d jobs at %s failed", len(settlements), self.address)
        else:
            for (delivery, _), outcome in zip(settlements, settled, strict=True):
                if outcome is not Settled.CONFIRMED:
                    said = (delivery.function, delivery.id, outcome.value)
                    _log.warning("job %s %s: its verdict is %s", *said, extra=delivery.facts)
        finally:
            self.ended += len(settlements)
            self._give_room(len(settlements))

    def _outlived(self, thread: Future[object]) -> None:
        """The job of a `def` handler has ended and its thread has not: the slot stays taken until it has."""
        self._outliving.add(thread)
        self._hold(thread)

    def _hold(self, thread: Future[object]) -> None:
        """Take one slot more until `thread` has ended."""
        self._free -= 1
        thread.add_done_callback(self._thread_ended)

    def _thread_ended(self, thread: Future[object]) -> None:
        # The loop may be gone by then.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._take_back, thread)

    def _take_back(self, thread: Future[object]) -> None:
        self._outliving.discard(thread)
        self._give_room(1)

    def _give_room(self, count: int) -> None:
        self._free += count
        self._tell_change()

    def _tell_change(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    async def _until_change(self) -> None:
        """Wait until a slot is free again, or the worker stops; there is one that waits at a time."""
        self._change = self._loop.create_future()
        await self._change

    async def _until_room(self, tokens: "Tokens | None") -> None:
        """Wait until there may be a slot, or a token where only that is missing, or the worker stops."""
        if tokens is None or self._free <= 0:
            await self._until_change()
            return
        alarm = self._loop.call_at(tokens.next_at, self._tell_change)
        try:
            await self._until_change()
        finally:
            alarm.cancel()

    def release(self) -> None:
        """Wait no more for jobs to end: from the moment at which no more come, cancel what runs and give it back."""
        self._released = True
        if self._closing.is_set():
            self._slots.stop_all()
            self._tell_change()

    async def close(self) -> None:
        """Take no more, wait for what runs until release() is called; return once all is settled.

        Whatever the driver and the handlers do, this ends; what went wrong is logged.
        """
        self._closing.set()
        self._tell_change()
        try:
            await self._stop_reserving()
            while self._free < self._concurrency and not self._released:
                await self._until_change()
        finally:
            await self._slots.close(_STUBBORN_SECONDS)
            await self._write_rest()
            await self._settle_rest()
            if self._extending is not None:
                self._extending.cancel()
            self._executor.shutdown(wait=False, cancel_futures=True)
            await self._exits.aclose()
            if self._outliving:
                _log.warning("%d `def` handlers at %s run on in their threads", len(self._outliving), self.address)

    async def _stop_reserving(self) -> None:
        try:
            async with asyncio.timeout(_PARTING_SECONDS):
                await self._consumer.close()
                await asyncio.wait([self.reserving])
        except Exception:
            _log.exception("close() of the consumer at %s failed", self.address)
            self.reserving.cancel()
            await asyncio.wait([self.reserving], timeout=_PARTING_SECONDS)

    async def _write_rest(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_PARTING_SECONDS):
                await self._records.close()

    async def _settle_rest(self) -> None:
        left = len(self._settling)
        try:
            async with asyncio.timeout(_PARTING_SECONDS):
                await self._settling.close()
        except TimeoutError:
            _log.critical("of the last %d verdicts at %s not all could be settled in time", left, self.address)


def _tokens_of(limits: "Limits") -> "Tokens | None":
    """Return what holds a worker's own rate."""
    if limits.rate is None:
        return None
    from que.limits import Tokens

    return Tokens(*limits.rate)
