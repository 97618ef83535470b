"""What submitting raises at the call, what arrives later, and that nobody is left waiting whatever the driver does."""

import asyncio
import re
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import cast

import pytest
from msgspec.structs import replace

import que
from que.driver import EventSink
from que.model import Capabilities, Envelope, Failed, Lease, Support
from que.options import CallOptions
from tests.unit.fakes import NOTHING_MORE, FakeDriver, url_of
from tests.unit.loops import in_loop, ticks, until

ABLE = Capabilities(
    lease=Lease.PROCESS,
    results_pushed=Support.NATIVE,
    delay=Support.NATIVE,
    priorities=Support.NATIVE,
    unique=Support.NATIVE,
    expiry=Support.NATIVE,
)


def app_with(driver: FakeDriver, max_unsent: int = 100_000, watch_timeout: float | None = None) -> que.Que[None]:
    return que.Que(url_of(driver), max_unsent=max_unsent, watch_timeout=watch_timeout)


def submit(app: que.Que[None], params: int = 1) -> que.Handle[int]:
    return app.submit(que.Job("echo", int, int), params)


def send(app: que.Que[None], params: int = 1) -> que.Sending:
    return app.send(que.Job("echo", int, int), params)


in_both_ways = pytest.mark.parametrize("verb", [submit, send])
Verb = Callable[[que.Que[None], int], que.Handle[int] | que.Sending]


@in_both_ways
@in_loop
async def test_what_one_tick_submits_is_one_batch(verb: Verb) -> None:
    driver = FakeDriver()
    async with app_with(driver) as app:
        for number in range(5):
            verb(app, number)
        await app.drain()
        verb(app, 5)
    assert [[each.payload for each in batch] for batch in driver.batches] == [[b"0", b"1", b"2", b"3", b"4"], [b"5"]]
    assert len({envelope.id for envelope in driver.envelopes}) == 6


@in_both_ways
def test_before_connect_and_after_disconnect_the_call_raises_not_connected(verb: Verb) -> None:
    app = app_with(FakeDriver())

    async def main() -> None:
        with pytest.raises(que.NotConnected, match="use `async with app`"):
            verb(app, 1)
        async with app:
            verb(app, 1)
        with pytest.raises(que.NotConnected, match="use `async with app`"):
            verb(app, 1)

    with pytest.raises(que.NotConnected):
        verb(app, 1)
    asyncio.run(main())


@in_both_ways
@in_loop
async def test_another_thread_or_loop_is_refused_at_the_call(verb: Verb) -> None:
    driver = FakeDriver()

    async def elsewhere(app: que.Que[None]) -> None:
        verb(app, 1)

    async with app_with(driver) as app:
        with pytest.raises(que.WrongLoop, match=r"use app\.blocking\(\) from threads"):
            await asyncio.to_thread(verb, app, 1)
        with pytest.raises(que.WrongLoop):
            await asyncio.to_thread(lambda: asyncio.run(elsewhere(app)))
    assert driver.batches == []


@in_both_ways
@in_loop
async def test_params_that_do_not_fit_are_refused_at_the_call(verb: Verb) -> None:
    driver = FakeDriver()
    async with app_with(driver) as app:
        with pytest.raises(que.ParamsInvalid, match="job 'echo': params: expected int, got str"):
            verb(app, cast(int, "one"))
    assert driver.batches == []


@in_both_ways
@in_loop
async def test_a_payload_over_the_limit_is_refused_at_the_call(verb: Verb) -> None:
    async with app_with(FakeDriver(replace(NOTHING_MORE, max_payload=3))) as app:
        verb(app, 100)
        with pytest.raises(que.Rejected, match="4 bytes of params, more than the 3 allowed"):
            verb(app, 1000)


