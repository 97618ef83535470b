"""The slots: handlers are stepped in tasks that live on, and nobody can tell, least of all the next job."""

import asyncio
import contextvars
import gc
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress

import pytest

from que import slots as slots_module
from que.model import Completed, Delivery, Failed, Released, Verdict
from que.slots import Slots, Stop
from tests.unit.loops import in_loop, ticks, until

Body = Callable[[], Awaitable[object]]
NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME", default="nobody")
PATIENCE_SECONDS = 0.02
DONE = Completed(b"done")
CANCELLED = Failed("cancelled", "JobCancelled", "the job was cancelled")


class Site:
    """Slots whose jobs are given as bodies; `reports` holds what was reported, in order."""

    def __init__(self, count: int = 1) -> None:
        self.slots = Slots(count, self._run, self._report, asyncio.get_running_loop())
        self.reports: list[tuple[str, Verdict | None]] = []
        self.errors: list[BaseException] = []
        self._bodies: dict[Delivery, Body] = {}

    def add(self, *bodies: Body) -> list[Delivery]:
        deliveries = [Delivery(body.__name__, b"", f"id of {body.__name__}") for body in bodies]
        self._bodies.update(zip(deliveries, bodies, strict=True))
        self.slots.add(deliveries)
        return deliveries

    async def run(self, *bodies: Body) -> list[Verdict | None]:
        """Run `bodies` to their ends and return the verdicts, in the order in which they came."""
        known = len(self.reports)
        self.add(*bodies)
        await until(lambda: len(self.reports) == known + len(bodies))
        return self.verdicts[known:]

    @property
    def verdicts(self) -> list[Verdict | None]:
        return [verdict for _, verdict in self.reports]

    async def _run(self, delivery: Delivery) -> Verdict:
        try:
            await self._bodies[delivery]()
        except Exception as error:
            self.errors.append(error)
            return Failed("handler", type(error).__name__, str(error))
        return DONE

    def _report(self, delivery: Delivery, verdict: Verdict | None) -> None:
        self.reports.append((delivery.function, verdict))


async def nothing() -> None:
    pass


async def forever() -> None:
    await asyncio.Event().wait()


async def ignores_once() -> None:
    try:
        await forever()
    except asyncio.CancelledError:
        await asyncio.sleep(0)


def holding(gate: asyncio.Event, running: list[int]) -> Body:
    """Return a body that waits for `gate`; running[0] says how many do, running[1] how many did at most."""

    async def body() -> None:
        running[0] += 1
        running[1] = max(running)
        await gate.wait()
        running[0] -= 1

    return body


# Running


@in_loop
async def test_jobs_begin_in_order() -> None:
    begun: list[int] = []

    def numbered(number: int) -> Body:
        async def body() -> None:
            begun.append(number)
            await asyncio.sleep(0)

        return body

    site = Site(3)
    await site.run(*[numbered(number) for number in range(20)])
    assert begun == list(range(20))
    await site.slots.close(PATIENCE_SECONDS)


def eager_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Let every task of `loop` start at its creation, where Python can do that."""
    if sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)


def usual_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Let every task of `loop` start in the next tick."""


@pytest.mark.parametrize("tasks", [usual_tasks, eager_tasks])
@in_loop
async def test_as_many_jobs_as_there_are_slots_run_at_once(tasks: Callable[[asyncio.AbstractEventLoop], None]) -> None:
    tasks(asyncio.get_running_loop())
    gate = asyncio.Event()
    running = [0, 0]
    site = Site(300)
    site.add(*[holding(gate, running) for _ in range(700)])
    assert running == [0, 0], "a job began inside add()"
    await until(lambda: running[0] == 300)
    await ticks()
    gate.set()
    await until(lambda: len(site.reports) == 700)
    assert running == [0, 300]
    assert set(site.verdicts) == {DONE}
    await site.slots.close(PATIENCE_SECONDS)


@in_loop
async def test_slots_know_how_many_jobs_run_or_wait() -> None:
    site = Site(1)
    site.add(forever, nothing)
    await ticks()
    assert len(site.slots) == 2
    await site.slots.close(PATIENCE_SECONDS)
    assert len(site.slots) == 0


@in_loop
async def test_handlers_that_never_suspend_let_the_loop_breathe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "_BREATH_SECONDS", -1.0)
    done_by_then: list[int] = []
    site = Site(1)
    site.add(*[nothing] * 1000)
    asyncio.get_running_loop().call_soon(lambda: done_by_then.append(len(site.reports)))
    asyncio.get_running_loop().call_later(0, lambda: done_by_then.append(len(site.reports)))
    await until(lambda: len(site.reports) == 1000)
    assert done_by_then[1] < 100
    await site.slots.close(PATIENCE_SECONDS)


