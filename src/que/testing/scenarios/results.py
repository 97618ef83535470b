"""Results: whole, to the one who asked, once."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import que
from que.testing.scenario import Scenario, needs_pushed_results
from que.testing.subject import PromiseBroken, Subject, expect, refused


async def payloads_come_back_byte_for_byte(subject: Subject) -> None:
    """From the least to the most that the engine carries, with every byte value; beyond the most it refuses."""
    app = subject.app()

    @app.job(subject.name("echo"), serializer=que.RAW)
    async def echo(params: bytes) -> bytes:
        return params

    async with app, app.worker(concurrency=20):
        async for outcome in echo.map(_payloads(subject), in_flight=50):
            expect(outcome.error is None, f"{len(outcome.params)} bytes did not come back: {outcome.error!r}")
            expect(outcome.result == outcome.params, f"{len(outcome.params)} bytes came back as others")
        most = subject.can.max_payload
        if most is not None:
            _expect_rejected(lambda: echo.submit(bytes(most + 1)), f"{most + 1} bytes")
            _expect_rejected(lambda: echo.send(bytes(most + 1)), f"{most + 1} bytes")


def _payloads(subject: Subject) -> list[bytes]:
    chance = random.Random(4)
    most = min(subject.can.max_payload or subject.sizes.most_bytes, subject.sizes.most_bytes)
    every_value = bytes(range(256))
    chosen = [b"", b"\0", b"\n", every_value, every_value[::-1] * 3, chance.randbytes(most - 1), chance.randbytes(most)]
    lengths = [min(int(1.04**number), 65_536, most) for number in range(subject.sizes.round_trips - len(chosen))]
    return [*chosen, *map(chance.randbytes, lengths)]


def _expect_rejected(ask: Callable[[], object], what: str) -> None:
    try:
        ask()
    except que.Rejected:
        return
    raise PromiseBroken(f"{what} are more than max_payload, and were not rejected")


async def twenty_functions_and_their_callers_are_never_mixed_up(subject: Subject) -> None:
    """Each job is run by its own function, and each caller gets the answer to its own question."""
    app = subject.app()
    jobs = [_tagging(app, subject.name(f"tag{number}"), number) for number in range(20)]
    async with app, app.worker(concurrency=16):
        asked = [(number, index) for index in range(50) for number in range(20)]
        handles = [jobs[number].submit(index) for number, index in asked]
        wrong = [(ask, answer) for ask in asked if (answer := await handles[ask[1] * 20 + ask[0]]) != ask]
    expect(not wrong, f"{len(wrong)} of {len(asked)} answers were another's, such as {wrong[:3]}")


def _tagging(app: que.Que[None], name: str, number: int) -> que.Job[int, tuple[int, int]]:
    @app.job(name)
    async def tag(params: int) -> tuple[int, int]:
        await asyncio.sleep(random.random() / 500)
        return number, params

    return tag


async def a_job_that_fails_twice_runs_exactly_three_times(subject: Subject) -> None:
    """The third run has the result. The attempts count from 1 where the engine counts; else the first one is None."""
    app = subject.app()
    seen: dict[int, list[int | None]] = {}

    @app.job(subject.name("thrice"), retry=que.Retry(attempts=5, base=0.01))
    async def thrice(params: int, context: que.Context[None]) -> int:
        seen.setdefault(params, []).append(context.attempt)
        if len(seen[params]) < 3:
            raise ValueError("not yet")
        return params

    async with app, app.worker(concurrency=4):
        expect(await que.gather(*thrice.submit_many(range(20))) == tuple(range(20)), "each result is its own job's")
        await thrice.send(20)
        # What comes after it is a sign that the worker goes on, and gives a fourth run the time to show itself.
        expect(await thrice.submit(21) == 21, "the worker goes on")
        while len(seen.get(20, ())) < 3:
            await asyncio.sleep(0.005)
    runs = Counter(map(len, seen.values()))
    expect(runs == {3: 22}, f"22 jobs should run 3 times each, but ran {dict(runs)} (runs: jobs)")
    first = 1 if subject.can.attempts else None
    # A worker that retries in place counts the runs that it has seen.
    expected = [first, None, None] if subject.can.retry and not subject.can.attempts else [first, 2, 3]
    expect(all(each == expected for each in seen.values()), f"attempts should be {expected}, not {seen[0]}")


async def a_failure_says_what_went_wrong(subject: Subject) -> None:
    """JobFailed has the type and the text; a job that is rejected is not tried again; params that do not fit say so."""
    app = subject.app()
    runs: list[int] = []

    @app.job(subject.name("fail"), retry=que.Retry(attempts=3, base=0.01))
    async def fail(params: int) -> None:
        runs.append(params)
        raise que.Reject("no such page")

    @app.job(subject.name("raise"))
    async def raises(params: int) -> None:
        raise KeyError("dog: ein Hund, größer als ☃")

    async with app, app.worker(concurrency=4):
        rejected = await _failure(fail.submit(1))
        expect(rejected.kind == "rejected" and "no such page" in rejected.message, f"a rejection, not {rejected!r}")
        expect(runs == [1], f"a rejected job runs once, not {len(runs)} times")
        failed = await _failure(raises.submit(1))
        facts = (failed.kind, failed.type, "größer als ☃" in failed.message)
        expect(facts == ("handler", "KeyError", True), f"the handler's failure, not {failed!r}")
        try:
            await app.submit(que.Job(subject.name("fail"), str, str), "one")
        except que.ParamsInvalid:
            return
    raise PromiseBroken("params of another type came to the handler")


async def _failure(handle: que.Handle[None]) -> que.JobFailed:
    try:
        await handle
    except que.JobFailed as error:
        return error
    raise PromiseBroken("a job whose handler raised came back as a success")


async def a_result_is_found_again_by_its_receipt(subject: Subject) -> None:
    """Before the job's end and after it, as often as asked for, while its time to live lasts; else it is refused."""
    app = subject.app()
    go_on = asyncio.Event()

    @app.job(subject.name("kept"))
    async def kept(params: int) -> int:
        await go_on.wait()
        return params + 1

    async with app, app.worker(concurrency=4):
        if not subject.can.results_stored:
            go_on.set()
            receipt = await kept.send(1)
            await refused(lambda: kept.send(1, result_ttl=60), "result_ttl")
            await refused(lambda: app.handle(kept, receipt), "app.handle()")
            return
        receipt = await kept.send(1, result_ttl=60)
        early = [app.handle(kept, receipt) for _ in range(3)]
        go_on.set()
        expect(await que.gather(*early) == (2, 2, 2), "each of those who asked before the end has the result")
        late = [app.handle(kept, receipt) for _ in range(3)]
        expect(await que.gather(*late) == (2, 2, 2), "each of those who asked after the end has the result")
        forgotten = await kept.send(1)
        try:
            await app.handle(kept, forgotten).result(timeout=10)
        except que.JobUnknown:
            return
        except que.ResultTimeout as error:
            raise PromiseBroken("nobody kept this result, and asking for it does not end") from error


async def results_that_are_not_pushed_cannot_be_awaited(subject: Subject) -> None:
    """submit() works where the engine tells of the end, else it is refused."""
    app = subject.app()

    @app.job(subject.name("plain"))
    async def plain(params: int) -> int:
        return params

    async with app, app.worker(concurrency=1):
        if subject.can.results_pushed:
            expect(await plain.submit(7) == 7, "the result comes back")
        else:
            await refused(lambda: plain.submit(7), "results_pushed")


SCENARIOS = (
    Scenario(results_that_are_not_pushed_cannot_be_awaited),
    Scenario(payloads_come_back_byte_for_byte, (needs_pushed_results,)),
    Scenario(twenty_functions_and_their_callers_are_never_mixed_up, (needs_pushed_results,)),
    Scenario(a_job_that_fails_twice_runs_exactly_three_times, (needs_pushed_results,)),
    Scenario(a_failure_says_what_went_wrong, (needs_pushed_results,)),
    Scenario(a_result_is_found_again_by_its_receipt),
)
