"""Limits are options of a declaration."""

from typing import assert_type

import que

app = que.Que("memory://")
assert_type(que.Job("work", int, None, concurrency=2, rate="100/m", total_rate="1/s"), que.Job[int, None])


@app.job("work", concurrency=2, rate="5/10s")
async def work(params: int) -> None: ...


assert_type(work, que.Job[int, None])
que.Job("work", int, None, rate=5)  # E: mypy[call-overload] pyright[reportCallIssue,reportArgumentType]
app.job("other", concurrency="2")  # E: mypy[arg-type] pyright[reportArgumentType]