# What a handler sees


@in_loop
async def test_a_job_sees_no_context_variable_of_another_one() -> None:
    seen: list[str] = []

    async def body() -> None:
        seen.append(NAME.get())
        NAME.set("a job's")
        await asyncio.sleep(0)
        seen.append(NAME.get())

    NAME.set("the worker's")
    site = Site(1)
    await site.run(body, body)
    assert seen == ["the worker's", "a job's"] * 2
    assert NAME.get() == "the worker's"
    await site.slots.close(PATIENCE_SECONDS)


@in_loop
async def test_a_callback_and_a_task_of_a_job_have_its_context_variables() -> None:
    seen: list[str] = []

    async def body() -> None:
        NAME.set("the job's")
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(lambda: seen.append(NAME.get()))
        await asyncio.create_task(inner())

    async def inner() -> None:
        seen.append(NAME.get())

    site = Site(1)
    await site.run(body)
    assert seen == ["the job's"] * 2
    await site.slots.close(PATIENCE_SECONDS)


@in_loop
async def test_a_job_has_one_current_task_and_no_other_job_that_runs_has_it() -> None:
    seen: list[set[asyncio.Task[object] | None]] = []
    gate = asyncio.Event()

    async def body() -> None:
        mine = {asyncio.current_task()}
        await gate.wait()
        mine.add(asyncio.current_task())
        seen.append(mine)

    site = Site(3)
    site.add(body, body, body)
    await ticks()
    gate.set()
    await until(lambda: len(seen) == 3)
    assert [len(tasks) for tasks in seen] == [1, 1, 1]
    assert len(seen[0] | seen[1] | seen[2]) == 3
    await site.slots.close(PATIENCE_SECONDS)


async def times_out() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await forever()


async def times_out_at_once() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await forever()


async def waits_for() -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(forever(), 0.001)


async def groups_tasks() -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(0, number)) for number in range(3)]
    assert [task.result() for task in tasks] == [0, 1, 2]


async def groups_tasks_that_fail() -> None:
    async def fails() -> None:
        raise KeyError

    with suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            await forever()
        raise AssertionError("the group did not fail")


async def times_out_within_a_group() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001), asyncio.TaskGroup() as group:
            group.create_task(forever())


class Bare:
    """Suspends with bare yields, as a coroutine of another library may."""

    def __await__(self) -> Generator[None, None, None]:
        yield
        yield


async def yields_bare() -> None:
    await Bare()


async def gathers() -> None:
    first, second = await asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0, 2))
    assert (first, second) == (1, 2)


@pytest.mark.parametrize(
    "body",
    [
        times_out,
        times_out_at_once,
        waits_for,
        groups_tasks,
        groups_tasks_that_fail,
        times_out_within_a_group,
        yields_bare,
        gathers,
    ],
    ids=lambda body: body.__name__,
)
@in_loop
async def test_a_handler_may_wait_in_every_way_and_leaves_nothing_to_the_next_one(body: Body) -> None:
    async def calm() -> None:
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)

    site = Site(1)
    assert await site.run(body, calm) == [DONE, DONE], site.errors
    await site.slots.close(PATIENCE_SECONDS)


@in_loop
async def test_a_handler_that_awaits_a_future_of_another_loop_fails() -> None:
    other = asyncio.new_event_loop()

    async def body() -> None:
        await other.create_future()

    site = Site(1)
    [verdict] = await site.run(body)
    assert isinstance(verdict, Failed)
    assert verdict.type == "RuntimeError"
    assert "different loop" in verdict.message
    other.close()
    await site.slots.close(PATIENCE_SECONDS)


# Stopping

ORDERS: list[tuple[list[Stop], Verdict | None]] = [
    ([Stop.SHUTDOWN], Released()),
    ([Stop.CANCELLED], CANCELLED),
    ([Stop.LOST], None),
    ([Stop.SHUTDOWN, Stop.CANCELLED], CANCELLED),
    ([Stop.CANCELLED, Stop.SHUTDOWN], CANCELLED),
    ([Stop.CANCELLED, Stop.LOST], None),
    ([Stop.LOST, Stop.CANCELLED], None),
    ([Stop.SHUTDOWN, Stop.LOST], None),
    ([Stop.LOST, Stop.SHUTDOWN], None),
]


