"""`que demo`: the first example of the first Que, on any engine."""

import time
from dataclasses import dataclass

from que.app import Que
from que.errors import ResultInvalid
from que.job import Job

# The example's name and a prefix: on a shared server the plain one may be somebody's job, with workers of theirs. Not a
# name for each run, of which some engines would keep a trace; two demos at a time may well work each other's jobs.
_NAME = "que-demo-echoReverse"
_MOST_JOBS = 20_000
_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Message:
    """What goes in."""

    message: str


@dataclass(frozen=True, slots=True)
class Reversed:
    """What comes out."""

    echo: str


async def demo(url: str) -> None:
    """Declare echoReverse, work it in this process, submit one job, then many, and print what happened.

    Raises ResultInvalid if an answer is wrong.
    """
    app = Que(url)

    @app.job(_NAME)
    async def echo_reverse(params: Message) -> Reversed:
        return Reversed(params.message[::-1])

    async with app, app.worker(concurrency=1000):
        print(f"connected: {app}")
        print(f'submit:    {_NAME} {{"message": "2pac"}}')
        print(f"result:    {(await echo_reverse.submit(Message('2pac'))).echo}")
        jobs, seconds = await _measure(echo_reverse)
        print(
            f"rate:      {jobs / seconds:,.0f} jobs/s, client and worker in this process; {jobs:,} answers, all right"
        )


async def _measure(echo_reverse: Job[Message, Reversed]) -> tuple[int, float]:
    """Return how many jobs were done in how many seconds.

    Each batch is twice the last and awaited whole, so that an engine of any speed ends in a few of _SECONDS with
    nothing left in its queue.
    """
    begun = time.perf_counter()
    jobs, size, seconds = 0, 1, 0.0
    while seconds < _SECONDS and jobs < _MOST_JOBS:
        messages = [Message(f"{n:08}") for n in range(jobs, jobs + size)]
        for message, handle in zip(messages, echo_reverse.submit_many(messages), strict=True):
            answer = await handle
            if answer.echo != message.message[::-1]:
                raise ResultInvalid(f"{_NAME} answered {answer.echo!r} to {message.message!r}")
        jobs += size
        size *= 2
        seconds = time.perf_counter() - begun
    return jobs, seconds
