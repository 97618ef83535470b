"""The class form of a job: what it declares, of which types, and how one run of it goes."""

import asyncio
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

import msgspec
import pytest

import que
from tests.unit.loops import in_loop, ticks

T = TypeVar("T")
U = TypeVar("U")
ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class Message:
    message: str


class EchoReverse(que.Model[Message, str], job="echoReverse"):
    async def process(self) -> str:
        return self.params.message[::-1]


class Base(que.Model[Message, str]):
    """Declares no job."""

    async def process(self) -> str:
        return self.params.message


class Derived(Base, job="derived"):
    """Has its types from its base."""


class Mixin:
    """No Model."""


class Mixed(Mixin, EchoReverse, job="mixed"):
    """Is another job than the one it derives from."""


class Swapped(que.Model[T, U], Generic[U, T]):
    """Has its variables in another order than Model."""


class Straight(Swapped[str, Message], job="straight"): ...


class Listed(que.Model[list[ItemT], dict[str, ItemT]]):
    """Has its variable inside of its types."""


class Half(Swapped[U, Message], Generic[U]):
    """Leaves one of two variables to others."""


class Numbers(Listed[int], job="numbers"): ...


class Whole(Half[str], job="whole"): ...


class Bounded(que.Model[Annotated[int, msgspec.Meta(gt=0)], None], job="bounded"): ...


@pytest.mark.parametrize(
    ("declared", "params_type", "result_type"),
    [
        pytest.param(EchoReverse, Message, str, id="directly"),
        pytest.param(Derived, Message, str, id="by its base"),
        pytest.param(Mixed, Message, str, id="beside a mixin"),
        pytest.param(Straight, Message, str, id="in another order"),
        pytest.param(Numbers, list[int], dict[str, int], id="inside of others"),
        pytest.param(Whole, Message, str, id="one after the other"),
        pytest.param(Bounded, Annotated[int, msgspec.Meta(gt=0)], types.NoneType, id="with a bound"),
    ],
)
def test_the_types_of_a_job_are_those_that_its_class_gives_to_model(
    declared: type[que.Model[object, object]], params_type: object, result_type: object
) -> None:
    job = declared.declaration()
    assert (job.params_type, job.result_type) == (params_type, result_type)


def declare(base: object, **keywords: object) -> type:
    """Return a class that a checker would not let stand, or for which it would want a name."""
    return types.new_class("Declared", (base,), keywords)


def no_types() -> type:
    return declare(que.Model, job="open")


def two_variables() -> type:
    class Declared(que.Model[T, U], Generic[T, U], job="open"): ...

    return Declared


def one_variable() -> type:
    class Declared(que.Model[Message, U], Generic[U], job="open"): ...

    return Declared


def a_variable_inside() -> type:
    class Declared(que.Model[list[T], str], Generic[T], job="open"): ...

    return Declared


def a_generic_class() -> type:
    return declare(Swapped, job="open")


def a_generic_class_of_a_variable() -> type:
    class Declared(Half[T], job="open"): ...

    return Declared


@pytest.mark.parametrize(
    "declaring",
    [no_types, two_variables, one_variable, a_variable_inside, a_generic_class, a_generic_class_of_a_variable],
)
def test_a_job_whose_types_are_left_open_is_refused(declaring: Callable[[], type]) -> None:
    with pytest.raises(que.ConfigurationError, match=r"Declared names no types: write class Declared\(que\.Model"):
        declaring()


@pytest.mark.parametrize("keywords", [{"priority": que.Priority.HIGH}, {"driver": "mail"}, {"expires": 0.0}])
def test_options_without_a_job_are_refused(keywords: dict[str, object]) -> None:
    with pytest.raises(que.ConfigurationError, match=f"Declared: {next(iter(keywords))} without a job: add job="):
        declare(que.Model[Message, str], **keywords)


def test_the_options_of_a_class_are_those_of_its_job() -> None:
    class Urgent(EchoReverse, job="urgent", driver="mail", priority=que.Priority.HIGH, serializer=que.MSGPACK): ...

    job = Urgent.declaration()
    assert (job.name, job.driver, job.options.priority, job.serializer) == (
        "urgent",
        "mail",
        que.Priority.HIGH,
        que.MSGPACK,
    )
    assert EchoReverse.declaration().name == "echoReverse"


