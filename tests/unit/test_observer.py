"""Observers: what they are told of submissions, verdicts and connections, and that they cost no job."""

import logging
from collections.abc import MutableMapping

import pytest

import que
from que.address import Address
from que.model import Capabilities, Delivery, Envelope, Failed, Lease, Settled, Support, Verdict
from que.observer import Told
from que.observing import ObservedBackend
from tests.unit.fakes import FakeDriver, url_of
from tests.unit.loops import in_loop, until


class Diary(que.Observer):
    """Writes down all that it is told, and adds a header where there is room for one."""

    def __init__(self) -> None:
        self.pages: list[tuple[object, ...]] = []
        self.engines: list[Address] = []

    def __call__(self, engine: Address) -> que.Observer:
        self.engines.append(engine)
        return self

    def submitting(self, envelope: Envelope, headers: MutableMapping[str, str] | None) -> Told:
        if headers is not None:
            headers["page"] = envelope.function
        return lambda error: self.pages.append((envelope.function, None if error is None else type(error).__name__))

    async def run(self, context: que.Context[object], params: object, call_next: que.Next) -> object:
        self.pages.append((context.job, "runs", dict(context.headers)))
        return await call_next(params)

    def settled(self, delivery: Delivery, verdict: Verdict | None, outcome: Settled) -> None:
        self.pages.append((delivery.function, None if verdict is None else type(verdict).__name__, outcome))

    def reconnected(self) -> None:
        self.pages.append(("reconnected",))


class Clumsy(que.Observer):
    """Fails at all that it is told."""

    def submitting(self, envelope: Envelope, headers: MutableMapping[str, str] | None) -> Told:
        if envelope.payload == b"1":
            raise ZeroDivisionError("submitting")

        def fail(error: que.QueError | None) -> None:
            raise ZeroDivisionError("told")

        return fail

    def settled(self, delivery: Delivery, verdict: Verdict | None, outcome: Settled) -> None:
        raise ZeroDivisionError("settled")


def waiting_at(app: que.Que[None]) -> int:
    (backend,) = app.backends.values()
    assert isinstance(backend, ObservedBackend)
    return len(backend._waiting)  # pyright: ignore[reportPrivateUsage] # what would leak is not to be seen elsewhere


def with_headers(driver: FakeDriver) -> FakeDriver:
    driver.capabilities = Capabilities(lease=Lease.PROCESS, results_pushed=Support.NATIVE, headers=Support.NATIVE)
    return driver


@in_loop
async def test_a_job_is_told_of_from_its_submission_to_its_end() -> None:
    diary = Diary()
    app = que.Que("memory://", observers=[diary])

    @app.job("work")
    async def work(params: int) -> int:
        return params

    async with app, app.worker() as worker:
        assert await work.submit(1, headers={"tenant": "7"}) == 1
        await worker.stop()
    assert [engine.scheme for engine in diary.engines] == ["memory"]
    assert diary.pages == [
        ("work", None),
        ("work", "runs", {"tenant": "7", "page": "work"}),
        ("work", "Completed", Settled.CONFIRMED),
    ]


@in_loop
async def test_an_observer_hears_of_no_headers_where_the_engine_has_none() -> None:
    driver = FakeDriver()
    async with que.Que(url_of(driver), observers=[Diary()]) as app:
        await app.add(que.Job("work", int, int)).send(1)
    assert [envelope.headers for envelope in driver.envelopes] == [None]


@in_loop
async def test_each_submission_has_one_answer_and_one_that_never_left_has_none() -> None:
    driver = with_headers(FakeDriver())
    diary = Diary()
    async with que.Que(url_of(driver), observers=[diary]) as app:
        job = app.add(que.Job("work", int, int))
        driver.answer = lambda events, envelope: events.refused(envelope.id, que.QueueFull("work"))
        with pytest.raises(que.QueueFull):
            await job.submit(1)
        driver.answer = lambda events, envelope: events.completed(envelope.id, envelope.payload)
        assert await job.submit(2) == 2
        driver.answer = lambda events, envelope: events.failed(envelope.id, Failed("handler", "ValueError", "no"))
        with pytest.raises(que.JobFailed):
            await job.submit(3)
        driver.answer = lambda events, envelope: events.lost(envelope.id, que.JobExpired("late"))
        with pytest.raises(que.JobExpired):
            await job.submit(4)
        driver.submit_errors.append(que.NotSent("down"))
        with pytest.raises(que.NotSent):
            await job.send(5)
        with pytest.raises(que.ParamsInvalid):
            job.submit_many([6, "seven"])  # type: ignore[list-item]
        assert waiting_at(app) == 0
    assert diary.pages == [("work", "QueueFull"), ("work", None), ("work", None), ("work", None), ("work", "NotSent")]


