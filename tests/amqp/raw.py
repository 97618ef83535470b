"""Plain AMQP by hand: what a program that is not que does with the queues, and what a test does to them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from que.address import Address
from que.drivers.amqp.channel import Channel
from que.drivers.amqp.connection import dial
from que.drivers.amqp.options import Options
from que.drivers.amqp.wire import Command, Message, Method, Properties, content_frames, method_frame, properties_bytes


@asynccontextmanager
async def raw_channel(url: str) -> AsyncGenerator[Channel, None]:
    """A channel of a connection of its own."""
    options = Options.of(Address.parse(url))
    connection = await dial(options.hosts[0], options, None)
    try:
        yield await connection.channel()
    finally:
        await connection.close()


def publish(channel: Channel, queue: str, body: bytes, properties: Properties | None = None) -> None:
    """Publish through the default exchange."""
    channel.carrier.write(
        method_frame(channel.number, Method.BASIC_PUBLISH, 0, "", queue, False, False)
        + content_frames(channel.number, properties_bytes(properties or Properties()), body, 4096)
    )


async def take(channel: Channel, queue: str, seconds: float = 20.0) -> Message:
    """Return the next message of a queue, not acknowledged; waits for one."""
    async with asyncio.timeout(seconds):
        while True:
            answer: Command | Message = await channel.ask(Method.BASIC_GET, 0, queue, False)
            if isinstance(answer, Message):
                return answer
            await asyncio.sleep(0.01)


async def depth(channel: Channel, queue: str) -> int:
    """Return how many messages are ready in a queue that exists."""
    _, ready, _ = await channel.call(Method.QUEUE_DECLARE, 0, queue, True, False, False, False, False, {})
    assert isinstance(ready, int)
    return ready


def prefix_of(url: str) -> str:
    return Address.parse(url).text("prefix", "que")
