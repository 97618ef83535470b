"""The memory driver as an engine: order, delays, expiry, unique keys, leases, cancellation, and what is left behind."""

import asyncio
import itertools
import random
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

import que
from que.address import Address
from que.drivers.memory import MemoryDriver
from que.errors import ConfigurationError, ConnectionLost, JobCancelled, JobError, JobExpired, NotConnected, SubmitError
from que.model import (
    Completed,
    Delivery,
    Envelope,
    Failed,
    JobStatus,
    Priority,
    QueueDepth,
    Redeliver,
    Released,
    Settled,
    Verdict,
)
from tests.unit.loops import WAIT_SECONDS, in_loop, ticks, until

DONE = Completed(b"done")
FAILED = Failed("handler", "ValueError", "no")
RELEASED = Released()
Event = tuple[str, str, object]


class Heard:
    """Writes down what the engine says to those who submit."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def of(self, id: str) -> list[tuple[str, object]]:
        """What was said of one job, in order."""
        return [(what, fact) for what, whose, fact in self.events if whose == id]

    def accepted(self, id: str, receipt: str) -> None:
        self.events.append(("accepted", id, receipt))

    def refused(self, id: str, error: SubmitError) -> None:
        self.events.append(("refused", id, error))

    def progress(self, id: str, done: int, total: int) -> None:
        self.events.append(("progress", id, (done, total)))

    def chunk(self, id: str, data: bytes) -> None:
        self.events.append(("chunk", id, data))

    def warned(self, id: str, text: str) -> None:
        self.events.append(("warned", id, text))

    def completed(self, id: str, payload: bytes) -> None:
        self.events.append(("completed", id, payload))

    def failed(self, id: str, failure: Failed) -> None:
        self.events.append(("failed", id, failure))

    def lost(self, id: str, error: JobError) -> None:
        self.events.append(("lost", id, type(error)))

    def reconnected(self) -> None: ...


class Notices:
    """Writes down what the engine says to one worker."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Delivery]] = []

    def lost(self, delivery: Delivery) -> None:
        self.heard.append(("lost", delivery))

    def cancelled(self, delivery: Delivery) -> None:
        self.heard.append(("cancelled", delivery))


async def opened() -> tuple[MemoryDriver, Heard]:
    """Return a connected driver and what it says."""
    driver, heard = MemoryDriver(Address.parse("memory://")), Heard()
    await driver.connect(heard)
    return driver, heard


def jobs(ids: str, function: str = "f", priority: Priority = Priority.NORMAL) -> list[Envelope]:
    """Return one job for each letter."""
    return [Envelope(id, function, b"x", priority=priority) for id in ids]


def ids_of(deliveries: Sequence[Delivery]) -> str:
    return "".join(delivery.id for delivery in deliveries)


def let_time_pass(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Put the clock on the wall forward; timers that are set do not notice."""
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + seconds)


def let_timers_ring_early(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Let the loop's timers ring after `factor` of the time they were set to."""
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def call_early(seconds: float, call: Callable[..., object], *facts: object) -> asyncio.TimerHandle:
        return call_later(seconds * factor, call, *facts)

    monkeypatch.setattr(loop, "call_later", call_early)


def test_a_url_with_a_host_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="memory:// has no host"):
        MemoryDriver(Address.parse("memory://localhost"))


@in_loop
async def test_a_driver_that_is_not_connected_refuses_to_submit_and_to_register() -> None:
    driver = MemoryDriver(Address.parse("memory://"))
    for call in (driver.submit(jobs("a")), driver.register(["f"], 1, Notices())):
        with pytest.raises(NotConnected):
            await call


@in_loop
async def test_jobs_of_one_priority_are_taken_in_the_order_of_their_submission() -> None:
    driver, _ = await opened()
    await driver.submit(jobs("ab"))
    await driver.submit(jobs("cd"))
    consumer = await driver.register(["f"], 10, Notices())
    assert ids_of(await consumer.reserve(3)) == "abc"
    assert ids_of(await consumer.reserve(3)) == "d"


@in_loop
async def test_a_higher_priority_goes_first_whatever_the_function() -> None:
    driver, _ = await opened()
    for ids, function, priority in (
        ("ab", "f", Priority.LOW),
        ("cd", "f", Priority.NORMAL),
        ("ef", "g", Priority.NORMAL),
        ("gh", "g", Priority.HIGH),
    ):
        await driver.submit(jobs(ids, function, priority))
    consumer = await driver.register(["f", "g"], 10, Notices())
    assert ids_of(await consumer.reserve(10)) == "ghcedfab"


