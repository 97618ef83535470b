"""What is told of a job, and to it: events, status, cancellation, dead letters."""

import asyncio

import que
from que.testing.scenario import Scenario, needs_pushed_results
from que.testing.subject import PromiseBroken, Subject, expect, refused, until


async def progress_chunks_and_warnings_arrive_in_order(subject: Subject) -> None:
    """Each where it is stated, to every one who listens; what is not stated is refused in the handler."""
    app = subject.app()
    can = subject.can
    told: list[object] = []

    @app.job(subject.name("telling"))
    async def telling(params: int, context: que.Context[None]) -> int:
        for number in range(params):
            if can.progress:
                context.progress(number, params)
                context.warn(f"warning {number}")
                told.extend((que.Progress(number, params), que.Warned(f"warning {number}")))
            if can.chunks:
                context.send_chunk(bytes([number]) * 100)
                told.append(que.Chunk(bytes([number]) * 100))
        if not can.progress:
            await refused(lambda: context.progress(1, 2), "progress")
            await refused(lambda: context.warn("?"), "progress (warnings)")
        if not can.chunks:
            await refused(lambda: context.send_chunk(b"?"), "chunks")
        return params

    async with app, app.worker(concurrency=1):
        handle = telling.submit(20)
        first, second = handle.events(), handle.events()
        heard = [event async for event in first]
        expect(await handle == 20, "the result comes after what was told")
        expect(heard == told, f"{len(told)} events in their order, not {len(heard)}: {heard[:4]}")
        expect([event async for event in second] == told, "each of two listeners hears everything")


async def what_the_engine_holds_can_be_looked_at(subject: Subject) -> None:
    """status() of a job that waits, runs and has ended, and the depths of its queue; else both are refused."""
    app = subject.app()
    began, go_on = asyncio.Event(), asyncio.Event()

    @app.job(subject.name("seen"))
    async def seen(params: int) -> None:
        began.set()
        await go_on.wait()

    async with app:
        receipt = await seen.send(1)
        if not subject.can.inspect:
            await refused(lambda: app.status(receipt), "inspect (status)")
            await refused(app.depths, "inspect (depths)")
            go_on.set()
        else:
            status = await app.status(receipt)
            expect((status.known, status.running) == (True, False), f"a waiting job is known, not {status}")
            expect((await _depth(app, seen)).queued == 1, "one job waits")
        async with app.worker(concurrency=1):
            await asyncio.wait_for(began.wait(), 30)
            if subject.can.inspect:
                status = await app.status(receipt)
                expect((status.known, status.running) == (True, True), f"a running job is known, not {status}")
                depth = await _depth(app, seen)
                expect((depth.queued, depth.running) == (0, 1), f"one job runs, and none waits, not {depth}")
                expect(depth.workers >= 1, f"there is a worker, not {depth}")
                go_on.set()
                await _until_unknown(app, receipt)


async def _depth(app: que.Que[None], job: que.Job[int, None]) -> que.QueueDepth:
    (depths,) = (await app.depths()).values()
    return next((depth for depth in depths if depth.function == job.name), que.QueueDepth(job.name, 0, 0, 0))


async def _until_unknown(app: que.Que[None], receipt: que.Receipt) -> None:
    async with asyncio.timeout(30):
        while (await app.status(receipt)).known:
            await asyncio.sleep(0.01)


async def a_waiting_job_that_is_cancelled_never_runs(subject: Subject) -> None:
    """Those who wait get JobCancelled; cancelling what has ended says False. Else cancel() is refused, or False."""
    app = subject.app()
    ran: list[int] = []

    @app.job(subject.name("queued"))
    async def queued(params: int) -> int:
        ran.append(params)
        return params

    async with app:
        handle = queued.submit(1)
        await handle.accepted()
        if not subject.can.cancel_queued:
            await _expect_no_cancel(subject, handle)
        else:
            expect(await handle.cancel() is True, "the engine has cancelled a job that waits")
            await _expect_cancelled(handle)
        async with app.worker(concurrency=1):
            last = queued.submit(2)
            expect(await last == 2, "the others run")
            expect(await last.cancel() is False, "a job that has ended cannot be cancelled")
    if subject.can.cancel_queued:
        expect(ran == [2], f"a job that was cancelled never runs, but these did: {ran}")


async def a_running_job_that_is_cancelled_ends(subject: Subject) -> None:
    """Its handler gets CancelledError, those who wait JobCancelled; the worker goes on. Else cancel() is refused."""
    app = subject.app()
    began, stopped, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @app.job(subject.name("running"))
    async def running(params: int) -> int:
        if params == 1:
            began.set()
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                stopped.set()
                raise
        return params

    async with app, app.worker(concurrency=1):
        handle = running.submit(1)
        await asyncio.wait_for(began.wait(), 30)
        if subject.can.cancel_running:
            expect(await handle.cancel() is True, "the engine has told the worker of a job that runs")
            await _expect_cancelled(handle)
            expect(stopped.is_set(), "the handler gets CancelledError")
        else:
            await _expect_no_cancel(subject, handle)
            go_on.set()
            expect(await handle == 1, "a job that cannot be cancelled has its result")
        expect(await running.submit(2) == 2, "the worker goes on")


async def _expect_no_cancel(subject: Subject, handle: que.Handle[int]) -> None:
    """Where the one kind of job can be cancelled and this one cannot, the answer is False."""
    if subject.can.cancel_queued or subject.can.cancel_running:
        expect(await handle.cancel() is False, "cancel() says True, and the driver does not state that it can")
    else:
        await refused(handle.cancel, "cancel")


