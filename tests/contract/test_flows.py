"""Flows on each engine: they end once, with what their jobs gave or with the first failure, whoever works the steps."""

import asyncio
from collections import Counter

import pytest

import que
from tests.contract.engines import Engine, Make, Names, working
from tests.unit.fakes import FakeDriver, url_of
from tests.unit.loops import in_loop, until

SHARED = ["sqlite", "redis", "postgres", "gearman with a companion"]
KINDS = ["memory", "memory with a companion", *SHARED]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, make: Make) -> Engine:
    return make(request.param)


@pytest.fixture(params=SHARED)
def shared_place(request: pytest.FixtureRequest, make: Make) -> Engine:
    return make(request.param)


class Record:
    """What happened in the handlers: how often each ran, and the failures that were told; `gate` holds some up."""

    def __init__(self) -> None:
        self.names = Names()
        self.ran: Counter[str] = Counter()
        self.told: list[que.FlowFailure] = []
        self.gate = asyncio.Event()

    def declare(self, app: "que.Que[None]") -> "Jobs":
        """Return the jobs with their handlers, in `app`."""
        return Jobs(self, app)


class Jobs:
    def __init__(self, record: Record, app: "que.Que[None]") -> None:
        names, ran = record.names, record.ran
        self.app = app

        @app.job(names("words"))
        async def words(text: str) -> list[str]:
            ran["words"] += 1
            return text.split()

        @app.job(names("count"))
        def count(words: list[str]) -> int:
            ran["count"] += 1
            return len(words)

        @app.job(names("letters"))
        async def letters(words: list[str]) -> int:
            ran["letters"] += 1
            return sum(map(len, words))

        @app.job(names("waits"))
        async def waits(words: list[str]) -> int:
            ran["waits"] += 1
            await record.gate.wait()
            return 0

        @app.job(names("fails"))
        async def fails(words: list[str]) -> int:
            ran["fails"] += 1
            raise ValueError(f"{len(words)} words")

        @app.job(names("total"))
        async def total(numbers: list[int]) -> int:
            ran["total"] += 1
            return sum(numbers)

        @app.job(names("tell"))
        async def tell(failure: que.FlowFailure) -> None:
            record.told.append(failure)

        @app.job(names("ping"))
        async def ping(params: None) -> None:
            return None

        @app.job(names("number"))
        async def number(params: int) -> str:
            ran["number"] += 1
            return str(params)

        self.number = number
        self.words, self.count, self.letters, self.waits = words, count, letters, waits
        self.fails, self.total, self.tell, self.ping = fails, total, tell, ping

    def summary(self) -> "que.Flow[str, int]":
        """Return a flow of which each branch gives a part of the sum."""
        return self.words.then(que.together(self.count, self.letters).then(self.total))


@in_loop
async def test_each_job_takes_what_the_one_before_gave_and_the_last_one_all_that_was_gathered(place: Engine) -> None:
    record = Record()
    async with working(place, record.declare) as jobs:
        assert await jobs.summary().submit("to be or not").result(20) == 4 + 9
        assert record.ran == {"words": 1, "count": 1, "letters": 1, "total": 1}


@in_loop
async def test_given_params_come_with_the_flow(place: Engine) -> None:
    record = Record()
    async with working(place, record.declare) as jobs:
        flow = que.together(jobs.count.given(["a"]), jobs.letters.given(["bc", "d"])).then(jobs.total)
        assert await flow.submit(None).result(20) == 1 + 3


@in_loop
async def test_many_flows_at_once_end_each_with_its_own_result_and_leave_no_state(place: Engine) -> None:
    record = Record()
    async with working(place, record.declare) as jobs:
        handles = [jobs.summary().submit("x " * number) for number in range(1, 60)]
        assert [await handle.result(30) for handle in handles] == [2 * number for number in range(1, 60)]
        for handle in handles:
            assert not (await handle.status()).known
        assert record.ran["total"] == 59


@in_loop
async def test_a_failure_ends_the_flow_for_its_handle_and_runs_on_failure_once(place: Engine) -> None:
    record = Record()
    async with working(place, record.declare) as jobs:
        gathered = que.together(jobs.fails, jobs.count, jobs.fails).then(jobs.total)
        handle = jobs.words.then(gathered).on_failure(jobs.tell).submit("a b")
        with pytest.raises(que.JobFailed, match="ValueError: 2 words"):
            await handle.result(20)
        await until(lambda: record.told)
        flow = (await handle.accepted()).reference
        failure = que.FlowFailure(flow, jobs.fails.name, "handler", "ValueError", "2 words")
        # What comes after it shows that nothing more came.
        assert await jobs.summary().submit("x").result(20) == 2
        assert record.told == [failure]
        assert record.ran["total"] == 1