@in_loop
async def test_what_had_no_answer_when_the_app_was_disconnected_is_told_as_its_caller_is() -> None:
    driver = with_headers(FakeDriver())
    driver.answer = lambda events, envelope: None
    diary = Diary()
    app = que.Que(url_of(driver), observers=[diary])
    async with app:
        sending = app.send(que.Job("work", int, int), 1)
        await until(lambda: driver.batches)
    with pytest.raises(que.SubmitAmbiguous):
        await sending
    assert diary.pages == [("work", "SubmitAmbiguous")]
    assert waiting_at(app) == 0


def test_the_blocking_face_is_looked_at_too() -> None:
    diary = Diary()
    app = que.Que("memory://", observers=[diary])

    @app.job("work")
    def work(params: int) -> int:
        return params

    with app.blocking() as q, q.worker():
        q.send(work, 1).result(timeout=20)
        assert q.submit(work, 2).result(timeout=20) == 2
        assert [outcome.result for outcome in q.map(work, [3])] == [3]
        assert q.send_many(work, [4]).accepted == 1
    assert diary.pages.count(("work", None)) == 4


@in_loop
async def test_steps_of_a_flow_are_looked_at_too() -> None:
    diary = Diary()
    app = que.Que("memory://", observers=[diary])

    @app.job("first")
    async def first(params: int) -> int:
        return params + 1

    @app.job("second")
    async def second(params: int) -> int:
        return params * 2

    async with app, app.worker():
        assert await first.then(second).submit(1) == 4
    assert [page for page in diary.pages if page[1] is None] == [("first", None), ("second", None)]


@in_loop
async def test_a_lease_that_is_gone_is_told_without_a_verdict_and_a_verdict_that_came_too_late_as_lost() -> None:
    driver = FakeDriver()
    diary = Diary()
    app = que.Que(url_of(driver), observers=[diary])

    @app.job("work")
    async def work(params: int) -> int:
        if params == 1:
            await until(lambda: False, 1000)
        return params

    async with app, app.worker():
        (consumer,) = driver.consumers
        gone, late = Delivery("work", b"1", "gone"), Delivery("work", b"2", "late")
        consumer.outcome = Settled.LOST
        consumer.feed([gone])
        await until(lambda: ("work", "runs", {}) in diary.pages)
        consumer.notices.lost(gone)
        await until(lambda: ("work", None, Settled.LOST) in diary.pages)
        consumer.feed([late])
        await until(lambda: ("work", "Completed", Settled.LOST) in diary.pages)
        consumer.settle_errors.append(OSError("the engine is gone"))
        consumer.feed([Delivery("work", b"3", "unknown")])
        await until(lambda: ("work", "Completed", Settled.UNCONFIRMED) in diary.pages)


@in_loop
async def test_a_connection_that_is_there_again_is_told() -> None:
    driver = FakeDriver()
    diary = Diary()
    async with que.Que(url_of(driver), observers=[diary]):
        driver.events.reconnected()
    async with que.Que(url_of(driver)):
        driver.events.reconnected()
    assert diary.pages == [("reconnected",)]


@in_loop
async def test_an_observer_that_fails_is_logged_and_costs_no_job(caplog: pytest.LogCaptureFixture) -> None:
    diary = Diary()
    app = que.Que("memory://", observers=[lambda engine: Clumsy(), diary])

    @app.job("work")
    async def work(params: int) -> int:
        return params

    async with app, app.worker(concurrency=1):
        assert await work.submit(1) == 1
        assert await work.submit(2) == 2
    assert diary.pages.count(("work", "Completed", Settled.CONFIRMED)) == 2
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert sorted(str(record.exc_info[1]) for record in failures if record.exc_info) == [
        "settled",
        "settled",
        "submitting",
        "told",
    ]
