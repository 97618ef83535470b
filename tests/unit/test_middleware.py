"""Middleware: who goes around whom, when a run is over time, and what is written down of it."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable

import pytest

import que
from que.job import Middleware
from que.middleware import RunTimeout, Step, chain, deadline, log_runs
from tests.unit.loops import in_loop, ticks, until

Next = Callable[[object], Awaitable[object]]
Body = Callable[[], Awaitable[object]]
SECRET = "hunter2"


def context() -> que.Context[object]:
    return que.Context[object]("measure", state=None, job_id="id-1")


def step_of(body: Body) -> Step:
    async def step(params: object, context: que.Context[object]) -> object:
        return await body()

    return step


async def within(seconds: float, body: Body, given: que.Context[object] | None = None) -> object:
    """Run `body` under a deadline, as the worker does."""
    return await chain([deadline(seconds)], step_of(body))(None, given or context())


async def forever() -> None:
    await asyncio.Event().wait()


# The chain


def adds(name: str) -> Middleware[object]:
    async def middleware(context: que.Context[object], params: object, call_next: Next) -> object:
        return f"{name}({await call_next(f'{params}{name}')})"

    return middleware


@in_loop
async def test_the_first_middleware_is_the_outermost() -> None:
    async def step(params: object, context: que.Context[object]) -> object:
        return params

    assert await chain([adds("a"), adds("b"), adds("c")], step)("-", context()) == "a(b(c(-abc)))"


@in_loop
async def test_all_middleware_and_the_handler_see_the_same_context() -> None:
    seen: list[object] = []

    async def looks(context: que.Context[object], params: object, call_next: Next) -> object:
        seen.append(context)
        return await call_next(params)

    async def step(params: object, context: que.Context[object]) -> object:
        seen.append(context)
        return None

    given = context()
    await chain([looks, looks], step)(None, given)
    assert [each is given for each in seen] == [True, True, True]


def test_a_handler_without_middleware_is_left_as_it_is() -> None:
    step = step_of(forever)
    assert chain([], step) is step


@in_loop
async def test_an_error_passes_through_every_middleware_from_within() -> None:
    trail: list[str] = []

    def hears(name: str) -> Middleware[object]:
        async def middleware(context: que.Context[object], params: object, call_next: Next) -> object:
            try:
                return await call_next(params)
            except KeyError:
                trail.append(name)
                raise

        return middleware

    async def fails() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await chain([hears("outer"), hears("inner")], step_of(fails))(None, context())
    assert trail == ["inner", "outer"]


# The deadline


@in_loop
async def test_a_run_that_ends_in_time_knows_its_deadline_and_gives_its_result() -> None:
    loop = asyncio.get_running_loop()
    given = context()

    async def body() -> object:
        return given.deadline

    earliest = loop.time() + 100.0
    told = await within(100.0, body, given)
    assert isinstance(told, float)
    assert earliest <= told <= loop.time() + 100.0


@in_loop
async def test_a_run_over_time_is_cancelled_and_ends_in_its_own_kind_of_error() -> None:
    cleaned: list[str] = []

    async def body() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0)
            cleaned.append("up")

    with pytest.raises(RunTimeout, match=r"longer than its run_timeout of 0\.001 s") as caught:
        await within(0.001, body)
    assert cleaned == ["up"]
    assert caught.value.__suppress_context__
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@in_loop
async def test_a_handler_that_answers_in_spite_of_its_deadline_has_answered() -> None:
    async def body() -> str:
        try:
            await forever()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "late"

    assert await within(0.001, body) == "late"
    await asyncio.sleep(0)


@in_loop
async def test_an_error_of_a_handlers_cleaning_up_after_its_deadline_is_its_own() -> None:
    async def body() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            raise KeyError("cleaning up") from None

    with pytest.raises(KeyError):
        await within(0.001, body)


@in_loop
async def test_a_handlers_own_time_out_is_no_run_timeout() -> None:
    async def body() -> None:
        async with asyncio.timeout(0.001):
            await forever()

    with pytest.raises(TimeoutError):
        await within(1000.0, body)


@in_loop
async def test_the_time_out_of_an_inner_deadline_stays_the_inner_ones() -> None:
    async def body() -> object:
        return await within(0.001, forever)

    with pytest.raises(RunTimeout, match=r"0\.001"):
        await within(1000.0, body)


@pytest.mark.parametrize("overdue", [False, True], ids=["in time", "over time too"])
@in_loop
async def test_a_cancellation_from_outside_is_no_run_timeout(overdue: bool) -> None:
    cancelled: list[str] = []

    async def body() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            cancelled.append("once")
            if overdue:
                await forever()
            raise

    running = asyncio.create_task(within(0.001 if overdue else 1000.0, body))
    if overdue:
        await until(lambda: cancelled)
    await ticks()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert cancelled == ["once"]


# The log


@in_loop
async def test_a_run_that_ends_well_is_one_line_without_its_params(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def step(params: object, context: que.Context[object]) -> object:
        return params

    assert await chain([log_runs], step)(SECRET, context()) == SECRET
    [record] = caplog.records
    assert (record.name, record.levelno) == ("que.jobs", logging.INFO)
    assert re.fullmatch(r"measure id-1: done after \d+\.\d{3} s", record.getMessage())
    assert facts_of(record) == ("measure", "id-1", None, None)


@pytest.mark.parametrize("error", [ValueError, que.Reject, asyncio.CancelledError], ids=lambda error: error.__name__)
@in_loop
async def test_a_run_that_raises_is_one_line_that_names_the_error_and_raises_on(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def fails() -> None:
        raise error(SECRET)

    with pytest.raises(error):
        await chain([log_runs], step_of(fails))(SECRET, context())
    [record] = caplog.records
    assert (record.name, record.levelno) == ("que.jobs", logging.WARNING)
    assert re.fullmatch(rf"measure id-1: {error.__name__} after \d+\.\d{{3}} s", record.getMessage())
    assert facts_of(record) == ("measure", "id-1", None, error.__name__)


def facts_of(record: logging.LogRecord) -> tuple[object, object, object, object]:
    """Return what the record says of a run in its own attributes, beside the seconds, which must be there too."""
    facts: dict[str, object] = vars(record)
    assert isinstance(facts["que_seconds"], float)
    return facts["que_job"], facts["que_job_id"], facts["que_attempt"], facts["que_error"]
