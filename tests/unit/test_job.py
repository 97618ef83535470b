"""A job's declaration: what it refuses, who may carry it, its handlers and its payloads; and a context made by hand."""

import asyncio
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypedDict, cast

import msgspec
import pytest

import que
from que.job import JobOptions, shape_of
from tests.unit.fakes import FakeDriver, url_of
from tests.unit.loops import in_loop


@dataclass(frozen=True, slots=True)
class Message:
    message: str


class Size(NamedTuple):
    width: int
    height: int


class Named(TypedDict):
    name: str


class Point(msgspec.Struct):
    x: int


def echo() -> que.Job[str, str]:
    return que.Job("echo", str, str)


# The declaration.


@pytest.mark.parametrize(
    ("job", "shown"),
    [
        (que.Job("resize", Message, Size), "<Job 'resize': Message -> Size>"),
        (que.Job("many", list[Message], dict[str, int]), r"<Job 'many': list\[.*Message\] -> dict\[str, int\]>"),
        (que.Job("log", Named, None), "<Job 'log': Named -> NoneType>"),
    ],
    ids=["classes", "containers", "nothing"],
)
def test_the_repr_of_a_job_shows_its_name_and_its_types(job: object, shown: str) -> None:
    assert re.fullmatch(shown, repr(job))


def test_the_types_of_a_job_are_what_it_was_given() -> None:
    job = que.Job("log", Message, None)
    assert (job.params_type, job.result_type) == (Message, type(None))


