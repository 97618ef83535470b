"""A worker: nothing that a driver, a handler or a caller does leaves a job in limbo, or keeps it from stopping."""

import asyncio
import logging
import random
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import cast

import pytest

import que
from que import worker as worker_module
from que.driver import ConsumerSink
from que.model import Capabilities, Completed, Delivery, Failed, Lease, Released, Settled
from que.worker import Worker
from tests.unit.fakes import FakeConsumer, FakeDriver, url_of
from tests.unit.loops import in_loop, ticks, until

LONG_SECONDS = 1000.0


async def returns(params: int) -> int:
    return params


async def waits(params: int) -> int:
    await asyncio.Event().wait()
    return params


async def clings(params: int) -> int:
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


def delivery(payload: bytes = b"1") -> Delivery:
    return Delivery("work", payload, f"job-{payload.decode()}")


class Life:
    """A lifespan that writes down what becomes of it, and in which task."""

    def __init__(self) -> None:
        self.trail: list[str] = []
        self.tasks: list[asyncio.Task[object] | None] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.end_error: Exception | None = None

    @asynccontextmanager
    async def __call__(self) -> AsyncGenerator[None, None]:
        self.tasks.append(asyncio.current_task())
        self.trail.append("opening")
        try:
            await self.gate.wait()
            self.trail.append("open")
            yield None
        finally:
            self.tasks.append(asyncio.current_task())
            await asyncio.sleep(0)
            self.trail.append("closed")
            if self.end_error is not None:
                raise self.end_error


class Site:
    """An app whose one job is worked, on one fake engine or several."""

    def __init__(self, handler: Callable[[int], object] = returns, *drivers: FakeDriver, life: Life | None = None):
        self.drivers = drivers or (FakeDriver(),)
        self.life = life or Life()
        urls = [url_of(driver) for driver in self.drivers]
        self.app: que.Que[None] = que.Que(*urls, lifespan=self.life)
        for url in urls:
            job = que.Job("work", int, int, driver=url.removesuffix("://"))
            job.handler(cast(Callable[[int], int], handler))
            self.app.add(job)

    def worker(self, concurrency: int = 2) -> "Worker[None]":
        return self.app.worker(concurrency=concurrency)

    @property
    def consumers(self) -> list[FakeConsumer]:
        return [consumer for driver in self.drivers for consumer in driver.consumers]

    async def consumer(self) -> FakeConsumer:
        """Return the first engine's consumer once a worker waits there for jobs."""
        await until(lambda: self.consumers and self.consumers[0].limits)
        return self.consumers[0]


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


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
    monkeypatch.setattr(worker_module, "_STUBBORN_SECONDS", 0.01)
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


# Drivers that misbehave


class FailingConsumer(FakeConsumer):
    """Fails in every reserve(), also once it is closed."""

    error: BaseException = ConnectionError("always")

    async def reserve(self, limit: int) -> Sequence[Delivery]:
        self.limits.append(limit)
        raise self.error


class FailingDriver(FakeDriver):
    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> FakeConsumer:
        consumer = FailingConsumer(functions, slots, notices)
        self.consumers.append(consumer)
        return consumer


@in_loop
async def test_a_reserve_that_always_fails_does_not_keep_an_idle_worker_from_stopping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def longest(shortest: float, longest: float) -> float:
        return LONG_SECONDS

    monkeypatch.setattr(random, "uniform", longest)
    site = Site(returns, FailingDriver())
    async with site.app, site.worker() as worker:
        await site.consumer()
        await worker.stop(LONG_SECONDS)
    assert site.life.trail == ["opening", "open", "closed"]


@pytest.mark.parametrize("error", [ConnectionError, asyncio.CancelledError])
@in_loop
async def test_a_worker_survives_any_number_of_failures_of_reserve(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_module, "_LONGEST_PAUSE_SECONDS", 0.0)
    site = Site()
    async with site.app, site.worker():
        consumer = await site.consumer()
        consumer.feed(*[error() for _ in range(1100)], [delivery()])
        await until(lambda: consumer.verdicts)
    assert consumer.verdicts == [Completed(b"1")]
    assert len(messages(caplog)) == 1100


