"""Handles: many awaiters, each on its own; errors; events; gather and as_completed; and that nothing is left behind."""

import asyncio
import gc
import logging
import traceback
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest

import que
from que.errors import (
    ConnectionLost,
    JobFailed,
    NotSent,
    QueError,
    ResultInvalid,
    ResultTimeout,
    SubmitError,
    WrongLoop,
)
from que.handle import Handle, Promise, Receipt, Sending
from que.model import Chunk, Event, JobStatus, Progress, Warned
from tests.unit.loops import in_loop, ticks, until

NUMBER = que.Job("number", int, int)
Cancel = Callable[[asyncio.Task[int]], object]


class Engine:
    """What a handle knows of its backend."""

    alias = "engine"

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.asked: list[str] = []

    async def status(self, reference: str) -> JobStatus:
        self.asked.append(f"status {reference}")
        return JobStatus(known=True, running=False)

    async def cancel(self, reference: str) -> bool:
        self.asked.append(f"cancel {reference}")
        return True


def new(name: str = "1") -> Handle[int]:
    return Handle(name, Engine(), NUMBER)


def many(count: int) -> list[Handle[int]]:
    engine = Engine()
    return [Handle(str(number), engine, NUMBER) for number in range(count)]


async def result_of(handle: Awaitable[int]) -> int:
    return await handle


@in_loop
async def test_every_awaiter_gets_the_result_whenever_it_comes() -> None:
    handle = new()
    early = [asyncio.create_task(result_of(handle)) for _ in range(3)]
    await ticks()
    assert not any(task.done() for task in early)
    handle.settle_completed(b"7")
    assert handle.done
    late = asyncio.create_task(result_of(handle))
    assert await asyncio.gather(*early, late) == [7, 7, 7, 7]
    assert await handle == 7
    assert handle.peek() == 7
    assert handle.error is None


@in_loop
async def test_a_cancelled_awaiter_touches_neither_the_job_nor_the_others() -> None:
    handle = new()
    leaving, staying = (asyncio.create_task(result_of(handle)) for _ in range(2))
    await ticks()
    leaving.cancel()
    await asyncio.wait([leaving])
    assert leaving.cancelled()
    assert not staying.done()
    assert not handle.done
    handle.settle_completed(b"7")
    assert await staying == 7
    assert await handle == 7


@in_loop
async def test_an_awaiter_cancelled_in_the_tick_of_the_result_touches_nobody() -> None:
    handle = new()
    leaving, staying = (asyncio.create_task(result_of(handle)) for _ in range(2))
    await ticks()
    handle.settle_completed(b"7")
    leaving.cancel()
    await asyncio.wait([leaving, staying])
    assert leaving.cancelled()
    assert staying.result() == 7


def bare_futures() -> list[object]:
    every: list[object] = gc.get_objects()
    return [each for each in every if type(each) is asyncio.Future]


@in_loop
async def test_awaiters_that_give_up_leave_nothing_behind() -> None:
    handle = new()
    # Other tests' servers and loops may still hold some.
    before = bare_futures()
    for _ in range(3):
        with pytest.raises(ResultTimeout):
            await handle.result(timeout=0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(handle.accepted(), 0.001)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(handle.events()), 0.001)
    await ticks()
    gc.collect()
    known = {id(each) for each in before}
    assert [each for each in bare_futures() if id(each) not in known] == []


@in_loop
async def test_after_a_result_timeout_the_job_goes_on() -> None:
    handle = new()
    with pytest.raises(ResultTimeout, match=r"Handle of 'number' 1.*within 0\.001 s; the job goes on"):
        await handle.result(timeout=0.001)
    assert not handle.done
    handle.settle_completed(b"7")
    assert await handle.result(timeout=0) == 7
    assert await handle.result() == 7


@in_loop
async def test_a_result_timeout_is_not_mistaken_for_a_timeout_around_it() -> None:
    handle = new()
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.001):
            await handle.result(timeout=100)
    assert type(caught.value) is TimeoutError
    handle.settle_failed(ResultTimeout("the watch is over"))
    with pytest.raises(ResultTimeout, match="the watch is over"):
        await handle.result(timeout=100)


@in_loop
async def test_the_first_end_counts_and_what_comes_after_it_is_ignored() -> None:
    done, failed = new(), new()
    done.settle_completed(b"7")
    done.settle_failed(NotSent("late"))
    done.settle_completed(b"8")
    failed.settle_failed(NotSent("first"))
    failed.settle_completed(b"8")
    failed.settle_failed(NotSent("late"))
    assert await done == 7
    with pytest.raises(NotSent, match="first"):
        await failed