@in_loop
async def test_functions_take_turns_also_between_calls() -> None:
    driver, _ = await opened()
    await driver.submit(jobs("abc", "f") + jobs("123", "g"))
    consumer = await driver.register(["f", "g", "h"], 10, Notices())
    assert ids_of(await consumer.reserve(1)) == "a"
    assert ids_of(await consumer.reserve(3)) == "1b2"
    assert ids_of(await consumer.reserve(10)) == "c3"


@in_loop
async def test_a_consumer_never_holds_more_than_its_slots_not_even_after_settling_twice() -> None:
    driver, heard = await opened()
    await driver.submit(jobs("abcde"))
    consumer = await driver.register(["f"], 2, Notices())
    first, second = await consumer.reserve(10)
    assert await consumer.settle([(first, DONE)]) == [Settled.CONFIRMED]
    assert await consumer.settle([(first, DONE), (first, FAILED)]) == [Settled.LOST, Settled.LOST]
    assert ids_of(await consumer.reserve(10)) == "c"
    full = asyncio.create_task(consumer.reserve(10))
    await ticks()
    assert not full.done()
    await consumer.settle([(second, FAILED)])
    assert ids_of(await full) == "d"
    assert heard.of("a") == [("accepted", "a"), ("completed", b"done")]
    assert heard.of("b") == [("accepted", "b"), ("failed", FAILED)]


@in_loop
async def test_an_old_delivery_does_not_settle_a_job_that_was_delivered_again() -> None:
    driver, heard = await opened()
    await driver.submit(jobs("a"))
    consumer = await driver.register(["f"], 2, Notices())
    (old,) = await consumer.reserve(1)
    await consumer.settle([(old, Redeliver(0))])
    (new,) = await consumer.reserve(1)
    assert (old.attempt, new.attempt) == (1, 2)
    assert await consumer.settle([(old, DONE)]) == [Settled.LOST]
    assert heard.of("a") == [("accepted", "a")]
    assert await consumer.settle([(new, DONE)]) == [Settled.CONFIRMED]


@given(st.permutations("abcd"))
def test_a_batch_that_is_given_back_waits_in_front_in_its_old_order(order: list[str]) -> None:
    @in_loop
    async def check() -> None:
        driver, _ = await opened()
        await driver.submit(jobs("abcdef"))
        consumer = await driver.register(["f"], 10, Notices())
        held = {delivery.id: delivery for delivery in await consumer.reserve(4)}
        await consumer.settle([(held[id], RELEASED) for id in order])
        again = await consumer.reserve(10)
        assert ids_of(again) == "abcdef"
        assert {delivery.attempt for delivery in again} == {1}

    check()


@in_loop
async def test_what_one_worker_gives_back_another_that_waits_gets() -> None:
    driver, _ = await opened()
    await driver.submit(jobs("a"))
    one = await driver.register(["f"], 1, Notices())
    other = await driver.register(["f"], 1, Notices())
    (delivery,) = await one.reserve(1)
    waiting = asyncio.create_task(other.reserve(1))
    await ticks()
    await one.close()
    await one.settle([(delivery, RELEASED)])
    assert ids_of(await waiting) == "a"


@in_loop
async def test_a_reserve_that_is_cancelled_takes_nothing_with_it() -> None:
    driver, _ = await opened()
    consumer = await driver.register(["f"], 10, Notices())
    waiting = asyncio.create_task(consumer.reserve(1))
    await ticks()
    await driver.submit(jobs("a"))
    waiting.cancel()
    await asyncio.wait([waiting])
    assert ids_of(await consumer.reserve(1)) == "a"


@in_loop
async def test_a_closed_consumer_ends_its_reserve_and_still_settles() -> None:
    driver, heard = await opened()
    await driver.submit(jobs("a"))
    consumer = await driver.register(["f"], 10, Notices())
    (delivery,) = await consumer.reserve(1)
    waiting = asyncio.create_task(consumer.reserve(1))
    await ticks()
    await consumer.close()
    await consumer.close()
    assert await waiting == ()
    await driver.submit(jobs("b"))
    assert await consumer.reserve(1) == ()
    assert await consumer.settle([(delivery, DONE)]) == [Settled.CONFIRMED]
    assert heard.of("a")[-1] == ("completed", b"done")