@in_loop
async def test_a_worker_that_gets_no_more_jobs_ends_with_an_error_and_does_not_idle() -> None:
    site = Site(waits)
    async with site.app:
        running = asyncio.create_task(site.worker().run())
        consumer = await site.consumer()
        consumer.feed([delivery()], [])
        with pytest.raises(que.NotConnected, match="no more jobs"):
            await running
    assert consumer.verdicts == [Released()]
    assert site.life.trail == ["opening", "open", "closed"]


@in_loop
async def test_a_close_that_raises_is_logged_and_all_else_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    gate = asyncio.Event()

    async def handler(params: int) -> int:
        await gate.wait()
        return params

    site = Site(handler)
    async with site.app, site.worker() as worker:
        consumer = await site.consumer()
        consumer.close_error = ConnectionError("close")
        consumer.feed([delivery()])
        await ticks()
        stopping = asyncio.create_task(worker.stop(LONG_SECONDS))
        await until(lambda: consumer.closed)
        gate.set()
        await stopping
    assert consumer.verdicts == [Completed(b"1")]
    assert len(messages(caplog, logging.ERROR)) == 1
    assert site.life.trail == ["opening", "open", "closed"]


class DeafConsumer(FakeConsumer):
    """Closes without a word to the reserve() that waits, and then raises, or hangs."""

    async def close(self) -> None:
        self.closed = True
        if self.close_error is not None:
            raise self.close_error
        await asyncio.Event().wait()


class DeafDriver(FakeDriver):
    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> FakeConsumer:
        consumer = DeafConsumer(functions, slots, notices)
        self.consumers.append(consumer)
        return consumer


@in_loop
async def test_a_reserve_that_waits_on_after_a_failed_close_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_PARTING_SECONDS", LONG_SECONDS)
    site = Site(returns, DeafDriver())
    async with site.app, site.worker() as worker:
        consumer = await site.consumer()
        consumer.close_error = ConnectionError("close")
        await worker.stop(LONG_SECONDS)
    assert site.life.trail == ["opening", "open", "closed"]


@in_loop
async def test_a_close_that_hangs_does_not_keep_a_worker_from_stopping(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_module, "_PARTING_SECONDS", 0.01)
    site = Site(waits, DeafDriver())
    async with site.app, site.worker() as worker:
        consumer = await site.consumer()
        consumer.feed([delivery()])
        await ticks()
        await worker.stop(0)
    assert consumer.verdicts == [Released()]
    assert len(messages(caplog, logging.ERROR)) == 1
    assert site.life.trail == ["opening", "open", "closed"]


@in_loop
async def test_a_settle_that_hangs_does_not_keep_a_worker_from_stopping(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_module, "_PARTING_SECONDS", 0.01)
    site = Site()
    async with site.app, site.worker() as worker:
        consumer = await site.consumer()
        consumer.gate.clear()
        consumer.feed([delivery()])
        await ticks()
        await worker.stop(0)
    assert [message.partition(" at ")[0] for message in messages(caplog)] == ["of the last 1 verdicts"]
    assert site.life.trail == ["opening", "open", "closed"]


@in_loop
async def test_a_settle_that_fails_frees_its_slots_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    async with site.app, site.worker(1):
        consumer = await site.consumer()
        consumer.settle_errors = [ConnectionError("settle")]
        consumer.feed([delivery(b"1")], [delivery(b"2")])
        await until(lambda: len(consumer.verdicts) == 2)
    assert [message.partition(" at ")[0] for message in messages(caplog)] == ["settle() of 1 jobs"]