async def _expect_cancelled(handle: que.Handle[int]) -> None:
    try:
        await handle.result(timeout=20)
    except que.JobCancelled:
        return
    raise PromiseBroken("a job that was cancelled had a result")


async def what_fails_for_good_is_kept_as_a_dead_letter(subject: Subject) -> None:
    """Listed with its failure, replayed as if it had never run, and dropped; else each of the three is refused."""
    app = subject.app()
    healed: list[int] = []

    @app.job(subject.name("buried"), retry=que.Retry(attempts=2, base=0.01))
    async def buried(params: int) -> None:
        if params not in healed:
            raise ValueError(f"cannot do {params}")

    async with app, app.worker(concurrency=2):
        if not subject.can.dead_letters:
            await refused(lambda: app.dead_letters(buried), "dead_letters")
            await refused(lambda: app.replay(buried, []), "dead_letters (replay)")
            await refused(lambda: app.drop(buried, []), "dead_letters (drop)")
            return
        for number in range(3):
            await buried.send(number)
        letters = await _letters(app, buried, 3)
        by_params = {buried.load_params(letter.payload): letter for letter in letters}
        expect(by_params.keys() == {0, 1, 2}, f"each job that failed is kept, not {list(by_params)}")
        for number, letter in by_params.items():
            failure = (letter.failure.type, letter.failure.message)
            expect(failure == ("ValueError", f"cannot do {number}"), f"its failure is kept, not {failure}")
            wanted = 2 if subject.can.attempts else None
            expect(letter.attempts == wanted, f"its attempts are {wanted}, not {letter.attempts}")
        healed.append(0)
        expect(await app.replay(buried, [by_params[0], by_params[1]]) == 2, "two letters are queued again")
        left = {buried.load_params(letter.payload) for letter in await _letters(app, buried, 2)}
        expect(left == {1, 2}, f"what fails again is kept again, not {left}")
        expect(await app.drop(buried, await app.dead_letters(buried)) == 2, "two letters are dropped")
        expect(not await app.dead_letters(buried), "nothing is left of what was dropped")


async def _letters(app: que.Que[None], job: que.Job[int, None], count: int) -> list[que.DeadLetter]:
    """Return the dead letters of `job` once there are `count`."""
    letters: list[que.DeadLetter] = []

    async def look() -> None:
        while len(letters) != count or (await app.dead_letters(job)) != letters:
            letters[:] = await app.dead_letters(job)
            await asyncio.sleep(0.1)

    try:
        async with asyncio.timeout(20):
            await look()
    except TimeoutError:
        raise PromiseBroken(f"expected {count} dead letters, not {len(letters)}") from None
    return letters


async def a_job_that_waits_for_its_next_run_holds_no_slot(subject: Subject) -> None:
    """Where the engine delays the redelivery; where it does not, the worker waits in the slot. Never too early."""
    app = subject.app()
    ran: list[tuple[str, float]] = []

    @app.job(subject.name("again"), retry=que.Retry(attempts=2))
    async def again(params: str) -> None:
        ran.append((params, asyncio.get_running_loop().time()))
        if params == "wait" and len(ran) == 1:
            raise que.RetryAfter(0.5)

    async with app, app.worker(concurrency=1):
        await again.send("wait")
        await until(lambda: ran, "the first run")
        await again.submit("next")
        await until(lambda: len(ran) == 3, "the second run")
    order = [params for params, _ in ran]
    wanted = ["wait", "next", "wait"] if subject.can.retry else ["wait", "wait", "next"]
    expect(order == wanted, f"the runs should be {wanted}, not {order}")
    first, second = (at for params, at in ran if params == "wait")
    # The engine and this loop read different clocks.
    expect(second - first > 0.49, f"RetryAfter(0.5) ran again after {second - first:.3f} s")


async def headers_come_with_the_job_in_every_run(subject: Subject) -> None:
    """Byte for byte, a retry's too, and none with a job that has none; else they are refused."""
    app = subject.app()
    given = {
        "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
        "x-note": 'a: b, c="d"; 1/2',
        "empty": "",
        "x" * 64: "y" * 900,
    }
    seen: list[dict[str, str]] = []

    @app.job(subject.name("headed"), retry=que.Retry(attempts=2, base=0.01))
    async def headed(failures: int, context: que.Context[None]) -> int:
        seen.append(dict(context.headers))
        if len(seen) <= failures:
            raise ValueError("again")
        return failures

    async with app, app.worker(concurrency=1):
        if not subject.can.headers:
            await refused(lambda: headed.submit(0, headers=given), "headers")
            expect(await headed.submit(0) == 0 and seen == [{}], f"a job without headers has none, not {seen}")
            return
        await headed.submit(1, headers=given)
        await headed.submit(0, headers=given, expires=60 if subject.can.expiry else None)
        await headed.submit(0)
    expect(seen == [given, given, given, {}], f"three runs with the headers that were given, one without, not {seen}")


SCENARIOS = (
    Scenario(progress_chunks_and_warnings_arrive_in_order, (needs_pushed_results,)),
    Scenario(what_the_engine_holds_can_be_looked_at),
    Scenario(a_waiting_job_that_is_cancelled_never_runs, (needs_pushed_results,)),
    Scenario(a_running_job_that_is_cancelled_ends, (needs_pushed_results,)),
    Scenario(what_fails_for_good_is_kept_as_a_dead_letter),
    Scenario(a_job_that_waits_for_its_next_run_holds_no_slot, (needs_pushed_results,)),
    Scenario(headers_come_with_the_job_in_every_run, (needs_pushed_results,)),
)
