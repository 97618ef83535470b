"""The sandbox: jobs of an app tested without a server, and with a clock that jumps."""

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine

import pytest

import que
from que.testing import Clock, Sandbox


def in_loop(test: Callable[[], Coroutine[object, object, None]]) -> Callable[[], None]:
    """Return `test` as a plain function; without a timeout in the loop, which would believe the clock."""

    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


class Shop:
    """An app as users have one, on an engine that is not there."""

    def __init__(self) -> None:
        self.app = que.Que("gearman://127.0.0.1:1", mail="sqlite:////nowhere/jobs.db")
        self.ran: list[tuple[str, str]] = []
        shop = self

        @self.app.job("order")
        async def order(params: str) -> str:
            shop.ran.append(("order", params))
            await welcome.send(params)
            return params.upper()

        @self.app.job("welcome", driver="mail", retry=que.Retry(attempts=3, base=60, factor=2, jitter=0))
        def welcome(params: str) -> None:
            shop.ran.append(("welcome", params))
            if params == "nobody":
                raise ValueError("no such address")

        self.order, self.welcome = order, welcome
        self.report = self.app.add(que.Job("report", int, None))


@in_loop
async def test_what_is_sent_waits_and_is_written_down_by_kind() -> None:
    shop = Shop()
    async with Sandbox(shop.app) as sandbox:
        await shop.order.send("ann")
        shop.order.submit("bob")
        await shop.report.send(7)
        assert sandbox.sent(shop.order) == ["ann", "bob"]
        assert sandbox.sent(shop.report) == [7]
        assert sandbox.sent(shop.welcome) == []
        assert shop.ran == []


@in_loop
async def test_run_works_what_is_due_and_what_that_sends_and_leaves_jobs_without_a_handler() -> None:
    shop = Shop()
    async with Sandbox(shop.app) as sandbox:
        await shop.order.send("ann")
        await shop.report.send(7)
        await sandbox.run()
        assert shop.ran == [("order", "ann"), ("welcome", "ann")]
        assert sandbox.sent(shop.welcome) == ["ann"]


@in_loop
async def test_code_that_awaits_a_result_has_it_beside_a_worker() -> None:
    shop = Shop()
    async with Sandbox(shop.app), shop.app.worker():
        assert await shop.order.submit("ann") == "ANN"


@in_loop
async def test_a_delayed_job_runs_when_its_time_has_come_and_not_before() -> None:
    shop = Shop()
    async with Sandbox(shop.app) as sandbox:
        await shop.welcome.send("ann", delay=3600)
        (envelope,) = sandbox.envelopes(shop.welcome)
        assert envelope.due is not None
        await sandbox.advance(3500)
        assert shop.ran == []
        await sandbox.advance(101)
        assert shop.ran == [("welcome", "ann")]


@in_loop
async def test_each_retry_runs_at_its_own_time_within_one_leap_and_its_failure_is_raised() -> None:
    shop = Shop()
    async with Sandbox(shop.app) as sandbox:
        await shop.welcome.send("nobody")
        await sandbox.advance(59)
        assert len(shop.ran) == 1
        with pytest.raises(que.JobFailed, match="ValueError: no such address"):
            await sandbox.advance(10_000)
        assert len(shop.ran) == 3


@in_loop
async def test_an_expired_cancelled_or_coalesced_job_is_not_waited_for() -> None:
    shop = Shop()
    async with Sandbox(shop.app) as sandbox:
        await shop.welcome.send("late", expires=5)
        sandbox.clock.advance(6)
        receipt = await shop.order.send("cancelled")
        assert await shop.app.cancel(receipt)
        for _ in range(3):
            await shop.order.send("once", unique="key")
        await sandbox.run()
        assert shop.ran == [("order", "once"), ("welcome", "once")]


@in_loop
async def test_a_handlers_sleep_and_the_clock_of_the_program_believe_the_clock() -> None:
    app = que.Que("memory://")

    began = asyncio.Event()

    @app.job("night")
    async def night(params: None) -> float:
        began.set()
        await asyncio.sleep(8 * 3600)
        return time.time()

    before = time.time()
    async with Sandbox(app) as sandbox, app.worker():
        handle = night.submit(None)
        await began.wait()
        sandbox.clock.advance(8 * 3600)
        assert await handle - before >= 8 * 3600
    assert time.time() - before < 3600


@in_loop
async def test_the_apps_own_engines_are_back_afterwards() -> None:
    shop = Shop()
    drivers = [backend.driver for backend in shop.app.backends.values()]
    async with Sandbox(shop.app):
        pass
    assert [backend.driver for backend in shop.app.backends.values()] == drivers
    with pytest.raises(que.ConnectError):
        await shop.app.connect()


@in_loop
async def test_an_app_that_is_connected_cannot_be_put_in_and_stays_as_it_is() -> None:
    app = que.Que("memory://")
    async with app:
        (before,) = app.backends.values()
        driver = before.driver
        with pytest.raises(que.ConfigurationError, match="connected already"):
            async with Sandbox(app):
                pass
        assert before.driver is driver


def test_time_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="time does not go back"):
        Clock().advance(-1)
