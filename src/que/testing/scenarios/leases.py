"""Deliveries and what holds them, seen from below: these scenarios talk to the driver itself."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import que
from que.driver import Consumer, Driver
from que.model import Completed, Delivery, Envelope, Released, Settled
from que.testing.scenario import Scenario, needs_processes, needs_timed_leases
from que.testing.sinks import Notices, Recorder
from que.testing.subject import PromiseBroken, Subject, expect, until

# Nothing more comes: after so long a silence it is believed.
_SILENCE_SECONDS = 0.3


@asynccontextmanager
async def _driver(subject: Subject, events: Recorder | None = None) -> AsyncGenerator[Driver, None]:
    driver = await subject.connected(events or Recorder())
    try:
        yield driver
    finally:
        await driver.disconnect()


async def _send(subject: Subject, driver: Driver, function: str, count: int) -> list[str]:
    """Let the driver have `count` background jobs, and return their ids."""
    ids = [f"{subject.prefix}{function}-{number}" for number in range(count)]
    await driver.submit([Envelope(id, function, id.encode(), background=True) for id in ids])
    return ids


async def _reserve(consumer: Consumer, limit: int, seconds: float = 30.0) -> Sequence[Delivery]:
    try:
        async with asyncio.timeout(seconds):
            return await consumer.reserve(limit)
    except TimeoutError:
        raise PromiseBroken(f"no delivery came within {seconds:g} s") from None


async def _finish(consumer: Consumer, count: int) -> list[Delivery]:
    """Complete the next `count` deliveries, as many as come at once."""
    done: list[Delivery] = []
    while len(done) < count:
        deliveries = await _reserve(consumer, count - len(done))
        await consumer.settle([(delivery, Completed(b"null")) for delivery in deliveries])
        done += deliveries
    return done


async def a_consumer_holds_no_more_than_its_slots(subject: Subject) -> None:
    """However much waits: a stalled worker bounds what it has taken, and all the rest is there for another."""
    function = subject.name("stalled")
    async with _driver(subject) as driver:
        await _send(subject, driver, function, 100)
        stalled = await driver.register([function], 4, Notices())
        held: list[Delivery] = []
        while len(held) < 4:
            limit = 4 - len(held)
            deliveries = await _reserve(stalled, limit)
            expect(len(deliveries) <= limit, f"reserve({limit}) gave {len(deliveries)} deliveries")
            held += deliveries
        other = await driver.register([function], 100, Notices())
        done = [*held, *await _finish(other, 96)]
        await stalled.settle([(delivery, Completed(b"null")) for delivery in held])
        expect(len({delivery.payload for delivery in done}) == 100, "each of 100 jobs is delivered once")
        for consumer in (stalled, other):
            await consumer.close()


async def _or_silence(consumer: Consumer, limit: int) -> Sequence[Delivery] | None:
    try:
        async with asyncio.timeout(_SILENCE_SECONDS):
            return await consumer.reserve(limit)
    except TimeoutError:
        return None


async def a_reserve_that_is_cancelled_loses_nothing(subject: Subject) -> None:
    """At every moment, also while a job is on its way: what had arrived is there for the next call."""
    function = subject.name("cancelled")
    async with _driver(subject) as driver:
        consumer = await driver.register([function], 50, Notices())
        taken: list[Delivery] = []
        for number in range(40):
            reserving = asyncio.ensure_future(consumer.reserve(50))
            await driver.submit([Envelope(f"{subject.prefix}{number}", function, b"%d" % number, background=True)])
            await _a_moment(number)
            reserving.cancel()
            await asyncio.wait([reserving])
            if not reserving.cancelled():
                taken += reserving.result()
        while len(taken) < 40:
            taken += await _reserve(consumer, 50)
        expect(len({delivery.payload for delivery in taken}) == 40, "each of 40 jobs is delivered once")
        await consumer.settle([(delivery, Completed(b"null")) for delivery in taken])
        await consumer.close()


async def _a_moment(number: int) -> None:
    """A few ticks of the loop, or a few milliseconds: another moment for each number."""
    for _ in range(number % 10):
        await asyncio.sleep(0)
    if number % 3 == 0:
        await asyncio.sleep(number / 10_000)


async def a_closed_consumer_gives_nothing_more_and_still_settles(subject: Subject) -> None:
    """A reserve() that waits returns () at close(); the verdicts of what runs still count."""
    function = subject.name("closed")
    async with _driver(subject) as driver:
        await _send(subject, driver, function, 1)
        consumer = await driver.register([function], 2, Notices())
        (delivery,) = await _reserve(consumer, 1)
        waiting = asyncio.ensure_future(consumer.reserve(1))
        await asyncio.sleep(0)
        await consumer.close()
        await asyncio.wait([waiting], timeout=20)
        expect(waiting.done() and not waiting.result(), "a waiting reserve() returns () at close()")
        expect(not await consumer.reserve(1), "reserve() returns () after close()")
        (settled,) = await consumer.settle([(delivery, Completed(b"null"))])
        expect(settled is Settled.CONFIRMED, f"settle() works after close(), not {settled}")
        another = await driver.register([function], 2, Notices())
        expect(await _or_silence(another, 1) is None, "a job that was settled is not delivered again")
        await another.close()


async def a_released_job_comes_back_as_if_never_taken(subject: Subject) -> None:
    """To another consumer, once this one lets go of it, with the same attempt."""
    function = subject.name("released")
    async with _driver(subject) as driver:
        await _send(subject, driver, function, 3)
        first = await driver.register([function], 3, Notices())
        held: list[Delivery] = []
        while len(held) < 3:
            held += await _reserve(first, 3 - len(held))
        await first.close()
        await first.settle([(delivery, Released()) for delivery in held])
        second = await driver.register([function], 3, Notices())
        back = await _finish(second, 3)
        expect({each.payload for each in back} == {each.payload for each in held}, "each of 3 jobs comes back once")
        attempts = {each.attempt for each in back}
        expect(attempts == ({1} if subject.can.attempts else {None}), f"a release is no attempt, but it is {attempts}")
        await second.close()


async def jobs_of_a_worker_that_disconnects_come_back(subject: Subject) -> None:
    """What it had taken and not settled goes to another, with the lease at the latest."""
    function = subject.name("left")
    async with _driver(subject) as stays:
        leaves = await subject.connected(Recorder())
        await _send(subject, stays, function, 3)
        first = await leaves.register([function], 3, Notices())
        taken = await _reserve(first, 3)
        expect(taken, "a delivery")
        second = await stays.register([function], 3, Notices())
        await leaves.disconnect()
        loop = asyncio.get_running_loop()
        start = loop.time()
        back = await _finish(second, 3)
        subject.note(f"the jobs of a worker that had disconnected came back in {loop.time() - start:.3f} s")
        expect(len({each.payload for each in back}) == 3, "each of 3 jobs comes back once")
        await second.close()


async def an_abandoned_job_comes_back_and_never_before_its_lease_is_over(subject: Subject) -> None:
    """Nobody extends the lease: another consumer has the job in the end, as a further attempt. How late is noted."""
    lease = subject.can.lease_seconds or 0.0
    function = subject.name("abandoned")
    loop = asyncio.get_running_loop()
    async with _driver(subject) as driver:
        await _send(subject, driver, function, 1)
        first = await driver.register([function], 1, Notices())
        asked = loop.time()
        (abandoned,) = await _reserve(first, 1)
        second = await driver.register([function], 1, Notices())
        (back,) = await _reserve(second, 1, 30 + 5 * lease)
        waited = loop.time() - asked
        expect(waited > lease * 0.98, f"a lease of {lease:g} s was over after {waited:.3f} s")
        subject.note(f"a lease of {lease:g} s that nobody extended was over after {waited:.3f} s")
        if subject.can.attempts:
            expect((abandoned.attempt, back.attempt) == (1, 2), f"a lost run counts, not {back.attempt}")
        (stale,) = await first.settle([(abandoned, Completed(b'"stale"'))])
        expect(stale is Settled.LOST, f"the verdict of a lease that is gone is LOST, not {stale}")
        (fresh,) = await second.settle([(back, Completed(b'"fresh"'))])
        expect(fresh is Settled.CONFIRMED, f"the verdict of the lease that holds is CONFIRMED, not {fresh}")
        for consumer in (first, second):
            await consumer.close()


async def a_stale_verdict_never_reaches_the_submitter(subject: Subject) -> None:
    """The result is that of the worker that holds the lease."""
    lease = subject.can.lease_seconds or 0.0
    function, events = subject.name("stale"), Recorder()
    async with _driver(subject, events) as driver:
        await driver.submit([Envelope(f"{subject.prefix}stale", function, b"1")])
        first = await driver.register([function], 1, Notices())
        (abandoned,) = await _reserve(first, 1)
        second = await driver.register([function], 1, Notices())
        (back,) = await _reserve(second, 1, 30 + 5 * lease)
        await first.settle([(abandoned, Completed(b'"stale"'))])
        await second.settle([(back, Completed(b'"fresh"'))])
        await until(lambda: events.ends, "the job's end")
        expect(list(events.ends.values()) == [b'"fresh"'], f"the result should be the holder's, not {events.ends}")
        for consumer in (first, second):
            await consumer.close()


async def a_job_that_outlasts_its_lease_runs_once(subject: Subject) -> None:
    """The worker renews it for as long as the handler runs, while another worker would take the job."""
    lease = subject.can.lease_seconds or 0.0
    runs: list[str] = []
    apps = [subject.app(), subject.app()]
    for name, app in zip(("first", "second"), apps, strict=True):
        _long_job(app, subject.name("long"), name, 2.5 * lease, runs)
    async with apps[0], apps[0].worker(concurrency=1):
        handle = apps[0].submit(que.Job(subject.name("long"), int, None), 1)
        await until(lambda: runs, "the job to begin")
        async with apps[1], apps[1].worker(concurrency=1):
            await handle
    expect(runs == ["first"], f"a job whose lease is renewed runs once, not {runs}")


def _long_job(app: que.Que[None], name: str, worker: str, seconds: float, runs: list[str]) -> None:
    @app.job(name)
    async def outlast(params: int) -> None:
        runs.append(worker)
        await asyncio.sleep(seconds)


SCENARIOS = (
    Scenario(a_consumer_holds_no_more_than_its_slots),
    Scenario(a_reserve_that_is_cancelled_loses_nothing),
    Scenario(a_closed_consumer_gives_nothing_more_and_still_settles),
    Scenario(a_released_job_comes_back_as_if_never_taken),
    Scenario(jobs_of_a_worker_that_disconnects_come_back, (needs_processes,)),
    Scenario(an_abandoned_job_comes_back_and_never_before_its_lease_is_over, (needs_timed_leases,)),
    Scenario(a_stale_verdict_never_reaches_the_submitter, (needs_timed_leases,)),
    Scenario(a_job_that_outlasts_its_lease_runs_once, (needs_timed_leases,)),
)
