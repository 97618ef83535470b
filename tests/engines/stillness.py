"""A server that stands still, its sockets open: every operation ends in time and says why, and then all goes on.

These are tests of each engine whose test_stillness.py imports them; its room has the fixture `freezable`.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeAlias

import que
from que.address import Address
from que.driver import Buries, Cancels, Consumer, Driver, Inspects, Remembers, open_driver
from que.model import Completed, Delivery, Envelope
from que.testing.sinks import Notices, Recorder
from tests.unit.loops import in_loop, until

Operation: TypeAlias = Coroutine[object, object, object]


@dataclass(frozen=True, slots=True)
class Freezable:
    """A URL whose timeout is short, and what makes its server stand still for as long as a block lasts."""

    url: str
    stopped: Callable[[], AbstractContextManager[None]]


def operations(driver: Driver, consumer: Consumer, held: Delivery, receipt: str) -> list[Operation]:
    """Return all that can be asked of a driver, but disconnect."""
    found: list[Operation] = [
        driver.submit([Envelope("frozen", "f", b"1", background=True)]),
        driver.register(["g"], 1, Notices()),
        consumer.settle([(held, Completed(b"1"))]),
    ]
    if isinstance(driver, Inspects):
        found += [driver.depths(), driver.status(receipt)]
    if isinstance(driver, Cancels):
        found += [driver.cancel(receipt)]
    if isinstance(driver, Remembers):
        found += [driver.watch([("watch", receipt)])]
    if isinstance(driver, Buries):
        found += [driver.dead_letters("f", 10), driver.replay([receipt]), driver.drop([receipt])]
    return found


@in_loop
async def test_every_operation_ends_in_time_while_the_server_stands_still(freezable: Freezable) -> None:
    driver, leaving = open_driver(Address.parse(freezable.url)), open_driver(Address.parse(freezable.url))
    told = Recorder()
    await driver.connect(told)
    await leaving.connect(Recorder())
    try:
        await driver.submit([Envelope("a", "f", b"1"), Envelope("b", "f", b"1")])
        await until(lambda: len(told.receipts) == 2)
        consumer = await driver.register(["f"], 1, Notices())
        (held,) = await consumer.reserve(1)
        with freezable.stopped():
            asked = operations(driver, consumer, held, told.receipts["b"])
            async with asyncio.timeout(30):
                said = await asyncio.gather(*asked, leaving.disconnect(), return_exceptions=True)
        assert [each for each in said if isinstance(each, BaseException) and not isinstance(each, que.QueError)] == []
        # It was answered by nobody, whether that is raised or told.
        assert isinstance(said[0], que.SubmitError) or isinstance(told.ends["frozen"], que.SubmitError)
        async with asyncio.timeout(30):
            while "after" not in told.receipts:
                try:
                    await driver.submit([Envelope("after", "f", b"1", background=True)])
                except que.SubmitError:
                    await asyncio.sleep(0.01)
    finally:
        await driver.disconnect()