@in_loop
async def test_a_result_that_does_not_fit_the_next_job_fails_the_flow(shared_place: Engine) -> None:
    record = Record()
    async with working(shared_place, record.declare) as jobs:
        stranger = shared_place.app()
        words = stranger.add(que.Job(jobs.words.name, str, list[int]))
        total = stranger.add(que.Job(jobs.total.name, list[int], int))
        async with stranger:
            with pytest.raises(que.ParamsInvalid, match="expected int, got str"):
                await words.then(total).submit("a b").result(20)


@in_loop
async def test_cancelling_a_flow_cancels_what_has_not_run(place: Engine) -> None:
    record = Record()
    async with working(place, record.declare) as jobs:
        handle = jobs.words.then(jobs.waits).then(jobs.number).on_failure(jobs.tell).submit("a b")
        await until(lambda: record.ran["waits"])
        status = await handle.status()
        assert (status.known, status.running, status.done, status.total) == (True, True, 1, 3)
        assert await handle.cancel()
        with pytest.raises(que.JobCancelled):
            await handle.result(20)
        assert not await jobs.app.cancel(await handle.accepted())
        record.gate.set()
        await jobs.ping.submit(None).result(20)
        assert (record.ran["number"], record.told) == (0, [])
        assert not (await handle.status()).known


@in_loop
async def test_a_flow_that_waits_in_the_queue_does_not_run_after_its_cancellation(place: Engine) -> None:
    record = Record()
    app = place.app()
    jobs = record.declare(app)
    async with app:
        handle = jobs.summary().submit("a b")
        await handle.accepted()
        assert await handle.cancel()
        async with app.worker():
            await jobs.ping.submit(None).result(20)
            await until(lambda: handle.done)
        assert record.ran == {}
        assert isinstance(handle.error, que.JobCancelled)


@in_loop
async def test_another_process_finds_the_result_by_the_receipt_and_cancels_by_it(
    shared_place: Engine,
) -> None:
    record = Record()
    async with working(shared_place, record.declare) as jobs:
        receipt = await jobs.summary().submit("a b").accepted()
        waiting = await jobs.words.then(jobs.waits).submit("a b").accepted()
        stranger = shared_place.app()
        total = stranger.add(que.Job(jobs.total.name, list[int], int))
        waits = stranger.add(que.Job(jobs.waits.name, list[str], int))
        async with stranger:
            assert await stranger.handle(total, receipt).result(20) == 4
            assert await stranger.handle(total, receipt).result(20) == 4
            handle = stranger.handle(waits, waiting)
            assert await stranger.cancel(waiting)
            with pytest.raises(que.JobCancelled):
                await handle.result(20)
        record.gate.set()


@in_loop
async def test_a_result_that_is_not_kept_any_more_is_unknown(place: Engine) -> None:
    record = Record()
    async with working(place, record.declare) as jobs:
        handle = jobs.summary().submit("a b", result_ttl=0)
        assert await handle.result(20) == 4
        receipt = await handle.accepted()
        await until_known_no_more(jobs.app, receipt)
        with pytest.raises(que.JobUnknown):
            await jobs.app.handle(jobs.total, receipt).result(20)


async def until_known_no_more(app: "que.Que[None]", receipt: que.Receipt) -> None:
    async with asyncio.timeout(20):
        while (await app.status(receipt)).known:
            await asyncio.sleep(0.002)


@in_loop
async def test_a_job_too_large_for_the_engine_fails_its_flow(make: Make) -> None:
    place = make("gearman with a companion")
    small = Engine(f"{place.url}?max_payload=1000", place.results)
    record = Record()
    async with working(small, record.declare) as jobs:
        with pytest.raises(que.JobFailed, match="more than the 1000 allowed") as caught:
            await jobs.words.then(jobs.count).submit("x " * 400).result(20)
        assert caught.value.kind == "rejected"


def test_the_blocking_face_submits_flows(make: Make) -> None:
    record = Record()
    app = make("sqlite").app()
    jobs = record.declare(app)
    with app.blocking() as q, q.worker():
        assert q.submit_flow(jobs.summary(), "to be or not").result(timeout=20) == 13


@in_loop
async def test_an_engine_without_memory_and_a_store_refuses_a_flow_aloud() -> None:
    url = url_of(FakeDriver())
    app = que.Que(url)
    first, second = app.add(que.Job("first", int, int)), app.add(que.Job("second", int, int))
    async with app:
        with pytest.raises(que.UnsupportedFeature, match=r"no memory for flows: add a store: .*results="):
            first.then(second).submit(1)
        with pytest.raises(que.UnsupportedFeature, match="no memory for flows"):
            app.handle(second, que.Receipt(url.removesuffix("://"), "second", "x", "flow-0123456789abcdef"))


def test_a_store_that_cannot_keep_is_refused_aloud() -> None:
    with pytest.raises(que.UnsupportedFeature, match='no memory for results: let a file keep them: results="sqlite'):
        que.Que("memory://", results="gearman://")
