"""The slots of one consumer: long-lived tasks that run handlers, each job in a context of its own."""

import asyncio
import contextvars
import enum
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import suppress
from types import coroutine
from typing import cast

from que.model import Delivery, Failed, Released, Verdict

Run = Callable[[Delivery], Coroutine[object, object, Verdict]]
Report = Callable[[Delivery, Verdict | None], None]

# A slot whose handlers never suspend lets the loop breathe after this long, looking at the clock every few jobs.
_BREATH_SECONDS = 0.005
_JOBS_PER_LOOK = 16


class Stop(enum.Enum):
    """Why a run is cancelled."""

    LOST = "the lease is gone"
    CANCELLED = "somebody cancelled the job"
    SHUTDOWN = "the worker stops"


_UNFINISHED: dict[Stop | None, Verdict] = {
    Stop.SHUTDOWN: Released(),
    Stop.CANCELLED: Failed("cancelled", "JobCancelled", "the job was cancelled"),
    None: Failed("handler", "CancelledError", "the handler was cancelled from inside"),
}


class Slots:
    """Runs deliveries in at most `count` tasks, which are made when they are first needed.

    A task per job costs four times as much as stepping its coroutine inside a task that lives on. Each job still has
    its own contextvars.Context, and while it runs current_task() is its slot's task, so that asyncio.timeout, TaskGroup
    and cancellation are exact. One slot at a time is woken: only a handler that suspends wakes the next one, so that
    handlers that never suspend run one after the other without a switch.
    """

    def __init__(self, count: int, run: Run, report: Report, loop: asyncio.AbstractEventLoop) -> None:
        self._count = count
        self._run = run
        self._report = report
        self._loop = loop
        self._waiting: deque[Delivery] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: dict[Delivery, asyncio.Task[None]] = {}
        self._stops: dict[Delivery, Stop] = {}
        self._closed = False

    def __len__(self) -> int:
        """The deliveries that run or wait for a slot."""
        return len(self._running) + len(self._waiting)

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """Let `deliveries` run, in order, as slots are free."""
        self._waiting.extend(deliveries)
        self._wake()

    def stop(self, delivery: Delivery, why: Stop) -> None:
        """Cancel one delivery, running or waiting; harmless if it has ended."""
        if delivery in self._stops:
            return
        task = self._running.get(delivery)
        if task is not None:
            self._stops[delivery] = why
            task.cancel()
        elif delivery in self._waiting:
            self._waiting.remove(delivery)
            self._end(delivery, None, why)

    def stop_all(self, why: Stop) -> None:
        """Cancel everything."""
        for delivery in [*self._waiting, *self._running]:
            self.stop(delivery, why)

    async def close(self) -> None:
        """End the slots' tasks; what still runs is cancelled for good."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _wake(self) -> None:
        if self._idle:
            self._idle.pop().set_result(None)
        elif len(self._tasks) < self._count:
            task = self._loop.create_task(self._slot())
            self._tasks.add(task)
            task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._waiting and not self._closed:
            self._wake()

    async def _slot(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        base = contextvars.copy_context()
        while not self._closed:
            if self._waiting:
                await self._work(task, base)
            else:
                await self._park()

    async def _park(self) -> None:
        idle = self._loop.create_future()
        self._idle.append(idle)
        try:
            await idle
        finally:
            if idle in self._idle:
                self._idle.remove(idle)

    async def _work(self, task: asyncio.Task[None], base: contextvars.Context) -> None:
        """Run what waits until nothing does."""
        waiting = self._waiting
        running = self._running
        clock = self._loop.time
        breathed = clock()
        jobs = 0
        while waiting:
            delivery = waiting.popleft()
            running[delivery] = task
            verdict: Verdict | None = None
            try:
                verdict = await _stepped(self._run(delivery), base.copy(), self._suspended)
            except asyncio.CancelledError:
                if self._closed:
                    raise
            except BaseException:
                self._report(delivery, Released())
                raise
            finally:
                del running[delivery]
            why = self._stops.pop(delivery, None)
            self._end(delivery, verdict, why)
            jobs += 1
            if task.cancelling():
                # Ours was for the job; anybody else's, as that of asyncio.run() at the loop's end, is for the slot.
                if why is None:
                    raise asyncio.CancelledError
                await _forget_cancellation(task)
            if jobs % _JOBS_PER_LOOK == 0 and clock() - breathed > _BREATH_SECONDS:
                await asyncio.sleep(0)
                breathed = clock()

    def _suspended(self) -> None:
        if self._waiting:
            self._wake()

    def _end(self, delivery: Delivery, verdict: Verdict | None, why: Stop | None) -> None:
        """Report exactly one verdict, or None for a lost lease, whose job is another worker's now."""
        if why is Stop.LOST:
            verdict = None
        elif verdict is None:
            verdict = _UNFINISHED[why]
        self._report(delivery, verdict)


async def _forget_cancellation(task: asyncio.Task[None]) -> None:
    while task.cancelling():
        task.uncancel()
    # Before Python 3.13 one that the job has not seen is still to come.
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)


@coroutine
def _stepped(
    work: Coroutine[object, object, Verdict], context: contextvars.Context, suspended: Callable[[], None]
) -> Generator[object, object, Verdict]:
    """Return what `work` returns, running each step of it in `context`; call `suspended` when it first waits."""
    run = context.run
    send = work.send
    try:
        awaited = run(send, None)
    except StopIteration as end:
        return cast(Verdict, end.value)
    suspended()
    sent: object = None
    while True:
        try:
            sent = yield awaited
        except GeneratorExit:
            run(work.close)
            raise
        except BaseException as error:
            thrown: BaseException | None = error
        else:
            thrown = None
        try:
            awaited = run(send, sent) if thrown is None else run(work.throw, thrown)
        except StopIteration as end:
            return cast(Verdict, end.value)
