"""What waits: when it runs, in which order, how often, and what ends the wait."""

import asyncio
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import que
from que.testing.scenario import Scenario, needs_delay, needs_timed_leases
from que.testing.subject import PromiseBroken, Subject, expect, refused, until

# The engine's clock and ours may be read in another order than they tick.
_CLOCK_GRAIN = 0.005


async def a_delayed_job_never_runs_early(subject: Subject) -> None:
    """It runs in the end; how late is noted. delay= and at= are the same promise, for send() and for submit()."""
    app = subject.app()
    ran: dict[int, float] = {}

    @app.job(subject.name("later"))
    async def later(params: int) -> int:
        ran[params] = time.time()
        return params

    async with app, app.worker(concurrency=8):
        if not subject.can.delay:
            await refused(lambda: later.send(1, delay=1), "delay")
            await refused(lambda: later.send(1, at=datetime.now(UTC)), "at")
            return
        start = time.time()
        due = {number: start + 0.2 + 0.15 * (number % 7) for number in range(21)}
        for number, moment in due.items():
            await later.send(number, at=datetime.fromtimestamp(moment, UTC))
        due[21] = time.time() + 0.5
        await later.send(21, delay=0.5)
        await _await_delayed(subject, later, due)
        await until(lambda: ran.keys() == due.keys(), "every delayed job to run")
    lateness = sorted(ran[number] - moment for number, moment in due.items())
    expect(lateness[0] > -_CLOCK_GRAIN, f"a delayed job ran {-lateness[0]:.3f} s early")
    subject.note(
        f"delayed jobs ran {lateness[len(lateness) // 2]:.3f} s late in the median, {lateness[-1]:.3f} s at most"
    )


async def _await_delayed(subject: Subject, later: que.Job[int, int], due: dict[int, float]) -> None:
    if not subject.can.delayed_results:
        await refused(lambda: later.submit(22, delay=0.3), "delayed_results")
        return
    due[22] = time.time() + 0.3
    expect(await later.submit(22, delay=0.3) == 22, "a delayed job can be awaited")


async def a_job_delayed_for_longer_than_a_lease_runs_once(subject: Subject) -> None:
    """It waits in the engine, not with a worker whose lease would run out over it; then it runs, and never again."""
    lease = subject.can.lease_seconds or 0.0
    ran: list[float] = []
    apps = [subject.app(), subject.app()]
    for app in apps:
        _late_job(app, subject.name("long-delayed"), 1.5 * lease, ran)
    async with apps[0], apps[0].worker(concurrency=1), apps[1], apps[1].worker(concurrency=1):
        due = time.time() + 1.5 * lease
        await apps[0].send(que.Job(subject.name("long-delayed"), int, None), 1, delay=1.5 * lease)
        await until(lambda: ran, "the delayed job to begin", 30 + 3 * lease)
        # It takes longer than a lease, so that a lease that had begun with the delay would be over by now.
        await asyncio.sleep(max(0.0, due + 3 * lease - time.time()))
    expect(ran[0] > due - _CLOCK_GRAIN, f"a delayed job ran {due - ran[0]:.3f} s early")
    expect(len(ran) == 1, f"a job that was delayed for longer than a lease runs once, not {len(ran)} times")


def _late_job(app: que.Que[None], name: str, seconds: float, ran: list[float]) -> None:
    @app.job(name)
    async def late(params: int) -> None:
        ran.append(time.time())
        await asyncio.sleep(seconds)


async def urgent_jobs_overtake_those_that_wait(subject: Subject) -> None:
    """HIGH before NORMAL before LOW, among jobs of one function that wait; else priorities are refused."""
    app, ran = _recording(subject, "urgent")
    job = ran.job
    async with app:
        if not subject.can.priorities:
            await refused(lambda: job.send("x", priority=que.Priority.HIGH), "priorities")
            await refused(lambda: job.send("x", priority=que.Priority.LOW), "priorities")
            return
        order = [que.Priority.LOW, que.Priority.HIGH, que.Priority.NORMAL] * 5
        for priority in order:
            await job.send(priority.name, priority=priority)
        async with app.worker(concurrency=1):
            await until(lambda: len(ran.seen) == 15, "15 jobs to run")
    expected = ["HIGH"] * 5 + ["NORMAL"] * 5 + ["LOW"] * 5
    expect(ran.seen == expected, f"the order should be {expected}, not {ran.seen}")


async def jobs_run_in_the_order_of_their_submission(subject: Subject) -> None:
    """Where fifo is stated: sent one by one, or in one batch."""
    app, ran = _recording(subject, "inturn")
    sent = list(map(str, range(60)))
    async with app:
        for number in sent[:20]:
            await ran.job.send(number)
        await asyncio.gather(*map(ran.job.send, sent[20:]))
        async with app.worker(concurrency=1):
            await until(lambda: len(ran.seen) == len(sent), "60 jobs to run")
    expect(sorted(ran.seen) == sorted(sent), "each of 60 jobs runs once")
    if subject.can.fifo:
        expect(ran.seen == sent, f"the order should be that of submission, not {ran.seen}")


