"""The driver of `amqp://` and `amqps://`: the contract, over one RabbitMQ node or cluster."""

import asyncio
from collections.abc import Collection, Sequence

from que.address import Address
from que.driver import ConsumerSink, EventSink
from que.drivers.amqp.burying import Graveyard
from que.drivers.amqp.consumer import AmqpConsumer
from que.drivers.amqp.link import Link
from que.drivers.amqp.options import Options
from que.drivers.amqp.submitter import Outbox, Submitter
from que.errors import ConnectError, ConnectionLost, NotConnected, NotSent
from que.model import Capabilities, DeadLetter, Envelope, Lease, Support


class AmqpDriver:
    """Durable jobs in quorum queues; results by direct reply-to."""

    calls_in_flight: int | None = None

    def __init__(self, address: Address) -> None:
        self._address = address
        self._options = Options.of(address)
        self._tls = None if self._options.tls is None else self._options.tls.context()
        self._max_payload = self._options.max_payload
        self._submitter: Submitter | None = None
        self._link: Link[Outbox] | None = None
        self._consumers: list[AmqpConsumer] = []

    @property
    def capabilities(self) -> Capabilities:
        """No unique keys, stored results, priorities, cancelling and inspection: AMQP has no way to find a message."""
        native, emulated = Support.NATIVE, Support.EMULATED
        return Capabilities(
            lease=Lease.CONNECTION,
            durable=native,
            attempts=native,
            results_pushed=native,
            delay=emulated,
            delayed_results=emulated,
            expiry=emulated,
            run_timeout=native,
            progress=native,
            chunks=native,
            retry=emulated,
            dead_letters=native,
            headers=native,
            fifo=native,
            max_payload=self._max_payload,
        )

    async def connect(self, events: EventSink) -> None:
        """Reach one node; raises ConnectError where none can be, or none lets us in."""
        submitter = Submitter(self._options, events)
        link = Link(
            self._options,
            self._tls,
            f"driver of {self._address}",
            submitter.open,
            lambda outbox, error: submitter.lose(error),
            events.reconnected,
        )
        try:
            error = await asyncio.shield(link.first)
        except asyncio.CancelledError:
            await link.close()
            raise
        if error is not None:
            await link.close()
            raise ConnectError(str(self._address), str(error)) from error
        self._submitter, self._link = submitter, link
        if link.session is not None:
            self._max_payload = link.session.max_payload

    async def disconnect(self) -> None:
        """Close every connection. Jobs still watched are reported lost; what workers still held goes to others."""
        consumers, self._consumers = self._consumers, []
        await asyncio.gather(*[consumer.disconnect() for consumer in consumers])
        submitter, link, self._submitter, self._link = self._submitter, self._link, None, None
        if link is not None and submitter is not None:
            await link.close()
            submitter.lose(ConnectionLost("the driver was disconnected"))

    async def submit(self, envelopes: Sequence[Envelope]) -> None:
        """Publish the batch and return when the server has confirmed it; each job's outcome is told by itself."""
        submitter, link = self._submitter, self._link
        if submitter is None or link is None:
            raise NotSent(f"{self._address} is not connected")
        outbox = await link.wait()
        if outbox is None:
            raise NotSent(f"{self._address} cannot be reached at present")
        await submitter.submit(outbox, envelopes)

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> AmqpConsumer:
        """Return a consumer that has begun; raises ConnectError."""
        link = self._link
        if link is None:
            raise NotConnected(f"{self._address} is not connected")
        consumer = AmqpConsumer(self._options, self._tls, list(functions), slots, notices, link)
        self._consumers.append(consumer)
        await consumer.begin()
        return consumer

    async def dead_letters(self, function: str, limit: int) -> Sequence[DeadLetter]:
        """Return at most `limit` of the function's dead letters, the oldest first; raises ConnectError."""
        return await (await self._graveyard()).letters(function, limit)

    async def replay(self, receipts: Collection[str]) -> int:
        """Publish these again and return how many there were; raises ConnectError."""
        return await (await self._graveyard()).replay(receipts)

    async def drop(self, receipts: Collection[str]) -> int:
        """Forget these and return how many there were; raises ConnectError."""
        return await (await self._graveyard()).drop(receipts)

    async def _graveyard(self) -> Graveyard:
        if self._link is None:
            raise NotConnected(f"{self._address} is not connected")
        outbox = await self._link.wait()
        if outbox is None:
            raise ConnectError(str(self._address), "it cannot be reached at present")
        return Graveyard(outbox, str(self._address))
