"""A worker and its engines: whatever a driver does, slots and leases are kept, and the worker goes on or ends."""

import asyncio
import logging
import random
import threading
from collections.abc import Collection, Sequence

import pytest

import que
from que import station
from que.driver import ConsumerSink
from que.model import Capabilities, Completed, Delivery, Failed, Lease, Released, Settled
from tests.unit.fakes import FakeConsumer, FakeDriver
from tests.unit.loops import in_loop, ticks, until
from tests.unit.work_site import LONG_SECONDS, Site, delivery, messages, returns, waits

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
    monkeypatch.setattr(station, "_LONGEST_PAUSE_SECONDS", 0.0)
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
    monkeypatch.setattr(station, "_PARTING_SECONDS", LONG_SECONDS)
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
    monkeypatch.setattr(station, "_PARTING_SECONDS", 0.01)
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
    monkeypatch.setattr(station, "_PARTING_SECONDS", 0.01)
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
