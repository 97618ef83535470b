"""What all pairs of peers share: a peer says how it puts one job in and gets its result; how many are done is here."""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from benchmarks.pairs.typed import Echo, halves, numbered
from benchmarks.player import IN_FLIGHT, play, play_async, run_loop

SentT = TypeVar("SentT")
PutT_co = TypeVar("PutT_co", covariant=True)
Answer = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Place:
    """What a program is told: the name of the job, what to do (a mode of the questions), where jobs and results go."""

    function: str
    mode: str
    url: str
    results: str

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port


def said() -> tuple[str, Place]:
    """Return the role and the place that the command line gives: `worker|client FUNCTION MODE URL [RESULTS-URL]`."""
    role, function, mode, url, *results = sys.argv[1:]
    return role, Place(function, mode, url, *results or [url])


class Put(Protocol[PutT_co]):
    """The job is with the engine; what it gives back finds the result."""

    def __call__(self, number: int, text: str, /) -> PutT_co: ...


async def echo(number: int, text: str) -> Answer:
    """The handler of those that run coroutines."""
    return {"number": number, "text": text}


def plain_echo(number: int, text: str) -> Answer:
    """The handler of those that run functions."""
    return {"number": number, "text": text}


async def play_peer(mode: str, put: Put[Awaitable[SentT]], result: Callable[[SentT], Awaitable[Answer]]) -> None:
    """Answer for a peer that is called from coroutines, all of which may be under way at a time."""

    async def call_one(params: Echo) -> None:
        answer = await result(await put(params.number, params.text))
        assert answer["number"] == params.number

    async def call(count: int) -> None:
        """Keep between half of IN_FLIGHT and all of it under way."""
        under_way: Sequence[asyncio.Task[None]] = []
        for half in halves(count):
            leaving = [asyncio.create_task(call_one(params)) for params in half]
            await asyncio.gather(*under_way)
            under_way = leaving
        await asyncio.gather(*under_way)

    async def send(count: int) -> None:
        for half in halves(count):
            await asyncio.gather(*[put(params.number, params.text) for params in half])

    modes = {"submit": call, "send": send}
    await play_async(modes[mode])


def play_blocking_peer(mode: str, put: Put[SentT], result: Callable[[SentT], Answer]) -> None:
    """Answer for a peer whose calls block."""

    def call(count: int) -> None:
        """Put IN_FLIGHT in, then take their results."""
        items = numbered(count)
        for begun in range(0, count, IN_FLIGHT):
            batch = [next(items) for _ in range(min(IN_FLIGHT, count - begun))]
            for params, sent in [(params, put(params.number, params.text)) for params in batch]:
                assert result(sent)["number"] == params.number

    def send(count: int) -> None:
        for params in numbered(count):
            put(params.number, params.text)

    modes = {"submit": call, "send": send}
    play(modes[mode])


def main(client: Callable[[Place], Awaitable[None]], worker: Callable[[Place], Awaitable[None]]) -> None:
    """Run the program that the command line names, in a loop of uvloop."""
    logging.disable(logging.WARNING)
    role, place = said()
    run_loop("uvloop", {"client": client, "worker": worker}[role](place))


def main_blocking(client: Callable[[Place], None], worker: Callable[[Place], None]) -> None:
    """Run the program that the command line names, where nothing awaits."""
    logging.disable(logging.WARNING)
    role, place = said()
    {"client": client, "worker": worker}[role](place)
