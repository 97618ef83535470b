"""`que worker` and `que scheduler`: what of an app they serve."""

import os
import threading
from contextlib import nullcontext

from que.app import Que
from que.cli.serving import serve
from que.schedule import Scheduler
from que.watchdog import Watchdog
from que.worker import Worker

_MOST_NAMED = 10


async def work(
    app: Que[object], concurrency: int, grace: float, with_scheduler: bool, children: int | None, stall: float | None
) -> None:
    """Work the app's jobs, and see to its schedules if it is `with_scheduler`, until a signal comes."""
    with nullcontext() if stall is None else Watchdog(stall):
        await _work(app, app.worker(concurrency=concurrency, children=children), grace, with_scheduler)


async def _work(app: Que[object], worker: Worker[object], grace: float, with_scheduler: bool) -> None:
    served = [f"serves {', '.join(names)} with {slots} slots at {address}" for address, names, slots in worker.serves]
    if not with_scheduler:
        await serve(app, [worker], served, lambda: _last_words(worker), grace)
        return
    scheduler = app.scheduler()
    await serve(app, [worker, scheduler], [*served, _keeps(scheduler)], lambda: _last_words(worker), grace)


async def schedule(app: Que[object], grace: float) -> None:
    """See to the app's schedules until a signal comes."""
    scheduler = app.scheduler()
    await serve(app, [scheduler], [_keeps(scheduler)], lambda: f"{os.getpid()} ends in the midst of a send", grace)


def _keeps(scheduler: Scheduler) -> str:
    return f"keeps the schedules {'; '.join(scheduler.names)}"


def _last_words(worker: Worker[object]) -> str:
    jobs = [f"{delivery.function} {delivery.id}" for delivery in worker.running]
    if jobs:
        more = f" and {len(jobs) - _MOST_NAMED} more" if len(jobs) > _MOST_NAMED else ""
        return f"{os.getpid()} ends without these jobs, which do not stop: {', '.join(jobs[:_MOST_NAMED])}{more}"
    names = [
        thread.name for thread in threading.enumerate() if not (thread.daemon or thread is threading.main_thread())
    ]
    return f"{os.getpid()} does not wait for its threads {', '.join(names[:_MOST_NAMED])}"
