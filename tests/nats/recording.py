"""A driver used without the core: what it tells is written down."""

from contextlib import AbstractAsyncContextManager

from que.address import Address
from que.drivers.nats import NatsDriver
from tests.engines.recording import Told, connected


def opened(url: str) -> AbstractAsyncContextManager[tuple[NatsDriver, Told]]:
    """A connected driver, and what it has told."""
    return connected(NatsDriver(Address.parse(url)))