@in_both_ways
@in_loop
async def test_too_much_unsent_is_overloaded_until_it_has_drained(verb: Verb) -> None:
    driver = FakeDriver()
    async with app_with(driver, max_unsent=3) as app:
        driver.gate.clear()
        for number in range(3):
            verb(app, number)
        with pytest.raises(que.Overloaded, match=r"3 jobs wait unsent: await app\.drain\(\)") as caught:
            verb(app, 3)
        assert caught.value.limit == 3
        await until(lambda: driver.batches)
        with pytest.raises(que.Overloaded):
            verb(app, 3)
        draining = asyncio.create_task(app.drain())
        await ticks(10)
        assert not draining.done()
        driver.gate.set()
        await draining
        verb(app, 3)
    assert len(driver.envelopes) == 4


@in_loop
async def test_a_cancelled_drain_leaves_the_others_draining() -> None:
    driver = FakeDriver()
    async with app_with(driver) as app:
        driver.gate.clear()
        submit(app)
        leaving, staying = (asyncio.create_task(app.drain()) for _ in range(2))
        await ticks(10)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert not staying.done()
        driver.gate.set()
        await staying


OPTIONS: list[tuple[CallOptions, str]] = [
    (CallOptions(delay=1), "delay"),
    (CallOptions(priority=que.Priority.LOW), "priorities"),
    (CallOptions(unique="key"), "unique keys"),
    (CallOptions(expires=1), "expiry"),
    (CallOptions(run_timeout=1), "run_timeout per call"),
]
by_feature = [feature for _, feature in OPTIONS]


@pytest.mark.parametrize(("options", "feature"), OPTIONS, ids=by_feature)
@in_loop
async def test_an_option_that_the_driver_lacks_names_driver_feature_and_a_way_out(
    options: CallOptions, feature: str
) -> None:
    driver = FakeDriver()
    url = url_of(driver)
    job = que.Job("echo", int, int)
    async with que.Que(url) as app:
        app.add(job)
        for verb in (job.submit, job.send):
            with pytest.raises(que.UnsupportedFeature) as caught:
                verb(1, **options)
            assert (caught.value.driver, caught.value.feature) == (url.removesuffix("://"), feature)
            assert caught.value.hint
            assert str(caught.value).endswith(f"driver has no {feature}: {caught.value.hint}")
    assert driver.batches == []


@pytest.mark.parametrize(
    ("job", "feature"),
    [
        pytest.param(que.Job("echo", int, int, priority=que.Priority.HIGH), "priorities", id="priority"),
        pytest.param(que.Job("echo", int, int, expires=1), "expiry", id="expires"),
    ],
)
@in_loop
async def test_an_unbound_jobs_own_option_that_the_driver_lacks_is_refused_too(
    job: que.Job[int, int], feature: str
) -> None:
    driver = FakeDriver()
    async with app_with(driver) as app:
        for verb in (app.submit, app.send):
            with pytest.raises(que.UnsupportedFeature, match=f"has no {feature}"):
                verb(job, 1)
    assert driver.batches == []


class NarrowedDriver(FakeDriver):
    """Finds at connect() that its server can less than others of its kind."""

    async def connect(self, events: EventSink) -> None:
        await super().connect(events)
        self.capabilities = NOTHING_MORE


@in_loop
async def test_a_jobs_own_option_that_this_server_lacks_is_refused_at_the_call() -> None:
    app = app_with(NarrowedDriver(ABLE))
    job = app.add(que.Job("echo", int, int, priority=que.Priority.HIGH))
    async with app:
        with pytest.raises(que.UnsupportedFeature, match="has no priorities"):
            job.submit(1)


@in_loop
async def test_a_jobs_own_run_timeout_is_its_workers_and_stands_in_no_calls_way() -> None:
    driver = FakeDriver(ABLE)
    app = app_with(driver)
    job = app.add(que.Job("echo", int, int, run_timeout=5))
    async with app:
        job.submit(1)
        job.submit(2, priority=que.Priority.HIGH)
        with pytest.raises(que.UnsupportedFeature, match="run_timeout per call"):
            job.submit(3, run_timeout=6)
    assert [(envelope.payload, envelope.run_timeout) for envelope in driver.envelopes] == [(b"1", None), (b"2", None)]


