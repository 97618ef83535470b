"""Who holds a job, and for how long: leases that run out, are renewed or lost, and verdicts that come too late.

These are tests of each engine whose test_leases.py imports them; its room has the fixture `url`.
"""

import asyncio
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

import que
from que.address import Address
from que.driver import Consumer, ConsumerSink, Driver, Emits, Extends, Inspects, open_driver
from que.model import Completed, Delivery, Envelope, Failed, Redeliver, Released, Settled, Verdict
from tests.engines.recording import Notices, Told, connected
from tests.unit.loops import in_loop, until


class Holder(Consumer, Emits, Extends, Protocol):
    """A consumer with leases that run out."""


@runtime_checkable
class Lender(Driver, Inspects, Protocol):
    """A driver of an engine whose leases run out."""

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> Holder: ...


def lender(url: str) -> AbstractAsyncContextManager[tuple[Lender, Told]]:
    """A connected driver, and what it has told."""
    driver = open_driver(Address.parse(url))
    assert isinstance(driver, Lender)
    return connected(driver)


def envelope(id: str = "a", background: bool = False) -> Envelope:
    return Envelope(id, "f", id.encode(), background)


async def consumer(driver: Lender, notices: Notices | None = None, slots: int = 10) -> Holder:
    return await driver.register(["f"], slots, notices or Notices())


async def one(consumer: Consumer) -> Delivery:
    async with asyncio.timeout(20):
        (delivery,) = await consumer.reserve(1)
    return delivery


@in_loop
async def test_a_lease_that_runs_out_gives_the_job_to_another_and_counts_as_a_run(url: str) -> None:
    url = f"{url}?lease=0.1"
    async with lender(url) as (client, told), lender(url) as (slow, _), lender(url) as (quick, _):
        await client.submit([envelope()])
        first = await one(await consumer(slow))
        notices = Notices()
        second = await one(other := await consumer(quick, notices))
        assert (first.attempt, second.attempt) == (1, 2)
        assert await other.settle([(second, Completed(b"good"))]) == [Settled.CONFIRMED]
        await until(lambda: told.ends)
        assert told.ends == {"a": b"good"}


@in_loop
async def test_a_verdict_of_one_who_holds_the_job_no_more_is_lost_whatever_it_is(url: str) -> None:
    url = f"{url}?lease=0.1"
    async with lender(url) as (client, told), lender(url) as (slow, _), lender(url) as (quick, _):
        await client.submit([envelope()])
        stale = await one(late := await consumer(slow))
        await one(await consumer(quick))
        verdicts: list[Verdict] = [
            Completed(b"late"),
            Failed("handler", "E", "late"),
            Redeliver(0),
            Redeliver(9),
            Released(),
        ]
        assert set(await late.settle([(stale, verdict) for verdict in verdicts])) == {Settled.LOST}
        late.chunk(stale, b"late")
        late.progress(stale, 1, 2)
        await late.settle([])
        assert (told.ends, told.chapters) == ({}, [])


@in_loop
async def test_a_lease_that_is_renewed_keeps_the_job(url: str) -> None:
    runs: list[int | None] = []
    job = que.Job("slow", int, int)

    @job.handler
    async def slow(number: int, context: que.Context) -> int:
        runs.append(context.attempt)
        await asyncio.sleep(1.2)
        return number

    url = f"{url}?lease=0.4"
    async with que.Que(url) as app, que.Que(url) as idle:
        app.add(job)
        idle_job = que.Job("slow", int, int)
        idle_job.handler(lambda number: 0)
        idle.add(idle_job)
        async with app.worker():
            handle = job.submit(5)
            await until(lambda: runs)
            async with idle.worker():
                assert await handle == 5
    assert runs == [1]


@in_loop
async def test_a_renewal_that_comes_too_late_tells_the_worker_that_the_job_is_lost(url: str) -> None:
    url = f"{url}?lease=0.1"
    async with lender(url) as (client, _), lender(url) as (slow, _), lender(url) as (quick, _):
        await client.submit([envelope()])
        notices = Notices()
        mine = await one(late := await consumer(slow, notices))
        await one(await consumer(quick))
        await late.extend([mine])
        assert notices.lost_ones == [mine]


