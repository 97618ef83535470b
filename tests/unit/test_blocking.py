"""The blocking face within one process: verbs, threads, errors, and its end while somebody waits."""

import asyncio
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import pytest

import que
from que.address import Address
from que.backend import Backend
from que.drivers.memory import MemoryDriver
from que.model import Capabilities, Lease
from que.options import CallOptions, Options
from tests.unit.fakes import FakeDriver, url_of

WAIT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Message:
    message: str


@dataclass(frozen=True, slots=True)
class Reversed:
    echo: str


# What an unchecked program might pass.
NOT_A_MESSAGE = cast(Message, Reversed("not a message"))


class Failing(MemoryDriver):
    """Cannot connect."""

    def __init__(self, address: Address) -> None:
        super().__init__(Address.parse("memory://"))

    async def connect(self, events: object) -> None:
        raise que.ConnectError("failing://", "nobody is there")


class Crashing(MemoryDriver):
    """Cannot disconnect, and tells nobody what became of their jobs."""

    def __init__(self, address: Address) -> None:
        super().__init__(Address.parse("memory://"))

    async def disconnect(self) -> None:
        raise OSError("the cable is cut")


que.register_driver("failing", Failing)
que.register_driver("crashing", Crashing)


class Echo:
    """An app with a job that answers, one that fails, and one that nobody works."""

    def __init__(self, url: str = "memory://", max_unsent: int = 100_000) -> None:
        self.app = que.Que(url, max_unsent=max_unsent)
        self.reverse = self.app.add(que.Job("reverse", Message, Reversed))
        self.fail = self.app.add(que.Job("fail", Message, Reversed))
        self.nobody = self.app.add(que.Job("nobody", Message, Reversed))
        self.reverse.handler(self._reverse)
        self.fail.handler(self._fail)

    async def _reverse(self, params: Message) -> Reversed:
        return Reversed(params.message[::-1])

    def _fail(self, params: Message) -> Reversed:
        raise ValueError(params.message)


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def q(echo: Echo) -> Iterator[que.BlockingQue]:
    """A blocking app that also works its jobs."""
    with echo.app.blocking() as q, q.worker():
        yield q


def in_threads(count: int, work: Callable[[int], object]) -> list[object]:
    with ThreadPoolExecutor(count) as pool:
        return [each.result(WAIT_SECONDS) for each in [pool.submit(work, number) for number in range(count)]]