@pytest.mark.parametrize("early", [1.0, 0.5], ids=["a timer that is exact", "a timer that rings early"])
@in_loop
async def test_a_delayed_job_is_never_early(early: float, monkeypatch: pytest.MonkeyPatch) -> None:
    let_timers_ring_early(monkeypatch, early)
    driver, _ = await opened()
    consumer = await driver.register(["f"], 100, Notices())
    due = {str(number): time.time() + number / 1000 for number in range(40)}
    await driver.submit([Envelope(id, "f", b"x", due=when) for id, when in due.items()])
    while due:
        for delivery in await consumer.reserve(100):
            assert time.time() >= due.pop(delivery.id)


@in_loop
async def test_a_retry_waits_as_long_as_it_was_told() -> None:
    driver, _ = await opened()
    consumer = await driver.register(["f"], 100, Notices())
    await driver.submit(jobs("a"))
    (delivery,) = await consumer.reserve(1)
    earliest = time.time() + 0.05
    await consumer.settle([(delivery, Redeliver(0.05))])
    await driver.submit(jobs("b"))
    assert ids_of(await consumer.reserve(1)) == "b"
    (again,) = await consumer.reserve(1)
    assert time.time() >= earliest
    assert (again.id, again.attempt) == ("a", 2)


@in_loop
async def test_a_job_that_nobody_takes_in_time_expires() -> None:
    driver, heard = await opened()
    # The sent one first: its timer rings no later than that of the one that tells.
    await driver.submit([Envelope("b", "f", b"x", True, expires=0.01), Envelope("a", "f", b"x", expires=0.01)])
    await until(lambda: len(heard.events) == 3)
    assert heard.of("a") == [("accepted", "a"), ("lost", JobExpired)]
    assert heard.of("b") == [("accepted", "b")]
    assert await driver.depths() == []


@in_loop
async def test_an_expired_job_is_not_taken_even_if_its_timer_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, heard = await opened()
    await driver.submit([Envelope("a", "f", b"x", expires=60), *jobs("b")])
    let_time_pass(monkeypatch, 61)
    consumer = await driver.register(["f"], 10, Notices())
    assert ids_of(await consumer.reserve(10)) == "b"
    assert heard.of("a") == [("accepted", "a"), ("lost", JobExpired)]


@in_loop
async def test_a_job_that_was_taken_in_time_does_not_expire_while_it_runs_or_is_retried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    let_timers_ring_early(monkeypatch, 0.0001)
    driver, heard = await opened()
    consumer = await driver.register(["f"], 10, Notices())
    await driver.submit([Envelope(id, "f", b"x", expires=60) for id in "ab"])
    first, second = await consumer.reserve(2)
    late = time.time() + 0.01
    await until(lambda: time.time() > late)
    let_time_pass(monkeypatch, 61)
    await consumer.settle([(first, DONE), (second, Redeliver(0))])
    (again,) = await consumer.reserve(2)
    await consumer.settle([(again, RELEASED)])
    (again,) = await consumer.reserve(2)
    assert await consumer.settle([(again, DONE)]) == [Settled.CONFIRMED]
    assert [heard.of(id)[-1] for id in "ab"] == [("completed", b"done")] * 2


@in_loop
async def test_a_job_that_is_given_back_after_its_expiry_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, heard = await opened()
    consumer = await driver.register(["f"], 10, Notices())
    await driver.submit([Envelope("a", "f", b"x", expires=60), Envelope("b", "f", b"x", expires=600)])
    held = await consumer.reserve(2)
    let_time_pass(monkeypatch, 61)
    assert await consumer.settle([(delivery, RELEASED) for delivery in held]) == [Settled.CONFIRMED] * 2
    await until(lambda: len(heard.of("a")) == 2)
    assert heard.of("a")[-1] == ("lost", JobExpired)
    assert ids_of(await consumer.reserve(2)) == "b"


@in_loop
async def test_the_expiry_of_a_delayed_job_counts_from_when_it_is_due() -> None:
    driver, heard = await opened()
    due = time.time() + 0.03
    await driver.submit([Envelope("a", "f", b"x", due=due, expires=0.01)])
    await until(lambda: len(heard.of("a")) == 2)
    assert time.time() >= due + 0.01
    assert heard.of("a")[-1] == ("lost", JobExpired)