@in_loop
async def test_a_job_that_is_given_back_is_taken_as_if_for_the_first_time_and_keeps_its_place(url: str) -> None:
    async with lender(url) as (client, _), lender(url) as (worker, _):
        await client.submit([envelope("a"), envelope("b")])
        taker = await consumer(worker)
        first = await one(taker)
        await taker.settle([(first, Released())])
        again = await one(taker)
        assert (again.id, again.attempt) == ("a", 1)


@in_loop
async def test_a_redelivery_waits_and_counts(url: str) -> None:
    async with lender(url) as (client, _), lender(url) as (worker, _):
        await client.submit([envelope()])
        taker = await consumer(worker)
        loop = asyncio.get_running_loop()
        await taker.settle([(await one(taker), Redeliver(0.2))])
        begun = loop.time()
        again = await one(taker)
        assert again.attempt == 2
        # time.time(), by which the driver waits, and the loop's clock may differ by their resolution.
        assert loop.time() - begun > 0.15


@in_loop
async def test_a_cancelled_reserve_loses_nothing(url: str) -> None:
    async with lender(url) as (client, _), lender(url) as (worker, _):
        taker = await consumer(worker)
        for round in range(20):
            await client.submit([envelope(str(round))])
            reserving = asyncio.create_task(taker.reserve(1))
            for _ in range(round):
                await asyncio.sleep(0)
            reserving.cancel()
            done = (await asyncio.gather(reserving, return_exceptions=True))[0]
            delivery = done[0] if isinstance(done, list) else await one(taker)
            assert (delivery.id, delivery.attempt) == (str(round), 1)
            await taker.settle([(delivery, Completed(b""))])


@in_loop
async def test_a_consumer_that_closes_gives_back_what_nobody_reserved(url: str) -> None:
    async with lender(url) as (client, _), lender(url) as (worker, _):
        await client.submit([envelope(str(number)) for number in range(5)])
        taker = await consumer(worker)
        reserving = asyncio.create_task(taker.reserve(5))
        await asyncio.sleep(0)
        reserving.cancel()
        await taker.close()
        assert list(await taker.reserve(5)) == []
        taken = await (await consumer(worker)).reserve(10)
        assert [(delivery.id, delivery.attempt) for delivery in taken] == [(str(number), 1) for number in range(5)]


@in_loop
async def test_no_more_is_taken_than_there_are_slots(url: str) -> None:
    async with lender(url) as (client, _), lender(url) as (worker, _):
        await client.submit([envelope(str(number)) for number in range(10)])
        taker = await consumer(worker, slots=3)
        held = list(await taker.reserve(10))
        assert len(held) == 3
        reserving = asyncio.create_task(taker.reserve(10))
        for _ in range(3):
            await client.status("1")
        assert not reserving.done()
        await taker.settle([(held[0], Completed(b""))])
        assert len(await reserving) == 1


@in_loop
async def test_every_function_of_a_consumer_gets_its_share(url: str) -> None:
    async with lender(url) as (client, _), lender(url) as (worker, _):
        await client.submit([Envelope(f"a{number}", "a", b"") for number in range(50)])
        await client.submit([Envelope(f"b{number}", "b", b"") for number in range(2)])
        taker = await worker.register(["a", "b"], 10, Notices())
        taken = await taker.reserve(10)
        assert sorted(delivery.function for delivery in taken) == ["a"] * 8 + ["b"] * 2


@in_loop
async def test_a_disconnection_tells_handlers_and_submitters_and_gives_the_jobs_to_others(url: str) -> None:
    notices = Notices()
    async with lender(url) as (other, _):
        async with lender(url) as (driver, told):
            await driver.submit([envelope("a"), envelope("b", background=True)])
            held = await (await consumer(driver, notices)).reserve(10)
        assert notices.lost_ones == list(held)
        assert isinstance(told.ends["a"], que.ConnectionLost)
        assert "b" not in told.ends
        again = await (await consumer(other)).reserve(10)
        assert sorted((delivery.id, delivery.attempt) for delivery in again) == [("a", 2), ("b", 2)]
