"""What a job goes through on a server that several apps share, where NATS makes it differ from other engines."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

import que
from que.drivers.nats import names
from tests.nats.server import NatsServer
from tests.unit.loops import in_loop, until

STREAMS = {"que_jobs", "que_dead", "que_notes"}


@asynccontextmanager
async def working(url: str, job: que.Job[int, int], concurrency: int = 10) -> AsyncGenerator[que.Que[None], None]:
    """Another app on the same server, which works `job`."""
    async with que.Que(url) as app:
        app.add(job)
        async with app.worker(concurrency=concurrency):
            yield app


def doubling(name: str = "double") -> que.Job[int, int]:
    job = que.Job(name, int, int)

    @job.handler
    async def double(number: int) -> int:
        return 2 * number

    return job


def declared(app: que.Que[None], name: str = "double") -> que.Job[int, int]:
    return app.add(que.Job(name, int, int))


@in_loop
@pytest.mark.parametrize(
    "name",
    ["a.b", "*", ">", "que.job.x.high", "größer/ждать", "%2E", "x" * 300, "名" * 100],
    ids=["dot", "star", "greater", "subject", "letters", "percent", "long", "wide"],
)
async def test_a_function_of_any_name_is_worked_and_reaches_no_other(url: str, name: str) -> None:
    other = que.Job("a", int, int)
    other.handler(lambda number: -1)
    async with que.Que(url) as client, working(url, doubling(name)), working(url, other):
        assert await declared(client, name).submit(4) == 8
        assert {depth.function for depth in (await client.depths())["nats"]} == {"a", name}


@pytest.mark.parametrize("name", ["a.b", "a%2Eb", "*", ">", " ", "\n", "~", "é", "%"])
def test_a_function_is_read_from_its_subject_as_it_was_written(name: str) -> None:
    token = names.token(name)
    assert not set(token) & set(".*> \t\r\n")
    assert names.function_of(f"que.job.{token}.normal") == name


@in_loop
async def test_a_duplicate_within_the_window_has_the_first_jobs_receipt_and_result_even_after_its_end(url: str) -> None:
    runs: list[int] = []
    job = que.Job("double", int, int)

    @job.handler
    async def double(number: int) -> int:
        runs.append(number)
        return 2 * number

    async with que.Que(url) as client, working(url, job):
        first = declared(client).submit(3, unique="key")
        assert await first == 6
        second = client.submit(que.Job("double", int, int), 4, unique="key")
        assert await second == 6
        assert (await first.accepted()).reference == (await second.accepted()).reference
    assert runs == [3]


@in_loop
async def test_keys_of_two_functions_are_two_keys(url: str) -> None:
    async with que.Que(url) as client, working(url, doubling("a")), working(url, doubling("b")):
        handles = [declared(client, name).submit(number, unique="k") for number, name in enumerate("ab", 1)]
        assert await que.gather(*handles) == (2, 4)


@in_loop
async def test_a_key_is_free_again_once_its_window_is_over(url: str) -> None:
    url = f"{url}?unique_window=0.2"
    async with que.Que(url) as client, working(url, doubling()):
        job = declared(client)
        assert await job.submit(1, unique="k") == 2
        async with asyncio.timeout(20):
            # Within the window the first one's result is given.
            while await job.submit(5, unique="k") != 10:
                await asyncio.sleep(0.02)


@in_loop
async def test_a_delayed_job_counts_its_first_run_as_the_first_though_a_worker_saw_it_before(url: str) -> None:
    attempts: list[int | None] = []
    job = que.Job("double", int, int)

    @job.handler
    async def double(number: int, context: que.Context) -> int:
        attempts.append(context.attempt)
        return 2 * number

    async with que.Que(url) as client, working(url, job):
        sent = declared(client)
        assert await que.gather(*[sent.submit(number, delay=0.3) for number in range(20)])
    assert attempts == [1] * 20


@in_loop
async def test_the_attempts_of_a_delayed_job_are_those_of_its_runs(url: str) -> None:
    attempts: list[int | None] = []
    job = que.Job("double", int, int, retry=que.Retry(attempts=3, base=0.01))

    @job.handler
    async def double(number: int, context: que.Context) -> int:
        attempts.append(context.attempt)
        raise ValueError

    async with que.Que(url) as client, working(url, job):
        with pytest.raises(que.JobFailed):
            await declared(client).submit(1, delay=0.2)
    assert attempts == [1, 2, 3]


@in_loop
async def test_settled_jobs_leave_nothing_behind_however_they_ended(nats: NatsServer) -> None:
    failing = que.Job("fail", int, int, retry=que.Retry(attempts=2, base=0.01))

    @failing.handler
    async def fail(number: int) -> int:
        raise ValueError

    async with que.Que(nats.url) as client, working(nats.url, doubling()), working(nats.url, failing):
        await que.gather(*declared(client).submit_many(range(50)))
        await client.submit(que.Job("double", int, int), 1, delay=0.1)
        with pytest.raises(que.JobFailed):
            await declared(client, "fail").submit(1)
        cancelled = declared(client, "nobody").submit(1)
        await cancelled.accepted()
        assert await cancelled.cancel()
        with pytest.raises(que.JobExpired):
            await declared(client, "no-one").submit(1, expires=0.05)
        await until(lambda: not any(nats.streams().values()))
    assert nats.streams() == dict.fromkeys(STREAMS, 0)


@in_loop
async def test_a_result_is_kept_in_the_stream_of_its_age_and_found_by_another_process(nats: NatsServer) -> None:
    async with que.Que(nats.url) as client, working(nats.url, doubling()):
        job = declared(client)
        receipts = [await job.send(number, result_ttl=ttl) for number, ttl in ((1, 60), (2, 86_400))]
        assert await que.gather(*[client.handle(job, receipt) for receipt in receipts]) == (2, 4)
    async with que.Que(nats.url) as later:
        job = declared(later)
        assert await que.gather(*[later.handle(job, receipt) for receipt in receipts]) == (2, 4)
    assert nats.streams() == {
        **dict.fromkeys(STREAMS, 0),
        "que_results_600": 1,
        "que_results_86400": 1,
    }


@in_loop
async def test_a_result_is_unknown_once_its_own_time_is_over_though_its_stream_keeps_it_longer(url: str) -> None:
    async with que.Que(url) as client, working(url, doubling()):
        job = declared(client)
        receipt = await job.send(1, result_ttl=0.3)
        assert await client.handle(job, receipt) == 2
        with pytest.raises(que.JobUnknown):
            await asked_until_it_fails(client, job, receipt)


@in_loop
async def test_a_result_that_is_to_be_kept_for_longer_than_any_stream_keeps_it_is_refused(url: str) -> None:
    async with que.Que(url) as client:
        with pytest.raises(que.Rejected, match="400 days"):
            await declared(client).send(1, result_ttl=401 * 86_400)


async def asked_until_it_fails(app: que.Que[None], job: que.Job[int, int], receipt: que.Receipt) -> None:
    async with asyncio.timeout(20):
        while True:
            await app.handle(job, receipt)
            await asyncio.sleep(0.02)


@in_loop
async def test_two_installations_with_their_own_prefixes_share_a_server_and_no_job(nats: NatsServer) -> None:
    urls = [f"{nats.url}?prefix={prefix}" for prefix in ("one", "two")]
    other = que.Job("double", int, int)
    other.handler(lambda number: -1)
    async with que.Que(urls[0]) as client, working(urls[0], doubling()), working(urls[1], other):
        assert await que.gather(*declared(client).submit_many(range(20))) == tuple(range(0, 40, 2))
    assert set(nats.streams()) == {
        f"{prefix}_{name}" for prefix in ("one", "two") for name in ("jobs", "dead", "notes")
    }


@in_loop
async def test_a_job_that_another_language_published_runs_under_the_streams_name_for_it(nats: NatsServer) -> None:
    seen: list[tuple[int, str]] = []
    job = que.Job("double", int, int)

    @job.handler
    async def double(number: int, context: que.Context) -> int:
        seen.append((number, context.job_id))
        return number

    async with working(nats.url, job):
        ack = nats.ask("que.job.double.normal", body=b"21")
        await until(lambda: seen)
    assert seen == [(21, str(ack["seq"]))]


@in_loop
async def test_a_payload_of_the_greatest_size_goes_there_and_back_and_a_larger_result_fails(url: str) -> None:
    async with que.Que(url) as client:
        most = 1_048_576 - names.HEADER_BYTES
        raw = que.Job("raw", bytes, bytes, serializer=que.RAW)
        raw.handler(lambda data: data or b"x" * (most + 1))
        async with que.Que(url) as app:
            app.add(raw)
            async with app.worker():
                job = client.add(que.Job("raw", bytes, bytes, serializer=que.RAW))
                assert len(await job.submit(b"y" * most)) == most
                with pytest.raises(que.Rejected, match="more than"):
                    job.submit(b"y" * (most + 1))
                with pytest.raises(que.ResultInvalid, match="more than"):
                    await job.submit(b"")


@in_loop
async def test_more_slots_than_one_lane_has_jobs_are_filled_from_the_others(url: str) -> None:
    gate, running = asyncio.Event(), 0
    jobs = [que.Job(name, int, int) for name in "abc"]

    async def hold(number: int) -> int:
        nonlocal running
        running += 1
        await gate.wait()
        return number

    async with que.Que(url) as client, que.Que(url) as app:
        for job in jobs:
            job.handler(hold)
            app.add(job)
        handles = [handle for name in "abc" for handle in declared(client, name).submit_many([1] * 4)]
        async with app.worker(concurrency=10):
            await until(lambda: running == 10)
            gate.set()
            assert await que.gather(*handles) == (1,) * 12
