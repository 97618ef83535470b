"""The main job at full size: two worker processes, one client, a gearmand that dies on the way."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import que
from tests.gearman.foreign import workers_of
from tests.servers import Gearmand, StartGearmand, spawn, wait_until

APP = """
import os
from dataclasses import dataclass
import que

@dataclass(frozen=True, slots=True)
class Number:
    value: int
    text: str

@dataclass(frozen=True, slots=True)
class Answer:
    square: int
    text: str
    worker: int

app = que.Que(os.environ["TEST_URL"])

@app.job("square")
async def square(params: Number) -> Answer:
    return Answer(params.value ** 2, params.text[::-1], os.getpid())
"""


@dataclass(frozen=True, slots=True)
class Number:
    value: int
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    square: int
    text: str
    worker: int


TYPED_OUTCOMES = (que.NotSent, que.SubmitAmbiguous, que.ConnectionLost)


@contextlib.contextmanager
def two_workers(server: Gearmand, directory: Path, options: str = "") -> Generator[None]:
    (directory / "squares.py").write_text(APP)
    environment = {**os.environ, "TEST_URL": f"{server.url}{options}", "PYTHONPATH": str(directory)}
    words = [sys.executable, "-m", "que", "worker", "squares:app", "-w", "2"]
    parent = spawn(words, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(timeout=20) == 0


def numbers(count: int) -> Iterator[Number]:
    return (Number(n, f"text {n}") for n in range(count))


def is_right(outcome: que.Outcome[Number, Answer]) -> bool:
    params, result = outcome.params, outcome.result
    return (result.square, result.text) == (params.value**2, params.text[::-1])


def test_two_workers_and_a_client_exchange_100_000_typed_jobs_with_every_answer_right(
    own_gearmand: StartGearmand, tmp_path: Path
) -> None:
    server = own_gearmand()
    app = que.Que(server.url)
    square = app.add(que.Job("square", Number, Answer))

    async def exchange() -> None:
        seen: set[int] = set()
        workers: Counter[int] = Counter()
        async with app:
            async for outcome in square.map(numbers(100_000)):
                assert is_right(outcome)
                seen.add(outcome.params.value)
                workers[outcome.result.worker] += 1
        assert len(seen) == 100_000
        assert len(workers) == 2

    with two_workers(server, tmp_path):
        asyncio.run(asyncio.wait_for(exchange(), 100))


def test_after_gearmand_dies_in_the_middle_both_sides_work_again_and_no_job_hangs(
    own_gearmand: StartGearmand, tmp_path: Path
) -> None:
    server = own_gearmand()
    app = que.Que(f"{server.url}?submit_timeout=5")
    square = app.add(que.Job("square", Number, Answer))
    unserved = app.add(que.Job("nobody", int, None))
    outcomes: Counter[str] = Counter()

    async def exchange() -> None:
        async with app:
            done = 0
            waiting = unserved.submit(1)
            await waiting.accepted()
            async for outcome in square.map(numbers(60_000)):
                done += 1
                if done == 10_000:
                    server.kill()
                    server.restart()
                if outcome.error is None:
                    assert is_right(outcome)
                    outcomes["right"] += 1
                else:
                    assert isinstance(outcome.error, TYPED_OUTCOMES)
                    outcomes[type(outcome.error).__name__] += 1
            # The others may all have been answered when gearmand died.
            with pytest.raises(que.ConnectionLost):
                await waiting.result(timeout=5)
            # Complaint of many libraries: the worker is alive and idle for ever. Five seconds is the promise.
            answer = await square.submit(Number(3, "abc")).result(timeout=5)
            assert (answer.square, answer.text) == (9, "cba")

    with two_workers(server, tmp_path, "?backoff=0.5"):
        wait_until(lambda: workers_of(server.port, "square") == 2, "both workers are there")
        asyncio.run(asyncio.wait_for(exchange(), 60))
    assert sum(outcomes.values()) == 60_000
    assert outcomes["right"] >= 10_000