@pytest.mark.parametrize("name", ["", "two words"])
def test_a_name_that_no_engine_could_carry_is_refused(name: str) -> None:
    with pytest.raises(que.InvalidName):
        declare(que.Model[Message, str], job=name)


def test_a_type_that_the_serializer_cannot_carry_is_refused() -> None:
    with pytest.raises(que.ConfigurationError, match="job 'tasks': JSON cannot carry params of type"):
        declare(que.Model[asyncio.Task[None], str], job="tasks")


class Undeclared(EchoReverse):
    """Derives from a job, and is none."""


@pytest.mark.parametrize("undeclared", [Base, Undeclared])
def test_a_class_that_names_no_job_has_none(undeclared: type[que.Model[Message, str]]) -> None:
    calls: list[Callable[[], object]] = [
        undeclared.declaration,
        lambda: undeclared.submit(Message("x")),
        lambda: undeclared.send(Message("x")),
        lambda: que.Que("memory://").add(undeclared),
    ]
    for call in calls:
        with pytest.raises(que.ConfigurationError, match=f"{undeclared.__name__} declares no job"):
            call()


def test_a_class_that_belongs_to_no_app_says_so() -> None:
    class Unbound(EchoReverse, job="unbound"): ...

    for verb in (Unbound.submit, Unbound.send):
        with pytest.raises(que.NotBound, match="job 'unbound' belongs to no app"):
            verb(Message("x"))


@in_loop
async def test_a_class_is_submitted_and_worked_as_a_job_is() -> None:
    class Echo(EchoReverse, job="echo"): ...

    app = que.Que("memory://")
    job = app.add(Echo)
    assert job is Echo.declaration() is app.add(Echo)
    async with app, app.worker():
        assert await Echo.submit(Message("2pac")) == "cap2"
        assert await job.submit(Message("2pac")) == "cap2"
        assert (await Echo.send(Message("2pac"), delay=60)).job == "echo"


def test_a_class_without_a_process_declares_the_job_for_clients() -> None:
    class Client(que.Model[Message, str], job="client"): ...

    app = que.Que("memory://")
    job = app.add(Client)
    with pytest.raises(que.ConfigurationError, match="no job of this app has a handler"):
        app.worker()
    with pytest.raises(que.ConfigurationError, match="job 'client' has no handler in this process"):
        asyncio.run(job(Message("x")))
    with pytest.raises(NotImplementedError, match=r"Client has no process\(\)"):
        asyncio.run(Client(Message("x")).process())


@dataclass(frozen=True, slots=True)
class Ended:
    """One run of Recorded."""

    model: object
    job: str
    params: str
    error: BaseException | None


ended: list[Ended] = []


class Recorded(que.Model[str, str], job="recorded"):
    """Writes down how each run went."""

    async def process(self) -> str:
        if self.params == "fail":
            raise ValueError("why")
        if self.params == "wait":
            await asyncio.Event().wait()
        return self.params

    async def finished(self, error: BaseException | None) -> None:
        ended.append(Ended(self, self.context.job, self.params, error))
        if self.params == "break":
            raise LookupError("at the end")


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    ended.clear()


def test_every_run_is_an_instance_of_its_own_and_is_told_of_its_end() -> None:
    async def main() -> None:
        job = Recorded.declaration()
        assert [await job("a"), await job("b")] == ["a", "b"]
        with pytest.raises(ValueError, match="why"):
            await job("fail")
        waiting = asyncio.create_task(job("wait"))
        await ticks()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()

    asyncio.run(main())
    assert len({id(each.model) for each in ended}) == 4
    assert [(each.job, each.params, type(each.error)) for each in ended] == [
        ("recorded", "a", types.NoneType),
        ("recorded", "b", types.NoneType),
        ("recorded", "fail", ValueError),
        ("recorded", "wait", asyncio.CancelledError),
    ]


def test_an_error_of_finished_fails_the_run() -> None:
    with pytest.raises(LookupError, match="at the end"):
        asyncio.run(Recorded.declaration()("break"))
    assert len(ended) == 1


def test_a_model_made_by_hand_for_a_test_has_a_context() -> None:
    model = EchoReverse(Message("2pac"))
    assert asyncio.run(model.process()) == "cap2"
    assert (model.context.job, model.context.attempt, model.context.cancelled) == ("EchoReverse", None, False)
    given = que.Context[object]("mine", state=None)
    assert EchoReverse(Message("x"), given).context is given
