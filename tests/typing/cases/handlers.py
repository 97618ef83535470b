"""All four shapes of a handler give the same Job."""

from typing import assert_type

import que
from tests.typing.cases.values import Message, Pool, Reversed

app = que.Que("memory://")
assert_type(app, que.Que[None])


@app.job("async")
async def async_alone(params: Message) -> Reversed:
    return Reversed(params.message)


@app.job("async with context")
async def async_with_context(params: Message, context: que.Context) -> Reversed:
    assert_type(context.state, None)
    context.progress(1, 2)
    return Reversed(params.message)


@app.job("def")
def def_alone(params: Message) -> Reversed:
    return Reversed(params.message)


@app.job("def with context")
def def_with_context(params: Message, context: que.Context) -> Reversed:
    handle = context.blocking.submit(async_alone, params)
    assert_type(handle, que.BlockingHandle[Reversed])
    return handle.result(timeout=1.0)


@app.job("nothing")
async def returns_nothing(params: None) -> None:
    return None


@app.job("containers")
def containers(params: list[int]) -> dict[str, Message]:
    return {str(each): Message("") for each in params}


assert_type(async_alone, que.Job[Message, Reversed])
assert_type(async_with_context, que.Job[Message, Reversed])
assert_type(def_alone, que.Job[Message, Reversed])
assert_type(def_with_context, que.Job[Message, Reversed])
assert_type(returns_nothing, que.Job[None, None])
assert_type(containers, que.Job[list[int], dict[str, Message]])


@app.job("options", priority=que.Priority.HIGH, expires=5, run_timeout=2.5, serializer=que.MSGPACK, driver="memory")
async def with_options(params: Message) -> Reversed:
    return Reversed(params.message)


@app.job("process", executor="process", retry=que.Retry(on=(que.WorkerLost,)))
def in_a_process(params: Message, context: que.Context) -> Reversed:
    context.progress(1, 2)
    return Reversed(params.message)


assert_type(in_a_process, que.Job[Message, Reversed])
assert_type(que.Job("process", Message, Reversed, executor="process"), que.Job[Message, Reversed])
assert_type(app.worker(concurrency=10, children=2), que.Worker[None])


@app.job("default")
async def with_default(params: Message, times: int = 2, *more: int, loud: bool = False) -> Reversed:
    return Reversed(params.message * times)


@app.job("optional context")
def with_optional_context(params: Message, context: que.Context | None = None, times: int = 2) -> Reversed:
    return Reversed(params.message * times)


@app.job("any object")
def with_any_object(params: Message, context: object) -> Reversed:
    return Reversed(params.message)


assert_type(with_default, que.Job[Message, Reversed])
assert_type(with_optional_context, que.Job[Message, Reversed])
assert_type(with_any_object, que.Job[Message, Reversed])


class Callable:
    async def __call__(self, params: Message) -> Reversed:
        return Reversed(params.message)


assert_type(app.job("object")(Callable()), que.Job[Message, Reversed])


async def runs_here() -> None:
    assert_type(await async_alone(Message("")), Reversed)
    assert_type(await def_alone(Message("")), Reversed)
    assert_type(await def_with_context(Message(""), que.Context("def with context", state=None)), Reversed)
    await async_alone(Reversed(""))  # E: mypy[arg-type] pyright[reportArgumentType]


async def three(params: Message, context: que.Context, more: int) -> Reversed:
    return Reversed(params.message)


async def keyword(*, params: Message) -> Reversed:
    return Reversed(params.message)


async def wrong_context(params: Message, context: que.Context[Pool]) -> Reversed:
    return Reversed(params.message)


async def no_context(params: Message, times: int) -> Reversed:
    return Reversed(params.message * times)


def required_keyword(params: Message, *, times: int) -> Reversed:
    return Reversed(params.message * times)


app.job("no context")(no_context)  # E: mypy[arg-type] pyright[reportCallIssue,reportArgumentType]
app.job("required keyword")(required_keyword)  # E: mypy[arg-type] pyright[reportCallIssue,reportArgumentType]
app.job("three")(three)  # E: mypy[arg-type] pyright[reportCallIssue,reportArgumentType]
app.job("keyword")(keyword)  # E: mypy[arg-type] pyright[reportCallIssue,reportArgumentType]
app.job("context")(wrong_context)  # E: mypy[arg-type] pyright[reportCallIssue,reportArgumentType]
app.job("executor", executor="fiber")  # E: mypy[arg-type] pyright[reportArgumentType]
app.job("priority", priority=5)  # E: mypy[arg-type] pyright[reportArgumentType]
app.job("retires", retires=3)  # E: mypy[call-arg] pyright[reportCallIssue]
app.job(async_alone)  # E: mypy[arg-type] pyright[reportArgumentType]
app.job()  # E: mypy[call-arg] pyright[reportCallIssue]

# The cases would prove nothing if a wrong assertion passed.
assert_type(async_alone, que.Job[Message, Message])  # E: mypy[assert-type] pyright[reportAssertTypeFailure]
