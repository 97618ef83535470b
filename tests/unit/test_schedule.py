"""Schedulers send each tick once, on time, whatever fails meanwhile."""

import asyncio
import time
from typing import cast

import pytest
from msgspec.structs import replace

import que
from que.address import Address
from que.driver import EventSink
from que.drivers.memory import MemoryDriver
from que.model import Envelope, Support, TickClaim
from que.schedule import LATE_SECONDS, Missed, Scheduler, WallClock
from tests.unit.clocks import FakeClock
from tests.unit.fakes import NOTHING_MORE, FakeDriver, url_of
from tests.unit.loops import in_loop, ticks, until
from tests.unit.work_site import messages

TICKING = replace(NOTHING_MORE, ticks=Support.NATIVE)
MINUTE = 60.0


class TickingDriver(FakeDriver):
    """Remembers ticks as the memory driver does, and fails when it is told to."""

    def __init__(self) -> None:
        super().__init__(TICKING)
        self.memory = MemoryDriver(Address.parse("memory://"))
        self.owners: list[str] = []
        self.claim_errors: list[Exception] = []
        self.end_errors: list[Exception] = []

    async def begin_ticks(self, schedule: str, until: float, owner: str, seconds: float) -> TickClaim:
        self.owners.append(owner)
        if self.claim_errors:
            raise self.claim_errors.pop(0)
        return await self.memory.begin_ticks(schedule, until, owner, seconds)

    async def end_ticks(self, schedule: str, until: float, owner: str) -> None:
        if self.end_errors:
            raise self.end_errors.pop(0)
        await self.memory.end_ticks(schedule, until, owner)


class Site:
    """An app whose job `work` takes the number of its schedule: there is number 1."""

    def __init__(self, missed: Missed = "skip", *, begun: float = 0.0, seconds: float = MINUTE) -> None:
        self.driver = TickingDriver()
        self.clock = FakeClock(begun)
        self.app = que.Que(url_of(self.driver))
        self.job = self.app.add(que.Job("work", int, None))
        self.app.every(seconds=seconds, missed=missed).send(self.job, 1)

    def scheduler(self, deadline: float = 10.0) -> Scheduler:
        return self.app.scheduler(clock=self.clock, deadline=deadline)

    @property
    def sent(self) -> list[int]:
        return [int(envelope.payload) for envelope in self.driver.envelopes]


@in_loop
async def test_a_job_is_sent_in_the_background_at_each_tick_and_not_between() -> None:
    site = Site()
    async with site.app, site.scheduler():
        for moment, count in ((59.9, 0), (60.0, 1), (119.0, 1), (120.0, 2)):
            await site.clock.set(moment)
            assert len(site.sent) == count
    assert all(envelope.background for envelope in site.driver.envelopes)


@in_loop
async def test_a_decorated_job_without_params_is_sent() -> None:
    site = Site()

    @site.app.cron("*/10 * * * * *")
    @site.app.job("sweep")
    async def sweep(params: None) -> None: ...

    assert isinstance(sweep, que.Job)
    async with site.app, site.scheduler():
        await site.clock.set(10.0)
    assert [(envelope.function, envelope.payload) for envelope in site.driver.envelopes] == [("sweep", b"null")]


@in_loop
async def test_of_several_schedulers_one_sends_a_tick() -> None:
    site = Site()
    async with site.app, site.scheduler(), site.scheduler(), site.scheduler():
        for minute in range(1, 6):
            await site.clock.set(minute * MINUTE)
            # Those that found another one at it look again.
            await site.clock.set(minute * MINUTE + 1.5)
    assert len(site.sent) == 5
    assert len(set(site.driver.owners)) == 3


@in_loop
async def test_a_job_that_ended_before_the_other_scheduler_looked_is_not_sent_again() -> None:
    clock = FakeClock()
    app = que.Que("memory://")
    runs: list[int] = []

    @app.job("work")
    async def work(params: int) -> None:
        runs.append(params)

    app.every(seconds=MINUTE).send(work, 1)
    late = FakeClock()
    async with app, app.worker(), app.scheduler(clock=clock), app.scheduler(clock=late):
        await ticks(30)
        await clock.set(60.0)
        await until(lambda: runs == [1])
        await late.set(61.0)
        await ticks(30)
    assert runs == [1]


