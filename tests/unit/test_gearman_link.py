"""How a server that is away is asked again."""

import asyncio
import itertools
import random
from typing import Never

import pytest

from que.address import Address, Host
from que.drivers.gearman.link import Link, LinkSession
from que.drivers.gearman.options import Options
from tests.unit.loops import in_loop

BOUNDS = [0.1, 0.2, 0.4, 0.8, 1, 1, 1]
SHARES = [0.5, 0.25, 0.75]


@in_loop
async def test_the_pauses_between_attempts_are_random_below_a_bound_that_doubles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shares = itertools.cycle(SHARES)
    pauses: list[float] = []
    enough = asyncio.Event()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == len(BOUNDS):
            enough.set()
            await asyncio.Event().wait()

    def refuse(link: Link[LinkSession]) -> Never:
        raise ConnectionRefusedError(f"nobody listens at {link.host}")

    def never_up(*sessions: LinkSession) -> None:
        raise AssertionError(sessions)

    monkeypatch.setattr(random, "random", lambda: next(shares))
    monkeypatch.setattr(asyncio, "sleep", sleep)
    options = Options.of(Address.parse("gearman://a?backoff=1"))
    link = Link[LinkSession](Host("a", 1), options, None, "client", refuse, never_up, never_up)
    await enough.wait()
    assert pauses == [bound * share for bound, share in zip(BOUNDS, itertools.cycle(SHARES), strict=False)]
    await link.close(ConnectionAbortedError("the test is over"))