@pytest.mark.parametrize(("reasons", "verdict"), ORDERS, ids=repr)
@in_loop
async def test_the_weightiest_reason_gives_a_stopped_job_its_only_verdict(
    reasons: list[Stop], verdict: Verdict | None
) -> None:
    site = Site(1)
    [delivery] = site.add(forever)
    await ticks()
    for why in reasons:
        site.slots.stop(delivery, why)
    await until(lambda: site.reports)
    for why in Stop:
        site.slots.stop(delivery, why)
    assert await site.run(nothing) == [DONE]
    assert site.verdicts == [verdict, DONE]
    await site.slots.close(PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("why", "verdict"),
    [(Stop.SHUTDOWN, Released()), (Stop.CANCELLED, CANCELLED), (Stop.LOST, None)],
    ids=repr,
)
@in_loop
async def test_a_job_that_is_stopped_while_it_waits_never_begins(why: Stop, verdict: Verdict | None) -> None:
    begun: list[int] = []

    async def body() -> None:
        begun.append(1)

    site = Site(1)
    first, second = site.add(forever, body)
    await ticks()
    site.slots.stop(second, why)
    assert site.reports == [("body", verdict)]
    site.slots.stop(first, Stop.SHUTDOWN)
    await until(lambda: len(site.reports) == 2)
    assert begun == []
    await site.slots.close(PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("why", "verdict"), [(Stop.SHUTDOWN, DONE), (Stop.CANCELLED, DONE), (Stop.LOST, None)], ids=repr
)
@in_loop
async def test_a_handler_that_returns_although_it_is_cancelled_has_done_its_job_unless_it_is_anothers(
    why: Stop, verdict: Verdict | None
) -> None:
    site = Site(1)
    [delivery] = site.add(ignores_once)
    await ticks()
    site.slots.stop(delivery, why)
    await until(lambda: site.reports)
    assert site.verdicts == [verdict]
    assert await site.run(times_out) == [DONE]
    await site.slots.close(PATIENCE_SECONDS)


@in_loop
async def test_a_second_reason_does_not_interrupt_a_handlers_cleaning_up() -> None:
    cleaned: list[str] = []
    gate = asyncio.Event()

    async def body() -> None:
        try:
            await forever()
        finally:
            await gate.wait()
            cleaned.append("up")

    site = Site(1)
    [delivery] = site.add(body)
    await ticks()
    site.slots.stop(delivery, Stop.CANCELLED)
    await ticks()
    site.slots.stop(delivery, Stop.LOST)
    await ticks()
    gate.set()
    await until(lambda: site.reports)
    assert cleaned == ["up"]
    assert site.verdicts == [None]
    await site.slots.close(PATIENCE_SECONDS)


@in_loop
async def test_a_handler_that_stops_itself_leaves_no_cancellation_to_the_next_one() -> None:
    site = Site(1)

    async def body() -> None:
        site.slots.stop(delivery, Stop.CANCELLED)

    delivery, _ = site.add(body, times_out)
    await until(lambda: len(site.reports) == 2)
    assert site.verdicts == [DONE, DONE]
    await site.slots.close(PATIENCE_SECONDS)


@in_loop
async def test_a_handler_that_awaits_what_was_cancelled_fails_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        inner = asyncio.create_task(forever())
        inner.cancel()
        await inner

    site = Site(1)
    assert await site.run(body) == [Failed("handler", "CancelledError", "the handler was cancelled from inside")]
    [record] = caplog.records
    assert (record.name, record.levelno) == ("que", logging.ERROR)
    assert record.getMessage() == "job body id of body was cancelled from inside"
    assert record.exc_info is not None
    await site.slots.close(PATIENCE_SECONDS)


# Cancelled by somebody else


def slot_tasks() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


@in_loop
async def test_a_job_whose_slots_task_is_cancelled_by_a_stranger_is_released_and_the_slot_is_not_lost() -> None:
    gate = asyncio.Event()
    running = [0, 0]
    site = Site(2)
    site.add(forever, forever)
    await ticks()
    for task in slot_tasks():
        task.cancel()
    await until(lambda: len(site.reports) == 2)
    assert site.verdicts == [Released(), Released()]
    site.add(holding(gate, running), holding(gate, running))
    await until(lambda: running[0] == 2)
    await site.slots.close(PATIENCE_SECONDS)


@pytest.mark.parametrize("woken", ["after", "before"])
@in_loop
async def test_a_parked_slot_that_a_stranger_cancels_loses_no_job(woken: str) -> None:
    gate = asyncio.Event()
    running = [0, 0]
    site = Site(2)
    site.add(times_out, times_out)
    await until(lambda: len(site.reports) == 2)
    await ticks()
    bodies = [holding(gate, running)] * 2
    if woken == "before":
        site.add(*bodies)
    for task in slot_tasks():
        task.cancel()
    if woken == "after":
        site.add(*bodies)
    await until(lambda: running[0] == 2)
    await site.slots.close(PATIENCE_SECONDS)


