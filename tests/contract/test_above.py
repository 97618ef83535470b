"""What the core builds above any engine, on an engine in this process, in a file, and on a server."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

import que
from tests.contract.engines import Engine, Make, Names, companion
from tests.servers import StartGearmand
from tests.unit import process_handlers as handlers
from tests.unit.clocks import FakeClock
from tests.unit.loops import in_loop, until
from tests.unit.process_handlers import Order

KINDS = ["memory", "sqlite", "redis", "postgres", "gearman with a companion"]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, make: Make) -> Engine:
    return make(request.param)


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.mark.parametrize("declared", [["many", "few"], ["few", "many"]], ids=["many first", "few first"])
@in_loop
async def test_of_two_jobs_of_one_worker_none_starves_the_other(
    place: Engine, names: Names, declared: Sequence[str], own_gearmand: StartGearmand
) -> None:
    order: list[str] = []
    # Without the option gearmand empties the queue of the job that was declared last, and then the next one's.
    fair = own_gearmand("--round-robin").url if place.url.startswith("gearman") else place.url
    app = replace(place, url=fair).app()
    jobs = {name: app.job(names(name))(partial(_note, order, name)) for name in declared}
    async with app:
        await jobs["many"].send_many(range(300))
        await jobs["few"].send_many(range(5))
        async with app.worker(concurrency=2):
            await until(lambda: len(order) == 305)
    assert max(index for index, name in enumerate(order) if name == "few") < 100


async def _note(order: list[str], name: str, params: int) -> None:
    order.append(name)


@in_loop
async def test_a_job_runs_no_more_often_at_once_than_its_concurrency(place: Engine, names: Names) -> None:
    inside = most = 0
    opened = asyncio.Event()
    app = place.app()

    @app.job(names("slow"), concurrency=2)
    async def slow(params: int) -> int:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await opened.wait()
        inside -= 1
        return params

    @app.job(names("quick"))
    async def quick(params: int) -> int:
        return params

    async with app, app.worker(concurrency=4):
        held = slow.submit_many(range(6))
        await until(lambda: inside == 2)
        assert await que.gather(*quick.submit_many(range(20))) == tuple(range(20))
        opened.set()
        assert await que.gather(*held) == tuple(range(6))
    assert most == 2


@pytest.mark.parametrize("concurrency", [None, 2, 10])
@in_loop
async def test_what_is_over_the_rate_waits_in_the_engine(place: Engine, names: Names, concurrency: int | None) -> None:
    app = place.app()

    ran: list[int] = []

    @app.job(names("work"), rate="2/d", concurrency=concurrency)
    async def work(params: int) -> None:
        ran.append(params)

    async def depth() -> tuple[int, int]:
        depths = [depth for depths in (await app.depths()).values() for depth in depths]
        return next((depth.queued, depth.running) for depth in depths if depth.function == work.name)

    async with app:
        await work.send_many(range(5))
        async with app.worker(), asyncio.timeout(20):
            while sum(await depth()) != 3:
                await asyncio.sleep(0.01)
            assert await depth() == (3, 0)
    assert ran == [0, 1]


@in_loop
async def test_what_is_over_the_rate_of_all_workers_waits_in_the_engine(place: Engine, names: Names) -> None:
    apps = [place.app() for _ in range(2 if place.shared else 1)]
    ran: list[int] = []

    def declare(app: que.Que[None]) -> que.Job[int, None]:
        @app.job(names("work"), total_rate="3/d")
        async def work(params: int) -> None:
            ran.append(params)

        return work

    work, *_ = [declare(app) for app in apps]
    async with AsyncExitStack() as stack:
        for app in apps:
            await stack.enter_async_context(app)
        await work.send_many(range(8))
        workers = [app.worker(concurrency=2) for app in [*apps, *apps][:2]]
        if place.url.startswith("gearman"):
            with pytest.raises(que.UnsupportedFeature, match="gearman driver has no total_rate: rate= holds"):
                await workers[0].run()
            return
        for worker in workers:
            await stack.enter_async_context(worker)
        while True:
            depths = [depth for depths in (await apps[0].depths()).values() for depth in depths]
            if (5, 0) in [(depth.queued, depth.running) for depth in depths if depth.function == work.name]:
                break
    assert sorted(ran) == [0, 1, 2]


@in_loop
async def test_a_process_that_dies_costs_its_job_a_run_and_the_worker_nothing(
    place: Engine, names: Names, tmp_path: Path
) -> None:
    folder = tmp_path / "marks"
    folder.mkdir()
    app = place.app()
    dies = que.Job(names("dies"), Order, str, executor="process", retry=que.Retry(attempts=2, base=0.001))
    dies.handler(handlers.dies)
    app.add(dies)
    async with app, app.worker(children=1):
        assert await dies.submit(Order("SIGKILL", str(folder))).result(30) == "alive"
    assert len(list(folder.iterdir())) == 1


@in_loop
async def test_work_in_a_process_keeps_neither_heartbeats_nor_leases_waiting(place: Engine, names: Names) -> None:
    options = {"gearman": "?heartbeat=0.2&deadline=0.2", "sqlite": "?lease=0.4"}
    hurried = replace(place, url=place.url + options.get(place.url.partition(":")[0], ""))
    taken: list[int] = []

    def takes(order: Order) -> int:
        taken.append(1)
        return 2

    app, other = hurried.app(), hurried.app()
    spins = app.job(names("spins"), executor="process")(handlers.spins)
    other.job(spins.name)(takes)
    async with app, other, app.worker(children=1) as worker:
        handle = spins.submit(Order("1.5"))
        await until(lambda: worker.running)
        async with other.worker():
            assert await handle.result(30) == 1
    assert not taken


@in_loop
async def test_of_two_schedulers_one_sends_each_tick(place: Engine, names: Names, tmp_path: Path) -> None:
    ran: list[int] = []
    clock = FakeClock()
    store = companion(tmp_path) if place.results else None
    apps = [que.Que(place.url, schedule_store=store) for _ in range(2 if place.shared else 1)]
    for app in apps:

        @app.every(seconds=60)
        @app.job(names("tick"))
        async def tick(params: None) -> None:
            ran.append(1)

    async with AsyncExitStack() as stack:
        for app in apps:
            await stack.enter_async_context(app)
        for app in [*apps, *apps][:2]:
            await stack.enter_async_context(app.scheduler(clock=clock))
        await stack.enter_async_context(apps[0].worker())
        for count in (1, 2, 3):
            await until(lambda: clock.sleepers == 2)
            await clock.set(60 * count)
            await until(lambda: len(ran) * 60 >= clock.now)
        await until(lambda: clock.sleepers == 2)
    assert len(ran) == 3


@in_loop
async def test_a_schedule_is_refused_where_nothing_remembers_its_ticks(make: Make, names: Names) -> None:
    app = que.Que(make("gearman with a companion").url)
    with pytest.raises(que.UnsupportedFeature, match=r"schedule_store="):
        app.every(seconds=60).send(que.Job(names("tick"), int, None), 1)


@dataclass(frozen=True, slots=True)
class Shop:
    price: int


@in_loop
async def test_state_middleware_and_threads_are_the_same_everywhere(place: Engine, names: Names) -> None:
    said: list[str] = []
    tenant = ContextVar("tenant", default="nobody")

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[Shop, None]:
        said.append("open")
        yield Shop(3)
        said.append("closed")

    async def as_blue(context: que.Context[Shop], params: object, call_next: que.Next) -> object:
        tenant.set("blue")
        return await call_next(params)

    app = que.Que(place.url, lifespan=lifespan, middleware=[as_blue])

    @app.job(names("buy"))
    def buy(count: int, context: que.Context[Shop]) -> str:
        return f"{tenant.get()} pays {count * context.state.price}"

    async with app:
        async with app.worker():
            assert await buy.submit(4) == "blue pays 12"
        assert said == ["open", "closed"]


@in_loop
async def test_streams_say_of_each_item_what_became_of_it(place: Engine, names: Names) -> None:
    app = place.app()

    @app.job(names("halve"))
    async def halve(params: int) -> int:
        if params % 2:
            raise que.Reject("odd")
        return params // 2

    async def numbers() -> AsyncGenerator[int, None]:
        for number in range(100):
            yield number

    async with app, app.worker():
        outcomes = {outcome.params: outcome async for outcome in halve.map(numbers(), in_flight=10)}
        sent = await halve.send_many(range(100))
    failed = {number for number, outcome in outcomes.items() if outcome.error is not None}
    assert failed == set(range(1, 100, 2))
    assert all(outcomes[number].result == number // 2 for number in range(0, 100, 2))
    assert (sent.accepted, sent.refused) == (100, [])
