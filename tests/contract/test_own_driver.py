"""A driver that a user wrote, with the four verbs and a consumer, gets everything else for free."""

import asyncio
import inspect
import threading
from collections import defaultdict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pytest

import que
from que.address import Address
from que.driver import Cancels, ConsumerSink, Driver, Emits, EventSink, Inspects
from que.model import Completed, Delivery, Envelope, Failed, Redeliver, Released, Settled, Settlement
from que.options import CallOptions
from tests.contract.contract import WITHIN_A_PROCESS, WITHOUT_A_SERVER, WITHOUT_TIMED_LEASES, Contract
from tests.unit.loops import in_loop, ticks, until


class OwnDriver:
    """Jobs wait in a list per function, in this process, until somebody takes them."""

    calls_in_flight: int | None = None
    capabilities = que.Capabilities(lease=que.Lease.PROCESS, results_pushed=que.Support.NATIVE)

    def __init__(self, address: Address) -> None:
        address.refuse_other_options(())
        self.waiting: dict[str, deque[Delivery]] = defaultdict(deque)
        self.arrived = asyncio.Event()
        self.owned: set[str] = set()

    async def connect(self, events: EventSink) -> None:
        self.events = events

    async def disconnect(self) -> None:
        while self.owned:
            self.events.lost(self.owned.pop(), que.ConnectionLost("own:// was disconnected"))

    async def submit(self, envelopes: Sequence[Envelope]) -> None:
        for envelope in envelopes:
            self.owned.add(envelope.id)
            self.waiting[envelope.function].append(Delivery(envelope.function, envelope.payload, envelope.id))
            self.events.accepted(envelope.id, envelope.id)
        self.arrived.set()

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> "OwnConsumer":
        return OwnConsumer(self, functions)

    def put_back(self, delivery: Delivery) -> None:
        self.waiting[delivery.function].appendleft(delivery)
        self.arrived.set()


class OwnConsumer:
    """Takes what waits; a verdict goes straight to the one who submitted."""

    def __init__(self, driver: OwnDriver, functions: Collection[str]) -> None:
        self.driver = driver
        self.functions = functions
        self.closed = False

    async def reserve(self, limit: int) -> Sequence[Delivery]:
        while not self.closed:
            queues = [queue for function in self.functions if (queue := self.driver.waiting[function])]
            if queues:
                return [queues[0].popleft() for _ in range(min(limit, len(queues[0])))]
            self.driver.arrived.clear()
            await self.driver.arrived.wait()
        return ()

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        for delivery, verdict in settlements:
            match verdict:
                case Completed(payload):
                    self.driver.events.completed(delivery.id, payload)
                case Failed():
                    self.driver.events.failed(delivery.id, verdict)
                case Redeliver(after):
                    asyncio.get_running_loop().call_later(after, self.driver.put_back, delivery)
                case Released():
                    self.driver.put_back(delivery)
            if isinstance(verdict, Completed | Failed):
                self.driver.owned.discard(delivery.id)
        return [Settled.CONFIRMED] * len(settlements)

    async def close(self) -> None:
        self.closed = True
        self.driver.arrived.set()


@dataclass(frozen=True, slots=True)
class Message:
    message: str


@dataclass(frozen=True, slots=True)
class Reversed:
    echo: str


class EchoReverse(que.Model[Message, Reversed], job="echoReverse"):
    async def process(self) -> Reversed:
        return Reversed(self.params.message[::-1])


class TestOwn(Contract):
    """The suite, for once on a driver that lacks nearly everything: what it does not state is refused."""

    not_applicable = WITHIN_A_PROCESS | WITHOUT_TIMED_LEASES | WITHOUT_A_SERVER

    @pytest.fixture
    def url(self) -> str:
        que.register_driver("own", OwnDriver)
        return "own://"


def own_app(*middleware: que.Middleware[None], url: str = "own://") -> que.Que[None]:
    que.register_driver("own", OwnDriver)
    return que.Que(url, middleware=middleware)


def squaring(app: que.Que[None]) -> que.Job[int, int]:
    @app.job("square")
    def square(params: int) -> int:
        if params < 0:
            raise ValueError(f"{params} is negative")
        return params * params

    return square


def test_the_own_driver_is_under_80_lines_and_has_no_optional_protocol() -> None:
    lines = inspect.getsource(OwnDriver) + inspect.getsource(OwnConsumer)
    assert len(lines.splitlines()) < 80
    driver: Driver = OwnDriver(Address.parse("own://"))
    assert not isinstance(driver, Cancels | Inspects)
    assert not isinstance(OwnConsumer(OwnDriver(Address.parse("own://")), []), Emits)


@in_loop
async def test_typed_jobs_in_function_and_class_form_give_typed_results() -> None:
    app = own_app()
    square = squaring(app)
    app.add(EchoReverse)
    async with app, app.worker():
        assert await EchoReverse.submit(Message("2pac")) == Reversed("cap2")
        assert await que.gather(square.submit(3), EchoReverse.submit(Message("ab"))) == (9, Reversed("ba"))
        receipt = await square.send(4)
        assert (receipt.backend, receipt.job, receipt.reference) == ("own", "square", receipt.id)


@in_loop
async def test_failures_are_typed_and_the_worker_goes_on() -> None:
    app = own_app()
    square = squaring(app)
    foreign = que.Job("square", str, int)
    async with app, app.worker():
        with pytest.raises(que.JobFailed, match="ValueError: -1 is negative") as failed:
            await square.submit(-1)
        assert (failed.value.kind, failed.value.type) == ("handler", "ValueError")
        with pytest.raises(que.ParamsInvalid, match="params: expected int, got str"):
            await app.submit(foreign, "three")
        assert await square.submit(3) == 9