@in_loop
async def test_the_options_of_a_call_travel_over_those_of_its_job() -> None:
    driver = FakeDriver(ABLE)
    app = app_with(driver)
    job = app.add(que.Job("echo", int, int, priority=que.Priority.HIGH, expires=5))
    async with app:
        job.submit(1)
        job.send(2, priority=que.Priority.LOW, unique="key")
    first, second = driver.envelopes
    assert (first.priority, first.expires, first.unique, first.background) == (que.Priority.HIGH, 5, None, False)
    assert (second.priority, second.expires, second.unique, second.background) == (que.Priority.LOW, 5, "key", True)


@in_both_ways
@in_loop
async def test_a_callers_cancellation_never_leaves_a_batch_half_sent(verb: Verb) -> None:
    driver = FakeDriver()
    async with app_with(driver) as app:
        driver.gate.clear()

        async def call() -> None:
            promises = [verb(app, number) for number in range(3)]
            await promises[0]

        calling = asyncio.create_task(call())
        await until(lambda: driver.batches)
        calling.cancel()
        await asyncio.wait([calling])
        assert calling.cancelled()
        heard: list[str] = []
        driver.answer = lambda _, envelope: heard.append(envelope.id)
        driver.gate.set()
        await app.drain()
        assert heard == [envelope.id for envelope in driver.envelopes]
        assert len(heard) == 3


@in_both_ways
@in_loop
async def test_a_caller_cancelled_in_the_tick_of_its_call_has_submitted_all_the_same(verb: Verb) -> None:
    driver = FakeDriver()
    async with app_with(driver) as app:

        async def call() -> None:
            await verb(app, 1)

        calling = asyncio.create_task(call())
        await asyncio.sleep(0)
        calling.cancel()
        await app.drain()
        assert len(driver.envelopes) == 1


@in_both_ways
@in_loop
async def test_a_submit_error_of_the_driver_refuses_what_had_no_outcome(verb: Verb) -> None:
    driver = FakeDriver()
    async with app_with(driver) as app:
        driver.submit_errors = [que.QueueFull("no room")]
        promise = verb(app, 1)
        with pytest.raises(que.QueueFull, match="no room"):
            await promise
        await verb(app, 2) if verb is send else await cast(que.Handle[int], verb(app, 2)).accepted()


@in_loop
async def test_a_submit_error_of_the_driver_touches_nothing_that_had_an_outcome() -> None:
    class Half(FakeDriver):
        async def submit(self, envelopes: list[Envelope]) -> None:  # type: ignore[override]  # a list is what it gets
            self.events.accepted(envelopes[0].id, "first")
            self.events.completed(envelopes[1].id, b"7")
            raise que.NotSent("the cable is cut")

    app = app_with(Half())
    async with app:
        accepted, done, refused = (submit(app) for _ in range(3))
        assert await done == 7
        with pytest.raises(que.NotSent):
            await refused
        assert not accepted.done
        assert (await accepted.accepted()).reference == "first"
    assert isinstance(accepted.error, que.ConnectionLost)


