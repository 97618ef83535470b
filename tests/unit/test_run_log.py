"""What a run writes down, and what it leaves to others."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable

import pytest

import que
from que.middleware import RunTimeout
from que.model import Completed, Delivery
from tests.unit.loops import in_loop, until
from tests.unit.run_site import Size, async_plain, declared, plain, run_once, site

Next = Callable[[object], Awaitable[object]]
SECRET = "hunter2"
TOLD_SHORTLY: list[tuple[BaseException, str]] = [
    (que.Reject("why"), "job measure id-1: why"),
    (RunTimeout("too long"), "job measure id-1: too long"),
]


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int, str, bool]]:
    """What was logged: logger, level, message, and whether there is a traceback."""
    return [(each.name, each.levelno, each.getMessage(), each.exc_info is not None) for each in caplog.records]


@pytest.mark.parametrize("shape", ["async", "def", "middleware"])
@in_loop
async def test_a_failed_handler_is_logged_once_with_its_traceback_and_without_the_payload(
    shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(params: object) -> int:
        raise KeyError("the cause")

    async def fails_in_loop(params: object) -> int:
        return fails(params)

    async def middleware(context: que.Context[object], params: object, call_next: Next) -> object:
        return fails(params)

    around = [middleware] if shape == "middleware" else []
    with site(declared({"async": fails_in_loop, "def": fails}.get(shape, plain)), around) as made:
        await made.run(f'{{"width":3,"note":"{SECRET}"}}'.encode())
    assert told(caplog) == [("que", logging.ERROR, "job measure id-1: its handler failed", True)]
    (record,) = caplog.records
    facts = {name: value for name, value in vars(record).items() if name.startswith("que_")}
    assert facts == {"que_job": "measure", "que_job_id": "id-1", "que_attempt": 2, "que_error": "KeyError"}
    assert "in fails\n" in caplog.text
    assert "KeyError: 'the cause'" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(("error", "message"), TOLD_SHORTLY, ids=["rejected", "timeout"])
@in_loop
async def test_a_failure_that_says_all_is_logged_without_a_traceback(
    error: BaseException, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(params: Size) -> int:
        raise error

    await run_once(handler)
    assert told(caplog) == [("que", logging.WARNING, message, False)]


@in_loop
async def test_params_that_do_not_decode_are_logged_by_their_path_alone(caplog: pytest.LogCaptureFixture) -> None:
    with site(declared(async_plain)) as made:
        await made.run(f'{{"width":"{SECRET}"}}'.encode())
    message = "job measure id-1: params.width: expected int, got str"
    assert told(caplog) == [("que", logging.WARNING, message, False)]


@in_loop
async def test_a_result_that_does_not_encode_is_logged_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(params: Size) -> object:
        return SECRET

    await run_once(handler)
    [(_, level, message, traceback)] = told(caplog)
    assert (level, traceback) == (logging.WARNING, False)
    assert message.startswith("job measure id-1: result: expected int")
    assert SECRET not in message


@in_loop
async def test_a_run_that_ends_well_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "que")
    assert await run_once(async_plain) == Completed(b"3")
    assert told(caplog) == []


# What is no failure of the job


@in_loop
async def test_an_interrupt_is_no_failure_of_the_job() -> None:
    with site(declared(async_plain), [interrupts]) as made:
        step = made.runs.run(Delivery("measure", b'{"width":3}', "id-1"))
        with pytest.raises(KeyboardInterrupt):
            step.send(None)


async def interrupts(context: que.Context[object], params: object, call_next: Next) -> object:
    raise KeyboardInterrupt


@in_loop
async def test_the_thread_of_a_def_handler_that_outlives_its_cancelled_run_is_told_of() -> None:
    gate = threading.Event()
    begun = threading.Event()

    def handler(params: Size) -> int:
        begun.set()
        gate.wait(20)
        return 0

    with site(declared(handler)) as made:
        running = asyncio.create_task(made.run())
        await until(begun.is_set)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert [thread.done() for thread in made.outlived] == [False]
        gate.set()
        await until(made.outlived[0].done)


@in_loop
async def test_a_def_handler_that_waits_for_a_thread_is_not_run_once_it_is_cancelled() -> None:
    gate = threading.Event()
    runs: list[int] = []

    def handler(params: Size) -> int:
        runs.append(1)
        gate.wait(20)
        return 0

    with site(declared(handler)) as made:
        first = [asyncio.create_task(made.run()) for _ in range(2)]
        await until(lambda: len(runs) == 2)
        third = asyncio.create_task(made.run())
        await asyncio.sleep(0)
        third.cancel()
        with pytest.raises(asyncio.CancelledError):
            await third
        assert made.outlived == []
        gate.set()
        assert await asyncio.gather(*first) == [Completed(b"0")] * 2
    assert len(runs) == 2
