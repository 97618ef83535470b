"""What is kept leaves no key behind, whoever dies, and who attends to it is told whatever befalls the connection."""

import asyncio

import pytest

import que
from que.model import Completed, Kept
from tests.redis.conftest import StartRedis
from tests.redis.recording import opened
from tests.redis.server import RedisServer
from tests.unit.loops import in_loop, until

LONG_SECONDS = 3600.0


def traces(redis: RedisServer) -> set[str]:
    """Return the keys that have to do with what is kept."""
    words = ("kept:", "attending", "attends:", "attenders")
    return {name for name in redis.names_of_keys() if name.removeprefix("{que}:").startswith(words)}


@in_loop
async def test_what_is_kept_has_its_time_and_who_attends_leaves_nothing_behind(redis: RedisServer) -> None:
    async with opened(redis.url) as (stays, told), opened(redis.url) as (keeper, _):
        async with opened(redis.url) as (leaves, _):
            await stays.attend([("1", "a"), ("2", "never")])
            await leaves.attend([("1", "a"), ("2", "never"), ("3", "own")])
        await keeper.keep([Kept("a", Completed(b"1"), LONG_SECONDS), Kept("brief", Completed(b"2"), 0)])
        await until(lambda: told.ends == {"1": b"1"})
        assert b":-" not in redis.command("PTTL", "{que}:kept:a")
        (session,) = (name for name in traces(redis) if "attends:" in name)
        assert traces(redis) == {"{que}:kept:a", "{que}:attending", "{que}:attenders", session}
        assert redis.command("HLEN", "{que}:attending") == b":1\r\n"
        await keeper.forget(["a"])
    assert traces(redis) == set()


@in_loop
async def test_what_counts_in_a_rate_counts_for_its_time_and_leaves_nothing_behind(redis: RedisServer) -> None:
    async with que.Que(redis.url) as app:

        @app.job("work", total_rate="2/d")
        async def work(params: int) -> int:
            return params

        async with app.worker():
            assert await que.gather(*work.submit_many(range(2))) == (0, 1)
        took = int(redis.command("PTTL", "{que}:begun:work")[1:])
        assert 86_000_000 < took <= 86_400_000
        # As if its time were over.
        redis.command("PEXPIRE", "{que}:begun:work", "0")
        async with app.worker():
            assert await work.submit(3).result(20) == 3


@in_loop
async def test_a_process_that_says_nothing_any_more_attends_to_nothing(redis: RedisServer) -> None:
    url = f"{redis.url}?linger=2"
    async with opened(url) as (driver, _), opened(url) as (dead, told):
        await dead.attend([("1", "never")])
        (mail,) = (name.replace("attends:", "mail:") for name in traces(redis) if "attends:" in name)
        # As if its time were over: the next who keeps the time, clears up.
        redis.command("DEL", mail)
        async with asyncio.timeout(20):
            while traces(redis):
                await asyncio.sleep(0.01)
        await until(lambda: told.ends)
        assert isinstance(told.ends["1"], que.ConnectionLost)
        assert list(await driver.keep((), ["never"])) == [None]


@in_loop
async def test_who_attends_is_told_of_what_was_kept_while_the_connection_was_lost(redis: RedisServer) -> None:
    async with opened(redis.url) as (waits, told):
        await waits.attend([(key, key) for key in ("first", "second")])
        redis.command("CLIENT", "KILL", "TYPE", "normal")
        async with opened(redis.url) as (keeper, _):
            await keeper.keep([Kept("first", Completed(b"1"), 0)])
            await until(lambda: told.ends == {"first": b"1"})
            await keeper.keep([Kept("second", Completed(b"2"), 0)])
            await until(lambda: told.ends == {"first": b"1", "second": b"2"})


@in_loop
async def test_a_full_server_still_keeps_so_that_flows_go_on(own_redis: StartRedis) -> None:
    server = own_redis()
    async with opened(server.url) as (driver, told):
        server.command("CONFIG", "SET", "maxmemory", "1")
        await driver.attend([("1", "a")])
        await driver.keep([Kept(key, Completed(b"1"), LONG_SECONDS) for key in ("a", "b")])
        assert list(await driver.keep((), ["a", "b"])) == [Completed(b"1")] * 2
        await until(lambda: told.ends == {"1": b"1"})


@in_loop
async def test_what_is_kept_while_the_answer_does_not_come_in_time_is_kept_all_the_same(
    own_redis: StartRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_redis()
    async with opened(f"{server.url}?timeout=1") as (driver, _):
        with server.stopped():
            keeping = asyncio.ensure_future(driver.keep([Kept("a", Completed(b"1"), LONG_SECONDS)], ["a"]))
            await until(lambda: "connection is lost" in caplog.text)
        assert await keeping == [Completed(b"1")]


@in_loop
async def test_a_moment_of_a_tick_is_remembered_to_the_last_digit(url: str) -> None:
    moment = 1_764_000_000.1234567
    async with opened(url) as (driver, _):
        await driver.end_ticks("a", moment, "me")
        assert (await driver.begin_ticks("a", moment, "me", 1.0)).done == moment
