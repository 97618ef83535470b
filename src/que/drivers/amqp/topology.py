"""The queues and exchanges of an installation: what they are called, and how they are made.

For a function `resize` under the prefix `que`, all durable quorum queues:

    que.resize        its jobs; published to through the default exchange, by anyone
    que!dead.resize   what failed for good; also what a foreign worker rejects, or what no worker survives
    que!delay.0 … 31  shared: a job that waits is in the one of its longest remaining power of two, 8 ms << n
    que!due           the exchange that hands out what has waited

A delay is a number of 8 ms units. Its bits are words of the routing key, the lowest first. Exchange n sends a job whose
bit n is 1 into queue n, which expires it after 8 ms << n into exchange n - 1, and any other one straight there: so each
queue holds one duration only, expires from its front, and no delay waits behind another.
"""

import asyncio
import hashlib
import logging
import math
from collections.abc import Iterable

from pamqp.common import FieldTable

from que.drivers.amqp.channel import Channel, ChannelClosed
from que.drivers.amqp.connection import Connection
from que.drivers.amqp.options import Options
from que.drivers.amqp.wire import Method

_log = logging.getLogger("que.amqp")

_UNIT_SECONDS = 0.008
_LEVELS = 32
# 397 days, and room to round up in.
MOST_DELAY_SECONDS = _UNIT_SECONDS * (2**_LEVELS - 2**8)
# Each bit that is set costs a hop: below this many of them the rest is rounded up, by at most about a second.
_EXACT_BITS = 8
_MOST_ROUNDED_BITS = 7
_MOST_NAME_BYTES = 200
# In a row, without one worker that lived to say what became of the job: the server then buries it by itself.
_MOST_CRASHES = 100
# A dead letter is looked at any number of times, and each look counts as a delivery.
_NO_LIMIT = 1_000_000_000
_PRECONDITION_FAILED = 406


def delay_units(seconds: float) -> int:
    """Return the units that are not shorter than `seconds`, and few bits; at most what the levels can hold."""
    units: int = math.ceil(min(max(0.0, seconds), MOST_DELAY_SECONDS) / _UNIT_SECONDS)
    dropped: int = min(_MOST_ROUNDED_BITS, max(0, units.bit_length() - _EXACT_BITS))
    return -(-units >> dropped) << dropped


class Names:
    """What things are called under a prefix; no function's name can reach other queues than its own."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.due: str = f"{prefix}!due"

    def jobs(self, function: str) -> str:
        """Return the queue of a function's jobs."""
        return f"{self._prefix}.{_carried(function)}"

    def dead(self, function: str) -> str:
        """Return the queue of a function's dead letters."""
        return f"{self._prefix}!dead.{_carried(function)}"

    def delay(self, level: int) -> str:
        """Return the exchange, and the queue, of a level."""
        return f"{self._prefix}!delay.{level}"

    def delayed(self, function: str, units: int) -> tuple[str, str]:
        """Return the exchange and the routing key for a job that waits so many units."""
        bits = ".".join(reversed(f"{units:0{_LEVELS}b}"))
        return self.delay(units.bit_length() - 1), f"{bits}.{self._word(function)}"

    def due_binding(self, function: str) -> str:
        """Return the binding key by which a function's queue gets its jobs that have waited."""
        return f"#.{self._word(function)}"

    def _word(self, function: str) -> str:
        # A name may hold the dots and wildcards of routing keys.
        return hashlib.sha256(self.jobs(function).encode()).hexdigest()[:32]


def _carried(function: str) -> str:
    """Return the name itself where a queue can be called that, else its beginning and a hash of it.

    RabbitMQ takes 255 bytes, and leaves line ends out of names.
    """
    encoded = function.encode("utf-8", "surrogatepass")
    if len(encoded) <= _MOST_NAME_BYTES and function.isprintable():
        return function
    start = "".join(character for character in function[:40] if character.isprintable())
    return f"{start}~{hashlib.sha256(encoded).hexdigest()[:40]}"


