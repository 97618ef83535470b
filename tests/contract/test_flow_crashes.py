"""Flows whose workers die: at each point between a handler's return and its verdict, and at random."""

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

import que
from que.address import Address
from que.driver import Keeps, open_driver
from que.flow import step_id
from que.keeping import end_key, ending_of_flow, plan_in, plan_key
from que.model import Completed, Delivery, Failed, Kept
from que.testing.sinks import Recorder
from tests.contract.engines import Engine, Make, Names
from tests.unit.fakes import FakeDriver, url_of
from tests.unit.loops import in_loop, until
from tests.unit.work_site import messages

LONG_SECONDS = 3600.0


@pytest.fixture(params=["sqlite", "redis", "postgres", "gearman with a companion"])
def place(request: pytest.FixtureRequest, make: Make) -> Engine:
    return make(request.param)


@asynccontextmanager
async def store_of(place: Engine) -> AsyncGenerator[Keeps, None]:
    driver = open_driver(Address.parse(place.results or place.url))
    await driver.connect(Recorder())
    try:
        assert isinstance(driver, Keeps)
        yield driver
    finally:
        await driver.disconnect()


class Site:
    """A flow of two jobs whose runs are counted, submitted and not worked yet."""

    def __init__(self, place: Engine) -> None:
        self.app = place.app()
        self.ran: Counter[str] = Counter()
        self.told: list[que.FlowFailure] = []
        names = Names()

        @self.app.job(names("first"))
        async def first(params: int) -> int:
            self.ran["first"] += 1
            return params

        @self.app.job(names("second"))
        async def second(params: int) -> int:
            self.ran["second"] += 1
            return params

        @self.app.job(names("tell"))
        async def tell(failure: que.FlowFailure) -> None:
            self.told.append(failure)

        self.first, self.second = first, second
        self.flow = first.then(second).on_failure(tell)


@in_loop
async def test_a_step_whose_worker_died_after_keeping_its_result_is_not_run_again_and_its_flow_goes_on(
    place: Engine,
) -> None:
    site = Site(place)
    async with site.app, store_of(place) as store:
        handle = site.flow.submit(1)
        flow = (await handle.accepted()).reference
        await store.keep([Kept(f"{flow}.0", Completed(b"5"), LONG_SECONDS)])
        async with site.app.worker():
            assert await handle.result(20) == 5
        assert site.ran == {"second": 1}


@in_loop
async def test_a_last_step_whose_worker_died_after_ending_its_flow_is_not_run_again_and_leaves_no_state(
    place: Engine,
) -> None:
    site = Site(place)
    async with site.app, store_of(place) as store:
        handle = site.first.as_flow().submit(1)
        flow = (await handle.accepted()).reference
        (kept,) = await store.keep((), [plan_key(flow)])
        plan = plan_in(kept)
        assert plan is not None
        ending = Completed(b"5")
        end = ending_of_flow(flow, plan, f"{flow}.0", ending, site.first.name)
        await store.keep([Kept(f"{flow}.0", ending, LONG_SECONDS), *end])
        assert await handle.result(20) == 5
        async with site.app.worker():
            await until_forgotten(store, flow)
        assert site.ran == {}


@in_loop
async def test_a_failed_step_whose_worker_died_before_it_could_tell_is_told_by_the_next_one(place: Engine) -> None:
    site = Site(place)
    async with site.app, store_of(place) as store:
        handle = site.flow.submit(1)
        flow = (await handle.accepted()).reference
        (kept,) = await store.keep((), [plan_key(flow)])
        plan = plan_in(kept)
        assert plan is not None
        failure = Failed("handler", "ValueError", "no")
        end = ending_of_flow(flow, plan, f"{flow}.0", failure, site.first.name)
        await store.keep([Kept(f"{flow}.0", failure, LONG_SECONDS), *end])
        with pytest.raises(que.JobFailed):
            await handle.result(20)
        async with site.app.worker():
            await until_forgotten(store, flow)
        assert site.told == [que.FlowFailure(flow, site.first.name, "handler", "ValueError", "no")]
        assert site.ran == {}


async def until_forgotten(store: Keeps, flow: str) -> None:
    keys = [plan_key(flow), end_key(flow), *(step_id(flow, number) for number in range(6))]
    async with asyncio.timeout(20):
        while any(await store.keep((), keys)):
            await asyncio.sleep(0.005)


