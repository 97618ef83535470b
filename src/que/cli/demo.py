"""`que demo`: the first example of the first Que, on any engine."""

import time
from dataclasses import dataclass

from que.app import Que

_JOBS = 20_000


@dataclass(frozen=True, slots=True)
class Message:
    """What goes in."""

    message: str


@dataclass(frozen=True, slots=True)
class Reversed:
    """What comes out."""

    echo: str


async def demo(url: str) -> None:
    """Declare echoReverse, work it in this process, submit one job, then many, and print what happened."""
    app = Que(url)

    @app.job("echoReverse")
    async def echo_reverse(params: Message) -> Reversed:
        return Reversed(params.message[::-1])

    async with app, app.worker(concurrency=1000):
        print(f"connected: {app}")
        print('submit:    echoReverse {"message": "2pac"}')
        answer = await echo_reverse.submit(Message("2pac"))
        print(f"result:    {answer.echo}")
        begun = time.perf_counter()
        right = 0
        async for outcome in echo_reverse.map(Message(f"{n:08}") for n in range(_JOBS)):
            right += outcome.result.echo == outcome.params.message[::-1]
        seconds = time.perf_counter() - begun
        print(
            f"rate:      {_JOBS / seconds:,.0f} jobs/s, client and worker in this process; {right:,} of {_JOBS:,} right"
        )
