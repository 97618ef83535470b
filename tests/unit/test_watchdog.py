"""The watchdog: who holds up the loop is told by name, once a minute, and nobody else is."""

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable
from types import FrameType

import pytest

import que
from que import watchdog as watchdog_module
from tests.unit.loops import in_loop
from tests.unit.work_site import messages

STALL_SECONDS = 0.02


def blocks_until(told: Callable[[], object]) -> None:
    """Hold up the loop until `told()` is true, at most for a while."""
    end = time.monotonic() + 20
    while not told() and time.monotonic() < end:
        time.sleep(0.001)


def blocking_app(blocks: Callable[[], None], first_waits: bool = False) -> tuple[que.Que[None], que.Job[int, int]]:
    app = que.Que("memory://")

    @app.job("blocks")
    async def job(number: int) -> int:
        if first_waits:
            await asyncio.sleep(0)
        blocks()
        return number

    return app, job


@pytest.mark.parametrize("first_waits", [False, True], ids=["at once", "after it waited"])
@in_loop
async def test_a_job_that_holds_up_the_loop_is_told_while_it_does(
    first_waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app, job = blocking_app(lambda: blocks_until(lambda: messages(caplog)), first_waits)
    with que.Watchdog(STALL_SECONDS):
        async with app, app.worker():
            handle = job.submit(1)
            assert await handle == 1
    [message] = messages(caplog)
    assert re.match(rf"job blocks {handle.id} has held up the event loop for [\d.]+ s: ", message)
    assert "in blocks_until\n" in message


@in_loop
async def test_one_job_name_is_told_of_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks: list[int] = []
    app, job = blocking_app(lambda: blocks_until(lambda: len(looks) >= 3))

    delivery_of = watchdog_module._delivery  # pyright: ignore[reportPrivateUsage] - to count its looks

    def counted(frame: FrameType) -> object:
        looks.append(1)
        return delivery_of(frame)

    monkeypatch.setattr(watchdog_module, "_delivery", counted)
    with que.Watchdog(STALL_SECONDS):
        async with app, app.worker():
            await job.submit(1)
            looks.clear()
            await job.submit(2)
    assert len(messages(caplog)) == 1
    looks.clear()
    monkeypatch.setattr(watchdog_module, "SILENCE_SECONDS", 0.0)
    with que.Watchdog(STALL_SECONDS):
        async with app, app.worker():
            await job.submit(3)
    assert len(messages(caplog)) >= 3


@in_loop
async def test_what_is_no_job_is_told_of_as_that(caplog: pytest.LogCaptureFixture) -> None:
    with que.Watchdog(STALL_SECONDS):
        await asyncio.sleep(0)
        blocks_until(lambda: messages(caplog))
    assert messages(caplog)[0].startswith("something other than a job has held up the event loop")


@in_loop
async def test_a_job_that_waits_is_never_told_of(caplog: pytest.LogCaptureFixture) -> None:
    app = que.Que("memory://")

    @app.job("waits")
    async def waits(number: int) -> int:
        await asyncio.sleep(1.6)
        return number

    @app.job("def")
    def in_thread(number: int) -> int:
        time.sleep(1.6)
        return number

    with que.Watchdog(1.0):
        async with app, app.worker():
            assert await que.gather(waits.submit(1), in_thread.submit(2)) == (1, 2)
    assert messages(caplog, logging.WARNING) == []


@in_loop
async def test_its_thread_ends_with_the_block() -> None:
    with que.Watchdog(STALL_SECONDS):
        [thread] = [each for each in threading.enumerate() if each.name == "que-watchdog"]
    await asyncio.to_thread(thread.join, 20)
    assert not thread.is_alive()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
@in_loop
async def test_a_span_that_cannot_be_meant_is_refused(seconds: float) -> None:
    with pytest.raises(que.ConfigurationError, match="stall_seconds="):
        que.Watchdog(seconds)