@in_loop
async def test_a_worker_without_the_store_says_so_keeps_the_step_and_gives_it_back_when_it_stops(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    place = make("gearman with a companion")
    site = Site(place)
    storeless = que.Que(place.url)
    runs: list[int] = []

    @storeless.job(site.first.name)
    async def first(params: int) -> int:
        runs.append(params)
        return params

    assert first.worked_by is not None
    async with site.app, storeless:
        async with storeless.worker() as worker:
            handle = site.flow.submit(1)
            await until(lambda: any("needs the results=" in line for line in messages(caplog, logging.ERROR)))
            await worker.stop(grace=0)
        async with site.app.worker():
            assert await handle.result(20) == 1
        assert (runs, site.ran) == ([], {"first": 1, "second": 1})


class Branches:
    """A flow of two branches that fail, on a fake engine that knows no unique keys and delivers what it is told to."""

    def __init__(self) -> None:
        self.driver = FakeDriver()
        self.app: que.Que[None] = que.Que(url_of(self.driver), results="memory://")
        self.ran = 0
        self.gate = asyncio.Event()

        @self.app.job("fails")
        async def fails(params: int) -> int:
            self.ran += 1
            if self.ran > 1:
                await self.gate.wait()
            raise que.Reject("no")

        total = self.app.add(que.Job("total", list[int], int))
        tell = self.app.add(que.Job("tell", que.FlowFailure, None))
        self.flow = que.together(fails, fails).then(total).on_failure(tell)

    def deliveries(self) -> list[Delivery]:
        return [Delivery(each.function, each.payload, each.id) for each in self.driver.envelopes]


@in_loop
async def test_of_two_branches_that_fail_one_tells() -> None:
    site = Branches()
    async with site.app, site.app.worker():
        handle = site.flow.submit(1)
        await handle.accepted()
        (consumer,) = site.driver.consumers
        consumer.feed(site.deliveries())
        await until(lambda: site.ran == 2 and len(consumer.settlements) == 1)
        site.gate.set()
        await until(lambda: len(consumer.settlements) == 2)
        assert [each.function for each in site.driver.envelopes] == ["fails", "fails", "tell"]
        with pytest.raises(que.JobFailed, match="Reject: no"):
            await handle


@in_loop
async def test_a_branch_that_was_queued_when_the_other_failed_does_not_run() -> None:
    site = Branches()
    async with site.app, site.app.worker():
        handle = site.flow.submit(1)
        await handle.accepted()
        (consumer,) = site.driver.consumers
        first, second = site.deliveries()
        consumer.feed([first])
        await until(lambda: consumer.settlements)
        consumer.feed([second])
        await until(lambda: len(consumer.settlements) == 2)
        assert consumer.verdicts[1] == Failed("cancelled", "JobCancelled", "its flow has ended")
        assert (site.ran, isinstance(handle.error, que.JobFailed)) == (1, True)


WORKER = """
import asyncio, os, sys
import que

app = que.Que(sys.argv[1])
ledger = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def job(name):
    def declare(handler):
        async def run(params, context):
            await asyncio.sleep(0.01)
            os.write(ledger, f"{context.job_id}\\n".encode())
            return handler(params)
        run.__annotations__ = {**handler.__annotations__, "context": que.Context[None]}
        app.job(name)(run)
    return declare

@job("spread")
def spread(params: int) -> int:
    return params

@job("double")
def double(params: int) -> int:
    return 2 * params

@job("fails_on_odd")
def fails_on_odd(params: int) -> int:
    if params % 2:
        raise que.Reject("odd")
    return params

@job("total")
def total(params: list[int]) -> int:
    return sum(params)

@job("tell")
def tell(params: que.FlowFailure) -> None:
    pass

async def main():
    async with app, app.worker(concurrency=4):
        await asyncio.Event().wait()

asyncio.run(main())
"""
FLOWS = 60
KILLS = 6
CONCURRENCY = 4


async def start_worker(url: str, ledger: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, url, str(ledger), stderr=asyncio.subprocess.DEVNULL
    )


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgres"])
@in_loop
async def test_flows_whose_workers_are_killed_again_and_again_all_end_once(
    kind: str, make: Make, tmp_path: Path
) -> None:
    place, ledger = make(kind), tmp_path / "ledger"
    url = f"{place.url}{'&' if '?' in place.url else '?'}lease=5"
    ledger.touch()
    app = que.Que(url)
    spread, double = app.add(que.Job("spread", int, int)), app.add(que.Job("double", int, int))
    fails, total = app.add(que.Job("fails_on_odd", int, int)), app.add(que.Job("total", list[int], int))
    tell = app.add(que.Job("tell", que.FlowFailure, None))
    flow = spread.then(que.together(double, fails, double).then(total)).on_failure(tell)
    workers = [await start_worker(url, ledger) for _ in range(3)]
    try:
        async with app, store_of(place) as store:
            handles = [flow.submit(number) for number in range(FLOWS)]
            for kill in range(1, KILLS + 1):
                await until(partial(has_lines, ledger, 20 * kill), 50)
                workers[0].kill()
                await workers.pop(0).wait()
                workers.append(await start_worker(url, ledger))
            for number, handle in enumerate(handles):
                if number % 2:
                    with pytest.raises(que.JobFailed, match="odd"):
                        await handle.result(50)
                else:
                    assert await handle.result(50) == 5 * number
            for handle in handles:
                await until_forgotten(store, handle.id)
            async with asyncio.timeout(50):
                while await unsettled(app):
                    await asyncio.sleep(0.01)
    finally:
        for worker in workers:
            worker.kill()
            await worker.wait()
    runs = Counter(ledger.read_text().split())
    flows = {handle.id: number for number, handle in enumerate(handles)}
    # Step 5 is the on_failure job, step 4 the last one.
    assert {id for id in flows if f"{id}.5" in runs} == {id for id, number in flows.items() if number % 2}
    assert {id for id in flows if f"{id}.4" in runs} == {id for id, number in flows.items() if not number % 2}
    # Only what a killed worker was at can have run twice.
    assert runs.total() - len(runs) <= KILLS * CONCURRENCY


def has_lines(path: Path, count: int) -> bool:
    return len(path.read_bytes().split()) >= count


async def unsettled(app: "que.Que[None]") -> int:
    """Return how many jobs wait or run."""
    return sum(depth.queued + depth.running for depths in (await app.depths()).values() for depth in depths)
