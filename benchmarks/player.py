"""What a client program does: it says `ready`, then answers each count with a line: the seconds that it took."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

IN_FLIGHT = 1000
# {"number":1000000,"text":"xx…"} is 64 bytes, and stays so for the first nine million jobs.
FIRST_NUMBER = 1_000_000
TEXT = "x" * 37


class Numbered(Protocol):
    """What an echo gives back."""

    @property
    def number(self) -> int: ...


def say(text: object) -> None:
    print(text, flush=True)


def play(run: Callable[[int], None]) -> None:
    """Answer until standard input ends; `run(count)` does so many jobs and raises if one went wrong."""
    say("ready")
    for line in sys.stdin:
        begun = time.perf_counter()
        run(int(line))
        say(time.perf_counter() - begun)


async def play_async(run: Callable[[int], Awaitable[None]]) -> None:
    """Do what play() does inside a loop, which goes on while nothing is asked."""
    say("ready")
    while line := await asyncio.to_thread(sys.stdin.readline):
        begun = time.perf_counter()
        await run(int(line))
        say(time.perf_counter() - begun)


def run_loop(kind: str, main: Awaitable[None]) -> None:
    """Run `main` to its end in a loop of `kind`, asyncio or uvloop."""

    async def entered() -> None:
        await main

    with asyncio.Runner(loop_factory=loop_factory(kind)) as runner:
        runner.run(entered())


def loop_factory(kind: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if kind == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop
