"""What a driver keeps under a key is written once, told to who attends to it, and gone after its time."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

import que
from que.address import Address
from que.driver import Driver, Keeps, open_driver
from que.model import Completed, Ending, Failed, Kept
from que.testing.sinks import Recorder
from tests.contract.engines import Make
from tests.unit.loops import in_loop, until

ONE, TWO = Completed(b"1"), Completed(b"2")
FAILED = Failed("handler", "ValueError", "no")
LONG_SECONDS = 3600.0


SHARED = ["sqlite", "redis", "postgres"]


@pytest.fixture(params=["memory", *SHARED])
def url(request: pytest.FixtureRequest, make: Make) -> str:
    return make(request.param).url


@pytest.fixture(params=SHARED)
def shared_url(request: pytest.FixtureRequest, make: Make) -> str:
    return make(request.param).url


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[tuple[Keeps, Recorder], None]:
    driver: Driver = open_driver(Address.parse(url))
    told = Recorder()
    await driver.connect(told)
    try:
        assert driver.capabilities.keeps
        assert isinstance(driver, Keeps)
        yield driver, told
    finally:
        await driver.disconnect()


async def held(driver: Keeps, *keys: str) -> list[Ending | None]:
    return list(await driver.keep((), keys))


@in_loop
async def test_a_key_holds_what_was_written_first(url: str) -> None:
    async with opened(url) as (driver, _):
        entries = [Kept("a", ONE, LONG_SECONDS), Kept("b", FAILED, LONG_SECONDS), Kept("a", TWO, LONG_SECONDS)]
        assert list(await driver.keep(entries, ["a", "b", "c"])) == [ONE, FAILED, None]
        await driver.keep([Kept("b", TWO, LONG_SECONDS)])
        assert await held(driver, "b") == [FAILED]


@in_loop
async def test_of_many_who_write_the_last_of_several_keys_exactly_one_sees_all_of_them(url: str) -> None:
    async with opened(url) as (driver, _):
        keys = [str(number) for number in range(30)]
        seen = await asyncio.gather(*[driver.keep([Kept(key, ONE, LONG_SECONDS)], keys) for key in keys])
        assert [all(each) for each in seen].count(True) == 1


@in_loop
async def test_a_key_is_free_again_after_its_time(url: str) -> None:
    async with opened(url) as (driver, _):
        await driver.keep([Kept("a", ONE, 0.02)])
        async with asyncio.timeout(20):
            while await held(driver, "a") != [None]:
                await asyncio.sleep(0.005)
        assert list(await driver.keep([Kept("a", TWO, LONG_SECONDS)], ["a"])) == [TWO]


@in_loop
async def test_a_key_that_was_forgotten_is_free_again(url: str) -> None:
    async with opened(url) as (driver, _):
        await driver.keep([Kept("a", ONE, LONG_SECONDS), Kept("b", ONE, LONG_SECONDS)])
        await driver.forget(["a", "never there"])
        assert await held(driver, "a", "b") == [None, ONE]
        assert list(await driver.keep([Kept("a", TWO, LONG_SECONDS)], ["a"])) == [TWO]


@in_loop
async def test_who_attends_to_a_key_is_told_at_once_or_when_it_is_written_and_only_then(url: str) -> None:
    async with opened(url) as (driver, told):
        await driver.keep([Kept("early", ONE, LONG_SECONDS)])
        await driver.attend([("1", "early"), ("2", "late"), ("3", "late"), ("4", "never")])
        await until(lambda: told.ends == {"1": b"1"})
        await driver.keep([Kept("late", FAILED, LONG_SECONDS)])
        await until(lambda: told.ends == {"1": b"1", "2": FAILED, "3": FAILED})
        told.ends.clear()
        await driver.forget(["late"])
        await driver.keep([Kept("late", ONE, LONG_SECONDS)])
        assert told.ends == {}


@in_loop
async def test_who_still_attends_when_the_driver_is_disconnected_is_told_that_it_is_lost(url: str) -> None:
    async with opened(url) as (driver, told):
        await driver.attend([("1", "never")])
    assert isinstance(told.ends["1"], que.ConnectionLost)


@in_loop
async def test_another_process_is_told_and_finds_what_was_kept(shared_url: str) -> None:
    async with opened(shared_url) as (first, _), opened(shared_url) as (second, told):
        await second.attend([("1", "a")])
        await first.keep([Kept("a", ONE, LONG_SECONDS)])
        await until(lambda: told.ends == {"1": b"1"})
        assert await held(second, "a") == [ONE]
    async with opened(shared_url) as (third, _):
        assert await held(third, "a") == [ONE]


@in_loop
async def test_who_begins_to_attend_to_a_key_while_it_is_written_is_told(shared_url: str) -> None:
    keys = [str(number) for number in range(100)]
    async with opened(shared_url) as (first, _), opened(shared_url) as (second, told):
        for key in keys:
            await asyncio.gather(second.attend([(key, key)]), first.keep([Kept(key, ONE, LONG_SECONDS)]))
        await until(lambda: told.ends == dict.fromkeys(keys, b"1"))