@pytest.mark.parametrize(
    "error",
    [pytest.param(OSError("broken pipe"), id="OSError"), pytest.param(asyncio.CancelledError(), id="cancelled")],
)
@in_both_ways
@in_loop
async def test_a_driver_that_raises_what_it_may_not_leaves_nobody_waiting(
    verb: Verb, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    driver = FakeDriver()
    async with app_with(driver) as app:
        driver.submit_errors = [error]
        promise = verb(app, 1)
        async with asyncio.timeout(10):
            # How far the job came is unknown, so that nobody may be told that sending it again is safe.
            with pytest.raises(que.SubmitAmbiguous, match=re.escape(repr(error))):
                await promise
            await verb(app, 2) if verb is send else await cast(que.Handle[int], verb(app, 2)).accepted()
    assert "what is no SubmitError" in caplog.text


class OneCall(FakeDriver):
    """Takes one batch at a time."""

    calls_in_flight = 1


async def waited(promise: que.Handle[int] | que.Sending) -> object:
    return await promise


@in_both_ways
@pytest.mark.parametrize("error", [None, OSError("the cable is cut")], ids=["in order", "with an error"])
@in_loop
async def test_a_disconnection_before_the_answer_is_ambiguous(error: Exception | None, verb: Verb) -> None:
    driver = FakeDriver()
    driver.answer = lambda _, envelope: None
    driver.disconnect_error = error
    app = app_with(driver)
    await app.connect()
    promise = verb(app, 1)
    waiting = asyncio.create_task(waited(promise))
    await until(lambda: driver.batches)
    with pytest.raises(OSError, match="the cable is cut") if error is not None else nullcontext():
        await app.disconnect()
    with pytest.raises(que.SubmitAmbiguous, match="disconnected before its answer"):
        await waiting


@in_loop
async def test_a_disconnection_loses_sight_of_an_accepted_job() -> None:
    app = app_with(FakeDriver())
    await app.connect()
    handle = submit(app)
    waiting = asyncio.create_task(waited(handle))
    await handle.accepted()
    await app.disconnect()
    with pytest.raises(que.ConnectionLost, match="was accepted and may still run"):
        await waiting
    assert (await handle.accepted()).reference == f"receipt of {handle.id}"


@in_both_ways
@in_loop
async def test_a_disconnection_that_is_cancelled_says_of_each_job_whether_it_had_left(verb: Verb) -> None:
    driver = OneCall()
    app = app_with(driver)
    await app.connect()
    driver.gate.clear()
    left = verb(app, 1)
    await until(lambda: driver.batches)
    kept = verb(app, 2)
    disconnecting = asyncio.create_task(app.disconnect())
    await ticks()
    disconnecting.cancel()
    await asyncio.wait([disconnecting])
    assert isinstance(left.error, que.SubmitAmbiguous)
    assert isinstance(kept.error, que.NotSent)
    assert [each.payload for each in driver.envelopes] == [b"1"]
    assert driver.calls == ["connect", "disconnect"]
    assert len(asyncio.all_tasks()) == 1


@in_loop
async def test_submitting_where_no_result_can_come_is_refused_and_sending_is_not() -> None:
    driver = FakeDriver(Capabilities(lease=Lease.PROCESS))
    job = que.Job("echo", int, int)
    app = app_with(driver)
    app.add(job)
    async with app:
        refusals: Sequence[Callable[[], object]] = (
            lambda: job.submit(1),
            lambda: app.submit(job, 1),
            lambda: job.submit_many([1]),
        )
        for refused in refusals:
            with pytest.raises(
                que.UnsupportedFeature, match=r"the fake\d+ driver has no results: use send\(\)"
            ) as caught:
                refused()
            assert caught.value.feature == "results"
        with pytest.raises(que.UnsupportedFeature, match="has no results"):
            await anext(job.map([1]))
        await job.send(2)
        assert (await job.send_many([3])).accepted == 1
    assert [each.payload for each in driver.envelopes] == [b"2", b"3"]


@in_loop
async def test_what_was_submitted_in_the_tick_of_a_disconnection_still_leaves() -> None:
    driver = FakeDriver()
    app = app_with(driver)
    await app.connect()
    sending = send(app)
    await app.disconnect()
    assert (await sending).reference == f"receipt of {sending.id}"
    assert driver.calls == ["connect", "disconnect"]


@in_loop
async def test_answers_for_the_unknown_and_the_ended_are_ignored() -> None:
    driver = FakeDriver()
    async with app_with(driver) as app:
        handle = submit(app)
        await handle.accepted()
        for id in ("unknown", handle.id):
            driver.events.progress(id, 1, 2)
            driver.events.chunk(id, b"a")
            driver.events.warned(id, "hot")
            driver.events.completed(id, b"7")
            driver.events.failed(id, Failed("handler", "ValueError", "late"))
            driver.events.lost(id, que.ConnectionLost("late"))
            driver.events.refused(id, que.NotSent("late"))
            driver.events.accepted(id, "late")
        assert await handle == 7
        assert [event async for event in handle.events()] == [que.Progress(1, 2), que.Chunk(b"a"), que.Warned("hot")]


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("handler", que.JobFailed),
        ("rejected", que.JobFailed),
        ("what a foreign worker says", que.JobFailed),
        ("params", que.ParamsInvalid),
        ("result", que.ResultInvalid),
        ("timeout", que.JobTimeout),
        ("cancelled", que.JobCancelled),
    ],
)
@in_loop
async def test_a_failure_is_the_error_of_its_kind(kind: str, error: type[que.JobError]) -> None:
    driver = FakeDriver()
    driver.answer = lambda events, envelope: events.failed(envelope.id, Failed(kind, "Type", "why"))
    async with app_with(driver) as app:
        with pytest.raises(error, match="why") as caught:
            await submit(app)
    if isinstance(caught.value, que.JobFailed):
        assert (caught.value.kind, caught.value.type, caught.value.message) == (kind, "Type", "why")


