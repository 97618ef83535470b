"""How engines remember the ticks of schedules, for all schedulers that share them."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from que.address import Address
from que.driver import Driver, Ticks, open_driver
from que.model import TickClaim
from tests.contract.engines import Make
from tests.engines.recording import Told
from tests.unit.loops import in_loop, until

Open = Callable[[], AbstractAsyncContextManager[Ticks]]
LONG_SECONDS = 1000.0


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
def opened(request: pytest.FixtureRequest, make: Make) -> Open:
    """Opens one engine, as each of several processes would; what lives in one process is the same one again."""
    if request.param == "memory":
        memory = open_driver(Address.parse("memory://"))
        return lambda: _opened(lambda: memory)
    url = make(request.param).url
    return lambda: _opened(lambda: open_driver(Address.parse(url)))


@asynccontextmanager
async def _opened(make: Callable[[], Driver]) -> AsyncGenerator[Ticks, None]:
    driver = make()
    assert isinstance(driver, Ticks)
    assert driver.capabilities.ticks
    await driver.connect(Told())
    try:
        yield driver
    finally:
        await driver.disconnect()


@in_loop
async def test_of_several_owners_one_is_granted_a_schedule(opened: Open) -> None:
    async with opened() as one, opened() as other:
        claims = await asyncio.gather(
            *[ticks.begin_ticks("a", 1.0, f"{index}", LONG_SECONDS) for index in range(20) for ticks in (one, other)]
        )
    # Whoever comes first. Both of the engine's users come under the same name: an owner may claim again what it has.
    first, again = (index // 2 for index, claim in enumerate(claims) if claim.granted)
    assert first == again


@in_loop
async def test_what_is_done_is_granted_to_nobody_and_known_to_all(opened: Open) -> None:
    async with opened() as one, opened() as other:
        assert await one.begin_ticks("a", 60.0, "me", LONG_SECONDS) == TickClaim(granted=True, done=None)
        await one.end_ticks("a", 60.0, "me")
        assert await other.begin_ticks("a", 60.0, "you", LONG_SECONDS) == TickClaim(granted=False, done=60.0)
        assert await other.begin_ticks("a", 120.0, "you", LONG_SECONDS) == TickClaim(granted=True, done=60.0)
        assert await one.begin_ticks("b", 60.0, "me", LONG_SECONDS) == TickClaim(granted=True, done=None)


@in_loop
async def test_a_claim_that_has_run_out_is_anothers(opened: Open) -> None:
    async with opened() as one, opened() as other:
        assert (await one.begin_ticks("a", 60.0, "me", 0.05)).granted
        granted: list[bool] = []

        async def try_again() -> None:
            while not granted:
                if (await other.begin_ticks("a", 60.0, "you", LONG_SECONDS)).granted:
                    granted.append(True)

        trying = asyncio.create_task(try_again())
        await until(lambda: granted)
        await trying
        assert not (await one.begin_ticks("a", 60.0, "me", LONG_SECONDS)).granted
        # It has sent its tick all the same, which is known from now on; the claim of the other stays.
        await one.end_ticks("a", 60.0, "me")
        assert not (await one.begin_ticks("a", 120.0, "me", LONG_SECONDS)).granted


@in_loop
async def test_what_is_done_never_goes_back(opened: Open) -> None:
    async with opened() as ticks:
        await ticks.end_ticks("a", 120.0, "me")
        await ticks.end_ticks("a", 60.0, "you")
        assert (await ticks.begin_ticks("a", 120.0, "me", LONG_SECONDS)).done == 120.0


@in_loop
async def test_ticks_outlive_their_connection(opened: Open) -> None:
    async with opened() as ticks:
        await ticks.end_ticks("a", 60.5, "me")
    async with opened() as ticks:
        assert (await ticks.begin_ticks("a", 60.0, "me", LONG_SECONDS)).done == 60.5