@in_loop
async def test_middleware_goes_around_every_handler() -> None:
    seen: list[tuple[str, object]] = []

    async def doubled(context: que.Context[None], params: object, call_next: que.Next) -> object:
        seen.append((context.job, params))
        result = await call_next(params)
        assert isinstance(result, int)
        return result * 2

    app = own_app(doubled)
    square = squaring(app)
    async with app, app.worker():
        assert await square.submit(3) == 18
    assert seen == [("square", 3)]


@in_loop
async def test_a_deadline_stops_a_run_that_takes_too_long() -> None:
    app = own_app()

    @app.job("sleepy", run_timeout=0.01)
    async def sleepy(params: int) -> None:
        await asyncio.Event().wait()

    async with app, app.worker():
        with pytest.raises(que.JobTimeout, match=r"run_timeout of 0\.01 s"):
            await sleepy.submit(1)


@in_loop
async def test_map_and_send_many_go_through_it() -> None:
    app = own_app()
    square = squaring(app)
    async with app, app.worker(concurrency=10):
        outcomes = [outcome async for outcome in square.map(range(-1, 300), in_flight=7)]
        assert sorted(each.params for each in outcomes) == list(range(-1, 300))
        assert all(each.result == each.params**2 for each in outcomes if each.params >= 0)
        assert [each.params for each in outcomes if each.error is not None] == [-1]
        sent = await square.send_many(range(300), in_flight=7)
        assert (sent.accepted, sent.refused) == (300, [])
        assert [await handle for handle in square.submit_many(range(3))] == [0, 1, 4]


def test_the_blocking_face_works_over_it() -> None:
    app = own_app()
    square = squaring(app)
    with app.blocking() as q, q.worker():
        assert q.submit(square, 3).result(timeout=20) == 9
        assert sorted(each.result for each in q.map(square, range(20), in_flight=3)) == [n * n for n in range(20)]
        assert q.send_many(square, range(5)).accepted == 5


@in_loop
async def test_a_worker_drains_what_runs_and_leaves_what_waits() -> None:
    app = own_app()
    started, go_on = asyncio.Event(), asyncio.Event()

    @app.job("slow")
    async def slow(params: int) -> int:
        started.set()
        await go_on.wait()
        return params

    async with app:
        worker = app.worker(concurrency=1)
        running = asyncio.create_task(worker.run())
        first, second = slow.submit_many([1, 2])
        await started.wait()
        stopping = asyncio.create_task(worker.stop(grace=20))
        await ticks(20)
        assert not stopping.done()
        go_on.set()
        await stopping
        await running
        assert await first == 1
        assert not second.done
        async with app.worker():
            assert await second == 2


@in_loop
async def test_a_job_that_outlives_the_grace_is_released_to_another_worker() -> None:
    app = own_app()
    runs: list[int] = []

    @app.job("stuck")
    async def stuck(params: int) -> int:
        runs.append(params)
        if len(runs) == 1:
            await asyncio.Event().wait()
        return params

    async with app:
        worker = app.worker()
        running = asyncio.create_task(worker.run())
        handle = stuck.submit(1)
        await until(lambda: runs)
        await worker.stop(grace=0)
        await running
        assert not handle.done
        async with app.worker():
            assert await handle == 1
    assert runs == [1, 1]


@in_loop
async def test_a_def_handler_runs_in_a_thread_with_its_context() -> None:
    app = own_app()

    @app.job("where")
    def where(params: None, context: que.Context[None]) -> tuple[str, bool]:
        return context.job, threading.current_thread() is threading.main_thread()

    async with app, app.worker():
        assert await where.submit(None) == ("where", False)


@pytest.mark.parametrize(
    ("options", "feature"),
    [
        pytest.param(CallOptions(delay=1), "delay", id="delay"),
        pytest.param(CallOptions(unique="key"), "unique keys", id="unique"),
        pytest.param(CallOptions(priority=que.Priority.HIGH), "priorities", id="priority"),
        pytest.param(CallOptions(expires=1), "expiry", id="expires"),
        pytest.param(CallOptions(run_timeout=1), "run_timeout per call", id="run_timeout"),
    ],
)
@in_loop
async def test_an_option_that_it_lacks_is_refused_with_its_name(options: CallOptions, feature: str) -> None:
    app = own_app()
    square = squaring(app)

    async with app:
        for verb in (square.submit, square.send):
            with pytest.raises(que.UnsupportedFeature, match=f"the own driver has no {feature}: ") as caught:
                verb(1, **options)
            assert (caught.value.driver, caught.value.feature) == ("own", feature)


@in_loop
async def test_an_ability_that_it_lacks_is_refused_with_its_name() -> None:
    app = own_app()

    @app.job("talkative")
    async def talkative(params: str, context: que.Context[None]) -> None:
        context.progress(1, 2) if params == "progress" else context.send_chunk(b"")

    async with app, app.worker():
        for feature in ("progress", "chunks"):
            with pytest.raises(que.JobFailed, match=f"UnsupportedFeature: the own driver has no {feature}"):
                await talkative.submit(feature)
        receipt = await talkative.send("progress")
        for ask in (app.status, app.cancel):
            with pytest.raises(que.UnsupportedFeature, match="the own driver has no "):
                await ask(receipt)


@in_loop
async def test_what_still_waits_at_the_disconnection_is_reported() -> None:
    app = own_app()
    square = squaring(app)
    async with app:
        handle = square.submit(1)
        await handle.accepted()
    with pytest.raises(que.ConnectionLost, match="own:// was disconnected"):
        await handle


def test_an_option_of_its_url_that_it_does_not_know_is_refused() -> None:
    with pytest.raises(que.ConfigurationError, match="unknown option 'size'"):
        own_app(url="own://?size=1")