@in_both_ways
@in_loop
async def test_a_watch_ends_in_a_typed_error_and_never_early(verb: Verb) -> None:
    driver = FakeDriver()
    driver.answer = lambda _, envelope: None
    clock = asyncio.get_running_loop().time
    async with app_with(driver, watch_timeout=0.05) as app:
        start = clock()
        first, second = verb(app, 1), verb(app, 2)
        for promise in (first, second):
            with pytest.raises(que.ResultTimeout, match=r"watch_timeout of 0\.05 s"):
                await promise
        assert clock() - start >= 0.05
        driver.events.completed(first.id, b"1")
        assert isinstance(first.error, que.ResultTimeout)
        third = verb(app, 3)
        with pytest.raises(que.ResultTimeout):
            await third


@in_loop
async def test_a_watched_job_that_is_answered_in_time_is_not_given_up() -> None:
    driver = FakeDriver()
    async with app_with(driver, watch_timeout=0.02) as app:
        driver.answer = lambda events, envelope: events.completed(envelope.id, envelope.payload)
        done = submit(app, 7)
        assert await done == 7
        driver.answer = lambda _, envelope: None
        with pytest.raises(que.ResultTimeout):
            await submit(app)
        assert await done == 7


@in_loop
async def test_watching_takes_no_more_memory_the_more_jobs_have_ended() -> None:
    driver = FakeDriver()
    driver.answer = lambda events, envelope: events.completed(envelope.id, envelope.payload)

    async def work(app: que.Que[None], count: int) -> None:
        for number in range(count):
            assert await submit(app, number) == number
            driver.batches.clear()

    async with app_with(driver, watch_timeout=3600) as app:
        await work(app, 2_000)
        tracemalloc.start()
        try:
            await work(app, 5_000)
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert grown < 400_000


@pytest.mark.parametrize("same_loop", [True, False], ids=["same loop", "another loop"])
def test_a_watch_ends_after_a_reconnection_too(same_loop: bool) -> None:
    driver = FakeDriver()
    driver.answer = lambda _, envelope: None
    app = app_with(driver, watch_timeout=0.05)

    async def leave_one_unanswered() -> None:
        async with app:
            assert submit(app).error is None

    async def wait_for_one() -> None:
        async with asyncio.timeout(10), app:
            with pytest.raises(que.ResultTimeout):
                await submit(app)

    async def both() -> None:
        await leave_one_unanswered()
        await wait_for_one()

    if same_loop:
        asyncio.run(both())
    else:
        asyncio.run(leave_one_unanswered())
        asyncio.run(wait_for_one())


@in_loop
async def test_status_and_cancel_name_the_driver_that_lacks_them_and_a_way_out() -> None:
    driver = FakeDriver()
    async with app_with(driver) as app:
        handle = submit(app)
        for ask, feature in ((handle.status, "status"), (handle.cancel, "cancel")):
            with pytest.raises(que.UnsupportedFeature, match=f"has no {feature}: ."):
                await ask()
