"""The slots of one consumer: long-lived tasks that run handlers, each job in a context of its own."""

import asyncio
import contextvars
import enum
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from types import FrameType, coroutine

from que.model import Delivery, Failed, Released, Verdict

Run = Callable[[Delivery], Coroutine[object, object, Verdict]]
Report = Callable[[Delivery, Verdict | None], None]

_log = logging.getLogger("que")

# A slot whose handlers never suspend lets the loop breathe after this long, looking at the clock every few jobs.
_BREATH_SECONDS = 0.005
_JOBS_PER_LOOK = 16


class Stop(enum.IntEnum):
    """Why a run is cancelled; where there are several reasons the greatest counts."""

    SHUTDOWN = 1  # the worker stops, or somebody else has cancelled the slot's task
    CANCELLED = 2  # somebody cancelled the job
    LOST = 3  # the lease is gone


_UNFINISHED: dict[Stop | None, Verdict] = {
    Stop.SHUTDOWN: Released(),
    Stop.CANCELLED: Failed("cancelled", "JobCancelled", "the job was cancelled"),
    None: Failed("handler", "CancelledError", "the handler was cancelled from inside"),
}


class Slots:
    """Runs deliveries in at most `count` tasks, which are made when they are first needed.

    `report` hears of each delivery exactly once: its verdict, or None if its lease is gone and it is another worker's.

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
        # Whoever takes a delivery out of here, or out of those that wait, is the one who reports it.
        self._running: dict[Delivery, asyncio.Task[None]] = {}
        self._stops: dict[Delivery, Stop] = {}
        self._stopped = False

    def __len__(self) -> int:
        """The deliveries that run or wait for a slot."""
        return len(self._running) + len(self._waiting)

    def __iter__(self) -> Iterator[Delivery]:
        """The deliveries that wait for a slot or run, as they are now."""
        return iter([*self._waiting, *self._running])

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """Let `deliveries` run, in order, as slots are free; after stop_all() they are released."""
        self._waiting.extend(deliveries)
        if self._stopped:
            self.stop_all()
        elif self._waiting:
            self._wake()

    def stop(self, delivery: Delivery, why: Stop) -> None:
        """Cancel one delivery, running or waiting; harmless if it has ended.

        A handler is cancelled once, so that nothing interrupts its cleaning up. If it returns or raises all the same,
        that is its verdict, unless the lease is gone.
        """
        task = self._running.get(delivery)
        if task is not None:
            before = self._stops.get(delivery)
            self._stops[delivery] = why if before is None else max(before, why)
            if before is None:
                task.cancel()
        elif delivery in self._waiting:
            self._waiting.remove(delivery)
            self._end(delivery, None, why)

    def is_stopped(self, delivery: Delivery) -> bool:
        """Whether `delivery` runs although it was told to stop; safe in any thread."""
        return delivery in self._stops

    def stop_all(self) -> None:
        """Cancel everything, now and to come: the worker stops."""
        self._stopped = True
        for delivery in self:
            self.stop(delivery, Stop.SHUTDOWN)

    async def close(self, patience_seconds: float) -> None:
        """Cancel everything and end the slots' tasks; every delivery is reported when this returns.

        A handler that has not ended after `patience_seconds` is released, logged, and closed as a generator is, which
        no `except Exception` or `except CancelledError` survives.
        """
        self.stop_all()
        for idle in self._idle:
            idle.cancel()
        try:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=patience_seconds)
        finally:
            self._abandon_all()
        # What is closed has ended within a few ticks, if it does not wait for a task that ignores its cancellation.
        for _ in range(5):
            await asyncio.sleep(0)

    def _abandon_all(self) -> None:
        while self._running:
            delivery, task = self._running.popitem()
            _log.critical(
                "job %s %s ignores its cancellation: it is closed", delivery.function, delivery.id, extra=delivery.facts
            )
            self._end(delivery, None, self._stops.pop(delivery))
            task.cancel()

    def _wake(self) -> None:
        while self._idle:
            idle = self._idle.pop()
            # One that is done belongs to a task that was cancelled and has not run since.
            if not idle.done():
                idle.set_result(None)
                return
        if len(self._tasks) < self._count:
            # Not by create_task(): a task factory that starts tasks eagerly would run a slot inside the one that wakes.
            task = asyncio.Task(self._slot(), loop=self._loop)
            self._tasks.add(task)
            task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._waiting:
            self._wake()

    async def _slot(self) -> None:
        """Run what waits until this task is cancelled; the count is made whole by a new task, when one is needed.

        Also a job that was cancelled takes its task along, and with it whatever the cancellation has left there.
        """
        task = asyncio.current_task()
        assert task is not None
        base = contextvars.copy_context()
        while not self._stopped:
            await self._work(task, base)
            if task.cancelling() or self._stopped:
                return
            idle = self._loop.create_future()
            self._idle.append(idle)
            try:
                await idle
            except asyncio.CancelledError:
                if idle in self._idle:
                    self._idle.remove(idle)
                raise

    async def _work(self, task: asyncio.Task[None], base: contextvars.Context) -> None:
        """Run what waits until nothing does, or `task` is cancelled."""
        waiting, running, run, report = self._waiting, self._running, self._run, self._report
        clock = self._loop.time
        breathed = clock()
        jobs = 0
        while waiting:
            delivery = waiting.popleft()
            running[delivery] = task
            verdict: Verdict | None = None
            context = base.copy()
            work = run(delivery)
            try:
                try:
                    awaited = context.run(work.send, None)
                except StopIteration as end:
                    # A handler that never waits costs no generator of ours.
                    verdict = end.value
                else:
                    verdict = await self._stepped(delivery, work, context, awaited)
            except asyncio.CancelledError as error:
                if not task.cancelling() and delivery not in self._stops:
                    line = "job %s %s was cancelled from inside"
                    _log.error(line, delivery.function, delivery.id, exc_info=error, extra=delivery.facts)
            except GeneratorExit:
                # The loop has gone before its tasks: there is nobody to report to.
                raise
            except BaseException:
                self._finish(delivery, Released(), task)
                raise
            if verdict is None or self._stops or delivery not in running:
                self._finish(delivery, verdict, task)
            else:
                # The usual end, without a call for each of its questions.
                del running[delivery]
                report(delivery, verdict)
            if task.cancelling():
                return
            jobs += 1
            if jobs % _JOBS_PER_LOOK == 0 and clock() - breathed > _BREATH_SECONDS:
                await asyncio.sleep(0)
                breathed = clock()

    @coroutine
    def _stepped(
        self,
        delivery: Delivery,
        work: Coroutine[object, object, Verdict],
        context: contextvars.Context,
        awaited: object,
    ) -> Generator[object, object, Verdict]:
        """Return the verdict of `work`, which waits for `awaited`, running each step of it in `context`."""
        run = context.run
        if self._waiting:
            self._wake()
        sent: object = None
        while True:
            try:
                sent = yield awaited
            except GeneratorExit:
                run(work.close)
                raise
            except BaseException as error:
                if delivery not in self._running:
                    # Given up on, and reported.
                    run(work.close)
                    raise
                thrown: BaseException | None = error
            else:
                thrown = None
            try:
                awaited = run(work.send, sent) if thrown is None else run(work.throw, thrown)
            except StopIteration as end:
                verdict: Verdict = end.value
                return verdict

    def _finish(self, delivery: Delivery, verdict: Verdict | None, task: asyncio.Task[None]) -> None:
        if self._running.pop(delivery, None) is None:
            return
        why = self._stops.pop(delivery, None) if self._stops else None
        if why is None and verdict is None and task.cancelling():
            why = Stop.SHUTDOWN
        self._end(delivery, verdict, why)

    def _end(self, delivery: Delivery, verdict: Verdict | None, why: Stop | None) -> None:
        if why is Stop.LOST:
            verdict = None
        elif verdict is None:
            verdict = _UNFINISHED[why]
            if why is Stop.SHUTDOWN:
                line = "job %s %s has not ended in time: given back"
                _log.warning(line, delivery.function, delivery.id, extra=delivery.facts)
        self._report(delivery, verdict)


def stepped_in(frame: FrameType) -> Delivery | None:
    """Return the delivery whose handler `frame` steps; None for a frame that steps none."""
    # Of those who hold a delivery only these two call handlers; to look at their frames costs the handlers nothing.
    if frame.f_globals is not globals() or frame.f_code.co_name not in ("_work", "_stepped"):
        return None
    delivery: object = frame.f_locals.get("delivery")
    return delivery if isinstance(delivery, Delivery) else None
