"""Who holds a job in a file, and for how long."""

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import que
from que.drivers.sqlite import working
from que.drivers.sqlite.turn import Turn
from que.model import Completed, Delivery
from tests.engines.leases import *
from tests.engines.recording import Notices
from tests.sqlite.recording import opened
from tests.unit.loops import in_loop, until


@in_loop
async def test_a_renewal_that_waits_for_the_transaction_that_would_end_its_lease_is_in_time(url: str) -> None:
    url = f"{url}?lease=0.1"
    async with opened(url) as (client, _), opened(url) as (worker, _):
        await client.submit([envelope()])
        notices = Notices()
        mine = await one(taker := await consumer(worker, notices))
        begun = threading.Event()

        def keep_busy(_: object) -> None:
            begun.set()
            time.sleep(0.3)

        # The file is busy for longer than the lease.
        session = client._opened()  # pyright: ignore[reportPrivateUsage] - nothing public keeps the file so long
        busy = asyncio.ensure_future(session.database.run(keep_busy))
        await until(begun.is_set)
        await asyncio.gather(taker.extend([mine]), busy)
        assert notices.lost_ones == []


@in_loop
async def test_a_consumer_without_room_asks_for_nothing_until_it_has_some(url: str) -> None:
    takes: list[int] = []
    take = working.take

    def counted(turn: Turn, functions: Sequence[str], limit: int, lease_seconds: float) -> list[Delivery]:
        takes.append(limit)
        return take(turn, functions, limit, lease_seconds)

    async with opened(url) as (client, _), opened(url) as (worker, _):
        await client.submit([envelope("a"), envelope("b")])
        taker = await consumer(worker, slots=1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(working, "take", counted)
            held = await one(taker)
            reserving = asyncio.create_task(taker.reserve(1))
            for _ in range(20):
                await worker.status("1")
            assert takes == [1]
            await taker.settle([(held, Completed(b""))])
            assert [delivery.id for delivery in await reserving] == ["b"]
        assert takes == [1, 1]


@in_loop
async def test_a_process_whose_socket_was_removed_hears_that_it_missed_something_and_goes_on(
    url: str, path: Path
) -> None:
    async with opened(url) as (victim, told), opened(url) as (other, _):
        notices = Notices()
        await victim.submit([envelope()])
        taker = await consumer(victim, notices)
        await one(taker)
        remove_sockets(path)
        # Whoever rings in vain takes it for dead.
        await other.submit([envelope("wake", background=True)])
        await until(lambda: told.ends)
        assert isinstance(told.ends["a"], que.ConnectionLost)
        taken = {(await one(taker)).id for _ in range(2)}
        assert taken == {"a", "wake"}


def remove_sockets(path: Path) -> None:
    for socket in path.with_name(f"{path.name}-peers").iterdir():
        socket.unlink()
