"""Limits of one job, and that no job of a worker starves another: on engines that run here."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import que
from que.limits import Limits, Rate, Tokens
from tests.unit.fakes import FakeDriver, url_of
from tests.unit.loops import in_loop, ticks, until
from tests.unit.work_site import delivery


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.mark.parametrize(
    ("rate", "count", "seconds"), [("100/m", 100, 60.0), ("5/10s", 5, 10.0), ("1/2h", 1, 7200.0), ("7/d", 7, 86400.0)]
)
def test_a_rate_is_a_count_in_a_time(rate: str, count: int, seconds: float) -> None:
    assert Limits.parse(None, rate, None) == Limits(rate=Rate(count, seconds))
    assert Limits.parse(None, None, rate) == Limits(total_rate=Rate(count, seconds))


@pytest.mark.parametrize("rate", ["", "100", "0/m", "m", "1/0s", "-1/m", "1.5/m", "10/w", " 1/m", 5])
def test_a_rate_that_cannot_be_meant_is_named(rate: object) -> None:
    with pytest.raises(que.ConfigurationError, match=f"rate={rate!r}: expected like '100/m'"):
        que.Job("work", int, None, rate=cast(str, rate))
    with pytest.raises(que.ConfigurationError, match=f"total_rate={rate!r}: expected like '100/m'"):
        que.Job("work", int, None, total_rate=cast(str, rate))


@pytest.mark.parametrize("concurrency", [0, -1, "2", 1.5])
def test_a_concurrency_that_cannot_be_meant_is_named(concurrency: object) -> None:
    with pytest.raises(que.ConfigurationError, match=f"concurrency={concurrency!r}: expected a count of at least 1"):
        que.Job("work", int, None, concurrency=cast(int, concurrency))


@given(st.integers(1, 5), st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(1, 5)), max_size=60))
def test_no_span_of_the_rate_sees_more_taken_than_its_count(count: int, wishes: Sequence[tuple[float, int]]) -> None:
    tokens, now, taken = Tokens(count, 10.0), 0.0, list[float]()
    for pause, wanted in wishes:
        now += pause
        free = tokens.free(now)
        if take := min(free, wanted):
            tokens.take(take, now)
            taken += [now] * take
        elif not free:
            assert now < tokens.next_at <= now + 10.0
    for start in taken:
        assert sum(start <= moment < start + 10.0 for moment in taken) <= count


def test_a_token_is_free_again_after_its_time() -> None:
    tokens = Tokens(2, 10.0)
    tokens.take(1, 0.0)
    tokens.take(1, 4.0)
    assert [tokens.free(now) for now in (9.9, 10.0, 13.9, 14.0)] == [0, 1, 1, 2]


@in_loop
async def test_no_more_is_reserved_than_the_rate_allows() -> None:
    driver = FakeDriver()
    app = que.Que(url_of(driver))

    @app.job("work", rate="3/d")
    async def work(params: int) -> None: ...

    async with app, app.worker(concurrency=10):
        consumer = driver.consumers[0]
        consumer.feed([delivery()], [delivery(), delivery()])
        await until(lambda: len(consumer.settlements) == 3)
        await ticks(20)
    assert consumer.limits == [3, 2]


@in_loop
async def test_jobs_over_the_rate_wait_in_the_engine(url: str) -> None:
    app = que.Que(url)

    @app.job("work", rate="2/d")
    async def work(params: int) -> int:
        return params

    async with app, app.worker():
        handles = work.submit_many(range(5))
        assert [await handle for handle in handles[:2]] == [0, 1]
        (depth,) = (await app.depths())[url.partition(":")[0]]
        assert (depth.queued, depth.running) == (3, 0)
        for handle in handles[2:]:
            await handle.cancel()
            assert isinstance(handle.error, que.JobCancelled)


@in_loop
async def test_jobs_over_the_rate_run_once_it_allows_them(url: str) -> None:
    app = que.Que(url)

    @app.job("work", rate="20/s")
    async def work(params: int) -> int:
        return params

    async with app, app.worker():
        assert await que.gather(*work.submit_many(range(30))) == tuple(range(30))


class Gate:
    """Counts who is inside, and lets them out together."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.opened = asyncio.Event()

    async def __call__(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.opened.wait()
        self.inside -= 1


@in_loop
async def test_a_job_runs_no_more_often_at_once_than_its_concurrency_and_holds_no_other_up(url: str) -> None:
    app = que.Que(url)
    gate = Gate()

    @app.job("slow", concurrency=2)
    async def slow(params: int) -> int:
        await gate()
        return params

    @app.job("quick")
    async def quick(params: int) -> int:
        return params

    async with app, app.worker(concurrency=4):
        handles = slow.submit_many(range(6))
        await until(lambda: gate.inside == 2)
        assert await que.gather(*quick.submit_many(range(20))) == tuple(range(20))
        gate.opened.set()
        assert await que.gather(*handles) == tuple(range(6))
    assert gate.most == 2


def test_a_worker_tells_the_slots_of_each_consumer() -> None:
    app = que.Que("memory://")
    names: dict[str, que.Job[int, None]] = {}
    for name, concurrency, rate in (("a", None, None), ("b", 2, None), ("c", None, "1/s"), ("d", None, None)):
        job = que.Job("x" + name, int, None, concurrency=concurrency, rate=rate)
        job.handler(_nothing)
        names[name] = app.add(job)
    served = [(names, slots) for _, names, slots in app.worker(concurrency=7).serves]
    assert served == [(["xa", "xd"], 7), (["xb"], 2), (["xc"], 7)]


async def _nothing(params: int) -> None: ...


@in_loop
async def test_a_job_with_many_waiting_does_not_starve_one_with_few(url: str) -> None:
    app = que.Que(url)
    order: list[str] = []

    def worked(name: str) -> Callable[[int], None]:
        def work(params: int) -> None:
            order.append(name)

        return work

    many, few = que.Job("many", int, None), que.Job("few", int, None)
    for job in (many, few):
        job.handler(worked(job.name))
        app.add(job)
    async with app:
        await many.send_many(range(200))
        await few.send_many(range(5))
        async with app.worker(concurrency=2):
            await until(lambda: len(order) == 205)
    last_of_few = max(index for index, name in enumerate(order) if name == "few")
    assert last_of_few < 50


@in_loop
async def test_a_stop_does_not_wait_for_the_rate() -> None:
    app = que.Que("memory://")

    @app.job("work", rate="1/d")
    async def work(params: int) -> int:
        return params

    async with app:
        async with app.worker():
            handle, _ = work.submit_many([1, 2])
            assert await handle == 1
        assert (await app.depths())["memory"][0].queued == 1
