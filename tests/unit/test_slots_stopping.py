"""How jobs in slots end before their time: one verdict each, whoever cancels them, and no slot is lost."""

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine

import pytest

from que.model import Failed, Released, Verdict
from que.slots import Stop
from tests.unit.loops import in_loop, ticks, until
from tests.unit.slot_site import DONE, PATIENCE_SECONDS, Site, forever, holding, nothing, slot_tasks, times_out

CANCELLED = Failed("cancelled", "JobCancelled", "the job was cancelled")


async def ignores_once() -> None:
    try:
        await forever()
    except asyncio.CancelledError:
        await asyncio.sleep(0)


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
