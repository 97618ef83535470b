"""Tests that run in an event loop of their own, and how they wait."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import ParamSpec

P = ParamSpec("P")

WAIT_SECONDS = 20.0


def in_loop(test: Callable[P, Coroutine[object, object, None]]) -> Callable[P, None]:
    """Return `test` as a plain function, which fails too if anything reached the loop's exception handler."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        surprises: list[object] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, facts: surprises.append(facts))
            async with asyncio.timeout(60):
                await test(*args, **kwargs)

        asyncio.run(main())
        assert not surprises

    return run


async def until(condition: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
    """Return once `condition()` is true; fail after `seconds`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, "the condition did not come true in time"
        await asyncio.sleep(0.001)


async def ticks(count: int = 5) -> None:
    """Let everything that is ready run, `count` times over."""
    for _ in range(count):
        await asyncio.sleep(0)