@in_loop
async def test_a_result_that_does_not_fit_its_type_is_invalid_for_every_awaiter() -> None:
    handle = new()
    handle.settle_completed(b'"seven"')
    for _ in range(2):
        with pytest.raises(ResultInvalid, match="job 'number': result: expected int, got str"):
            await handle


@in_loop
async def test_every_awaiter_gets_an_error_of_its_own() -> None:
    handle = new()
    tasks = [asyncio.create_task(result_of(handle)) for _ in range(3)]
    await ticks()
    cause = OSError("the cable is cut")
    error = JobFailed("handler", "ValueError", "no")
    error.__cause__ = cause
    error.add_note("a note")
    handle.settle_failed(error)
    await asyncio.wait(tasks)
    errors = [task.exception() for task in tasks] + [handle.error]
    assert len({id(each) for each in (*errors, error)}) == 5
    for each in errors:
        assert isinstance(each, JobFailed)
        assert (each.kind, each.type, each.message) == ("handler", "ValueError", "no")
        assert each.__cause__ is cause
        assert each.__notes__ == ["a note"]
    depths = {len(traceback.extract_tb(each.__traceback__)) for each in errors[:3] if each is not None}
    assert len(depths) == 1


@in_loop
async def test_peeking_at_a_job_that_is_not_done_is_an_invalid_state() -> None:
    with pytest.raises(asyncio.InvalidStateError, match="is not done"):
        new().peek()


def settle_never_looked_at() -> None:
    handle, sending = new("a"), Sending("b", Engine(), "number")
    handle.settle_failed(JobFailed("handler", "ValueError", "no"))
    sending.settle_failed(NotSent("the cable is cut"))


@in_loop
async def test_a_failure_that_nobody_looked_at_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    settle_never_looked_at()
    gc.collect()
    assert sorted(record.getMessage() for record in caplog.records) == [
        "job 'number' a failed and nobody awaited it: JobFailed: ValueError: no",
        "job 'number' b was not accepted: NotSent: the cable is cut",
    ]
    assert {(record.name, record.levelno) for record in caplog.records} == {("que", logging.ERROR)}


async def look_by_awaiting(handle: Handle[int]) -> None:
    with pytest.raises(NotSent):
        await handle


async def look_at_error(handle: Handle[int]) -> None:
    assert handle.error is not None


async def look_by_accepted(handle: Handle[int]) -> None:
    with pytest.raises(NotSent):
        await handle.accepted()