async def no_more_jobs_begin_than_all_workers_may(subject: Subject) -> None:
    """total_rate= of two workers: what is over it waits in the engine, and comes once it may; else it is refused."""
    sender = subject.app()
    apps = [sender] if subject.can.lease is que.Lease.PROCESS else [sender, subject.app()]
    ran: list[float] = []
    held: list[float] = []
    rated, *_ = [_rated(app, subject.name("rated"), "2/s", ran) for app in apps]
    rare, *_ = [_rated(app, subject.name("rare"), "2/d", held) for app in apps]
    async with AsyncExitStack() as stack:
        for app in apps:
            await stack.enter_async_context(app)
        if not subject.can.total_rate:
            await refused(lambda: _work_a_moment(sender), "total_rate")
            return
        begin = time.time()
        await rated.send_many(range(5))
        await rare.send_many(range(5))
        for app in [*apps, *apps][:2]:
            await stack.enter_async_context(app.worker(concurrency=4))
        await until(lambda: len(ran) == 5, "5 jobs to run, 2 in each second")
    expect(ran[4] > begin + 2 - _CLOCK_GRAIN, f"with 2 in a second, 5 jobs begin in 2 s, not in {ran[4] - begin:.3f} s")
    expect(len(held) == 2, f"with 2 a day, 2 of 5 jobs begin, not {len(held)}")
    subject.note(f"with 2 in a second, the fifth job began {ran[4] - begin - 2:.3f} s late")


def _rated(app: que.Que[None], name: str, total_rate: str, ran: list[float]) -> que.Job[int, None]:
    @app.job(name, total_rate=total_rate)
    async def rated(params: int) -> None:
        ran.append(time.time())

    return rated


async def _work_a_moment(app: que.Que[None]) -> None:
    async with app.worker():
        pass


class _Recording:
    """A job whose handler writes down its params."""

    def __init__(self, app: que.Que[None], name: str) -> None:
        self.seen: list[str] = []

        @app.job(name)
        async def record(params: str) -> None:
            self.seen.append(params)

        self.job = record


def _recording(subject: Subject, word: str) -> tuple[que.Que[None], _Recording]:
    app = subject.app()
    return app, _Recording(app, subject.name(word))


async def fifty_racing_jobs_with_one_key_run_once(subject: Subject) -> None:
    """Within the stated scope; each of the fifty has the result. Then the key is free; other keys never collide."""
    app = subject.app()
    runs: list[str] = []
    go_on = asyncio.Event()

    @app.job(subject.name("once"))
    async def once(params: str) -> int:
        runs.append(params)
        await go_on.wait()
        return len(runs)

    async with app:
        if not subject.can.unique:
            await refused(lambda: once.send("x", unique="key"), "unique keys")
            return
        while_queued = subject.can.unique_scope is que.UniqueScope.WHILE_QUEUED
        first = None if while_queued else once.submit("same", unique="key")
        if first is None:
            await _race(subject, once)
        async with app.worker(concurrency=60):
            if first is not None:
                await until(lambda: runs, "the first job to run")
                await _race(subject, once, first)
            go_on.set()
            await until(lambda: runs == ["same"], "one run")
            others = [once.submit("other", unique=f"key {number}") for number in range(10)]
            await que.gather(*others)
            expect(runs.count("other") == 10, f"10 keys are 10 jobs, not {runs.count('other')}")
            expect(runs.count("same") == 1, f"50 jobs with one key ran {runs.count('same')} times")
            if subject.can.unique_scope is not que.UniqueScope.WINDOW:
                await once.submit("again", unique="key")
                expect(runs.count("again") == 1, "a key is free again once its job has ended")


async def _race(subject: Subject, job: que.Job[str, int], *first: que.Handle[int]) -> None:
    handles = [*first, *(job.submit("same", unique="key") for _ in range(50 - len(first)))]
    receipts = {(await handle.accepted()).reference for handle in handles}
    subject.note(f"50 jobs with one key have {len(receipts)} receipts")


async def a_job_that_nobody_takes_in_time_expires(subject: Subject) -> None:
    """It ends as JobExpired and never runs; one that was taken in time is not touched. Else expires= is refused."""
    app, ran = _recording(subject, "stale")
    async with app:
        if not subject.can.expiry:
            await refused(lambda: ran.job.send("x", expires=1), "expiry")
            return
        stale, fresh = ran.job.submit("stale", expires=0.2), ran.job.submit("fresh", expires=60)
        try:
            await stale.result(timeout=20)
        except que.JobExpired:
            async with app.worker(concurrency=1):
                await fresh
            expect(ran.seen == ["fresh"], f"an expired job never runs, but these did: {ran.seen}")
            return
    raise PromiseBroken("a job that nobody took had a result")


async def a_run_takes_no_longer_than_its_call_allows(subject: Subject) -> None:
    """run_timeout= of one call ends in JobTimeout, and the handler is cancelled; else it is refused."""
    app = subject.app()
    stopped = asyncio.Event()

    @app.job(subject.name("slow"))
    async def slow(params: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    async with app, app.worker(concurrency=1):
        if not subject.can.run_timeout:
            await refused(lambda: slow.submit(1, run_timeout=1), "run_timeout of a call")
            return
        try:
            await slow.submit(1, run_timeout=0.1)
        except que.JobTimeout:
            expect(stopped.is_set(), "the handler is cancelled")
            return
    raise PromiseBroken("a run took longer than its run_timeout")


SCENARIOS = (
    Scenario(a_delayed_job_never_runs_early),
    Scenario(a_job_delayed_for_longer_than_a_lease_runs_once, (needs_timed_leases, needs_delay)),
    Scenario(urgent_jobs_overtake_those_that_wait),
    Scenario(jobs_run_in_the_order_of_their_submission),
    Scenario(no_more_jobs_begin_than_all_workers_may),
    Scenario(fifty_racing_jobs_with_one_key_run_once),
    Scenario(a_job_that_nobody_takes_in_time_expires),
    Scenario(a_run_takes_no_longer_than_its_call_allows),
)
