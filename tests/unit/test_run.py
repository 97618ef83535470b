"""One run of a job: whatever the params, the handler and the middleware do, a verdict comes of it."""

import asyncio
import contextvars
import logging
import sys
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Never, Unpack, cast

import pytest

import que
from que.job import Blocking, JobOptions, Middleware, Surroundings
from que.middleware import RunTimeout
from que.model import Completed, Delivery, Failed, Redeliver, Verdict
from que.run import Runs
from tests.unit.loops import in_loop, until

Next = Callable[[object], Awaitable[object]]
NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME", default="nobody")


@dataclass(frozen=True, slots=True)
class Size:
    width: int


class Abort(BaseException):
    """What a handler should not raise, and may."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def declared(handler: Callable[..., object], **options: Unpack[JobOptions]) -> que.Job[Size, int]:
    job = que.Job("measure", Size, int, **options)
    job.handler(cast(Callable[[Size], int], handler))
    return job


class Site:
    """Runs of one job, outside of any worker."""

    def __init__(
        self,
        job: que.Job[Size, int],
        middleware: Sequence[Middleware[Never]] = (),
        state: object = None,
        threads: int = 2,
        redelivers: bool = True,
    ) -> None:
        self.executor = ThreadPoolExecutor(threads)
        surroundings = Surroundings(
            driver="memory",
            loop=asyncio.get_running_loop(),
            thread=threading.get_ident(),
            progress=None,
            chunks=None,
            redelivers=redelivers,
            blocking=cast(Blocking, self),
        )
        jobs = {job.name: cast(que.Job[object, object], job)}
        self.outlived: list[Future[object]] = []
        self.runs = Runs(jobs, middleware, state, self.executor, self.outlived.append, surroundings)

    async def run(
        self, payload: bytes = b'{"width":3}', run_timeout: float | None = None, attempt: int | None = 2
    ) -> Verdict:
        delivery = Delivery("measure", payload, "id-1", attempt, run_timeout)
        async with asyncio.timeout(20):
            return await self.runs.run(delivery)


@contextmanager
def site(
    job: que.Job[Size, int], middleware: Sequence[Middleware[Never]] = (), state: object = None
) -> Generator[Site, None, None]:
    made = Site(job, middleware, state)
    try:
        yield made
    finally:
        made.executor.shutdown()


async def run_once(
    handler: Callable[..., object], *around: Middleware[Never], **options: Unpack[JobOptions]
) -> Verdict:
    with site(declared(handler, **options), around) as made:
        return await made.run()


async def async_plain(params: Size) -> int:
    return params.width


async def async_with_context(params: Size, context: que.Context[object]) -> int:
    return params.width * (context.attempt or 0)


def plain(params: Size) -> int:
    return params.width


def with_context(params: Size, context: que.Context[object]) -> int:
    return params.width * (context.attempt or 0)


@pytest.mark.parametrize(
    ("handler", "result"),
    [(async_plain, b"3"), (async_with_context, b"6"), (plain, b"3"), (with_context, b"6")],
    ids=["async", "async with context", "def", "def with context"],
)
@in_loop
async def test_a_handler_of_each_shape_gives_its_encoded_result(handler: Callable[..., object], result: bytes) -> None:
    assert await run_once(handler) == Completed(result)


@in_loop
async def test_a_context_knows_its_job_its_delivery_and_the_state() -> None:
    seen: list[object] = []

    async def handler(params: Size, context: que.Context[str]) -> int:
        seen.extend([context.job, context.job_id, context.attempt, context.deadline, context.cancelled, context.state])
        return 0

    with site(declared(handler), state="the state") as made:
        await made.run()
    assert seen == ["measure", "id-1", 2, None, False, "the state"]


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b'{"width":"three"}', b"{}", b"\xff", b"[" * 100_000, b"null"],
    ids=lambda payload: payload[:12],
)
@in_loop
async def test_params_that_do_not_decode_fail_without_the_handler(payload: bytes) -> None:
    called: list[Size] = []

    async def handler(params: Size) -> int:
        called.append(params)
        return 0

    with site(declared(handler)) as made:
        verdict = await made.run(payload)
        assert isinstance(verdict, Failed)
        assert (verdict.kind, verdict.type) == ("params", "ParamsInvalid")
        assert verdict.message.startswith("params")
        assert called == []
        assert await made.run() == Completed(b"0")


@in_loop
async def test_a_failure_of_the_params_names_the_path() -> None:
    with site(declared(async_plain)) as made:
        assert await made.run(b'{"width":"3"}') == Failed(
            "params", "ParamsInvalid", "params.width: expected int, got str"
        )


@in_loop
async def test_a_result_that_does_not_encode_is_the_handlers_failure() -> None:
    async def handler(params: Size) -> object:
        return object()

    verdict = await run_once(handler)
    assert isinstance(verdict, Failed)
    assert (verdict.kind, verdict.type) == ("result", "ResultInvalid")
    assert verdict.message.startswith("result: expected int")


ERRORS = [
    (ValueError("no"), Failed("handler", "ValueError", "no")),
    (que.Reject("why"), Failed("rejected", "Reject", "why")),
    (que.JobTimeout("another job's"), Failed("handler", "JobTimeout", "another job's")),
    (TimeoutError("of mine"), Failed("handler", "TimeoutError", "of mine")),
    (SystemExit(3), Failed("handler", "SystemExit", "3")),
    (Abort("now"), Failed("handler", "Abort", "now")),
    (BaseExceptionGroup("both", [Abort()]), Failed("handler", "BaseExceptionGroup", "both (1 sub-exception)")),
    (Unspeakable(), Failed("handler", "Unspeakable", "(its text cannot be had)")),
    (ValueError("x" * 5000), Failed("handler", "ValueError", "x" * 4000)),
    (ValueError("\ud800"), Failed("handler", "ValueError", "\\ud800")),
]
ERROR_IDS = ["error", "rejected", "job-timeout", "timeout", "exit", "base", "group", "textless", "long", "surrogate"]


@pytest.mark.parametrize(("error", "verdict"), ERRORS, ids=ERROR_IDS)
@pytest.mark.parametrize("shape", ["async", "def"])
@in_loop
async def test_what_a_handler_raises_is_its_failure_by_name_and_text(
    error: BaseException, verdict: Failed, shape: str
) -> None:
    async def handler(params: Size) -> int:
        raise error

    def blocking(params: Size) -> int:
        raise error

    assert await run_once(handler if shape == "async" else blocking) == verdict


@pytest.mark.parametrize("shape", ["async", "def"])
@in_loop
async def test_a_stop_iteration_is_a_failure_and_no_hang(shape: str) -> None:
    empty: Iterator[int] = iter(())

    async def handler(params: Size) -> int:
        return next(empty)

    def blocking(params: Size) -> int:
        return next(empty)

    verdict = await run_once(handler if shape == "async" else blocking)
    assert isinstance(verdict, Failed)
    assert (verdict.kind, verdict.type) == ("handler", "RuntimeError")
    assert "StopIteration" in verdict.message


@in_loop
async def test_a_cancellation_is_no_failure_of_the_job() -> None:
    async def handler(params: Size) -> int:
        await asyncio.Event().wait()
        return 0

    with site(declared(handler)) as made:
        running = asyncio.create_task(made.run())
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


@pytest.mark.parametrize("where", ["job", "call"])
@in_loop
async def test_an_async_handler_is_stopped_at_its_deadline(where: str) -> None:
    cleaned: list[str] = []

    async def handler(params: Size, context: que.Context[object]) -> int:
        assert context.deadline is not None
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("up")
        return 0

    job = declared(handler, run_timeout=0.01 if where == "job" else None)
    with site(job) as made:
        verdict = await made.run(run_timeout=0.01 if where == "call" else None)
    assert verdict == Failed("timeout", "JobTimeout", "the run took longer than its run_timeout of 0.01 s")
    assert cleaned == ["up"]


@in_loop
async def test_a_calls_own_deadline_takes_the_place_of_the_jobs() -> None:
    async def handler(params: Size, context: que.Context[object]) -> int:
        assert context.deadline is not None
        return round(context.deadline - asyncio.get_running_loop().time())

    with site(declared(handler, run_timeout=100.0)) as made:
        assert await made.run(run_timeout=500.0) == Completed(b"500")
        assert await made.run() == Completed(b"100")


@in_loop
async def test_a_def_handler_fails_at_its_deadline_and_may_see_that_it_is_not_wanted() -> None:
    seen: list[bool] = []

    def handler(params: Size, context: que.Context[object]) -> int:
        seen.append(context.cancelled)
        while not context.cancelled:
            threading.Event().wait(0.001)
        seen.append(context.cancelled)
        return 0

    verdict = await run_once(handler, run_timeout=0.01)
    assert isinstance(verdict, Failed)
    assert verdict.kind == "timeout"
    await until(lambda: seen == [False, True])


@in_loop
async def test_a_handlers_own_time_out_within_its_deadline_is_its_own() -> None:
    async def handler(params: Size) -> int:
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()
        return 0

    verdict = await run_once(handler, run_timeout=100.0)
    assert isinstance(verdict, Failed)
    assert (verdict.kind, verdict.type) == ("handler", "TimeoutError")


@in_loop
async def test_a_def_handler_runs_in_another_thread_with_a_copy_of_the_context_variables() -> None:
    async def sets_name(context: que.Context[object], params: object, call_next: Next) -> object:
        NAME.set("the middleware's")
        return await call_next(params)

    seen: list[object] = []

    def handler(params: Size) -> int:
        seen.extend([NAME.get(), threading.get_ident() != main])
        NAME.set("the handler's")
        return 0

    main = threading.get_ident()
    await run_once(handler, sets_name)
    assert seen == ["the middleware's", True]
    assert NAME.get() == "the middleware's"


@in_loop
async def test_a_def_handler_may_return_an_awaitable() -> None:
    def handler(params: Size) -> Awaitable[int]:
        return async_plain(params)

    assert await run_once(handler) == Completed(b"3")


@in_loop
async def test_middleware_goes_around_the_handler_the_apps_first() -> None:
    trail: list[str] = []

    def leaves(name: str) -> Middleware[Never]:
        async def middleware(context: que.Context[object], params: object, call_next: Next) -> object:
            trail.append(f"{name} in")
            try:
                return await call_next(params)
            finally:
                trail.append(f"{name} out")

        return middleware

    async def handler(params: Size) -> int:
        trail.append("handler")
        return 0

    await run_once(handler, leaves("app 1"), leaves("app 2"), middleware=[leaves("job")])
    assert trail == ["app 1 in", "app 2 in", "job in", "handler", "job out", "app 2 out", "app 1 out"]


@pytest.mark.parametrize("handler", [async_plain, plain], ids=["async", "def"])
@in_loop
async def test_middleware_may_change_the_params_and_the_result(handler: Callable[..., object]) -> None:
    async def changes(context: que.Context[object], params: object, call_next: Next) -> object:
        assert isinstance(params, Size)
        result = await call_next(Size(params.width + 10))
        assert isinstance(result, int)
        return result * 2

    assert await run_once(handler, changes) == Completed(b"26")


@in_loop
async def test_middleware_may_answer_for_the_handler() -> None:
    async def answers(context: que.Context[object], params: object, call_next: Next) -> object:
        return 42

    async def handler(params: Size) -> int:
        raise AssertionError("not to be called")

    assert await run_once(handler, answers) == Completed(b"42")


@in_loop
async def test_middleware_may_call_on_again() -> None:
    attempts: list[int] = []

    async def again(context: que.Context[object], params: object, call_next: Next) -> object:
        try:
            return await call_next(params)
        except ValueError:
            return await call_next(params)

    async def handler(params: Size) -> int:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("once")
        return len(attempts)

    assert await run_once(handler, again) == Completed(b"2")


@in_loop
async def test_an_error_of_middleware_is_the_jobs_failure() -> None:
    async def refuses(context: que.Context[object], params: object, call_next: Next) -> object:
        raise que.Reject("not today")

    assert await run_once(async_plain, refuses) == Failed("rejected", "Reject", "not today")


@in_loop
async def test_the_deadline_holds_for_middleware_too() -> None:
    async def slow(context: que.Context[object], params: object, call_next: Next) -> object:
        await asyncio.Event().wait()
        return None

    verdict = await run_once(async_plain, slow, run_timeout=0.01)
    assert isinstance(verdict, Failed)
    assert verdict.kind == "timeout"


@in_loop
async def test_a_failure_holds_no_traceback() -> None:
    async def handler(params: Size) -> int:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error

    verdict = await run_once(handler)
    assert verdict == Failed("handler", "ValueError", "outer")
    assert sys.exc_info() == (None, None, None)


PATIENT = que.Retry(attempts=3, base=7, jitter=0)


def flaky(failures: int, error: type[BaseException] = ValueError) -> Callable[[Size], Awaitable[int]]:
    """Return a handler that fails that many times."""
    left = [failures]

    async def handler(params: Size) -> int:
        left[0] -= 1
        if left[0] >= 0:
            raise error("not yet")
        return params.width

    return handler


@in_loop
@pytest.mark.parametrize(
    ("attempt", "verdict"),
    [(1, Redeliver(7)), (2, Redeliver(14)), (3, Failed("handler", "ValueError", "not yet"))],
)
async def test_a_failed_run_is_handed_back_for_later_until_the_attempts_are_used_up(
    attempt: int, verdict: Verdict
) -> None:
    with site(declared(flaky(1), retry=PATIENT)) as made:
        assert await made.run(attempt=attempt) == verdict


@in_loop
async def test_where_the_engine_cannot_delay_the_worker_waits_and_runs_the_job_again() -> None:
    job = declared(flaky(2), retry=que.Retry(attempts=3, base=0.001))
    made = Site(job, redelivers=False)
    assert await made.run(attempt=None) == Completed(b"3")
    made.executor.shutdown()


@in_loop
async def test_where_the_engine_cannot_delay_the_last_failure_is_the_verdict() -> None:
    made = Site(declared(flaky(3), retry=que.Retry(attempts=3, base=0.001)), redelivers=False)
    assert await made.run(attempt=None) == Failed("handler", "ValueError", "not yet")
    made.executor.shutdown()


@in_loop
async def test_each_run_gets_params_of_its_own() -> None:
    seen: list[int] = []

    @dataclass
    class Count:
        width: int

    async def spoil(params: Count) -> int:
        seen.append(params.width)
        params.width += 1
        if len(seen) == 1:
            raise ValueError
        return params.width

    job = que.Job("measure", Count, int, retry=que.Retry(attempts=2, base=0.001))
    job.handler(spoil)
    made = Site(cast(que.Job[Size, int], job), redelivers=False)
    assert await made.run(attempt=None) == Completed(b"4")
    assert seen == [3, 3]
    made.executor.shutdown()


@in_loop
async def test_a_job_whose_workers_died_in_every_run_is_not_run_again() -> None:
    ran: list[Size] = []
    with site(declared(ran.append, retry=PATIENT)) as made:
        verdict = await made.run(attempt=4)
    assert verdict == Failed("crashed", "WorkerLost", "its worker was lost in each of 3 runs")
    assert ran == []


@in_loop
async def test_without_a_policy_a_failure_is_final_and_retry_after_is_obeyed() -> None:
    async def later(params: Size) -> int:
        raise que.RetryAfter(90)

    with site(declared(flaky(1))) as made:
        assert isinstance(await made.run(attempt=1), Failed)
    with site(declared(later)) as made:
        assert await made.run(attempt=1) == Redeliver(90)


@in_loop
@pytest.mark.parametrize("error", [que.Reject, que.ParamsInvalid])
async def test_what_another_run_would_not_mend_is_not_retried(error: type[Exception]) -> None:
    payload = b'{"width":"wide"}' if error is que.ParamsInvalid else b'{"width":3}'
    with site(declared(flaky(1, que.Reject), retry=PATIENT)) as made:
        verdict = await made.run(payload, attempt=1)
    assert isinstance(verdict, Failed)
    assert verdict.kind == ("params" if error is que.ParamsInvalid else "rejected")


@in_loop
async def test_a_run_that_took_too_long_is_retried_by_the_policy() -> None:
    async def forever(params: Size) -> int:
        await asyncio.get_running_loop().create_future()
        return 0

    with site(declared(forever, retry=PATIENT, run_timeout=0.01)) as made:
        assert await made.run(attempt=1) == Redeliver(7)
        assert (await made.run(attempt=3)) == Failed(
            "timeout", "JobTimeout", "the run took longer than its run_timeout of 0.01 s"
        )


# What is logged

SECRET = "hunter2"
TOLD_SHORTLY: list[tuple[BaseException, str]] = [
    (que.Reject("why"), "job measure id-1: why"),
    (RunTimeout("too long"), "job measure id-1: too long"),
]


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int, str, bool]]:
    """What was logged: logger, level, message, and whether there is a traceback."""
    return [(each.name, each.levelno, each.getMessage(), each.exc_info is not None) for each in caplog.records]


@pytest.mark.parametrize("shape", ["async", "def", "middleware"])
@in_loop
async def test_a_failed_handler_is_logged_once_with_its_traceback_and_without_the_payload(
    shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(params: object) -> int:
        raise KeyError("the cause")

    async def fails_in_loop(params: object) -> int:
        return fails(params)

    async def middleware(context: que.Context[object], params: object, call_next: Next) -> object:
        return fails(params)

    around = [middleware] if shape == "middleware" else []
    with site(declared({"async": fails_in_loop, "def": fails}.get(shape, plain)), around) as made:
        await made.run(f'{{"width":3,"note":"{SECRET}"}}'.encode())
    assert told(caplog) == [("que", logging.ERROR, "job measure id-1: its handler failed", True)]
    assert "in fails\n" in caplog.text
    assert "KeyError: 'the cause'" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(("error", "message"), TOLD_SHORTLY, ids=["rejected", "timeout"])
@in_loop
async def test_a_failure_that_says_all_is_logged_without_a_traceback(
    error: BaseException, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(params: Size) -> int:
        raise error

    await run_once(handler)
    assert told(caplog) == [("que", logging.WARNING, message, False)]


@in_loop
async def test_params_that_do_not_decode_are_logged_by_their_path_alone(caplog: pytest.LogCaptureFixture) -> None:
    with site(declared(async_plain)) as made:
        await made.run(f'{{"width":"{SECRET}"}}'.encode())
    message = "job measure id-1: params.width: expected int, got str"
    assert told(caplog) == [("que", logging.WARNING, message, False)]


@in_loop
async def test_a_result_that_does_not_encode_is_logged_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(params: Size) -> object:
        return SECRET

    await run_once(handler)
    [(_, level, message, traceback)] = told(caplog)
    assert (level, traceback) == (logging.WARNING, False)
    assert message.startswith("job measure id-1: result: expected int")
    assert SECRET not in message


@in_loop
async def test_a_run_that_ends_well_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "que")
    assert await run_once(async_plain) == Completed(b"3")
    assert told(caplog) == []


# What is no failure of the job


@in_loop
async def test_an_interrupt_is_no_failure_of_the_job() -> None:
    with site(declared(async_plain), [interrupts]) as made:
        step = made.runs.run(Delivery("measure", b'{"width":3}', "id-1"))
        with pytest.raises(KeyboardInterrupt):
            step.send(None)


async def interrupts(context: que.Context[object], params: object, call_next: Next) -> object:
    raise KeyboardInterrupt


@in_loop
async def test_the_thread_of_a_def_handler_that_outlives_its_cancelled_run_is_told_of() -> None:
    gate = threading.Event()
    begun = threading.Event()

    def handler(params: Size) -> int:
        begun.set()
        gate.wait(20)
        return 0

    with site(declared(handler)) as made:
        running = asyncio.create_task(made.run())
        await until(begun.is_set)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert [thread.done() for thread in made.outlived] == [False]
        gate.set()
        await until(made.outlived[0].done)


@in_loop
async def test_a_def_handler_that_waits_for_a_thread_is_not_run_once_it_is_cancelled() -> None:
    gate = threading.Event()
    runs: list[int] = []

    def handler(params: Size) -> int:
        runs.append(1)
        gate.wait(20)
        return 0

    with site(declared(handler)) as made:
        first = [asyncio.create_task(made.run()) for _ in range(2)]
        await until(lambda: len(runs) == 2)
        third = asyncio.create_task(made.run())
        await asyncio.sleep(0)
        third.cancel()
        with pytest.raises(asyncio.CancelledError):
            await third
        assert made.outlived == []
        gate.set()
        assert await asyncio.gather(*first) == [Completed(b"0")] * 2
    assert len(runs) == 2
