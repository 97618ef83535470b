"""Middleware: a function around the next one, and around all of them the handler.

`async def middleware(context, params, call_next)` awaits `call_next(params)` for the result, and may look at it, change
it, raise, or not call on at all.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Iterable
from types import coroutine
from typing import Never, cast

from que.errors import JobTimeout
from que.job import Context, Middleware, Next

Step = Callable[[object, Context[object]], Awaitable[object]]

_log = logging.getLogger("que.jobs")


class RunTimeout(JobTimeout):
    """This run, not one that it waits for, took longer than it may."""


def chain(middleware: Iterable[Middleware[Never]], handler: Step) -> Step:
    """Return `handler` with `middleware` around it, the first one outermost."""
    step = handler
    for each in reversed(list(middleware)):
        step = _around(cast(Middleware[object], each), step)
    return step


def _around(middleware: Middleware[object], step: Step) -> Step:
    def call(params: object, context: Context[object]) -> Awaitable[object]:
        return middleware(context, params, lambda changed: step(changed, context))

    return call


def deadline(seconds: float) -> Middleware[object]:
    """Return a middleware that cancels the run after `seconds` and fails it with JobTimeout."""

    async def stop_at_deadline(context: Context[object], params: object, call_next: Next) -> object:
        context.deadline = when = asyncio.get_running_loop().time() + seconds
        run = call_next(params).__await__()
        # Only what waits can be stopped, so a run that never does costs no timer: that is most of a deadline's cost.
        try:
            awaited = run.send(None)
        except StopIteration as end:
            return end.value
        limit = asyncio.timeout_at(when)
        context.limit_by(limit)
        try:
            async with limit:
                return await _rest(run, awaited)
        except TimeoutError:
            if limit.expired():
                raise RunTimeout(f"the run took longer than its run_timeout of {seconds:g} s") from None
            raise

    return stop_at_deadline


@coroutine
def _rest(run: Generator[object, object, object], awaited: object) -> Generator[object, object, object]:
    """Do as `await run`, which already waits for `awaited`."""
    while True:
        try:
            yield awaited
        except GeneratorExit:
            run.close()
            raise
        except BaseException as error:
            try:
                awaited = run.throw(error)
            except StopIteration as end:
                return end.value
        else:
            return (yield from run)


async def log_runs(context: Context[object], params: object, call_next: Next) -> object:
    """Log one line per run to the logger "que.jobs": its job, id, duration, and what it raised; never its params.

    The record has these too, as `que_job`, `que_job_id`, `que_attempt`, `que_seconds` and `que_error`: the name of the
    exception's class, or None.
    """
    clock = asyncio.get_running_loop().time
    start = clock()
    try:
        result = await call_next(params)
    except BaseException as error:
        name, seconds = type(error).__name__, clock() - start
        extra = _facts(context, seconds, name)
        _log.warning("%s %s: %s after %.3f s", context.job, context.job_id, name, seconds, extra=extra)
        raise
    seconds = clock() - start
    extra = _facts(context, seconds, None)
    _log.info("%s %s: done after %.3f s", context.job, context.job_id, seconds, extra=extra)
    return result


def _facts(context: Context[object], seconds: float, error: str | None) -> dict[str, object]:
    return {
        "que_job": context.job,
        "que_job_id": context.job_id,
        "que_attempt": context.attempt,
        "que_seconds": seconds,
        "que_error": error,
    }
