"""One worker's claim on some functions: a connection of its own that consumes and acknowledges, and never publishes.

So a server short of memory, which stops to read from those who publish, still hears what has been done.
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import cast

import msgspec

from que.driver import ConsumerSink
from que.drivers.amqp import settling
from que.drivers.amqp.channel import Channel, ChannelClosed
from que.drivers.amqp.connection import Connection
from que.drivers.amqp.link import Link
from que.drivers.amqp.messages import APP, EXPIRES, Letter, delivery_of, has_expired, lease_of
from que.drivers.amqp.options import Options
from que.drivers.amqp.submitter import Outbox
from que.drivers.amqp.topology import Topology
from que.drivers.amqp.wire import Message, Method
from que.errors import ConnectError
from que.model import Delivery, Failed, Released, Settled, Settlement

_log = logging.getLogger("que.amqp")
_MOST_PREFETCH = 65_535
_PRECONDITION_FAILED = 406
EXPIRED = Failed("expired", "JobExpired", "nobody took the job in time")


class Claim:
    """What one connection of a consumer holds. `held`: the deliveries by their tags, the oldest first."""

    def __init__(self, channel: Channel, topology: Topology) -> None:
        self.channel = channel
        self.topology = topology
        self.held: dict[int, Delivery] = {}

    def acknowledge(self, tags: set[int]) -> None:
        """Tell the server that these are done with: one word for all up to the first that is not."""
        prefix = 0
        for tag in self.held:
            if tag not in tags:
                break
            prefix = tag
        if prefix:
            self.channel.send(Method.BASIC_ACK, prefix, True)
        for tag in tags:
            if tag > prefix:
                self.channel.send(Method.BASIC_ACK, tag, False)
            del self.held[tag]

    def give_back(self, tags: set[int]) -> None:
        """Let the server hand these to whoever comes; it counts them as run."""
        for tag in tags:
            del self.held[tag]
            self.channel.send(Method.BASIC_NACK, tag, False, True)


class AmqpConsumer:
    """Consumes each function's queue, with as many deliveries unsettled as there are slots, per queue.

    What more comes, where there are several functions, waits here for a slot.
    """

    def __init__(
        self,
        options: Options,
        tls: ssl.SSLContext | None,
        functions: Sequence[str],
        slots: int,
        notices: ConsumerSink,
        outboxes: Link[Outbox],
    ) -> None:
        self._options = options
        self._functions = list(functions)
        self._prefetch = min(slots, _MOST_PREFETCH)
        self._notices = notices
        self._outboxes = outboxes
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[Delivery] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._letters: list[tuple[Delivery, Letter]] = []
        role = f"worker of {', '.join(functions)}"[:100]
        self._link: Link[Claim] = Link(options, tls, role, self._open, self._lost, outboxes.back)

    async def begin(self) -> None:
        """Wait until it consumes; raises ConnectError where that cannot be."""
        error = await asyncio.shield(self._link.first)
        if error is not None:
            await self._link.close()
            raise ConnectError("RabbitMQ, for a worker", str(error)) from error

    # The connection

    async def _open(self, connection: Connection) -> Claim:
        topology = Topology(connection, self._options)
        await topology.make(self._functions)
        channel = await connection.channel()
        claim = Claim(channel, topology)
        channel.on_message = lambda message: self._arrive(claim, message)
        channel.on_cancelled = lambda consumer_tag: self._cancelled(claim, consumer_tag)
        channel.on_closed = lambda error: self._channel_closed(connection, error)
        await channel.call(Method.BASIC_QOS, 0, self._prefetch, False)
        if not self._closed:
            for index in range(len(self._functions)):
                await self._consume(claim, index)
        return claim

    async def _consume(self, claim: Claim, index: int) -> None:
        queue = claim.topology.names.jobs(self._functions[index])
        await claim.channel.call(Method.BASIC_CONSUME, 0, queue, str(index), False, False, False, False, {})

    def _channel_closed(self, connection: Connection, error: Exception) -> None:
        if isinstance(error, ChannelClosed):
            if error.code == _PRECONDITION_FAILED and "timed out" in error.text:
                _log.error(
                    "RabbitMQ's consumer_timeout has taken away every job that this worker held, because one of them "
                    "ran longer than the server allows. They run again, and their attempts count. Raise "
                    "consumer_timeout in rabbitmq.conf above the longest run, or give the job a shorter run_timeout. "
                    "The server says: %s",
                    error.text,
                )
            else:
                _log.error("the server has closed a worker's channel: %s", error)
        connection.abort(error)

    def _cancelled(self, claim: Claim, consumer_tag: str) -> None:
        """The queue was deleted, or its node went away: make it again and go on."""
        if self._closed or not consumer_tag.isdigit():
            return
        _log.warning("queue of %s was deleted, or is moving: consuming again", self._functions[int(consumer_tag)])
        self._run(self._consume_again(claim, int(consumer_tag)))

    async def _consume_again(self, claim: Claim, index: int) -> None:
        function = self._functions[index]
        claim.topology.forget(function)
        try:
            await claim.topology.make([function])
            await self._consume(claim, index)
        except (OSError, TimeoutError) as error:
            _log.warning("queue of %s cannot be consumed again: %s", function, error)
            claim.channel.close_soon()

    def _lost(self, claim: Claim, error: Exception) -> None:
        held, claim.held = claim.held, {}
        # Nobody has seen these yet.
        for delivery in self._arrived:
            held.pop(lease_of(delivery).tag, None)
        self._arrived.clear()
        for delivery in held.values():
            self._notices.lost(delivery)

    # Deliveries

    def _arrive(self, claim: Claim, message: Message) -> None:
        delivery = delivery_of(message, self._functions[int(cast(str, message.args[0]))], claim.channel)
        lease = lease_of(delivery)
        claim.held[lease.tag] = delivery
        headers = lease.properties.headers
        if headers:
            if has_expired(delivery):
                self._run(self._discard(delivery))
                return
            if EXPIRES in headers and lease.properties.reply_to and lease.properties.app_id == APP:
                self._tell(delivery, Letter(delivery.id, "taken", b""))
        self._arrived.append(delivery)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _discard(self, delivery: Delivery) -> None:
        await self.settle([(delivery, EXPIRED)])

    async def reserve(self, limit: int) -> Sequence[Delivery]:
        """Wait for at least one delivery; one that had arrived when the caller was cancelled is the next caller's."""
        while not self._arrived and not self._closed:
            self._waiter = self._loop.create_future()
            await self._waiter
        if self._closed:
            return ()
        return [self._arrived.popleft() for _ in range(min(limit, len(self._arrived)))]

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Publish what the verdicts have to say, wait until the server has it, and only then acknowledge."""
        claim = self._link.session
        settled = [Settled.LOST] * len(settlements)
        if claim is None:
            return settled
        mine = [
            (index, delivery, verdict)
            for index, (delivery, verdict) in enumerate(settlements)
            if claim.held.get(lease_of(delivery).tag) is delivery
        ]
        safe = await settling.publish(self._outboxes, [(delivery, verdict) for _, delivery, verdict in mine])
        done: set[int] = set()
        failed: set[int] = set()
        for (index, delivery, _), is_safe in zip(mine, safe, strict=True):
            tag = lease_of(delivery).tag
            if claim.held.get(tag) is not delivery:
                # The connection went meanwhile.
                settled[index] = Settled.UNCONFIRMED if is_safe else Settled.LOST
            elif is_safe:
                done.add(tag)
                settled[index] = Settled.CONFIRMED
            else:
                failed.add(tag)
                settled[index] = Settled.UNCONFIRMED
        claim.acknowledge(done)
        claim.give_back(failed)
        return settled

    # What handlers say

    def progress(self, delivery: Delivery, done: int, total: int) -> None:
        """Tell the one who waits how far the job is."""
        self._tell(delivery, Letter(delivery.id, "progress", msgspec.json.encode((done, total))))

    def chunk(self, delivery: Delivery, data: bytes) -> None:
        """Give the one who waits a part of the result."""
        self._tell(delivery, Letter(delivery.id, "chunk", data))

    def warned(self, delivery: Delivery, text: str) -> None:
        """Warn the one who waits."""
        self._tell(delivery, Letter(delivery.id, "warned", text.encode("utf-8", "backslashreplace")))

    def _tell(self, delivery: Delivery, letter: Letter) -> None:
        properties = lease_of(delivery).properties
        if properties.reply_to is None or properties.app_id != APP:
            return
        if not self._letters:
            self._loop.call_soon(self._post)
        self._letters.append((delivery, letter))

    def _post(self) -> None:
        letters, self._letters = self._letters, []
        outbox = self._outboxes.session
        if outbox is not None:
            settling.post(outbox, letters)

    # The end

    async def close(self) -> None:
        """Take no more, and give back what nobody has reserved; what runs can still be settled."""
        if self._closed:
            return
        self._closed = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        claim = self._link.session
        if claim is not None:
            try:
                for index in range(len(self._functions)):
                    await claim.channel.call(Method.BASIC_CANCEL, str(index), False)
            except (OSError, TimeoutError) as error:
                _log.warning("a worker's consumers could not be cancelled: %s", error)
        arrived, self._arrived = list(self._arrived), deque()
        if arrived:
            await self.settle([(delivery, Released()) for delivery in arrived])

    async def disconnect(self) -> None:
        """Close the connection: what is not settled by now goes to another worker."""
        self._closed = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        await self._link.close()
        for task in list(self._tasks):
            task.cancel()

    def _run(self, coroutine: Coroutine[object, object, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
