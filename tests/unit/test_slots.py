"""The slots: handlers are stepped in tasks that live on, and nobody can tell, least of all the next job."""

import asyncio
import contextvars
import sys
from collections.abc import Callable, Generator
from contextlib import suppress

import pytest

from que import slots as slots_module
from que.model import Failed
from tests.unit.loops import in_loop, ticks, until
from tests.unit.slot_site import DONE, PATIENCE_SECONDS, Body, Site, forever, holding, nothing, times_out

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME", default="nobody")


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
