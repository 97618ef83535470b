"""Those who submit: they come, give up at any moment, and go, and nobody else notices."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import que
from que.testing.scenario import Scenario, needs_durability, needs_pushed_results, needs_restart
from que.testing.subject import PromiseBroken, Subject, expect, until


def _echo(app: que.Que[None], subject: Subject) -> que.Job[int, int]:
    @app.job(subject.name("echo"))
    async def echo(params: int) -> int:
        await asyncio.sleep(0)
        return params

    return echo


async def a_caller_that_gives_up_at_any_await_disturbs_nobody(subject: Subject) -> None:
    """After each cancellation the connection is in step: the next callers get their own answers."""
    app = subject.app()
    echo = _echo(app, subject)
    count = 0
    async with app, app.worker(concurrency=8):
        for act in _acts(subject, app, echo):
            for moment in range(16):
                acting = asyncio.ensure_future(act(-1))
                await _a_moment(moment)
                acting.cancel()
                await asyncio.wait([acting])
                asked = range(count, count + 3)
                answers = await que.gather(*echo.submit_many(asked))
                expect(answers == tuple(asked), f"after a cancellation {list(asked)} got {answers}")
                count += 3
                if not acting.cancelled() and (error := acting.exception()) is not None:
                    raise error


async def _a_moment(number: int) -> None:
    """A few ticks of the loop, then a few milliseconds: another moment for each number."""
    for _ in range(number):
        await asyncio.sleep(0)
    if number > 8:
        await asyncio.sleep((number - 8) / 4000)


def _acts(subject: Subject, app: que.Que[None], echo: que.Job[int, int]) -> list[Callable[[int], Awaitable[object]]]:
    """Everything that a caller awaits."""

    async def awaited(params: int) -> object:
        return await echo.submit(params)

    async def accepted(params: int) -> object:
        return await echo.submit(params).accepted()

    async def sent(params: int) -> object:
        return await echo.send(params)

    async def drained(params: int) -> object:
        await echo.send_many([params])
        await app.drain()
        return None

    async def looked_at(params: int) -> object:
        return await echo.submit(params).status()

    async def cancelled(params: int) -> object:
        with suppress(que.JobCancelled):
            handle = echo.submit(params)
            await handle.cancel()
            return await handle
        return None

    async def found(params: int) -> object:
        return await app.handle(echo, await echo.send(params, result_ttl=10))

    can = subject.can
    acts = [
        (awaited, True),
        (accepted, True),
        (sent, True),
        (drained, True),
        (looked_at, can.inspect),
        (cancelled, can.cancel_queued or can.cancel_running),
        (found, can.results_stored),
    ]
    return [act for act, possible in acts if possible]


async def a_connect_that_is_cancelled_leaves_nothing_behind(subject: Subject) -> None:
    """At any moment: the app can be connected again, and works."""
    app = subject.app()
    echo = _echo(app, subject)
    for moment in range(12):
        connecting = asyncio.ensure_future(app.connect())
        await _a_moment(moment)
        connecting.cancel()
        await asyncio.wait([connecting])
        if not connecting.cancelled():
            connecting.result()
            await app.disconnect()
    async with app, app.worker(concurrency=1):
        expect(await echo.submit(1) == 1, "the app works")


async def disconnecting_is_harmless_when_repeated_and_can_be_undone(subject: Subject) -> None:
    """Before connect(), twice, by two at once; the same app connects again and works."""
    driver = subject.driver()
    await driver.disconnect()
    app = subject.app()
    echo = _echo(app, subject)
    for number in range(3):
        async with app, app.worker(concurrency=1):
            expect(await echo.submit(number) == number, "the app works each time that it is connected")
        await asyncio.gather(app.disconnect(), app.disconnect())
    await app.disconnect()


async def nobody_waits_for_ever_for_an_app_that_disconnects(subject: Subject) -> None:
    """A job that nobody works is reported at the disconnection, to everyone who waits for it."""
    app = subject.app()
    job = app.add(que.Job(subject.name("nobody"), int, int))
    async with app:
        handles = job.submit_many(range(3))
        for handle in handles:
            await handle.accepted()
        if subject.can.cancel_queued:
            # What is left would wait on the engine for ever.
            waiting = handles[1:]
            await handles[0].cancel()
        else:
            waiting = handles
    for handle in waiting:
        try:
            await handle.result(timeout=10)
        except que.ResultTimeout as error:
            raise PromiseBroken("a handle never hears that its app was disconnected") from error
        except que.JobError:
            continue
        raise PromiseBroken("a job that nobody works had a result")
    cleaner = subject.app()

    @cleaner.job(job.name)
    async def clean(params: int) -> int:
        return params

    async with cleaner, cleaner.worker(concurrency=1):
        await cleaner.submit(que.Job(job.name, int, int), 1)


async def a_worker_that_stops_while_busy_gives_its_jobs_back(subject: Subject) -> None:
    """Without a grace its handlers are cancelled, and each job runs again with the next worker."""
    app = subject.app()
    runs: list[int] = []
    go_on = asyncio.Event()

    @app.job(subject.name("busy"))
    async def busy(params: int) -> None:
        runs.append(params)
        await go_on.wait()

    async with app:
        for number in range(20):
            await busy.send(number)
        worker = app.worker(concurrency=8)
        async with worker:
            await until(lambda: len(runs) == 8, "8 jobs to run")
            await worker.stop(grace=0)
        interrupted = set(runs)
        go_on.set()
        async with app.worker(concurrency=8):
            await until(lambda: len(runs) == 28, "20 jobs to run, and 8 of them again")
    expect(set(runs[8:]) == set(range(20)), f"each of 20 jobs ran after the stop, not {sorted(runs[8:])}")
    expect(interrupted <= set(runs[8:]), "those that were interrupted ran again")


async def everyone_is_back_after_the_engine_restarts(subject: Subject) -> None:
    """Those who submit and those who work connect again by themselves, and it is told; how soon is noted."""
    assert subject.restart is not None
    told = _Reconnects()
    app = subject.app(lambda address: told)
    echo = _echo(app, subject)
    loop = asyncio.get_running_loop()
    async with app, app.worker(concurrency=4):
        expect(await echo.submit(1) == 1, "the app works before the restart")
        for _ in range(2):
            known = told.count
            await asyncio.to_thread(subject.restart)
            start = loop.time()
            while not await _works(echo):
                expect(loop.time() - start < 30, "nobody is back 30 s after the restart")
            subject.note(f"everyone was back {loop.time() - start:.3f} s after the restart")
            expect(await que.gather(*echo.submit_many(range(50))) == tuple(range(50)), "each answer to its own caller")
            await until(lambda: told.count > known, "the driver to tell that it is connected again")  # noqa: B023


class _Reconnects(que.Observer):
    def __init__(self) -> None:
        self.count = 0

    def reconnected(self) -> None:
        self.count += 1


async def _works(echo: que.Job[int, int]) -> bool:
    """Whether a job comes back; one that is on its way during the outage ends in an error, never in silence."""
    try:
        return await echo.submit(2).result(timeout=20) == 2
    except que.ResultTimeout:
        raise
    except (que.SubmitError, que.JobError):
        await asyncio.sleep(0.02)
        return False


async def durable_jobs_outlive_a_restart_of_the_engine(subject: Subject) -> None:
    """Those that waited and those that ran when it stopped: none is lost, what ran may run again."""
    assert subject.restart is not None
    app = subject.app()
    done: set[int] = set()
    began: list[int] = []
    go_on = asyncio.Event()

    @app.job(subject.name("durable"))
    async def durable(params: int) -> None:
        began.append(params)
        await go_on.wait()
        done.add(params)

    async with app:
        for number in range(50):
            await durable.send(number)
        async with app.worker(concurrency=4):
            await until(lambda: len(began) == 4, "4 jobs to run")
            await asyncio.to_thread(subject.restart)
            go_on.set()
            await until(lambda: len(done) == 50, "50 jobs to end after the restart", 60)
    subject.note(f"50 durable jobs ran {len(began)} times over a restart")


SCENARIOS = (
    Scenario(a_caller_that_gives_up_at_any_await_disturbs_nobody, (needs_pushed_results,)),
    Scenario(a_connect_that_is_cancelled_leaves_nothing_behind, (needs_pushed_results,)),
    Scenario(disconnecting_is_harmless_when_repeated_and_can_be_undone, (needs_pushed_results,)),
    Scenario(nobody_waits_for_ever_for_an_app_that_disconnects, (needs_pushed_results,)),
    Scenario(a_worker_that_stops_while_busy_gives_its_jobs_back),
    Scenario(everyone_is_back_after_the_engine_restarts, (needs_restart, needs_pushed_results)),
    Scenario(durable_jobs_outlive_a_restart_of_the_engine, (needs_restart, needs_durability)),
)
