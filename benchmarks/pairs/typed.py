"""The job that everybody does, typed: an echo of 64 bytes of JSON, and the ways to have many of them done by que."""

from collections.abc import Iterator
from dataclasses import dataclass

import que
from benchmarks.player import FIRST_NUMBER, IN_FLIGHT, TEXT


@dataclass(frozen=True, slots=True)
class Echo:
    number: int
    text: str


EchoJob = que.Job[Echo, Echo]


def numbered(count: int) -> Iterator[Echo]:
    return (Echo(FIRST_NUMBER + number, TEXT) for number in range(count))


def halves(count: int) -> Iterator[list[Echo]]:
    """Yield `count` echos, half of IN_FLIGHT at a time."""
    items = numbered(count)
    for begun in range(0, count, IN_FLIGHT // 2):
        yield [next(items) for _ in range(min(IN_FLIGHT // 2, count - begun))]


async def submit(job: EchoJob, count: int) -> None:
    """Keep between half of IN_FLIGHT and all of it under way: one half leaves while the other is awaited."""
    under_way: list[que.Handle[Echo]] = []
    for half in halves(count):
        leaving = job.submit_many(half)
        check(await que.gather(*under_way))
        under_way = leaving
    check(await que.gather(*under_way))


def check(answers: tuple[Echo, ...]) -> None:
    assert not answers or answers[-1].text == TEXT
