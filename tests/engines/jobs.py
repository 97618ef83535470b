"""What a job goes through on an engine that several apps share; two apps of one test stand for two processes.

These are tests of each engine whose test_jobs.py imports them; its room has the fixture `url`.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

import que
from tests.unit.loops import in_loop


def alias_of(url: str) -> str:
    return url.partition(":")[0]


def declared(app: que.Que[None], name: str = "double") -> que.Job[int, int]:
    return app.add(que.Job(name, int, int))


@asynccontextmanager
async def working(url: str, job: que.Job[int, int], concurrency: int = 10) -> AsyncGenerator[que.Que[None], None]:
    """Another app on the same engine, which works `job`."""
    async with que.Que(url) as app:
        app.add(job)
        async with app.worker(concurrency=concurrency):
            yield app


def doubling() -> que.Job[int, int]:
    job = que.Job("double", int, int)

    @job.handler
    async def double(number: int) -> int:
        return 2 * number

    return job


@in_loop
async def test_a_job_of_one_process_is_worked_by_another_and_its_result_comes_back(url: str) -> None:
    async with que.Que(url) as client, working(url, doubling()):
        job = declared(client)
        assert await que.gather(*job.submit_many(range(100))) == tuple(range(0, 200, 2))


@in_loop
async def test_what_was_sent_waits_in_the_engine_for_a_worker_that_comes_later(url: str) -> None:
    async with que.Que(url) as client:
        receipt = await declared(client).send(21, result_ttl=60)
    async with working(url, doubling()), que.Que(url) as later:
        assert await later.handle(declared(later), receipt) == 42


@in_loop
async def test_a_result_that_was_not_asked_to_be_kept_is_unknown_once_the_job_has_ended(url: str) -> None:
    async with que.Que(url) as client, working(url, doubling()):
        job = declared(client)
        receipt = await job.send(1)
        await until_unknown(client, receipt)
        with pytest.raises(que.JobUnknown):
            await client.handle(job, receipt)


async def until_unknown(app: que.Que[None], receipt: que.Receipt) -> None:
    async with asyncio.timeout(20):
        while (await app.status(receipt)).known:
            await asyncio.sleep(0.005)


@in_loop
async def test_a_handle_of_a_job_that_still_waits_hears_of_its_end(url: str) -> None:
    async with que.Que(url) as client, que.Que(url) as other:
        job = declared(client)
        receipt = await job.send(4)
        handles = [app.handle(job if app is client else declared(app), receipt) for app in (client, other)]
        await until_watched(client, receipt, 2)
        async with working(url, doubling()):
            assert await que.gather(*handles) == (8, 8)


async def until_watched(app: que.Que[None], receipt: que.Receipt, count: int) -> None:
    async with asyncio.timeout(20):
        while (await app.status(receipt)).waiting != count:
            await asyncio.sleep(0.005)


@in_loop
@pytest.mark.parametrize("reference", ["", "999999", "-1", "words", "9" * 30])
async def test_a_receipt_of_no_job_is_unknown_and_not_cancelled(url: str, reference: str) -> None:
    async with que.Que(url) as app:
        job = declared(app)
        receipt = que.Receipt(alias_of(url), "double", "id", reference)
        with pytest.raises(que.JobUnknown):
            await app.handle(job, receipt)
        assert not (await app.status(receipt)).known
        assert not await app.cancel(receipt)


@in_loop
async def test_a_delayed_job_is_not_early_and_wakes_its_worker_by_itself(url: str) -> None:
    async with que.Que(url) as client, working(url, doubling()):
        begun = time.time()
        assert await declared(client).submit(1, delay=0.3) == 2
        assert time.time() - begun >= 0.3


@in_loop
async def test_jobs_of_one_key_run_once_and_all_who_submitted_them_hear_of_it(url: str) -> None:
    runs: list[int] = []
    gate = asyncio.Event()
    job = que.Job("double", int, int)

    @job.handler
    async def double(number: int) -> int:
        runs.append(number)
        await gate.wait()
        return 2 * number

    async with que.Que(url) as one, que.Que(url) as two, working(url, job):
        handles = [declared(app).submit(3, unique="only") for app in (one, two)]
        handles.append(one.submit(que.Job("double", int, int), 9, unique="only"))
        receipts = [await handle.accepted() for handle in handles]
        gate.set()
        assert await que.gather(*handles) == (6, 6, 6)
    assert runs == [3]
    assert len({receipt.reference for receipt in receipts}) == 1


@in_loop
async def test_a_key_is_free_again_once_its_job_has_ended(url: str) -> None:
    async with que.Que(url) as app, working(url, doubling()):
        job = declared(app)
        assert [await job.submit(number, unique="k") for number in (1, 2)] == [2, 4]


@in_loop
async def test_higher_priorities_go_first_and_equals_in_their_order(url: str) -> None:
    order: list[int] = []
    job = que.Job("double", int, int)

    @job.handler
    async def double(number: int) -> int:
        order.append(number)
        return number

    low, normal, high = que.Priority.LOW, que.Priority.NORMAL, que.Priority.HIGH
    async with que.Que(url) as client:
        client_job = declared(client)
        handles = [
            client_job.submit(number, priority=priority)
            for number, priority in enumerate([low, normal, high, normal, low, high])
        ]
        for handle in handles:
            await handle.accepted()
        async with working(url, job, concurrency=1):
            await que.gather(*handles)
    assert order == [2, 5, 1, 3, 0, 4]


@in_loop
async def test_a_failed_run_comes_back_with_its_number_until_the_attempts_are_used_up(url: str) -> None:
    attempts: list[int | None] = []
    job = que.Job("double", int, int, retry=que.Retry(attempts=3, base=0.01))

    @job.handler
    async def double(number: int, context: que.Context) -> int:
        attempts.append(context.attempt)
        raise ValueError(f"no {number}")

    async with que.Que(url) as client, working(url, job):
        with pytest.raises(que.JobFailed, match="no 7"):
            await declared(client).submit(7)
    assert attempts == [1, 2, 3]


@in_loop
async def test_a_background_job_that_failed_for_good_is_buried_looked_into_replayed_and_dropped(url: str) -> None:
    healed = False
    job = que.Job("double", int, int)

    @job.handler
    async def double(number: int) -> int:
        if not healed:
            raise ValueError(f"no {number}")
        return 2 * number

    async with working(url, job) as app:
        receipts = [await job.send(number, result_ttl=60) for number in (1, 2)]
        await until_buried(app, job, 2)
        letters = sorted(await app.dead_letters(job), key=lambda letter: letter.payload)
        assert [job.load_params(letter.payload) for letter in letters] == [1, 2]
        assert {letter.failure.type for letter in letters} == {"ValueError"}
        assert {letter.attempts for letter in letters} == {1}
        healed = True
        assert await app.replay(job, letters[:1]) == 1
        await until_unknown(app, receipts[0])
        assert await app.handle(job, receipts[0]) == 2
        assert await app.drop(job, letters) == 1
        assert await app.dead_letters(job) == []


async def until_buried(app: que.Que[None], job: que.Job[int, int], count: int) -> None:
    async with asyncio.timeout(20):
        while len(await app.dead_letters(job)) != count:
            await asyncio.sleep(0.005)


@in_loop
async def test_a_job_that_somebody_waits_for_is_not_buried(url: str) -> None:
    job = que.Job("double", int, int)

    @job.handler
    async def double(number: int) -> int:
        raise ValueError

    async with working(url, job) as app:
        with pytest.raises(que.JobFailed):
            await job.submit(1)
        assert await app.dead_letters(job) == []


@in_loop
async def test_what_a_handler_reports_arrives_in_order_before_the_end(url: str) -> None:
    job = que.Job("double", int, int)

    @job.handler
    async def double(number: int, context: que.Context) -> int:
        for step in range(3):
            context.progress(step, 3)
            context.send_chunk(b"%d" % step)
        context.warn("mind the gap")
        return number

    async with que.Que(url) as client, working(url, job):
        handle = declared(client).submit(5)
        events = [event async for event in handle.events()]
        assert await handle == 5
    expected: list[object] = [event for step in range(3) for event in (que.Progress(step, 3), que.Chunk(b"%d" % step))]
    assert events == [*expected, que.Warned("mind the gap")]


@in_loop
async def test_a_queued_job_is_cancelled_without_running(url: str) -> None:
    async with que.Que(url) as client:
        handle = declared(client).submit(1)
        await handle.accepted()
        assert await handle.cancel()
        with pytest.raises(que.JobCancelled):
            await handle


@in_loop
async def test_a_running_job_is_cancelled_in_the_process_that_runs_it(url: str) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()
    job = que.Job("double", int, int)

    @job.handler
    async def double(number: int) -> int:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()
        return number

    async with que.Que(url) as client, working(url, job):
        handle = declared(client).submit(1)
        await begun.wait()
        assert await handle.cancel()
        with pytest.raises(que.JobCancelled):
            await handle
        assert ended.is_set()


@in_loop
async def test_a_job_that_nobody_takes_in_time_expires_without_any_worker(url: str) -> None:
    async with que.Que(url) as client:
        with pytest.raises(que.JobExpired):
            await declared(client).submit(1, expires=0.05)


@in_loop
async def test_status_and_depths_tell_what_waits_and_runs(url: str) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()
    job = que.Job("double", int, int)

    @job.handler
    async def double(number: int, context: que.Context) -> int:
        context.progress(3, 4)
        begun.set()
        await gate.wait()
        return number

    async with que.Que(url) as client:
        handles = declared(client).submit_many([1, 2, 3])
        await handles[2].accepted()
        assert await client.depths() == {alias_of(url): [que.QueueDepth("double", 3, 0, 0)]}
        async with working(url, job, concurrency=1):
            await begun.wait()
            assert await client.depths() == {alias_of(url): [que.QueueDepth("double", 2, 1, 1)]}
            async with asyncio.timeout(20):
                while (await handles[0].status()).done == 0:
                    await asyncio.sleep(0.005)
            assert await handles[0].status() == que.JobStatus(known=True, running=True, done=3, total=4, waiting=1)
            gate.set()
            await que.gather(*handles)
    async with que.Que(url) as client:
        assert await client.depths() == {alias_of(url): []}
