"""One run of a job: decode, middleware, handler, encode; whatever happens, it ends in a verdict."""

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Never, cast

from que.errors import ParamsInvalid, Reject, ResultInvalid, RetryAfter, WorkerLost
from que.job import Call, Context, Handler, Job, Middleware, Surroundings
from que.middleware import RunTimeout, Step, chain, deadline
from que.model import Completed, Delivery, Failed, Redeliver, Verdict

_log = logging.getLogger("que")

# What crosses the wire is for people to read: nobody needs more of it.
_MOST_MESSAGE_CHARACTERS = 4000
# These are not about the job: any other exception is its failure, or a delivery would come back for ever.
_NO_FAILURES = (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit)


class ParamsUnfit(Reject):
    """The process that was to run the handler could not decode the params."""


class ResultUnfit(Reject):
    """The process that ran the handler could not encode its result."""


# What kind of failure an exception out of a handler is, if it is not the handler's own; the first that fits.
_KINDS: dict[type[BaseException], str] = {
    RunTimeout: "timeout",
    WorkerLost: "crashed",
    ParamsUnfit: "params",
    ResultUnfit: "result",
    Reject: "rejected",
}
# What a class is called on the wire where that is not its own name.
_NAMES: dict[type[BaseException], str] = {
    RunTimeout: "JobTimeout",
    ParamsUnfit: "ParamsInvalid",
    ResultUnfit: "ResultInvalid",
}
_NO_CONTEXT = Context[object]("", state=None)

Load = Callable[[bytes], object]
Dump = Callable[[object], bytes]
# Runs a job, by its name, on encoded params and returns its encoded result.
InProcess = Callable[[str, bytes, Context[object]], Awaitable[bytes]]


class Runs:
    """Runs deliveries of `jobs` with `middleware` around the handlers; everything that can be is prepared per job.

    `def` handlers run in threads of `executor`, in a copy of the job's context variables. `outlived` is told of each
    one that runs on after its job was cancelled, for no thread can be stopped. `in_process` runs those of jobs whose
    executor is "process".
    """

    def __init__(
        self,
        jobs: Mapping[str, Job[object, object]],
        middleware: Sequence[Middleware[Never]],
        state: object,
        executor: Executor,
        outlived: Callable[[Future[object]], None],
        surroundings: Surroundings,
        in_process: InProcess | None = None,
    ) -> None:
        self._executor = executor
        self._in_process = in_process
        self._outlived = outlived
        # What run() calls, for those who spare themselves a call for each job.
        self.runners: dict[str, Callable[[Delivery], Coroutine[object, object, Verdict]]] = {
            name: self._runner(job, middleware, state, surroundings) for name, job in jobs.items()
        }

    def run(self, delivery: Delivery) -> Coroutine[object, object, Verdict]:
        """Return the coroutine that runs `delivery` and returns its verdict; only _NO_FAILURES leave it."""
        return self.runners[delivery.function](delivery)

    def _runner(
        self, job: Job[object, object], middleware: Sequence[Middleware[Never]], state: object, site: Surroundings
    ) -> Callable[[Delivery], Coroutine[object, object, Verdict]]:
        handler = job.worked_by
        assert handler is not None, f"job {job.name!r} has no handler"
        around = (*middleware, *job.middleware)
        limit = job.options.run_timeout
        policy = job.retry
        load_params, step, dump_result = self._steps(job, handler, alone=not around)
        whole = chain(around if limit is None else (deadline(limit), *around), step)
        wants_context = handler.wants_context or bool(around) or limit is not None

        def new_context(delivery: Delivery, attempt: int | None) -> Context[object]:
            return Context(
                job.name,
                state=state,
                job_id=delivery.id,
                attempt=attempt,
                surroundings=site,
                delivery=delivery,
                retry=policy,
            )

        async def run(delivery: Delivery) -> Verdict:
            known = delivery.attempt
            attempt = known or 1
            if attempt > policy.attempts:
                return _worn_out(delivery)
            while True:
                try:
                    params = load_params(delivery.payload)
                except ParamsInvalid as error:
                    return _failed(delivery, "params", error)
                try:
                    if delivery.run_timeout is not None and delivery.run_timeout != limit:
                        limited = chain((deadline(delivery.run_timeout), *around), step)
                        result = await limited(params, new_context(delivery, known))
                    else:
                        result = await whole(params, new_context(delivery, known) if wants_context else _NO_CONTEXT)
                except _NO_FAILURES:
                    raise
                except BaseException as error:
                    wait_seconds = policy.wait(attempt, error)
                    if wait_seconds is None:
                        return _failed(delivery, _kind(error), error)
                    _log_retry(delivery, attempt, wait_seconds, error)
                else:
                    try:
                        return Completed(dump_result(result))
                    except ResultInvalid as error:
                        return _failed(delivery, "result", error)
                if site.redelivers:
                    return Redeliver(wait_seconds)
                await asyncio.sleep(wait_seconds)
                known = attempt = attempt + 1

        return run

    def _steps(self, job: Job[object, object], handler: Handler, *, alone: bool) -> tuple[Load, Step, Dump]:
        """Return what decodes the params, the innermost step, and what encodes the result.

        `alone`: nobody in this process looks at the values.
        """
        if self._in_process is None:
            return job.load_params, self._step(handler), job.dump_result
        if alone:
            return _unchanged, _by_bytes(job.name, self._in_process), _unchanged
        return job.load_params, _transcoded(job, self._in_process), job.dump_result

    def _step(self, handler: Handler) -> Step:
        """Return the innermost step, which gives an awaitable whatever the handler looks like."""
        call = handler.call
        if handler.is_async:
            return cast(Step, call)
        executor, outlived = self._executor, self._outlived

        async def in_thread(params: object, context: Context[object]) -> object:
            variables = contextvars.copy_context()
            thread = executor.submit(variables.run, _in_future, call, params, context)
            try:
                result = await asyncio.wrap_future(thread)
            except asyncio.CancelledError:
                # A thread cannot be stopped; its handler may look.
                context.cancelled = True
                if not thread.done():
                    outlived(thread)
                raise
            return await result if inspect.isawaitable(result) else result

        return in_thread


