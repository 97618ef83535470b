"""A companion keeps the results of an engine that keeps none: before the verdict leaves, or the job stays."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

import que
from que.address import Address
from que.drivers.memory import MemoryDriver
from que.model import Completed, Delivery, Ending, Kept, Released, Settled, Settlement
from tests.contract.engines import Engine, Make, Names, working
from tests.unit.fakes import NOTHING_MORE, FakeDriver, url_of
from tests.unit.loops import in_loop, until
from tests.unit.work_site import delivery, messages

KINDS = ["gearman with a companion", "gearman with redis", "gearman with postgres", "memory with a companion"]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, make: Make) -> Engine:
    return make(request.param)


class Jobs:
    def __init__(self, app: "que.Que[None]", names: Names, ttl: float = 60.0) -> None:
        self.app = app

        @app.job(names("double"), result_ttl=ttl)
        async def double(params: int) -> int:
            if params < 0:
                raise ValueError("negative")
            return 2 * params

        @app.job(names("plain"))
        async def plain(params: int) -> int:
            return params

        self.double, self.plain = double, plain


@in_loop
async def test_the_result_of_a_background_job_is_found_by_its_receipt_before_and_after_its_end(place: Engine) -> None:
    names = Names()
    async with working(place, lambda app: Jobs(app, names)) as jobs:
        receipt = await jobs.double.send(4)
        early = jobs.app.handle(jobs.double, receipt)
        assert await early.result(20) == 8
        assert await jobs.app.handle(jobs.double, receipt).result(20) == 8
        assert (await early.accepted()) == que.Receipt(receipt.backend, receipt.job, early.id, receipt.reference)


@in_loop
async def test_the_failure_of_a_background_job_is_found_too(place: Engine) -> None:
    names = Names()
    async with working(place, lambda app: Jobs(app, names)) as jobs:
        receipt = await jobs.double.send(-1)
        with pytest.raises(que.JobFailed, match="ValueError: negative"):
            await jobs.app.handle(jobs.double, receipt).result(20)


@in_loop
async def test_a_job_that_is_awaited_is_kept_as_well(place: Engine) -> None:
    names = Names()
    async with working(place, lambda app: Jobs(app, names)) as jobs:
        handle = jobs.double.submit(5)
        assert await handle.result(20) == 10
        assert await jobs.app.handle(jobs.double, await handle.accepted()).result(20) == 10


@in_loop
async def test_a_job_whose_result_is_not_kept_is_unknown_once_it_has_ended(place: Engine) -> None:
    names = Names()
    async with working(place, lambda app: Jobs(app, names)) as jobs:
        handle = jobs.plain.submit(5)
        assert await handle.result(20) == 5
        receipt = await handle.accepted()
        async with asyncio.timeout(20):
            while (await jobs.app.status(receipt)).known:
                await asyncio.sleep(0.005)
        with pytest.raises(que.JobUnknown, match="not kept, or no longer"):
            await jobs.app.handle(jobs.plain, receipt).result(20)


@in_loop
async def test_a_job_that_is_still_queued_is_waited_for(place: Engine) -> None:
    names = Names()
    app = place.app()
    jobs = Jobs(app, names)
    async with app:
        receipt = await jobs.double.send(3)
        handle = app.handle(jobs.double, receipt)
        with pytest.raises(que.ResultTimeout):
            await handle.result(0.05)
        async with app.worker():
            assert await handle.result(20) == 6


def test_the_blocking_face_finds_a_result(make: Make) -> None:
    app = make("gearman with a companion").app()
    jobs = Jobs(app, Names())
    with app.blocking() as q, q.worker():
        receipt = q.send(jobs.double, 21).result(timeout=20)
        assert q.handle(jobs.double, receipt).result(timeout=20) == 42


@in_loop
async def test_what_a_worker_could_not_know_is_refused_aloud(place: Engine) -> None:
    app = place.app()
    jobs = Jobs(app, Names())
    async with app:
        with pytest.raises(que.UnsupportedFeature, match="no result_ttl per call: declare it on the job"):
            await jobs.plain.send(1, result_ttl=5)
        with pytest.raises(que.UnsupportedFeature, match="no kept results of jobs with a unique key"):
            await jobs.double.send(1, unique="a")
        assert (await jobs.plain.send(1, unique="a")).job == jobs.plain.name


def test_without_a_companion_a_ttl_is_refused_at_the_declaration() -> None:
    with pytest.raises(que.UnsupportedFeature, match="the gearman driver has no kept results"):
        Jobs(que.Que("gearman://"), Names())


class FailingStore(MemoryDriver):
    """A store that cannot be written for as long as `broken` says so, and that writes down what came when."""

    def __init__(self, trail: list[str]) -> None:
        super().__init__(Address.parse("memory://"))
        self.broken = True
        self.tries = 0
        self.trail = trail

    async def keep(self, entries: Sequence[Kept], keys: Sequence[str] = ()) -> Sequence[Ending | None]:
        self.tries += 1
        if self.broken:
            raise que.ConnectError("store", "it is down")
        self.trail.append("kept")
        return await super().keep(entries, keys)


class Site:
    """A worker of one job whose result is kept, on a fake engine with a store that fails."""

    def __init__(self) -> None:
        self.trail: list[str] = []
        self.driver = FakeDriver(NOTHING_MORE)
        self.store = FailingStore(self.trail)
        scheme = url_of(FakeDriver()).removesuffix("://") + "store"
        que.register_driver(scheme, lambda address: self.store)
        self.app = que.Que(url_of(self.driver), results=f"{scheme}://")
        self.ran = 0

        @self.app.job("work", result_ttl=60)
        async def work(params: int) -> int:
            self.ran += 1
            return params


@in_loop
async def test_while_the_companion_is_down_the_job_is_not_settled_and_once_it_is_back_its_result_is_kept_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()
    async with site.app, site.app.worker(concurrency=2):
        (consumer,) = site.driver.consumers
        consumer.feed([delivery()])
        await until(lambda: site.store.tries >= 2)
        assert consumer.settlements == []
        site.store.broken = False
        await until(lambda: consumer.settlements)
        assert (consumer.verdicts, site.ran) == ([Completed(b"1")], 1)
        assert list(await site.store.keep((), ["job-1"])) == [Completed(b"1")]
    assert any("could not be kept" in line and "it is down" in line for line in messages(caplog, logging.ERROR))


@in_loop
async def test_a_result_is_kept_before_its_verdict_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    site.store.broken = False
    async with site.app, site.app.worker():
        (consumer,) = site.driver.consumers
        settle = consumer.settle

        async def settled(settlements: Sequence[Settlement]) -> Sequence[Settled]:
            site.trail.append("settled")
            return await settle(settlements)

        monkeypatch.setattr(consumer, "settle", settled)
        consumer.feed([delivery()])
        await until(lambda: consumer.settlements)
    assert site.trail == ["kept", "settled"]


@in_loop
async def test_a_worker_that_stops_while_the_companion_is_down_gives_the_job_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()
    async with site.app:
        worker = site.app.worker()
        async with worker:
            (consumer,) = site.driver.consumers
            consumer.feed([delivery()])
            await until(lambda: site.store.tries)
            await worker.stop(grace=0)
        assert consumer.verdicts == [Released()]
    assert messages(caplog, logging.ERROR)


@in_loop
async def test_a_job_that_has_nothing_to_keep_does_not_wait_for_the_companion() -> None:
    site = Site()
    other = site.app.job("other")

    @other
    async def plain(params: int) -> int:
        return params

    async with site.app, site.app.worker():
        (consumer,) = site.driver.consumers
        consumer.feed([delivery(), Delivery("other", b"7", "job-7")])
        await until(lambda: consumer.settlements)
        assert consumer.verdicts == [Completed(b"7")]
        site.store.broken = False


@in_loop
async def test_a_foreign_job_whose_id_looks_like_a_steps_is_a_job() -> None:
    site = Site()
    site.store.broken = False

    @site.app.job("other")
    async def other(params: int) -> int:
        return params

    assert other.worked_by is not None
    async with site.app, site.app.worker():
        (consumer,) = site.driver.consumers
        consumer.feed([Delivery("other", b"7", "flow-of-somebody")])
        await until(lambda: consumer.settlements)
        assert consumer.verdicts == [Completed(b"7")]


@in_loop
async def test_an_app_whose_companion_cannot_be_opened_does_not_connect(tmp_path: Path) -> None:
    app = que.Que("memory://", results=f"sqlite:///{tmp_path / 'nowhere' / 'results.db'}")
    with pytest.raises(que.ConnectError, match=r"nowhere/results.db"):
        await app.connect()
