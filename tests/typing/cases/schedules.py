"""A schedule sends what its job takes, and a decorator of jobs leaves their types alone."""

from typing import assert_type

import que
from que.schedule import Clock, Scheduler, WallClock, When
from tests.typing.cases.values import Message, Reversed

app = que.Que("memory://", schedule_store="sqlite:///ticks.db")
report = que.Job("report", Message, Reversed)
sweep = que.Job("sweep", type(None), int)
clock: Clock = WallClock()

assert_type(app.cron("0 6 * * *", tz="Europe/Berlin", missed="last", name="daily"), When)
assert_type(app.every(seconds=0.5), When)
assert_type(app.every(seconds=5)(sweep), que.Job[None, int])
assert_type(app.scheduler(clock=clock, deadline=1), Scheduler)
app.cron("0 6 * * *").send(report, Message("daily"))
app.every(seconds=5).send(sweep, None)


@app.cron("*/5 * * * *")
@app.job("tidy")
async def tidy(params: None) -> int:
    return 1


@app.every(seconds=30)
@app.job("tidy too")
def tidy_too(params: None, context: que.Context) -> None: ...


assert_type(tidy, que.Job[None, int])
assert_type(tidy_too, que.Job[None, None])

app.cron("0 6 * * *")(report)  # E: mypy[arg-type] pyright[reportArgumentType]
app.cron("0 6 * * *").send(report, "daily")  # E: mypy[misc] pyright[reportArgumentType]
app.cron("0 6 * * *").send(report)  # E: mypy[call-arg] pyright[reportCallIssue]
app.cron("0 6 * * *", missed="some")  # E: mypy[arg-type] pyright[reportArgumentType]
app.cron("0 6 * * *", tz=1)  # E: mypy[arg-type] pyright[reportArgumentType]
app.every(5)  # E: mypy[call-arg] pyright[reportCallIssue]
app.every(seconds="5")  # E: mypy[arg-type] pyright[reportArgumentType]
app.scheduler(clock=5)  # E: mypy[arg-type] pyright[reportArgumentType]