@pytest.mark.parametrize("look", [look_by_awaiting, look_at_error, look_by_accepted])
@in_loop
async def test_a_failure_that_somebody_looked_at_is_not_logged(
    look: Callable[[Handle[int]], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    handle = new()
    handle.settle_failed(NotSent("the cable is cut"))
    await look(handle)
    del handle
    gc.collect()
    assert caplog.records == []


@in_loop
async def test_an_acceptance_is_a_receipt_for_every_waiter() -> None:
    handle = new()
    leaving, staying = (asyncio.create_task(handle.accepted()) for _ in range(2))
    await ticks()
    leaving.cancel()
    await asyncio.wait([leaving])
    assert not staying.done()
    handle.settle_accepted("H:a:1")
    receipt = Receipt(backend="engine", job="number", id="1", reference="H:a:1")
    assert await staying == receipt
    assert await handle.accepted() == receipt
    assert handle.is_accepted
    assert not handle.done


@in_loop
async def test_a_result_that_comes_before_its_acceptance_is_an_acceptance() -> None:
    handle = new()
    waiting = asyncio.create_task(handle.accepted())
    await ticks()
    handle.settle_completed(b"7")
    assert (await waiting).reference == ""
    handle.settle_accepted("late")
    assert (await handle.accepted()).reference == "late"


@in_loop
async def test_a_job_that_is_not_accepted_says_why() -> None:
    handle = new()
    waiting = asyncio.create_task(handle.accepted())
    await ticks()
    handle.settle_failed(NotSent("the cable is cut"))
    with pytest.raises(SubmitError, match="the cable is cut"):
        await waiting
    with pytest.raises(SubmitError, match="the cable is cut"):
        await handle


@in_loop
async def test_a_job_that_failed_after_its_acceptance_was_accepted() -> None:
    handle = new()
    handle.settle_accepted("H:a:1")
    handle.settle_failed(ConnectionLost("gone"))
    assert (await handle.accepted()).reference == "H:a:1"
    with pytest.raises(ConnectionLost):
        await handle


@in_loop
async def test_a_sending_is_its_receipt_for_every_awaiter() -> None:
    sending = Sending("1", Engine(), "number")

    async def receive() -> Receipt:
        return await sending

    leaving, staying = (asyncio.create_task(receive()) for _ in range(2))
    await ticks()
    leaving.cancel()
    sending.settle_accepted("H:a:1")
    sending.settle_failed(NotSent("late"))
    assert await staying == await sending == Receipt("engine", "number", "1", "H:a:1")


@in_loop
async def test_status_and_cancel_ask_the_engine_by_its_own_name_for_the_job() -> None:
    engine = Engine()
    handle = Handle("1", engine, NUMBER)
    asking = asyncio.create_task(handle.status())
    cancelling = asyncio.create_task(handle.cancel())
    await ticks()
    assert engine.asked == []
    handle.settle_accepted("H:a:1")
    assert (await asking).known
    assert await cancelling
    assert engine.asked == ["status H:a:1", "cancel H:a:1"]
    handle.settle_completed(b"7")
    assert await handle.cancel() is False


def elsewhere(wait: Callable[[], Awaitable[object]]) -> BaseException | None:
    """Return what `wait()` raises in another event loop."""

    async def main() -> None:
        async with asyncio.timeout(5):
            await wait()

    try:
        asyncio.run(main())
    except WrongLoop as error:
        return error
    return None


async def wait_for_result(handle: Handle[int]) -> object:
    return await handle.result(timeout=1)


async def wait_for_acceptance(handle: Handle[int]) -> object:
    return await handle.accepted()


async def wait_for_event(handle: Handle[int]) -> object:
    return await anext(handle.events())


async def wait_for_all(handle: Handle[int]) -> object:
    return await que.gather(handle)


async def wait_for_first(handle: Handle[int]) -> object:
    return [each async for each in que.as_completed([handle])]


@pytest.mark.parametrize(
    "wait",
    [result_of, wait_for_result, wait_for_acceptance, wait_for_event, wait_for_all, wait_for_first],
)
@in_loop
async def test_a_handle_that_is_waited_for_in_another_loop_says_so(
    wait: Callable[[Handle[int]], Awaitable[object]],
) -> None:
    handle = new()
    error = await asyncio.to_thread(elsewhere, lambda: wait(handle))
    assert isinstance(error, WrongLoop)
    assert "Handle of 'number' 1" in str(error)


@in_loop
async def test_events_come_in_order_to_every_reader_and_end_with_the_job() -> None:
    handle = new()
    told: list[Event] = [Progress(1, 2), Chunk(b"a"), Warned("hot"), Progress(2, 2)]
    handle.settle_event(told[0])

    async def read() -> list[Event]:
        return [event async for event in handle.events()]

    readers = [asyncio.create_task(read()) for _ in range(2)]
    await ticks()
    for event in told[1:]:
        handle.settle_event(event)
        await ticks()
    handle.settle_completed(b"7")
    assert await asyncio.gather(*readers) == [told, told]
    assert await read() == told


@in_loop
async def test_a_job_without_events_has_none_to_read() -> None:
    handle = new()
    handle.settle_completed(b"7")
    assert [event async for event in handle.events()] == []


@in_loop
async def test_events_of_a_failed_job_end_without_its_error() -> None:
    handle = new()
    reader = asyncio.create_task(anext(handle.events(), None))
    await ticks()
    handle.settle_failed(NotSent("no"))
    assert await reader is None
    assert isinstance(handle.error, NotSent)


@in_loop
async def test_a_slow_reader_loses_the_oldest_events_and_is_told_how_many() -> None:
    handle = new()
    events = handle.events()
    handle.settle_event(Progress(0, 5000))
    assert await anext(events) == Progress(0, 5000)
    for done in range(1, 5001):
        handle.settle_event(Progress(done, 5000))
    assert events.lost == 0
    seen = await anext(events)
    assert isinstance(seen, Progress)
    assert events.lost == seen.done - 1 > 0
    handle.settle_completed(b"7")
    rest = [event async for event in events]
    assert events.lost + 1 + len(rest) == 5000
    assert rest[-1] == Progress(5000, 5000)


@in_loop
async def test_gather_returns_the_results_in_order_without_a_task() -> None:
    handles = many(100)
    handles[3].settle_completed(b"3")
    before = asyncio.all_tasks()
    gathering = asyncio.create_task(que.gather(*handles, handles[0]))
    await ticks()
    assert asyncio.all_tasks() - before == {gathering}
    for handle in reversed(handles):
        assert not gathering.done()
        handle.settle_completed(handle.id.encode())
    assert await gathering == (*range(100), 0)
    assert await que.gather() == ()
    assert await que.gather(handles[5]) == (5,)


@in_loop
async def test_gather_raises_the_first_error_at_once_and_lets_the_others_go_on() -> None:
    handles = many(4)
    gathering = asyncio.create_task(que.gather(*handles))
    await ticks()
    handles[0].settle_completed(b"0")
    handles[2].settle_failed(JobFailed("handler", "ValueError", "two"))
    with pytest.raises(JobFailed, match="two"):
        await gathering
    handles[1].settle_completed(b"1")
    handles[3].settle_completed(b"3")
    assert await handles[3] == 3
    with pytest.raises(JobFailed, match="two"):
        await que.gather(*handles)


@in_loop
async def test_gather_raises_a_result_that_does_not_fit_at_once() -> None:
    handles = many(2)
    gathering = asyncio.create_task(que.gather(*handles))
    await ticks()
    handles[1].settle_completed(b'"one"')
    with pytest.raises(ResultInvalid):
        await gathering
    with pytest.raises(ResultInvalid):
        await que.gather(*handles)
    handles[0].settle_completed(b"0")


@in_loop
async def test_a_cancelled_gather_touches_no_job() -> None:
    handles = many(3)
    gathering = asyncio.create_task(que.gather(*handles))
    waiting = asyncio.create_task(result_of(handles[0]))
    await ticks()
    gathering.cancel()
    await asyncio.wait([gathering])
    for handle in handles:
        handle.settle_completed(handle.id.encode())
    assert await waiting == 0
    assert await que.gather(*handles) == (0, 1, 2)


@in_loop
async def test_as_completed_yields_the_first_done_first_without_a_task() -> None:
    handles = many(5)
    handles[4].settle_completed(b"4")
    before = asyncio.all_tasks()
    seen: list[str] = []

    async def read() -> None:
        async for handle in que.as_completed(handles):
            seen.append(handle.id)  # noqa: PERF401 - it is looked at while the loop runs

    reading = asyncio.create_task(read())
    await ticks()
    assert asyncio.all_tasks() - before == {reading}
    assert seen == ["4"]
    handles[2].settle_failed(NotSent("two"))
    handles[0].settle_completed(b"0")
    await ticks()
    assert seen == ["4", "2", "0"]
    handles[1].settle_completed(b"1")
    await ticks()
    handles[3].settle_completed(b"3")
    await reading
    assert seen == ["4", "2", "0", "1", "3"]
    assert handles[2].error is not None


@in_loop
async def test_leaving_as_completed_early_leaves_nothing_on_the_handles() -> None:
    handles = many(3)
    called: list[Promise[object]] = []
    handles[0].settle_completed(b"0")
    stream = que.as_completed(handles)
    assert (await anext(stream)).id == "0"
    waiting = asyncio.ensure_future(anext(stream))
    await ticks()
    waiting.cancel()
    await asyncio.wait([waiting])
    for handle in handles:
        handle.add_done_callback(called.append)
        handle.settle_completed(handle.id.encode())
    assert called == handles


async def await_in_a_loop(count: int) -> None:
    """Make `count` handles, a hundred at a time, and await each; results come while it waits."""
    engine = Engine()
    loop = asyncio.get_running_loop()
    for start in range(0, count, 100):
        handles = [Handle(str(start + number), engine, NUMBER) for number in range(100)]
        for handle in handles:
            loop.call_soon(handle.settle_completed, b"1")
        for handle in handles:
            assert await handle == 1


async def kept_after(count: int) -> int:
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    await await_in_a_loop(count)
    gc.collect()
    return tracemalloc.get_traced_memory()[0] - before


@in_loop
async def test_a_hundred_thousand_handles_awaited_in_a_loop_leak_nothing() -> None:
    await await_in_a_loop(1000)
    tracemalloc.start()
    try:
        assert await kept_after(100_000) < 10_000
    finally:
        tracemalloc.stop()


@pytest.mark.soak
@in_loop
async def test_a_million_handles_awaited_in_a_loop_leak_nothing() -> None:
    await await_in_a_loop(1000)
    tracemalloc.start()
    try:
        assert await kept_after(1_000_000) < 10_000
    finally:
        tracemalloc.stop()


@in_loop
async def test_a_handle_is_no_future_that_one_awaiter_could_cancel() -> None:
    handle = new()
    waiting = asyncio.ensure_future(handle)
    other = asyncio.create_task(result_of(handle))
    await ticks()
    waiting.cancel()
    await until(waiting.done)
    handle.settle_completed(b"7")
    assert await other == 7
    assert isinstance(handle.error, QueError | None)
