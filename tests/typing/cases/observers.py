"""Observers, and headers."""

from collections.abc import Mapping
from typing import assert_type

import que
from que.address import Address
from que.metrics import prometheus
from que.otel import tracing


class Quiet(que.Observer):
    def __init__(self, engine: Address) -> None: ...


class Wrong(que.Observer):
    def reconnected(self, times: int) -> None: ...  # E: mypy[override] pyright[reportIncompatibleMethodOverride]


app = que.Que("memory://", observers=[tracing(), prometheus(), Quiet, lambda engine: que.Observer()])
assert_type(app, que.Que[None])
que.Que("memory://", observers=[que.Observer()])  # E: mypy[list-item] pyright[reportArgumentType]


@app.job("work")
async def work(params: int, context: que.Context) -> None:
    assert_type(context.headers, Mapping[str, str])


work.submit(1, headers={"tenant": "7"})
work.send(1, headers={"tenant": 7})  # E: mypy[dict-item] pyright[reportArgumentType]
