"""A worker: nothing that a driver, a handler or a caller does leaves a job in limbo, or keeps it from stopping."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager

import pytest

import que
from que import station
from que.driver import ConsumerSink
from que.model import Completed, Released
from que.worker import Worker
from tests.unit.fakes import FakeConsumer, FakeDriver, url_of
from tests.unit.loops import in_loop, ticks, until
from tests.unit.work_site import LONG_SECONDS, Site, clings, delivery, messages, returns, waits

# Its life


@in_loop
async def test_a_worker_that_was_stopped_before_it_ran_opens_nothing() -> None:
    site = Site()
    async with site.app:
        worker = site.worker()
        await worker.stop()
        await worker.run()
    assert not worker.is_running
    assert site.life.trail == []
    assert site.consumers == []


@in_loop
async def test_a_worker_that_is_stopped_in_the_tick_of_its_start_ends() -> None:
    site = Site()
    async with site.app:
        worker = site.worker()
        await asyncio.gather(worker.run(), worker.stop(LONG_SECONDS))
        assert not worker.is_running
    assert site.life.trail in ([], ["opening", "closed"])
    assert site.consumers == []


@pytest.mark.parametrize("how", ["run", "with"])
@in_loop
async def test_a_stop_while_the_lifespan_opens_closes_it_again(how: str) -> None:
    site = Site()
    site.life.gate.clear()
    async with site.app:
        worker = site.worker()
        running = asyncio.create_task(worker.run() if how == "run" else entered(worker))
        await until(lambda: site.life.trail == ["opening"])
        await asyncio.gather(worker.stop(LONG_SECONDS), worker.stop(LONG_SECONDS))
        await running
    assert site.life.trail == ["opening", "closed"]
    assert site.consumers == []


async def entered(worker: "Worker[None]") -> None:
    async with worker:
        pass


class NeverRegisters(FakeDriver):
    def __init__(self) -> None:
        super().__init__()
        self.registering = False

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> FakeConsumer:
        self.registering = True
        await asyncio.Event().wait()
        raise AssertionError("nobody sets that event")


@pytest.mark.parametrize("end", ["stop", "cancel"])
@in_loop
async def test_an_end_while_it_registers_closes_what_was_opened(end: str) -> None:
    slow = NeverRegisters()
    site = Site(waits, FakeDriver(), slow)
    async with site.app:
        worker = site.worker()
        running = asyncio.create_task(worker.run())
        consumer = await site.consumer()
        consumer.feed([delivery()])
        await until(lambda: slow.registering)
        if end == "stop":
            await worker.stop(0)
            await running
        else:
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert not worker.is_running
    assert consumer.closed
    assert consumer.verdicts in ([], [Released()])
    assert site.life.trail == ["opening", "open", "closed"]


@pytest.mark.parametrize("how", ["run", "with"])
@in_loop
async def test_a_driver_that_does_not_register_ends_the_worker_and_what_it_opened(how: str) -> None:
    failing = FakeDriver()
    failing.register_error = que.ConnectError("there", "nobody answers")
    site = Site(returns, FakeDriver(), failing)
    async with site.app:
        worker = site.worker()
        with pytest.raises(que.ConnectError, match="nobody answers"):
            await (worker.run() if how == "run" else entered(worker))
        assert not worker.is_running
    assert [consumer.closed for consumer in site.consumers] == [True]
    assert site.life.trail == ["opening", "open", "closed"]


@in_loop
async def test_a_worker_works_once() -> None:
    site = Site()
    async with site.app:
        worker = site.worker()
        async with worker:
            with pytest.raises(que.ConfigurationError, match="works once"):
                await worker.run()
        assert not worker.is_running
        with pytest.raises(que.ConfigurationError, match="works once"):
            await worker.run()


@pytest.mark.parametrize("end", ["stop", "cancel", "disconnect"])
@in_loop
async def test_the_lifespan_is_closed_in_the_task_that_opened_it(end: str) -> None:
    site = Site()
    async with site.app:
        worker = site.worker()
        running = asyncio.create_task(worker.run())
        await site.consumer()
        if end == "stop":
            await worker.stop()
        elif end == "disconnect":
            await site.app.disconnect()
        else:
            running.cancel()
        await asyncio.wait([running])
    opened, closed = site.life.tasks
    assert opened is closed
    assert site.life.trail == ["opening", "open", "closed"]


@in_loop
async def test_a_worker_may_be_left_in_another_task_than_it_was_entered() -> None:
    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[None, None]:
        async with asyncio.TaskGroup(), asyncio.timeout(LONG_SECONDS):
            yield None

    app = que.Que(lifespan=lifespan)
    app.job("work")(returns)
    async with app:
        worker = app.worker()
        await asyncio.create_task(worker.__aenter__())
        await asyncio.create_task(worker.__aexit__(None, None, None))
        assert not worker.is_running


@in_loop
async def test_a_task_of_the_lifespan_that_fails_ends_the_worker() -> None:
    gate = asyncio.Event()

    async def fails() -> None:
        await gate.wait()
        raise KeyError("background")

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[None, None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            yield None

    driver = FakeDriver()
    app = que.Que(url_of(driver), lifespan=lifespan)
    app.job("work")(waits)
    async with app:
        running = asyncio.create_task(app.worker().run())
        await until(lambda: driver.consumers)
        driver.consumers[0].feed([delivery()])
        await ticks()
        gate.set()
        with pytest.raises(ExceptionGroup) as caught:
            await running
    assert caught.group_contains(KeyError)
    assert driver.consumers[0].verdicts == [Released()]


@pytest.mark.parametrize("how", ["run", "with"])
@in_loop
async def test_what_the_lifespan_raises_at_its_end_comes_out_of_the_worker(how: str) -> None:
    site = Site()
    site.life.end_error = ValueError("at the end")
    async with site.app:
        worker = site.worker()
        working = asyncio.create_task(worker.run() if how == "run" else entered(worker))
        await site.consumer()
        with pytest.raises(ValueError, match="at the end"):
            await worker.stop()
        with pytest.raises(ValueError, match="at the end"):
            await working


def test_the_end_of_the_loop_releases_what_runs() -> None:
    sites: list[Site] = []

    async def main() -> None:
        site = Site(waits)
        sites.append(site)
        await site.app.connect()
        strong.append(asyncio.create_task(site.worker().run()))
        (await site.consumer()).feed([delivery()])
        await ticks()

    strong: list[asyncio.Task[None]] = []
    asyncio.run(main())
    assert sites[0].consumers[0].verdicts == [Released()]
    assert sites[0].life.trail == ["opening", "open", "closed"]


@pytest.mark.parametrize("concurrency", [0, -1])
def test_a_worker_without_slots_is_refused(concurrency: int) -> None:
    with pytest.raises(que.ConfigurationError, match=f"concurrency={concurrency}"):
        Site().worker(concurrency)


def test_a_worker_without_work_is_refused() -> None:
    with pytest.raises(que.ConfigurationError, match="nothing to work"):
        que.Que("memory://").worker()


# Stopping


@in_loop
async def test_a_job_that_ends_within_the_grace_is_completed() -> None:
    gate = asyncio.Event()

    async def handler(params: int) -> int:
        await gate.wait()
        return params

    site = Site(handler)
    async with site.app, site.worker() as worker:
        consumer = await site.consumer()
        consumer.feed([delivery()])
        await ticks()
        stopping = asyncio.create_task(worker.stop(LONG_SECONDS))
        await until(lambda: consumer.closed)
        await ticks()
        assert worker.is_running
        gate.set()
        await stopping
    assert consumer.verdicts == [Completed(b"1")]


@pytest.mark.parametrize("graces", [[0.0], [0.01], [LONG_SECONDS, 0.0], [LONG_SECONDS, 0.01], [0.0, LONG_SECONDS]])
@in_loop
async def test_a_job_that_runs_longer_than_the_shortest_grace_is_cancelled_and_released(graces: list[float]) -> None:
    cancelled: list[int] = []

    async def handler(params: int) -> int:
        try:
            return await waits(params)
        except asyncio.CancelledError:
            cancelled.append(params)
            raise

    site = Site(handler)
    async with site.app, site.worker() as worker:
        consumer = await site.consumer()
        consumer.feed([delivery(b"1"), delivery(b"2")])
        await ticks()
        await asyncio.gather(*[worker.stop(grace) for grace in graces])
    assert consumer.verdicts == [Released()] * 2
    assert cancelled == [1, 2]


@in_loop
async def test_a_cancelled_run_stops_without_grace() -> None:
    site = Site(waits)
    async with site.app:
        running = asyncio.create_task(site.worker().run())
        consumer = await site.consumer()
        consumer.feed([delivery()])
        await ticks()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert consumer.verdicts == [Released()]
    assert site.life.trail == ["opening", "open", "closed"]


@pytest.mark.parametrize(("grace", "verdict"), [(LONG_SECONDS, Completed(b"7")), (0.0, Released())])
@in_loop
async def test_a_job_that_comes_while_the_consumer_closes_is_not_lost(
    grace: float, verdict: Completed | Released
) -> None:
    async def handler(params: int) -> int:
        for _ in range(10):
            await asyncio.sleep(0)
        return params

    site = Site(handler)
    async with site.app, site.worker() as worker:
        consumer = await site.consumer()
        consumer.last_words = [delivery(b"7")]
        await worker.stop(grace)
    assert consumer.verdicts == [verdict]


@in_loop
async def test_a_handler_that_ignores_its_cancellation_does_not_keep_a_worker_from_stopping(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(station, "_STUBBORN_SECONDS", 0.01)
    site = Site(clings)
    async with site.app, site.worker() as worker:
        consumer = await site.consumer()
        consumer.feed([delivery()])
        await ticks()
        await worker.stop(0)
    assert consumer.verdicts == [Released()]
    assert messages(caplog, logging.CRITICAL) == ["job work job-1 ignores its cancellation: it is closed"]


@in_loop
async def test_a_stop_from_within_a_handler_ends_both() -> None:
    async def handler(params: int) -> int:
        await worker.stop(0.01)
        return params

    site = Site(handler)
    async with site.app:
        worker = site.worker()
        running = asyncio.create_task(worker.run())
        consumer = await site.consumer()
        consumer.feed([delivery()])
        await running
    assert consumer.verdicts == [Released()]


# On an engine that keeps its word


@in_loop
async def test_a_released_job_is_the_next_workers() -> None:
    gate = asyncio.Event()
    runs: list[int] = []

    app = que.Que("memory://")

    @app.job("work")
    async def work(params: int) -> int:
        runs.append(params)
        await gate.wait()
        return params

    async with app:
        handle = work.submit(3)
        async with app.worker() as first:
            await until(lambda: runs == [3])
            await first.stop(0)
        gate.set()
        async with app.worker():
            assert await handle == 3
    assert runs == [3, 3]
