"""One run of a job: whatever the params, the handler and the middleware do, a verdict comes of it."""

import asyncio
import contextvars
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Never, cast

import pytest

import que
from que.job import Middleware
from que.model import Completed, Failed, Redeliver, Verdict
from tests.unit.loops import in_loop, until
from tests.unit.run_site import (
    Abort,
    Site,
    Size,
    Unspeakable,
    async_plain,
    async_with_context,
    declared,
    plain,
    run_once,
    site,
    with_context,
)

Next = Callable[[object], Awaitable[object]]
NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME", default="nobody")


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
