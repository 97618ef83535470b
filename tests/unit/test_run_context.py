"""What a context says of its run: which one it is, whether it is still wanted, what a failure would mean."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

import que
from que.model import Completed, Delivery, Failed, Redeliver
from que.worker import Worker
from tests.unit.fakes import FakeDriver
from tests.unit.loops import in_loop, until
from tests.unit.run_site import Site as RunSite
from tests.unit.run_site import Size, declared, site
from tests.unit.work_site import LONG_SECONDS, Site, delivery

Next = Callable[[object], Awaitable[object]]
Ending = Callable[["Worker[None]", FakeDriver, Delivery], Awaitable[None]]
QUICK = que.Retry(attempts=3, base=0.001)


async def stop(worker: "Worker[None]", driver: FakeDriver, job: Delivery) -> None:
    await worker.stop(grace=0)


async def cancel(worker: "Worker[None]", driver: FakeDriver, job: Delivery) -> None:
    driver.consumers[0].notices.cancelled(job)


async def lose(worker: "Worker[None]", driver: FakeDriver, job: Delivery) -> None:
    driver.consumers[0].notices.lost(job)


@pytest.mark.parametrize("end", [stop, cancel, lose])
@in_loop
async def test_an_async_handler_that_is_cancelled_sees_it_in_its_context(end: Ending) -> None:
    seen: list[bool] = []

    async def handler(params: int, context: que.Context) -> int:
        seen.append(context.cancelled)
        try:
            await asyncio.sleep(LONG_SECONDS)
        finally:
            seen.append(context.cancelled)
        return 0

    driver = FakeDriver()
    made = Site(handler, driver)
    async with made.app, made.worker() as worker:
        (await made.consumer()).feed([job := delivery()])
        await until(lambda: seen)
        await end(worker, driver, job)
        await until(lambda: len(seen) == 2)
    assert seen == [False, True]


@in_loop
async def test_a_def_handler_sees_a_cancellation_while_the_loop_is_busy() -> None:
    seen: list[str] = []

    def handler(params: int, context: que.Context) -> int:
        seen.append("running")
        while not context.cancelled:
            time.sleep(0.001)
        seen.append("cancelled")
        return 0

    driver = FakeDriver()
    made = Site(handler, driver)
    async with made.app, made.worker():
        (await made.consumer()).feed([job := delivery()])
        await until(lambda: seen)
        driver.consumers[0].notices.cancelled(job)
        end = time.monotonic() + 20
        while len(seen) < 2 and time.monotonic() < end:
            time.sleep(0.001)  # noqa: ASYNC251 - the loop is to be busy
        assert seen == ["running", "cancelled"]


@in_loop
async def test_an_async_handler_over_time_sees_it_in_its_context() -> None:
    seen: list[bool] = []

    async def handler(params: Size, context: que.Context[object]) -> int:
        try:
            await asyncio.sleep(LONG_SECONDS)
        finally:
            seen.append(context.cancelled)
        return 0

    with site(declared(handler, run_timeout=0.01)) as made:
        verdict = await made.run()
    assert isinstance(verdict, Failed)
    assert seen == [True]


@in_loop
async def test_a_handlers_own_time_out_does_not_make_its_run_cancelled() -> None:
    async def handler(params: Size, context: que.Context[object]) -> int:
        try:
            async with asyncio.timeout(0.001):
                try:
                    await asyncio.sleep(LONG_SECONDS)
                finally:
                    assert not context.cancelled
        except TimeoutError:
            assert not context.cancelled
        return 1

    with site(declared(handler, run_timeout=100.0)) as made:
        assert await made.run() == Completed(b"1")


def test_a_unit_test_may_cancel_a_context_made_by_hand() -> None:
    context = que.Context("measure", state=None)
    assert not context.cancelled
    context.cancelled = True
    assert context.cancelled


@pytest.mark.parametrize(
    ("first", "told"), [(1, [1, 2, 3]), (None, [None, 2, 3])], ids=["the engine counts", "the engine cannot count"]
)
@in_loop
async def test_attempt_counts_the_runs_that_the_worker_makes_of_one_delivery(
    first: int | None, told: list[int | None]
) -> None:
    seen: list[int | None] = []

    async def handler(params: Size, context: que.Context[object]) -> int:
        seen.append(context.attempt)
        if len(seen) < 3:
            raise ValueError
        return 0

    made = RunSite(declared(handler, retry=QUICK), redelivers=False)
    assert await made.run(attempt=first) == Completed(b"0")
    assert seen == told
    made.executor.shutdown()


@pytest.mark.parametrize(
    ("error", "attempt", "again"),
    [
        (ValueError(), 1, True),
        (ValueError(), None, True),
        (ValueError(), 3, False),
        (que.Reject("no"), 1, False),
        (que.RetryAfter(5), 2, True),
        (KeyError(), 1, False),
    ],
    ids=repr,
)
@in_loop
async def test_a_middleware_knows_whether_a_failed_run_is_retried(
    error: Exception, attempt: int | None, again: bool
) -> None:
    told: list[bool] = []

    async def looks(context: que.Context[object], params: object, call_next: Next) -> object:
        try:
            return await call_next(params)
        except Exception as error:
            told.append(context.will_retry(error))
            raise

    async def handler(params: Size) -> int:
        raise error

    job = declared(handler, retry=que.Retry(attempts=3, on=(ValueError,)))
    with site(job, [looks]) as made:
        verdict = await made.run(attempt=attempt)
    assert told == [again]
    assert isinstance(verdict, Redeliver) == again


def test_a_context_made_by_hand_knows_of_no_retry() -> None:
    assert not que.Context("measure", state=None).will_retry(ValueError())
