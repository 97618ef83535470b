"""A driver used without the core: what it tells is written down."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from que.address import Address
from que.driver import open_driver
from que.drivers.nats import NatsDriver
from tests.sqlite.recording import Notices, Told

__all__ = ["Notices", "Told", "opened"]


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[tuple[NatsDriver, Told], None]:
    """A connected driver, and what it has told."""
    driver = open_driver(Address.parse(url))
    assert isinstance(driver, NatsDriver)
    told = Told()
    await driver.connect(told)
    try:
        yield driver, told
    finally:
        await driver.disconnect()
