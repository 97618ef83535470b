"""`que worker` and `que scheduler`: what of an app they serve."""

import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

from que.app import Que
from que.cli.quota import Quota
from que.cli.serving import Service, serve
from que.schedule import Scheduler
from que.watchdog import Watchdog
from que.worker import Worker

_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks of a worker."""

    concurrency: int
    children: int | None
    grace: float
    stall: float | None
    max_jobs: int | None
    max_memory: float | None
    burst: bool
    scheduler: bool


async def work(app: Que[object], plan: Plan, ready: Callable[[], None]) -> int:
    """Work the app's jobs as `plan` says, until it is done or a signal comes; return the exit status."""
    worker = app.worker(concurrency=plan.concurrency, children=plan.children)
    served = [f"serves {', '.join(names)} with {slots} slots at {address}" for address, names, slots in worker.serves]
    if any(address.scheme == "memory" for address, _, _ in worker.serves):
        served.append("gets no jobs from other processes at memory://: name an engine that they share")
    quota = Quota(worker, plan.max_jobs, plan.max_memory, plan.burst)
    services: list[Service] = [worker]
    if plan.scheduler:
        scheduler = app.scheduler()
        services.append(scheduler)
        served.append(_keeps(scheduler))
    if quota.limits:
        services.append(quota)
    with nullcontext() if plan.stall is None else Watchdog(plan.stall):
        return await serve(
            app, services, served, lambda: _last_words(worker), plan.grace, ready=ready, status=lambda: quota.status
        )


async def schedule(app: Que[object], grace: float) -> int:
    """See to the app's schedules until a signal comes; return the exit status."""
    scheduler = app.scheduler()
    return await serve(
        app, [scheduler], [_keeps(scheduler)], lambda: f"{os.getpid()} ends in the midst of a send", grace
    )


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