def _by_bytes(name: str, in_process: InProcess) -> Step:
    return lambda payload, context: in_process(name, cast(bytes, payload), context)


def _transcoded(job: Job[object, object], in_process: InProcess) -> Step:
    async def step(params: object, context: Context[object]) -> object:
        return job.load_result(await in_process(job.name, job.dump_params(params), context))

    return step


def _unchanged(payload: object) -> bytes:
    return cast(bytes, payload)


def _in_future(call: Call, params: object, context: Context[object]) -> object:
    """Return what `call` returns; a StopIteration comes as RuntimeError, as it does out of an `async def`.

    A future of asyncio cannot hold one: on Python 3.11 whoever awaits it would wait for ever.
    """
    try:
        return call(params, context)
    except StopIteration as error:
        raise RuntimeError("the handler raised StopIteration") from error


def _worn_out(delivery: Delivery) -> Failed:
    """Return the failure of a job whose runs have all ended with their workers."""
    message = f"its worker was lost in each of {(delivery.attempt or 1) - 1} runs"
    _log.error("job %s %s is not run again: %s", delivery.function, delivery.id, message, extra=delivery.facts)
    return Failed("crashed", "WorkerLost", message)


def _kind(error: BaseException) -> str:
    return next((kind for type_, kind in _KINDS.items() if isinstance(error, type_)), "handler")


def _failed(delivery: Delivery, kind: str, error: BaseException) -> Failed:
    """Return, and log, what `error` means: with its traceback only where that shows more than frames of ours."""
    message, facts = _message(error), _facts(delivery, error)
    if kind == "handler":
        _log.error("job %s %s: its handler failed", delivery.function, delivery.id, exc_info=error, extra=facts)
    else:
        _log.warning("job %s %s: %s", delivery.function, delivery.id, message, extra=facts)
    return Failed(kind, _NAMES.get(type(error), type(error).__name__), message)


def _log_retry(delivery: Delivery, attempt: int, wait_seconds: float, error: BaseException) -> None:
    told = error if _kind(error) == "handler" and not isinstance(error, RetryAfter) else None
    line = "job %s %s: run %d ended in %s, and it runs again in %.3g s"
    said = (delivery.function, delivery.id, attempt, type(error).__name__, wait_seconds)
    _log.warning(line, *said, exc_info=told, extra=_facts(delivery, error) | {"que_attempt": attempt})


def _facts(delivery: Delivery, error: BaseException) -> dict[str, object]:
    return delivery.facts | {"que_error": type(error).__name__}


def _message(error: BaseException) -> str:
    """Return the text of `error` as something that any wire can carry."""
    try:
        text = str(error)
    except Exception:
        text = "(its text cannot be had)"
    return text[:_MOST_MESSAGE_CHARACTERS].encode("utf-8", "backslashreplace").decode()