@pytest.mark.parametrize(
    ("missed", "late_seconds", "sent"),
    [
        pytest.param("skip", LATE_SECONDS + 1, 0, id="skip"),
        pytest.param("skip", LATE_SECONDS - 1, 1, id="skip, back in time for the last"),
        pytest.param("last", LATE_SECONDS + 1, 1, id="last"),
        pytest.param("all", LATE_SECONDS + 1, 3, id="all"),
    ],
)
@in_loop
async def test_ticks_for_which_no_scheduler_ran_are_missed_by_choice(
    missed: Missed, late_seconds: float, sent: int
) -> None:
    site = Site(missed, seconds=600.0)
    async with site.app:
        async with site.scheduler():
            await ticks(30)
        site.clock.now = 1800.0 + late_seconds
        async with site.scheduler():
            await ticks(100)
            assert len(site.sent) == sent
            await site.clock.set(2400.0)
            assert len(site.sent) == sent + 1


@pytest.mark.parametrize("missed", ["skip", "last", "all"])
@in_loop
async def test_a_new_schedule_has_missed_nothing(missed: Missed) -> None:
    site = Site(missed, begun=1e9 + 0.5)
    async with site.app, site.scheduler():
        await ticks(30)
    assert site.sent == []


@in_loop
async def test_a_tick_that_is_skipped_is_told(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    async with site.app, site.scheduler():
        await site.clock.set(600.0 + LATE_SECONDS - 1)
        assert messages(caplog) == []
    site = Site(seconds=600.0)
    async with site.app, site.scheduler():
        await site.clock.set(600.0 + LATE_SECONDS + 1)
    line = "schedule work every 600 s: the tick of 1970-01-01T00:10:00+00:00 could not be sent in time: skipped"
    assert messages(caplog) == [line]


# What fails


@in_loop
async def test_a_send_that_fails_is_told_and_tried_again_after_a_while_and_stops_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()
    other = site.app.add(que.Job("other", int, None))
    site.app.every(seconds=MINUTE).send(other, 2)

    def refuse_work(events: EventSink, envelope: Envelope) -> None:
        if envelope.function == "work":
            events.refused(envelope.id, que.QueueFull("no room"))
        else:
            events.accepted(envelope.id, "it")

    accepting, site.driver.answer = site.driver.answer, refuse_work
    async with site.app, site.scheduler():
        await site.clock.set(60.0)
        assert sorted(site.sent) == [1, 2]
        await site.clock.set(62.0)
        assert sorted(site.sent) == [1, 1, 2]
        site.driver.answer = accepting
        await site.clock.set(66.0)
        assert sorted(site.sent) == [1, 1, 1, 2]
        await site.clock.set(119.0)
        assert sorted(site.sent) == [1, 1, 1, 2]
    first, second = messages(caplog)
    start = "schedule work every 60 s: the tick cannot be seen to: QueueFull: no room; next try in "
    assert first.startswith(start)
    assert second.startswith(start)
    seconds = [float(line.removeprefix(start).removesuffix(" s")) for line in (first, second)]
    assert seconds[0] <= 1.0 < seconds[1] <= 2.0


@in_loop
async def test_a_send_without_an_answer_ends_at_the_deadline_and_stops_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()

    def leave_work_hanging(events: EventSink, envelope: Envelope) -> None:
        if envelope.function != "work":
            events.accepted(envelope.id, "it")

    site.driver.answer = leave_work_hanging
    site.app.every(seconds=MINUTE).send(site.app.add(que.Job("other", int, None)), 2)
    async with site.app, site.scheduler(deadline=0.05):
        await site.clock.set(60.0)
        await until(lambda: messages(caplog))
        await site.clock.set(120.0)
        assert site.sent.count(2) == 2
    assert "TimeoutError: a job had no answer within 0.05 s; next try in" in messages(caplog)[0]


@in_loop
async def test_a_claim_that_fails_is_tried_again() -> None:
    site = Site()
    async with site.app, site.scheduler():
        await ticks(30)
        site.driver.claim_errors = [OSError("disk full")]
        await site.clock.set(60.0)
        assert site.sent == []
        await site.clock.set(61.0)
        assert site.sent == [1]


@in_loop
async def test_a_job_is_not_sent_again_because_its_tick_could_not_be_remembered() -> None:
    site = Site()
    async with site.app, site.scheduler():
        await ticks(30)
        site.driver.end_errors = [OSError("disk full")]
        await site.clock.set(60.0)
        await site.clock.set(61.0)
        await site.clock.set(63.0)
    assert site.sent == [1]
    assert (await site.driver.memory.begin_ticks("work every 60 s", 60.0, "another", 1.0)).done == 60.0


@in_loop
async def test_a_scheduler_that_ends_while_it_sends_leaves_the_tick_to_another() -> None:
    site = Site()
    other_clock = FakeClock()
    async with site.app:
        first, other = site.scheduler(deadline=0.1), site.app.scheduler(clock=other_clock, deadline=0.1)
        site.driver.answer = lambda events, envelope: None
        async with first:
            await site.clock.set(60.0)
            assert site.sent == [1]
            await first.stop(grace=0)
        async with other:
            site.driver.answer = lambda events, envelope: events.accepted(envelope.id, "it")

            async def until_sent() -> None:
                while len(site.sent) < 2:
                    await other_clock.set(max(60.0, other_clock.now) + 0.001)

            await asyncio.wait_for(until_sent(), 20)


@in_loop
async def test_where_the_engine_has_unique_keys_each_tick_has_one_of_its_own() -> None:
    site = Site()
    site.driver.capabilities = replace(TICKING, unique=Support.NATIVE)
    async with site.app, site.scheduler():
        await site.clock.set(60.0)
        await site.clock.set(120.0)
    keys = [envelope.unique for envelope in site.driver.envelopes]
    assert len(set(keys)) == 2
    assert all(key is not None and len(key) <= 64 for key in keys)


# Its life


@in_loop
async def test_a_stop_lets_what_is_being_sent_end_within_the_grace() -> None:
    site = Site()
    async with site.app:
        scheduler = site.scheduler()
        running = asyncio.create_task(scheduler.run())
        await ticks(30)
        site.driver.gate.clear()
        await site.clock.set(60.0)
        stopping = asyncio.create_task(scheduler.stop(grace=1000))
        await ticks(30)
        assert not stopping.done()
        site.driver.gate.set()
        await asyncio.gather(stopping, running)
        assert not scheduler.is_running
    assert (await site.driver.memory.begin_ticks("work every 60 s", 60.0, "another", 1.0)).done == 60.0


@in_loop
async def test_a_stop_waits_for_no_tick() -> None:
    site = Site()
    async with site.app:
        scheduler = site.scheduler()
        async with scheduler:
            await ticks(30)
            await scheduler.stop(grace=1000)
    assert site.clock.sleepers == 0


@in_loop
async def test_a_scheduler_whose_run_is_cancelled_has_ended() -> None:
    site = Site()
    async with site.app:
        scheduler = site.scheduler()
        running = asyncio.create_task(scheduler.run())
        await ticks(30)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not scheduler.is_running


@in_loop
async def test_a_scheduler_ends_with_its_app() -> None:
    site = Site()
    async with site.app:
        scheduler = site.scheduler()
        running = asyncio.create_task(scheduler.run())
        await ticks(30)
    assert not scheduler.is_running
    await running


@in_loop
async def test_a_scheduler_that_was_stopped_before_it_ran_sends_nothing_and_none_runs_twice() -> None:
    site = Site()
    async with site.app:
        scheduler = site.scheduler()
        await scheduler.stop()
        await scheduler.run()
        with pytest.raises(que.ConfigurationError, match="has run already"):
            await scheduler.run()
    assert site.driver.owners == []


@in_loop
async def test_a_clock_that_breaks_ends_the_scheduler_with_its_error() -> None:
    site = Site()

    class Broken(FakeClock):
        async def sleep_until(self, moment: float) -> None:
            raise OSError("no such clock")

    async with site.app:
        with pytest.raises(OSError, match="no such clock"):
            await site.app.scheduler(clock=Broken()).run()


@in_loop
async def test_an_app_that_is_not_connected_has_no_running_scheduler() -> None:
    site = Site()
    with pytest.raises(que.NotConnected):
        await site.scheduler().run()
    with pytest.raises(que.NotConnected):
        async with site.scheduler():
            raise AssertionError("it cannot have begun")


def test_the_clock_of_the_machine_is_unix_time() -> None:
    async def main() -> float:
        clock = WallClock()
        now = clock.time()
        await clock.sleep_until(now - 1.0)
        await clock.sleep_until(now + 0.01)
        return clock.time() - now

    before = time.time()
    assert asyncio.run(main()) >= 0.01
    assert before <= WallClock().time() <= time.time()


# What cannot be declared


def test_an_engine_that_remembers_no_ticks_is_refused_at_the_declaration() -> None:
    app = que.Que("gearman://127.0.0.1:1")
    job = que.Job("work", int, None)
    with pytest.raises(que.UnsupportedFeature, match=r"the gearman driver has no memory of .*schedule_store="):
        app.every(seconds=60).send(job, 1)


def test_a_store_that_remembers_no_ticks_is_refused_where_it_is_named() -> None:
    with pytest.raises(que.UnsupportedFeature, match="the gearman driver has no memory of"):
        que.Que("memory://", schedule_store="gearman://127.0.0.1:1")
    with pytest.raises(que.UnknownDriver):
        que.Que("memory://", schedule_store="sqlit:///ticks.db")


@in_loop
async def test_a_store_remembers_the_ticks_of_an_engine_that_cannot() -> None:
    driver, store = FakeDriver(), TickingDriver()
    app = que.Que(url_of(driver), schedule_store=url_of(store))
    clock = FakeClock()
    app.every(seconds=60).send(que.Job("work", int, None), 1)
    async with app:
        assert store.calls == []
        async with app.scheduler(clock=clock):
            assert store.calls == ["connect"]
            await clock.set(60.0)
        assert store.calls == ["connect", "disconnect"]
    assert len(driver.envelopes) == 1
    assert len(store.owners) == 2
    assert store.envelopes == []


@in_loop
async def test_a_store_that_cannot_be_reached_ends_the_scheduler() -> None:
    store = TickingDriver()
    app = que.Que("memory://", schedule_store=url_of(store))
    app.every(seconds=60).send(que.Job("work", int, None), 1)
    async with app:
        store.connect_error = que.ConnectError("store", "no luck")
        with pytest.raises(que.ConnectError, match="no luck"):
            await app.scheduler().run()
        store.connect_error = None
        store.gate.clear()
        with pytest.raises(que.ConnectError, match=r"had no answer within 0\.05 s"):
            await app.scheduler(deadline=0.05).run()


def test_two_schedules_of_one_name_are_refused_until_one_has_another() -> None:
    app = que.Que("memory://")
    job = que.Job("work", int, None)
    app.cron("0 6 * * *").send(job, 1)
    with pytest.raises(que.ConfigurationError, match=r"'work cron 0 6 \* \* \* UTC' already: give one of them a name="):
        app.cron("0  6 * * *").send(job, 2)
    app.cron("0 6 * * *", name="second").send(job, 2)
    assert app.scheduler().names == ["work cron 0 6 * * * UTC", "second"]


def test_a_schedule_that_cannot_be_meant_is_refused_at_the_declaration() -> None:
    app = que.Que("memory://")
    with pytest.raises(que.ConfigurationError, match="missed='never': expected 'skip', 'last' or 'all'"):
        app.every(seconds=60, missed=cast(Missed, "never"))
    with pytest.raises(que.ParamsInvalid):
        app.every(seconds=60).send(que.Job("work", int, None), cast(int, object()))
    with pytest.raises(que.ConfigurationError, match="belongs to another app"):
        app.every(seconds=60).send(que.Que("memory://").add(que.Job("work", int, None)), 1)
    with pytest.raises(que.ConfigurationError, match="this app has no schedules"):
        app.scheduler()
    app.every(seconds=60).send(que.Job("work", int, None), 1)
    with pytest.raises(que.ConfigurationError, match="deadline=0: expected more than 0 seconds"):
        app.scheduler(deadline=0)