class Topology:
    """Makes what is missing, over one connection, and remembers what is there."""

    def __init__(self, connection: Connection, options: Options) -> None:
        self.names: Names = Names(options.prefix)
        self._connection = connection
        self._options = options
        self._channel: Channel | None = None
        self._lock = asyncio.Lock()
        self._functions: set[str] = set()
        self._due: set[str] = set()
        self._levels = 0

    def knows(self, function: str) -> bool:
        """Whether the function's queues are there, as far as we know."""
        return function in self._functions

    def knows_delay(self, function: str, units: int) -> bool:
        """Whether a job of the function can wait that long."""
        return function in self._due and self._levels >= units.bit_length()

    def forget(self, function: str) -> None:
        """Somebody has deleted the function's queue: make it again when it is needed next."""
        self._functions.discard(function)
        self._due.discard(function)

    async def make(self, functions: Iterable[str]) -> None:
        """The queues of `functions` are there; raises ChannelClosed, another ConnectionError or TimeoutError."""
        async with self._lock:
            for function in functions:
                if function not in self._functions:
                    await self._make_queues(function)
                    self._functions.add(function)

    async def make_delay(self, function: str, units: int) -> None:
        """A job of the function can wait so many units; raises as make() does."""
        async with self._lock:
            for level in range(self._levels, units.bit_length()):
                await self._make_level(level)
                self._levels = level + 1
            if function not in self._due:
                if not self._levels:
                    await self._make_exchange(self.names.due)
                await self._bind(self.names.jobs(function), self.names.due, self.names.due_binding(function))
                self._due.add(function)

    async def _make_queues(self, function: str) -> None:
        dead = self.names.dead(function)
        await self._make_queue(
            dead, {"x-message-ttl": math.ceil(self._options.dead_letter_ttl * 1000), "x-delivery-limit": _NO_LIMIT}
        )
        await self._make_queue(self.names.jobs(function), {"x-delivery-limit": _MOST_CRASHES, **_into("", dead)})

    async def _make_level(self, level: int) -> None:
        name = self.names.delay(level)
        below = self.names.delay(level - 1) if level else self.names.due
        if not level:
            await self._make_exchange(below)
        await self._make_exchange(name)
        await self._make_queue(name, {"x-message-ttl": 8 << level, "x-delivery-limit": _NO_LIMIT, **_into(below)})
        others = "*." * level
        await self._bind(name, name, f"{others}1.#")
        channel = await self._open_channel()
        await channel.call(Method.EXCHANGE_BIND, 0, below, name, f"{others}0.#", False, {})

    async def _make_exchange(self, name: str) -> None:
        channel = await self._open_channel()
        await channel.call(Method.EXCHANGE_DECLARE, 0, name, "topic", False, True, False, False, False, {})

    async def _bind(self, queue: str, exchange: str, key: str) -> None:
        channel = await self._open_channel()
        await channel.call(Method.QUEUE_BIND, 0, queue, exchange, key, False, {})

    async def _make_queue(self, name: str, arguments: FieldTable) -> None:
        """Declare a queue; one that is there with other arguments, as somebody may want it, is used as it is."""
        channel = await self._open_channel()
        wanted: FieldTable = {"x-queue-type": "quorum", **arguments}
        try:
            await channel.call(Method.QUEUE_DECLARE, 0, name, False, True, False, False, False, wanted)
        except ChannelClosed as error:
            if error.code != _PRECONDITION_FAILED:
                raise
            channel = await self._open_channel()
            await channel.call(Method.QUEUE_DECLARE, 0, name, True, True, False, False, False, {})
            _log.warning(
                "queue %r is used as it is, though que would have made it otherwise; to have it made anew, delete it "
                "when it is empty. The server says: %s",
                name,
                error.text,
            )

    async def _open_channel(self) -> Channel:
        """Return the channel for declarations: the server closes it for any that fails."""
        if self._channel is None or self._channel.closed is not None:
            self._channel = await self._connection.channel()
        return self._channel


def _into(exchange: str, key: str | None = None) -> FieldTable:
    """Return the arguments by which a queue's dead letters go there, and are not lost on the way."""
    arguments: FieldTable = {
        "x-dead-letter-exchange": exchange,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    if key is not None:
        arguments["x-dead-letter-routing-key"] = key
    return arguments