@in_loop
async def test_a_handler_that_leaves_its_task_cancelled_is_the_last_one_there() -> None:
    async def body() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    site = Site(1)
    assert await site.run(body, times_out) == [DONE, DONE]
    await site.slots.close(PATIENCE_SECONDS)


# Closing


@in_loop
async def test_closing_releases_each_job_that_runs_waits_or_comes_late_once() -> None:
    site = Site(2)
    site.add(*[forever] * 5)
    await ticks()
    closing = asyncio.create_task(site.slots.close(PATIENCE_SECONDS))
    await asyncio.sleep(0)
    site.add(forever)
    await closing
    site.add(forever)
    assert site.verdicts == [Released()] * 7
    assert slot_tasks() == []


@in_loop
async def test_closing_ends_slots_that_are_parked() -> None:
    site = Site(2)
    await site.run(times_out, times_out)
    await site.slots.close(PATIENCE_SECONDS)
    assert slot_tasks() == []


def ignoring(patience: list[str]) -> Callable[[], Coroutine[object, object, None]]:
    async def ignores() -> None:
        while True:
            try:
                await forever()
            except asyncio.CancelledError:
                patience.append("ignored")
            finally:
                patience.append("left")

    return ignores


@in_loop
async def test_closing_ends_a_handler_that_ignores_its_cancellation_and_says_which(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trail: list[str] = []
    site = Site(2)
    site.add(ignoring(trail), forever)
    await ticks()
    await site.slots.close(PATIENCE_SECONDS)
    assert site.reports == [("forever", Released()), ("ignores", Released())]
    assert trail == ["ignored", "left", "left"]
    assert {(record.name, record.levelno, record.getMessage()) for record in caplog.records} == {
        ("que", logging.WARNING, "job forever id of forever has not ended in time: given back"),
        ("que", logging.CRITICAL, "job ignores id of ignores ignores its cancellation: it is closed"),
        ("que", logging.WARNING, "job ignores id of ignores has not ended in time: given back"),
    }
    assert slot_tasks() == []


@in_loop
async def test_a_closed_handler_that_even_then_waits_is_left_alone() -> None:
    async def clings() -> None:
        try:
            await ignoring([])()
        finally:
            await asyncio.sleep(0)

    site = Site(1)
    site.add(clings)
    await ticks()
    await site.slots.close(PATIENCE_SECONDS)
    assert site.reports == [("clings", Released())]
    assert slot_tasks() == []


@in_loop
async def test_closing_does_not_wait_for_a_task_of_a_handler_that_ignores_its_cancellation() -> None:
    gate = asyncio.Event()

    async def ignores_until_gate() -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    async def body() -> None:
        await asyncio.create_task(ignores_until_gate())

    site = Site(1)
    site.add(body)
    await ticks()
    await site.slots.close(PATIENCE_SECONDS)
    assert site.reports == [("body", Released())]
    gate.set()
    await until(lambda: slot_tasks() == [])
    assert site.reports == [("body", Released())]


@in_loop
async def test_a_cancelled_close_leaves_no_job_without_a_verdict() -> None:
    site = Site(1)
    site.add(ignoring([]))
    await ticks()
    closing = asyncio.create_task(site.slots.close(1000.0))
    await ticks()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert site.reports == [("ignores", Released())]
    await until(lambda: slot_tasks() == [])


def test_an_interrupt_in_a_handler_leaves_the_loop_and_releases_the_job() -> None:
    loop = asyncio.new_event_loop()
    sites: list[Site] = []

    async def interrupted() -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        sites.append(Site(1))
        sites[0].add(interrupted, nothing)
        await until(lambda: len(sites[0].reports) == 2)

    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    loop.run_until_complete(task)
    loop.run_until_complete(sites[0].slots.close(PATIENCE_SECONDS))
    loop.close()
    assert sites[0].reports == [("interrupted", Released()), ("nothing", DONE)]


def test_slots_whose_loop_is_gone_report_nothing() -> None:
    loop = asyncio.new_event_loop()
    sites: list[Site] = []

    async def main() -> None:
        sites.append(Site(1))
        sites[0].add(forever)
        await ticks()

    loop.set_exception_handler(lambda _, facts: None)
    loop.run_until_complete(main())
    loop.close()
    reports = sites[0].reports
    sites.clear()
    gc.collect()
    assert reports == []