@in_loop
async def test_a_unique_key_coalesces_until_the_job_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    let_timers_ring_early(monkeypatch, 0.0001)
    driver, heard = await opened()
    consumer = await driver.register(["f", "g"], 10, Notices())

    async def submit(id: str, function: str = "f", due: float | None = None, background: bool = False) -> None:
        await driver.submit([Envelope(id, function, b"x", unique="key", due=due, background=background)])

    await submit("a", due=time.time() + 60)
    await submit("b")
    await submit("c", background=True)
    await submit("d", function="g")
    assert ids_of(await consumer.reserve(10)) == "d"
    let_time_pass(monkeypatch, 61)
    (delivery,) = await consumer.reserve(10)
    await submit("e")
    consumer.progress(delivery, 1, 2)
    await consumer.settle([(delivery, Redeliver(0))])
    await submit("f")
    (delivery,) = await consumer.reserve(10)
    consumer.chunk(delivery, b"part")
    consumer.warned(delivery, "careful")
    assert (await driver.status("a")).waiting == 4
    await consumer.settle([(delivery, DONE)])
    await submit("g")
    rest = [("chunk", b"part"), ("warned", "careful"), ("completed", b"done")]
    for id in "abe":
        assert heard.of(id) == [("accepted", "a"), ("progress", (1, 2)), *rest]
    assert heard.of("f") == [("accepted", "a"), *rest]
    assert heard.of("c") == [("accepted", "a")]
    assert heard.of("g") == [("accepted", "g")]
    assert ids_of(await consumer.reserve(10)) == "g"


@in_loop
async def test_a_background_job_is_watched_by_those_who_coalesce_with_it() -> None:
    driver, heard = await opened()
    consumer = await driver.register(["f"], 10, Notices())
    await driver.submit([Envelope("a", "f", b"x", True, unique="key"), Envelope("b", "f", b"x", unique="key")])
    (delivery,) = await consumer.reserve(10)
    await consumer.settle([(delivery, FAILED)])
    assert heard.events == [("accepted", "a", "a"), ("accepted", "b", "a"), ("failed", "b", FAILED)]


@in_loop
async def test_any_number_of_jobs_coalesces_without_each_paying_for_all_the_others() -> None:
    count = 250_000
    driver, heard = await opened()
    ids = map(str, range(count))
    end = time.monotonic() + WAIT_SECONDS
    while batch := [Envelope(id, "f", b"x", unique="key") for id in itertools.islice(ids, 1000)]:
        await driver.submit(batch)
        heard.events.clear()
        assert time.monotonic() < end, "this is quadratic"
    consumer = await driver.register(["f"], 1, Notices())
    (delivery,) = await consumer.reserve(1)
    await consumer.settle([(delivery, DONE)])
    assert len(heard.events) == count


@in_loop
async def test_a_job_that_waits_is_cancelled_for_everybody_and_not_run() -> None:
    driver, heard = await opened()
    later = time.time() + 3600
    await driver.submit([Envelope("a", "f", b"x", unique="key"), Envelope("b", "f", b"x", unique="key"), *jobs("c")])
    await driver.submit([Envelope("d", "f", b"x", due=later), Envelope("e", "f", b"x", True, expires=3600)])
    assert [await driver.cancel(id) for id in "ade"] == [True] * 3
    assert [await driver.cancel(id) for id in ("a", "b", "nobody")] == [False] * 3
    for id, receipt in ("aa", "ba", "dd"):
        assert heard.of(id) == [("accepted", receipt), ("lost", JobCancelled)]
    consumer = await driver.register(["f"], 10, Notices())
    assert ids_of(await consumer.reserve(10)) == "c"
    assert heard.of("e") == [("accepted", "e")]


@pytest.mark.parametrize(
    ("verdict", "end"),
    [
        pytest.param(DONE, ("completed", b"done"), id="it completed all the same"),
        pytest.param(FAILED, ("failed", FAILED), id="it failed"),
        pytest.param(Redeliver(0), ("lost", JobCancelled), id="it was to be retried"),
        pytest.param(RELEASED, ("lost", JobCancelled), id="it was given back"),
    ],
)
@in_loop
async def test_the_worker_of_a_cancelled_job_is_told_and_the_job_never_runs_again(
    verdict: Verdict, end: tuple[str, object]
) -> None:
    driver, heard = await opened()
    await driver.submit([Envelope("a", "f", b"x", unique="key"), *jobs("b")])
    notices = Notices()
    consumer = await driver.register(["f"], 10, notices)
    first, second = await consumer.reserve(2)
    assert await driver.cancel("a")
    assert notices.heard == [("cancelled", first)]
    assert heard.of("a") == [("accepted", "a")]
    assert await consumer.settle([(first, verdict), (second, RELEASED)]) == [Settled.CONFIRMED] * 2
    assert heard.of("a") == [("accepted", "a"), end]
    assert ids_of(await consumer.reserve(10)) == "b"
    assert not await driver.cancel("a")


