"""What a lifespan yields is what a context's state is."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import assert_type

import que
from tests.typing.cases.values import Message, Pool, Reversed


@asynccontextmanager
async def lifespan() -> AsyncGenerator[Pool, None]:
    yield Pool(3)


async def counted(context: que.Context[Pool], params: object, following: que.Next) -> object:
    assert_type(context.state.size, int)
    return await following(params)


async def counts_strings(context: que.Context[str], params: object, following: que.Next) -> object:
    return await following(params)


app = que.Que("memory://", lifespan=lifespan, middleware=[counted, que.log_runs])
assert_type(app, que.Que[Pool])
assert_type(app.worker(), que.Worker[Pool])
assert_type(que.Que("memory://", mail="memory://"), que.Que[None])


@app.job("async")
async def uses_state(params: Message, context: que.Context[Pool]) -> Reversed:
    assert_type(context.state, Pool)
    assert_type(context.attempt, int | None)
    assert_type(context.cancelled, bool)
    return Reversed(params.message * context.state.size)


async def retried(context: que.Context[Pool], params: object, following: que.Next) -> object:
    assert_type(context.will_retry(ValueError()), bool)
    with que.Watchdog(0.5) as watchdog:
        assert_type(watchdog, que.Watchdog)
    return await following(params)


app.job("retried", middleware=[retried, que.log_runs])


@app.job("def")
def uses_state_too(params: Message, context: que.Context[Pool]) -> Reversed:
    return Reversed(params.message * context.state.size)


@app.job("ignores it")
async def ignores_state(params: Message, context: que.Context[object]) -> Reversed:
    return Reversed(params.message)


assert_type(uses_state, que.Job[Message, Reversed])
assert_type(uses_state_too, que.Job[Message, Reversed])
assert_type(ignores_state, que.Job[Message, Reversed])


async def another_state(params: Message, context: que.Context[str]) -> Reversed:
    return Reversed(params.message)


def no_state(params: Message, context: que.Context) -> Reversed:
    return Reversed(params.message)


app.job("another")(another_state)  # E: mypy[arg-type] pyright[reportCallIssue,reportArgumentType]
app.job("none")(no_state)  # E: mypy[arg-type] pyright[reportCallIssue,reportArgumentType]
que.Que(lifespan=lifespan, middleware=[counts_strings])  # E: mypy[misc] pyright[reportCallIssue,reportArgumentType]
que.Que("memory://", middleware=[counted])  # E: mypy[list-item] pyright[reportArgumentType]
que.Que("memory://", lifespan=Pool)  # E: mypy[arg-type] pyright[reportCallIssue,reportArgumentType]
que.Que("memory://", max_unsend=5)  # E: mypy[call-overload] pyright[reportArgumentType]
que.Que(4730)  # E: mypy[call-overload] pyright[reportArgumentType]