@pytest.mark.parametrize("outcome", [Settled.LOST, Settled.UNCONFIRMED], ids=repr)
@in_loop
async def test_a_verdict_that_did_not_arrive_is_logged(outcome: Settled, caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    async with site.app, site.worker():
        consumer = await site.consumer()
        consumer.outcome = outcome
        consumer.feed([delivery()])
        await until(lambda: consumer.verdicts)
    assert messages(caplog) == [f"job work job-1: its verdict is {outcome.value}"]


# Slots and notices


@in_loop
async def test_a_slot_is_held_until_its_verdict_is_settled() -> None:
    site = Site()
    async with site.app, site.worker(2):
        consumer = await site.consumer()
        consumer.gate.clear()
        consumer.feed([delivery(b"1"), delivery(b"2")])
        await ticks(20)
        assert consumer.limits == [2]
        consumer.gate.set()
        await until(lambda: len(consumer.limits) == 2)
    assert consumer.limits == [2, 2]


@in_loop
async def test_a_lost_lease_cancels_the_handler_and_no_verdict_leaves(caplog: pytest.LogCaptureFixture) -> None:
    site = Site(waits)
    async with site.app, site.worker(1):
        consumer = await site.consumer()
        held = delivery()
        consumer.feed([held])
        await ticks()
        consumer.notices.lost(held)
        await until(lambda: len(consumer.limits) == 2)
    assert consumer.verdicts == []
    assert messages(caplog) == ["job work job-1: its lease is gone, so its result is not used"]


@in_loop
async def test_a_cancelled_job_is_failed_and_its_slot_is_free() -> None:
    site = Site(waits)
    async with site.app, site.worker(1):
        consumer = await site.consumer()
        held = delivery()
        consumer.feed([held])
        await ticks()
        consumer.notices.cancelled(held)
        await until(lambda: len(consumer.limits) == 2)
    assert consumer.verdicts == [Failed("cancelled", "JobCancelled", "the job was cancelled")]


# Timed leases


class LeasingConsumer(FakeConsumer):
    """Leases deliveries for a time, and fails to renew them the first time."""

    def __init__(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> None:
        super().__init__(functions, slots, notices)
        self.extended: list[list[Delivery]] = []

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        self.extended.append(list(deliveries))
        if len(self.extended) == 1:
            raise ConnectionError("extend")


class LeasingDriver(FakeDriver):
    def __init__(self) -> None:
        super().__init__(Capabilities(lease=Lease.TIMED, lease_seconds=0.01))
        self.leasing: list[LeasingConsumer] = []

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> FakeConsumer:
        consumer = LeasingConsumer(functions, slots, notices)
        self.consumers.append(consumer)
        self.leasing.append(consumer)
        return consumer


@in_loop
async def test_timed_leases_are_renewed_while_jobs_run_and_a_failed_renewal_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = asyncio.Event()

    async def handler(params: int) -> int:
        await gate.wait()
        return params

    driver = LeasingDriver()
    site = Site(handler, driver)
    held = [delivery(b"1"), delivery(b"2")]
    async with site.app, site.worker() as worker:
        consumer = await site.consumer()
        consumer.feed(held)
        await until(lambda: len(driver.leasing[0].extended) == 2)
        stopping = asyncio.create_task(worker.stop(LONG_SECONDS))
        await until(lambda: len(driver.leasing[0].extended) == 4)
        gate.set()
        await stopping
    assert all(extended == held for extended in driver.leasing[0].extended)
    assert [message.partition(" at ")[0] for message in messages(caplog)] == ["extend() of 2 leases"]
    assert consumer.verdicts == [Completed(b"1"), Completed(b"2")]


# Threads


@in_loop
async def test_each_engines_def_handlers_have_as_many_threads_as_slots() -> None:
    both = threading.Barrier(2, timeout=20)

    def handler(params: int) -> int:
        both.wait()
        return params

    site = Site(handler, FakeDriver(), FakeDriver())
    async with site.app, site.worker(1):
        await until(lambda: len(site.consumers) == 2)
        for consumer in site.consumers:
            consumer.feed([delivery()])
        await until(lambda: all(consumer.verdicts for consumer in site.consumers))
    assert [consumer.verdicts for consumer in site.consumers] == [[Completed(b"1")]] * 2


@in_loop
async def test_a_slot_is_held_while_the_thread_of_a_cancelled_def_handler_runs_on() -> None:
    gate = threading.Event()

    def handler(params: int) -> int:
        gate.wait(20)
        return params

    site = Site(handler)
    async with site.app, site.worker(1):
        consumer = await site.consumer()
        held = delivery()
        consumer.feed([held])
        await ticks()
        consumer.notices.cancelled(held)
        await until(lambda: consumer.verdicts)
        await ticks(20)
        assert consumer.limits == [1]
        gate.set()
        await until(lambda: consumer.limits == [1, 1])


@in_loop
async def test_a_def_handler_that_outlives_its_worker_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()

    def handler(params: int) -> int:
        gate.wait(20)
        return params

    site = Site(handler)
    async with site.app, site.worker() as worker:
        consumer = await site.consumer()
        consumer.feed([delivery()])
        await ticks()
        await worker.stop(0)
        gate.set()
    assert consumer.verdicts == [Released()]
    assert "1 `def` handlers" in [message.partition(" at ")[0] for message in messages(caplog)]


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