@in_loop
async def test_disconnecting_tells_those_who_wait_and_the_workers_what_is_lost() -> None:
    driver, heard = await opened()
    await driver.submit([*jobs("abc"), Envelope("d", "f", b"x", due=time.time() + 3600, expires=1)])
    notices = Notices()
    closed = await driver.register(["f"], 1, notices)
    (first,) = await closed.reserve(1)
    await closed.close()
    consumer = await driver.register(["f"], 1, notices)
    (second,) = await consumer.reserve(1)
    waiting = asyncio.create_task(consumer.reserve(1))
    await ticks()
    await driver.disconnect()
    await driver.disconnect()
    assert notices.heard == [("lost", first), ("lost", second)]
    assert await waiting == ()
    for id in "abcd":
        assert heard.of(id) == [("accepted", id), ("lost", ConnectionLost)]
    consumer.progress(second, 1, 2)
    assert await consumer.settle([(second, RELEASED)]) == [Settled.LOST]
    assert await closed.settle([(first, DONE)]) == [Settled.LOST]
    assert len(heard.events) == 8
    await driver.connect(heard)
    assert await driver.depths() == []


@in_loop
async def test_depths_and_status_tell_what_waits_and_what_runs() -> None:
    driver, _ = await opened()
    await driver.submit([*jobs("abc"), Envelope("d", "g", b"x", True, due=time.time() + 3600)])
    consumer = await driver.register(["f", "h"], 10, Notices())
    other = await driver.register(["f"], 10, Notices())
    (delivery, _) = await consumer.reserve(2)
    consumer.progress(delivery, 3, 4)
    assert await driver.depths() == [
        QueueDepth("f", queued=1, running=2, workers=2),
        QueueDepth("g", queued=1, running=0, workers=0),
        QueueDepth("h", queued=0, running=0, workers=1),
    ]
    assert await driver.status("a") == JobStatus(known=True, running=True, done=3, total=4, waiting=1)
    assert await driver.status("d") == JobStatus(known=True, running=False, waiting=0)
    await consumer.settle([(delivery, DONE)])
    await other.close()
    assert await driver.status("a") == JobStatus(known=False, running=False)
    assert (await driver.depths())[0] == QueueDepth("f", queued=1, running=1, workers=1)


async def run_all(driver: MemoryDriver, ids: list[str]) -> None:
    consumer = await driver.register(["f"], len(ids), Notices())
    await consumer.settle([(delivery, DONE) for delivery in await consumer.reserve(len(ids))])
    await consumer.close()


async def cancel_all(driver: MemoryDriver, ids: list[str]) -> None:
    for id in random.sample(ids, len(ids)):
        assert await driver.cancel(id)


@pytest.mark.parametrize(
    ("end_all", "due"),
    [
        pytest.param(run_all, None, id="they ran"),
        pytest.param(cancel_all, None, id="they were cancelled"),
        pytest.param(cancel_all, 4e9, id="they were cancelled before they were due"),
    ],
)
@in_loop
async def test_jobs_that_ended_leave_nothing_behind_however_far_their_expiry(
    end_all: Callable[[MemoryDriver, list[str]], Awaitable[None]], due: float | None
) -> None:
    driver, heard = await opened()

    async def rounds(count: int) -> None:
        for _ in range(count):
            ids = [str(number) for number in range(100)]
            await driver.submit([Envelope(id, "f", b"x", due=due, expires=1e6) for id in ids])
            await end_all(driver, ids)
            heard.events.clear()
            # The loop drops cancelled timers when it turns.
            await ticks(1)

    await rounds(5)
    tracemalloc.start()
    try:
        await rounds(50)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 200_000


@pytest.mark.parametrize(
    "eager",
    [
        False,
        pytest.param(
            True,
            marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="needs Python 3.12: eager_task_factory"),
        ),
    ],
    ids=["tasks as they are", "eager tasks"],
)
@in_loop
async def test_typed_jobs_go_through_it_end_to_end(eager: bool) -> None:
    if eager and sys.version_info >= (3, 12):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    app = que.Que("memory://")

    @app.job("double")
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    async with app, app.worker(concurrency=7):
        assert await que.gather(*double.submit_many(range(100))) == tuple(range(0, 200, 2))