@pytest.mark.parametrize("part", ["params", "result"])
@pytest.mark.parametrize("serializer", [que.JSON, que.MSGPACK, que.RAW], ids=["json", "msgpack", "raw"])
def test_a_type_that_the_serializer_cannot_carry_is_refused_with_the_job_and_the_part(
    part: str, serializer: que.Serializer
) -> None:
    types: tuple[type[object], type[object]] = (asyncio.Lock, bytes) if part == "params" else (bytes, asyncio.Lock)
    with pytest.raises(que.ConfigurationError, match=f"job 'lock': .* {part} of type .*Lock"):
        que.Job("lock", *types, serializer=serializer)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param({"expires": -1}, "expires=-1: expected seconds", id="expires"),
        pytest.param({"run_timeout": 0}, "run_timeout=0: expected seconds, more than 0", id="run_timeout"),
        pytest.param({"priority": 5}, r"priority=5: expected que\.Priority", id="priority"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused_at_the_declaration(options: JobOptions, reason: str) -> None:
    with pytest.raises(que.ConfigurationError, match=reason):
        que.Job("echo", str, str, **options)


# Who carries it.


@in_loop
async def test_a_job_of_no_app_says_so_at_every_verb_and_how_it_is_submitted() -> None:
    job = echo()
    calls: list[Callable[[], object]] = [
        lambda: job.submit("x"),
        lambda: job.send("x"),
        lambda: job.submit_many(["x"]),
        lambda: job.map(["x"]),
    ]
    for call in calls:
        with pytest.raises(que.NotBound, match=r"job 'echo' belongs to no app: use app\.add\(job\), or app\.submit"):
            call()
    with pytest.raises(que.NotBound):
        await job.send_many(["x"])


# Its handlers.


async def with_await(params: str) -> str:
    return params.upper()


async def with_await_and_context(params: str, context: que.Context[object]) -> str:
    return f"{context.job}: {params.upper()}"


def plain(params: str) -> str:
    return params.upper()


def plain_with_context(params: str, context: que.Context[object]) -> str:
    return f"{context.job}: {params.upper()}"


HANDLERS: list[tuple[Callable[..., object], str]] = [
    (with_await, "HI"),
    (with_await_and_context, "echo: HI"),
    (plain, "HI"),
    (plain_with_context, "echo: HI"),
]


@pytest.mark.parametrize(("handler", "result"), HANDLERS, ids=[each.__name__ for each, _ in HANDLERS])
@in_loop
async def test_a_job_runs_its_handler_here_and_in_a_worker_whatever_its_shape(
    handler: Callable[..., object], result: str
) -> None:
    app = que.Que("memory://")
    job = app.add(echo())
    job.work_by(shape_of(handler))
    assert await job("hi") == result
    async with app, app.worker():
        assert await job.submit("hi") == result


@in_loop
async def test_a_handler_called_here_gets_the_context_that_it_is_given() -> None:
    job = echo()
    job.handler(with_await_and_context)
    assert await job("hi", que.Context("mine", state=None)) == "mine: HI"


def test_a_job_without_a_handler_cannot_be_called() -> None:
    with pytest.raises(que.ConfigurationError, match="job 'echo' has no handler in this process"):
        asyncio.run(echo()("hi"))


def test_a_job_has_one_handler() -> None:
    job = echo()
    assert job.handler(plain) is job
    with pytest.raises(que.ConfigurationError, match="job 'echo' already has a handler"):
        job.handler(with_await)
    assert asyncio.run(job("hi")) == "HI"


@in_loop
async def test_a_handler_may_be_added_after_its_job_was_bound() -> None:
    app = que.Que("memory://")
    job = app.add(echo())
    async with app:
        handle = job.submit("hi")
        job.handler(plain)
        async with app.worker():
            assert await handle == "HI"


# Its payloads.


@pytest.mark.parametrize(
    ("type_", "value", "payload"),
    [
        pytest.param(Message, Message("a"), b'{"message":"a"}', id="dataclass"),
        pytest.param(Point, Point(1), b'{"x":1}', id="Struct"),
        pytest.param(Named, Named(name="a"), b'{"name":"a"}', id="TypedDict"),
        pytest.param(Size, Size(1, 2), b"[1,2]", id="NamedTuple"),
        pytest.param(list[int], [1], b"[1]", id="list"),
        pytest.param(type(None), None, b"null", id="None"),
    ],
)
def test_on_the_wire_are_the_params_and_nothing_else(type_: type[object], value: object, payload: bytes) -> None:
    job = que.Job("echo", type_, type_)
    assert job.dump_params(value) == job.dump_result(value) == payload
    assert job.load_params(payload) == job.load_result(payload) == value


def test_a_payload_that_does_not_fit_says_where_and_what_was_expected() -> None:
    job = que.Job("echo", Message, Message)
    wrong = cast(Message, Size(1, 2))
    with pytest.raises(que.ParamsInvalid, match="job 'echo': params"):
        job.dump_params(wrong)
    with pytest.raises(que.ResultInvalid, match="result"):
        job.dump_result(wrong)
    with pytest.raises(que.ParamsInvalid, match=r"params\.message: expected str, got int"):
        job.load_params(b'{"message":1}')
    with pytest.raises(que.ResultInvalid, match=r"job 'echo': result\.message: expected str, got int"):
        job.load_result(b'{"message":1}')


def test_an_empty_result_of_a_foreign_worker_is_none_where_the_type_allows_it() -> None:
    assert que.Job("log", Message, None).load_result(b"") is None
    with pytest.raises(que.ResultInvalid):
        que.Job("echo", Message, Message).load_result(b"")


# A context made by hand, for the unit test of a handler.


def test_a_context_made_by_hand_knows_its_job_and_its_state_and_tells_nobody() -> None:
    context = que.Context("resize", state=Size(1, 2), attempt=3)
    assert (context.job, context.state, context.attempt, context.job_id) == ("resize", Size(1, 2), 3, "")
    assert (context.deadline, context.cancelled) == (None, False)
    context.progress(1, 2)
    context.warn("hot")
    context.send_chunk(b"a")
    with pytest.raises(que.NotConnected, match="belongs to no worker"):
        context.blocking  # noqa: B018 - asking is what raises


# Eager tasks.


@pytest.fixture
def eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every new loop makes eager tasks."""
    new_event_loop = asyncio.new_event_loop

    def new_eager_loop() -> asyncio.AbstractEventLoop:
        loop = new_event_loop()
        if sys.version_info >= (3, 12):
            loop.set_task_factory(asyncio.eager_task_factory)
        return loop

    monkeypatch.setattr("asyncio.events.new_event_loop", new_eager_loop)
    monkeypatch.setattr("asyncio.new_event_loop", new_eager_loop)


with_eager_tasks = pytest.mark.skipif(sys.version_info < (3, 12), reason="needs Python 3.12: eager_task_factory")


@with_eager_tasks
@pytest.mark.usefixtures("eagerly")
def test_eager_tasks_leave_what_one_tick_submits_one_batch() -> None:
    driver = FakeDriver()

    @in_loop
    async def main() -> None:
        async with que.Que(url_of(driver)) as app:
            job = app.add(echo())
            job.submit("a")
            job.send("b")
            job.submit_many(["c", "d"])
            assert driver.batches == []
            await app.drain()
            async for outcome in job.map(["e", "f"]):
                assert outcome.error is None
                break

    driver.answer = lambda events, envelope: (
        events.accepted(envelope.id, "") if envelope.background else events.completed(envelope.id, envelope.payload)
    )
    main()
    assert [len(batch) for batch in driver.batches] == [4, 2]


@with_eager_tasks
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("handler", [with_await, plain])
def test_eager_tasks_leave_every_way_to_a_result_as_it_is(handler: Callable[..., object]) -> None:
    app = que.Que("memory://")
    job = app.add(echo())
    job.work_by(shape_of(handler))

    @in_loop
    async def main() -> None:
        async with app, app.worker(concurrency=3):
            first, second = job.submit_many(["a", "b"])
            awaiting = asyncio.create_task(first.result(timeout=20))
            assert await que.gather(first, second) == ("A", "B")
            assert await awaiting == "A"
            assert [await each async for each in que.as_completed([first, second])] == ["A", "B"]
            assert (await first.accepted()).job == "echo"
            assert [event async for event in first.events()] == []
            outcomes = [outcome async for outcome in job.map("abcdef", in_flight=2)]
            assert sorted(each.result for each in outcomes) == list("ABCDEF")
            assert (await job.send_many("abcdef", in_flight=2)).accepted == 6
            with pytest.raises(que.ConfigurationError, match="in_flight=0"):
                await job.send_many("a", in_flight=0)

    main()
    with app.blocking() as q, q.worker():
        assert q.submit(job, "a").result(timeout=20) == "A"
        assert sorted(each.result for each in q.map(job, "abc", in_flight=2)) == list("ABC")