def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds; fail after WAIT_SECONDS."""
    pause = threading.Event()
    for _ in range(int(WAIT_SECONDS * 200)):
        if condition():
            return
        pause.wait(0.005)
    pytest.fail("the condition never came to hold")


def drained(q: que.BlockingQue) -> bool:
    q.drain()
    return False


def is_closed(q: que.BlockingQue) -> bool:
    try:
        q.drain()
    except que.NotConnected:
        return True
    return False


# --- the verbs --------------------------------------------------------------------------------------------------------


def test_submit_gives_a_handle_whose_result_is_typed_and_checked(echo: Echo, q: que.BlockingQue) -> None:
    handle = q.submit(echo.reverse, Message("2pac"))
    assert handle.result(WAIT_SECONDS) == Reversed("cap2")
    assert handle.done
    assert handle.peek() == Reversed("cap2")
    assert handle.accepted().job == "reverse"
    assert handle.error is None


def test_send_gives_a_receipt_by_which_the_job_is_found_and_cancelled(echo: Echo, q: que.BlockingQue) -> None:
    receipt = q.send(echo.nobody, Message("later")).result(WAIT_SECONDS)
    assert q.status(receipt).known
    assert q.cancel(receipt)
    assert not q.status(receipt).known


def test_a_handle_asks_after_its_job_and_cancels_it(echo: Echo, q: que.BlockingQue) -> None:
    handle = q.submit(echo.nobody, Message("x"))
    assert handle.status().known
    assert handle.cancel()
    with pytest.raises(que.JobCancelled):
        handle.result(WAIT_SECONDS)
    assert isinstance(handle.error, que.JobCancelled)
    assert not handle.cancel()


def test_submit_many_gives_the_handles_in_the_order_of_the_items(echo: Echo, q: que.BlockingQue) -> None:
    handles = q.submit_many(echo.reverse, (Message(f"{number}a") for number in range(2000)))
    assert [each.result(WAIT_SECONDS).echo for each in handles] == [f"{number}a"[::-1] for number in range(2000)]


def test_send_many_counts_what_was_taken_and_names_what_was_not(echo: Echo, q: que.BlockingQue) -> None:
    sent = q.send_many(echo.reverse, [Message("a"), NOT_A_MESSAGE, Message("b")], in_flight=1)
    assert sent.accepted == 2
    assert [(each.params, type(each.error)) for each in sent.refused] == [(NOT_A_MESSAGE, que.ParamsInvalid)]


def test_map_gives_an_outcome_for_each_item_also_for_the_failed_and_the_refused(echo: Echo, q: que.BlockingQue) -> None:
    outcomes = list(q.map(echo.fail, [Message("a"), NOT_A_MESSAGE, Message("b")], in_flight=2))
    assert {type(each.error) for each in outcomes if each.params is NOT_A_MESSAGE} == {que.ParamsInvalid}
    assert {str(each.error) for each in outcomes if each.params is not NOT_A_MESSAGE} == {
        "ValueError: a",
        "ValueError: b",
    }
    assert len(outcomes) == 3


def test_map_over_an_endless_iterable_reads_it_in_this_thread_no_further_than_its_window(
    echo: Echo, q: que.BlockingQue
) -> None:
    read: list[int] = []
    readers: set[int] = set()

    def endless() -> Iterator[Message]:
        for number in itertools.count():
            read.append(number)
            readers.add(threading.get_ident())
            yield Message(str(number))

    taken = 0
    for outcome in q.map(echo.reverse, endless(), in_flight=10):
        assert outcome.result.echo == outcome.params.message[::-1]
        taken += 1
        assert len(read) - taken <= 10
        if taken == 200:
            break
    assert taken == 200
    assert readers == {threading.get_ident()}


def test_map_goes_on_past_the_cap_on_what_waits_unsent() -> None:
    echo = Echo(max_unsent=3)
    with echo.app.blocking() as q, q.worker():
        assert len(list(q.map(echo.reverse, [Message("x")] * 100, in_flight=50))) == 100
        assert q.send_many(echo.reverse, [Message("x")] * 100, in_flight=50).accepted == 100


def test_an_error_of_the_items_themselves_reaches_the_caller(echo: Echo, q: que.BlockingQue) -> None:
    def broken() -> Iterator[Message]:
        yield Message("a")
        raise LookupError("no more")

    with pytest.raises(LookupError):
        list(q.map(echo.reverse, broken()))


@pytest.mark.parametrize("in_flight", [0, -1])
def test_a_window_of_nothing_is_refused_at_the_call(echo: Echo, q: que.BlockingQue, in_flight: int) -> None:
    with pytest.raises(que.ConfigurationError):
        q.map(echo.reverse, [], in_flight=in_flight)
    with pytest.raises(que.ConfigurationError):
        q.send_many(echo.reverse, [], in_flight=in_flight)


def test_submit_many_finds_the_way_of_its_job_once(
    echo: Echo, q: que.BlockingQue, monkeypatch: pytest.MonkeyPatch
) -> None:
    routed: list[object] = []
    route = echo.app.route

    def counted(job: que.Job[Message, Reversed], options: CallOptions) -> tuple[Backend, Options]:
        routed.append(job)
        return route(job, options)

    monkeypatch.setattr(echo.app, "route", counted)
    assert len(q.submit_many(echo.nobody, [Message("x")] * 5)) == 5
    assert routed == [echo.nobody]


def test_where_no_result_can_come_submitting_is_refused_once_and_sending_is_not() -> None:
    driver = FakeDriver(Capabilities(lease=Lease.PROCESS))
    job = que.Job("echo", int, int)
    with que.Que(url_of(driver)).blocking() as q:
        calls: list[Callable[[], object]] = [
            lambda: q.submit(job, 1),
            lambda: q.submit_many(job, [1]),
            lambda: next(q.map(job, [1])),
        ]
        for call in calls:
            with pytest.raises(que.UnsupportedFeature, match=r"has no results: use send\(\)"):
                call()
        assert q.send_many(job, [2]).accepted == 1
    assert [each.payload for each in driver.envelopes] == [b"2"]


def test_drain_returns_once_everything_has_left(echo: Echo, q: que.BlockingQue) -> None:
    sendings = [q.send(echo.nobody, Message("x")) for _ in range(500)]
    q.drain()
    assert all(each.done for each in sendings)


def test_events_end_with_the_job_and_come_in_order() -> None:
    app = que.Que("memory://")

    @app.job("steps")
    async def steps(params: int, context: que.Context) -> None:
        for done in range(params):
            context.progress(done, params)

    with app.blocking() as q:
        events = q.submit(steps, 5).events()
        with q.worker():
            assert list(events) == [que.Progress(done, 5) for done in range(5)]
            assert events.lost == 0
            assert list(q.submit(steps, 2).events()) == [que.Progress(0, 2), que.Progress(1, 2)]


def test_events_asked_for_while_they_arrive_always_end(echo: Echo, q: que.BlockingQue) -> None:
    for _ in range(200):
        assert list(q.submit(echo.reverse, Message("x")).events()) == []


# --- several threads --------------------------------------------------------------------------------------------------


def test_several_threads_await_one_handle(echo: Echo) -> None:
    with echo.app.blocking() as q:
        handle = q.submit(echo.reverse, Message("2pac"))
        ready = threading.Barrier(9)

        def wait(_: int) -> str:
            ready.wait(WAIT_SECONDS)
            return handle.result(WAIT_SECONDS).echo

        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(wait, number) for number in range(8)]
            ready.wait(WAIT_SECONDS)
            with q.worker():
                assert [each.result(WAIT_SECONDS) for each in waiting] == ["cap2"] * 8


def test_a_timeout_of_one_thread_is_not_another_ones(echo: Echo) -> None:
    with echo.app.blocking() as q:
        handle = q.submit(echo.reverse, Message("2pac"))
        with ThreadPoolExecutor(1) as pool:
            patient = pool.submit(handle.result, WAIT_SECONDS)
            for timeout in (0, -1, 0.01):
                with pytest.raises(que.ResultTimeout) as caught:
                    handle.result(timeout)
                assert isinstance(caught.value, TimeoutError)
            with q.worker():
                assert patient.result(WAIT_SECONDS) == handle.result() == Reversed("cap2")


def test_eight_threads_submit_at_once_and_each_gets_its_own_answers(echo: Echo, q: que.BlockingQue) -> None:
    def work(thread: int) -> bool:
        texts = [f"{thread}/{number}" for number in range(200)]
        one_by_one = [q.submit(echo.reverse, Message(text)).result(WAIT_SECONDS).echo for text in texts[:50]]
        at_once = [each.result(WAIT_SECONDS).echo for each in q.submit_many(echo.reverse, map(Message, texts[50:]))]
        return one_by_one + at_once == [text[::-1] for text in texts]

    assert in_threads(8, work) == [True] * 8


def test_threads_that_connect_one_app_at_once_give_one_connection_and_errors(echo: Echo) -> None:
    q = echo.app.blocking()

    def connect(_: int) -> object:
        try:
            q.connect()
        except que.ConfigurationError as error:
            return error
        return None

    assert in_threads(8, connect).count(None) == 1
    q.disconnect()
    assert not [each for each in threading.enumerate() if each.name == "que-blocking"]


# --- errors at the call, and later ------------------------------------------------------------------------------------


def test_what_is_known_at_the_call_is_raised_there(echo: Echo, q: que.BlockingQue) -> None:
    with pytest.raises(que.ParamsInvalid):
        q.submit(echo.reverse, NOT_A_MESSAGE)
    with pytest.raises(que.ConfigurationError):
        q.submit(echo.reverse, Message("x"), delay=-1)
    with pytest.raises(que.ConfigurationError):
        q.send(Echo().reverse, Message("belongs to another app"))


def test_what_the_handler_says_arrives_at_the_result(echo: Echo, q: que.BlockingQue) -> None:
    handle = q.submit(echo.fail, Message("no luck"))
    for _ in range(2):
        with pytest.raises(que.JobFailed, match="ValueError: no luck"):
            handle.result(WAIT_SECONDS)


def test_what_is_posted_and_has_not_reached_the_loop_counts_as_unsent() -> None:
    echo = Echo(max_unsent=10)
    started, gate = threading.Event(), threading.Event()

    async def hold_the_loop(params: Message) -> Reversed:
        started.set()
        gate.wait(WAIT_SECONDS)
        return Reversed("")

    echo.nobody.handler(hold_the_loop)
    with echo.app.blocking() as q, q.worker():
        try:
            held = q.submit(echo.nobody, Message("x"))
            assert started.wait(WAIT_SECONDS)
            handles = [q.submit(echo.reverse, Message("x")) for _ in range(8)]
            with pytest.raises(que.Overloaded):
                handles += [q.submit(echo.reverse, Message("x")) for _ in range(3)]
        finally:
            gate.set()
        q.drain()
        assert [each.result(WAIT_SECONDS) for each in handles] == [Reversed("x")] * len(handles)
        assert held.result(WAIT_SECONDS) == Reversed("")


BLOCKING_CALLS: dict[str, Callable[[que.BlockingQue, Echo], object]] = {
    "submit": lambda q, echo: q.submit(echo.reverse, Message("x")),
    "send": lambda q, echo: q.send(echo.reverse, Message("x")),
    "submit_many": lambda q, echo: q.submit_many(echo.reverse, [Message("x")]),
    "map": lambda q, echo: q.map(echo.reverse, []),
    "send_many": lambda q, echo: q.send_many(echo.reverse, []),
    "drain": lambda q, echo: q.drain(),
    "status": lambda q, echo: q.status(que.Receipt("memory", "reverse", "x", "x")),
    "cancel": lambda q, echo: q.cancel(que.Receipt("memory", "reverse", "x", "x")),
    "worker": lambda q, echo: q.worker(),
    "work": lambda q, echo: q.work(),
}


@pytest.mark.parametrize("call", BLOCKING_CALLS)
def test_every_verb_raises_not_connected_before_and_after(echo: Echo, call: str) -> None:
    q = echo.app.blocking()
    with pytest.raises(que.NotConnected):
        BLOCKING_CALLS[call](q, echo)
    with q:
        pass
    with pytest.raises(que.NotConnected):
        BLOCKING_CALLS[call](q, echo)


@pytest.mark.parametrize("call", [*BLOCKING_CALLS, "connect", "disconnect"])
def test_every_verb_raises_wrong_loop_inside_a_running_loop(echo: Echo, q: que.BlockingQue, call: str) -> None:
    ends: dict[str, Callable[[], None]] = {"connect": q.connect, "disconnect": q.disconnect}

    async def main() -> None:
        if call in ends:
            ends[call]()
        else:
            BLOCKING_CALLS[call](q, echo)

    with pytest.raises(que.WrongLoop):
        asyncio.run(main())
    assert q.submit(echo.reverse, Message("ok")).result(WAIT_SECONDS) == Reversed("ko")


def test_waiting_for_a_result_inside_a_running_loop_raises_wrong_loop_and_looking_at_one_does_not(
    echo: Echo, q: que.BlockingQue
) -> None:
    handle, done = q.submit(echo.nobody, Message("x")), q.submit(echo.reverse, Message("x"))
    done.result(WAIT_SECONDS)

    async def main() -> Reversed:
        for call in (handle.result, handle.accepted, handle.status, handle.cancel, handle.events):
            with pytest.raises(que.WrongLoop):
                call()
        return done.result()

    assert asyncio.run(main()) == Reversed("x")


def test_an_app_that_is_connected_in_a_loop_gives_no_blocking_face(echo: Echo) -> None:
    async def main() -> None:
        async with echo.app:
            with pytest.raises(que.ConfigurationError):
                echo.app.blocking()

    asyncio.run(main())


def test_a_second_face_of_a_connected_app_is_refused_and_leaves_the_first_alone(echo: Echo) -> None:
    first, second = echo.app.blocking(), echo.app.blocking()
    with first, first.worker():
        with pytest.raises(que.ConfigurationError):
            second.connect()
        with pytest.raises(que.ConfigurationError):
            first.connect()
        assert first.submit(echo.reverse, Message("ok")).result(WAIT_SECONDS) == Reversed("ko")


def test_a_failed_connect_names_the_backend_and_leaves_no_thread() -> None:
    echo = Echo("failing://")
    before = threading.enumerate()
    with pytest.raises(que.ConnectError, match="failing://"):
        echo.app.blocking().connect()
    assert threading.enumerate() == before


def test_one_face_connects_again_and_again(echo: Echo) -> None:
    q = echo.app.blocking()
    for _ in range(3):
        with q, q.worker():
            assert q.submit(echo.reverse, Message("ok")).result(WAIT_SECONDS) == Reversed("ko")
    q.disconnect()


# --- the end, while somebody waits ------------------------------------------------------------------------------------


def test_disconnect_gives_everybody_who_waits_an_error(echo: Echo) -> None:
    q = echo.app.blocking()
    q.connect()
    handle = q.submit(echo.nobody, Message("x"))
    flow = q.map(echo.nobody, itertools.repeat(Message("x")), in_flight=5)
    working = q.worker()
    with ThreadPoolExecutor(6) as pool:
        waiting: list[Future[object]] = [
            pool.submit(handle.result),
            pool.submit(handle.result, WAIT_SECONDS),
            pool.submit(list, handle.events()),
            pool.submit(lambda: next(flow).error),
            pool.submit(q.work),
            pool.submit(working.run),
        ]
        until(lambda: q.status(handle.accepted()).waiting == 1)
        q.disconnect()
        outcomes = [each.exception(WAIT_SECONDS) or each.result() for each in waiting]
    kinds = [type(each) for each in outcomes]
    assert kinds[:2] == [que.ConnectionLost] * 2
    assert outcomes[2] == [] or kinds[2] is que.NotConnected
    assert kinds[3:] == [que.ConnectionLost, que.NotConnected, que.NotConnected]


def test_a_driver_that_fails_at_the_end_leaves_nobody_waiting() -> None:
    echo = Echo("crashing://")
    q = echo.app.blocking()
    q.connect()
    handle = q.submit(echo.nobody, Message("x"))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(handle.result)
        with pytest.raises(OSError, match="the cable is cut"):
            q.disconnect()
        with pytest.raises(que.ConnectionLost):
            waiting.result(WAIT_SECONDS)
    assert not [each for each in threading.enumerate() if each.name == "que-blocking"]


def test_a_loop_that_something_exits_is_closed_in_order(echo: Echo, caplog: pytest.LogCaptureFixture) -> None:
    async def exit_the_loop(params: Message) -> Reversed:
        asyncio.get_running_loop().call_soon(sys.exit)
        return Reversed("")

    echo.fail.worked_by = None
    echo.fail.handler(exit_the_loop)
    q = echo.app.blocking()
    with q, q.worker():
        handle = q.submit(echo.nobody, Message("x"))
        q.submit(echo.fail, Message("x"))
        with pytest.raises(que.ConnectionLost):
            handle.result(WAIT_SECONDS)
        with pytest.raises(que.NotConnected):
            until(lambda: drained(q))
        with pytest.raises(que.NotConnected):
            q.submit(echo.reverse, Message("x"))
        q.disconnect()
        q.connect()  # a fresh start, for the two ends of `with` to find
        assert "exited the loop" in caplog.text


def test_disconnect_stops_the_workers_that_still_run(echo: Echo) -> None:
    async def main() -> None:
        await echo.app.connect()
        worker = echo.app.worker()
        running = asyncio.create_task(worker.run())
        assert await echo.reverse.submit(Message("2pac")) == Reversed("cap2")
        await echo.app.disconnect()
        await asyncio.wait_for(running, WAIT_SECONDS)
        assert not worker.is_running

    asyncio.run(main())


def test_a_loop_ends_under_a_worker_that_nobody_stopped(echo: Echo) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        async def endless(params: Message) -> Reversed:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

        echo.nobody.handler(endless)
        await echo.app.connect()
        await echo.app.worker().__aenter__()
        assert await echo.reverse.submit(Message("2pac")) == Reversed("cap2")
        echo.nobody.send(Message("x"))
        await begun.wait()

    ended = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    ended.start()
    ended.join(WAIT_SECONDS)
    assert not ended.is_alive()


# --- def handlers that submit jobs ------------------------------------------------------------------------------------


class Nesting:
    """An app whose `def` job submits another and waits for it."""

    def __init__(self) -> None:
        self.app = que.Que("memory://")
        self.inner = self.app.add(que.Job("inner", Message, Reversed))
        self.outer = self.app.add(que.Job("outer", Message, Reversed))
        self.inner.handler(self._inner)
        self.outer.handler(self._outer)
        self.inside = threading.Event()

    async def _inner(self, params: Message) -> Reversed:
        return Reversed(params.message[::-1])

    def _outer(self, params: Message, context: que.Context) -> Reversed:
        handle = context.blocking.submit(self.inner, params)
        self.inside.set()
        return handle.result(float(params.message.removeprefix("for ")) if "for " in params.message else WAIT_SECONDS)


def test_def_handlers_submit_and_wait_from_their_threads_at_once() -> None:
    nesting = Nesting()
    with nesting.app.blocking() as q, q.worker(concurrency=16):
        outcomes = q.map(nesting.outer, [Message(f"job {number}") for number in range(300)], in_flight=8)
        assert all(each.result.echo == each.params.message[::-1] for each in outcomes)


def test_a_def_handler_submits_from_a_worker_of_an_async_app_too() -> None:
    nesting = Nesting()

    async def main() -> Reversed:
        async with nesting.app, nesting.app.worker():
            return await nesting.outer.submit(Message("2pac")).result(WAIT_SECONDS)

    assert asyncio.run(main()) == Reversed("cap2")


def test_a_nested_job_that_waits_for_its_own_slot_ends_by_its_timeout_and_the_worker_goes_on() -> None:
    """No worker can know that no other one will take the nested job, so the wait is the handler's to bound."""
    nesting = Nesting()
    with nesting.app.blocking() as q, q.worker(concurrency=1):
        with pytest.raises(que.JobFailed) as caught:
            q.submit(nesting.outer, Message("for 0.05")).result(WAIT_SECONDS)
        assert caught.value.type == "ResultTimeout"
        assert q.submit(nesting.inner, Message("ok")).result(WAIT_SECONDS) == Reversed("ko")


def test_a_def_handler_that_waits_for_ever_is_let_go_when_its_worker_stops() -> None:
    nesting = Nesting()
    with nesting.app.blocking() as q:
        worker = q.worker(concurrency=1)
        with worker:
            handle = q.submit(nesting.outer, Message("waits and waits"))
            assert nesting.inside.wait(WAIT_SECONDS)
            worker.stop(grace=0)
        until(lambda: not [each for each in threading.enumerate() if each.name.startswith("que-job")])
        assert not handle.done


def test_the_blocking_face_in_an_async_handler_raises_wrong_loop() -> None:
    app = que.Que("memory://")
    other = app.add(que.Job("other", Message, Reversed))

    @app.job("wrong")
    async def wrong(params: Message, context: que.Context) -> Reversed:
        return context.blocking.submit(other, params).result()

    with app.blocking() as q, q.worker(), pytest.raises(que.JobFailed) as caught:
        q.submit(wrong, Message("x")).result(WAIT_SECONDS)
    assert caught.value.type == "WrongLoop"


def test_a_context_made_by_hand_has_no_blocking_face() -> None:
    with pytest.raises(que.NotConnected):
        _ = que.Context("name", state=None).blocking
