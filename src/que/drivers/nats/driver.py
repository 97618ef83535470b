"""The driver of `nats://` and `tls://`: the contract, over the streams of one installation."""

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

import msgspec
from nats.aio.msg import Msg

from que.address import Address
from que.driver import ConsumerSink, EventSink
from que.drivers.nats import names
from que.drivers.nats.burying import Graveyard
from que.drivers.nats.consumer import NatsConsumer
from que.drivers.nats.link import Link, Silence
from que.drivers.nats.options import NatsOptions
from que.drivers.nats.session import Session
from que.drivers.nats.store import End
from que.drivers.nats.streams import Refused, Streams
from que.errors import ConfigurationError, ConnectError, NotConnected
from que.model import (
    Capabilities,
    DeadLetter,
    Envelope,
    JobStatus,
    Lease,
    QueueDepth,
    Support,
    UniqueScope,
)

_NANOSECONDS = 1_000_000_000
_DEFAULT_MAX_PAYLOAD = 1_048_576
# For so long the workers may take to say whether a job is theirs. Nobody says that it is nobody's.
_ASK_SECONDS = 0.5

CANCELLED = End("cancelled", b"the job was cancelled before it ran")

# What workers are asked, of which job; and how far it is, or what they hold.
_Question = tuple[str, int]
_Standing = tuple[int, int]
_Census = dict[str, int]
_encode = msgspec.msgpack.Encoder().encode
_decode_question = msgspec.msgpack.Decoder(_Question).decode
_decode_standing = msgspec.msgpack.Decoder(_Standing).decode
_decode_census = msgspec.msgpack.Decoder(list[_Census]).decode


class _Open:
    """What there is while the driver is connected."""

    def __init__(self, address: Address, options: NatsOptions, events: EventSink) -> None:
        self.link = Link(str(address), options)
        self.streams = Streams(self.link, options)
        self.options = options
        self.events = events
        self.consumers: list[NatsConsumer] = []

    async def open(self) -> bool:
        """Reach the server, and return whether the jobs are in a file; raises ConnectError, Refused and Silence."""
        await self.link.open()
        jobs = await self.streams.open()
        # Whoever made the stream has chosen its window.
        self.options = replace(self.options, unique_window=jobs.config.duplicate_window / _NANOSECONDS)
        self.session = Session(self.link, self.streams, self.options, self.events)
        self.graveyard = Graveyard(self.session.store, self.streams, self.options.prefix)
        await self.session.open()
        self.link.on_down = self._restart
        self.link.on_up = self._return
        return jobs.config.storage == "file"

    def _restart(self) -> None:
        for consumer in self.consumers:
            consumer.restart()

    async def _return(self) -> None:
        self.events.reconnected()
        with contextlib.suppress(Silence, Refused):
            await self.streams.open()
        self._restart()
        await self.session.catch_up()

    async def close(self) -> None:
        """Say good-bye: jobs that this process runs go to others at once."""
        for consumer in self.consumers:
            await consumer.close()
            await consumer.lose_all()
        await self.session.close()
        await self.link.close()

    def hear(self, message: Msg) -> None:
        """Somebody asks the workers something."""
        verb, number = _decode_question(message.data)
        if verb == "census":
            census = [
                dict(Counter(delivery.function for delivery in consumer.held.values()))
                | {function: 0 for function in consumer.functions if not _holds(consumer, function)}
                for consumer in self.consumers
                if not consumer.closed
            ]
            self.session.start(self.link.publish(message.reply, _encode(census)))
            return
        for consumer in self.consumers:
            if number in consumer.held:
                if verb == "stop":
                    consumer.stop(number)
                standing = consumer.told.get(number, (0, 0))
                self.session.start(self.link.publish(message.reply, _encode(standing)))


def _holds(consumer: NatsConsumer, function: str) -> bool:
    return any(delivery.function == function for delivery in consumer.held.values())


class NatsDriver:
    """Jobs in a work-queue stream, pulled by workers; durable where the stream is kept in files."""

    calls_in_flight: int | None = None

    def __init__(self, address: Address) -> None:
        self._address = address
        self._options = NatsOptions.of(address)
        self._durable = self._options.storage == "file"
        self._max_payload = _DEFAULT_MAX_PAYLOAD
        self._open: _Open | None = None

    @property
    def capabilities(self) -> Capabilities:
        """connect() may find streams in memory, and another limit of the payload."""
        native, emulated = Support.NATIVE, Support.EMULATED
        return Capabilities(
            lease=Lease.TIMED,
            lease_seconds=self._options.lease,
            durable=native if self._durable else Support.NONE,
            attempts=native,
            results_pushed=native,
            results_stored=native,
            delay=emulated,
            delayed_results=emulated,
            unique=native,
            unique_scope=UniqueScope.WINDOW,
            priorities=emulated,
            expiry=emulated,
            run_timeout=native,
            progress=native,
            chunks=native,
            cancel_queued=native,
            cancel_running=emulated,
            retry=native,
            dead_letters=emulated,
            headers=native,
            inspect=emulated,
            fifo=native,
            max_payload=self._max_payload - names.HEADER_BYTES,
        )

    async def connect(self, events: EventSink) -> None:
        """Reach a server and make the streams that are missing; raises ConnectError."""
        opened = _Open(self._address, self._options, events)
        try:
            self._durable = await opened.open()
        except (Silence, Refused) as error:
            await opened.link.close()
            raise ConnectError(str(self._address), f"JetStream: {error}") from error
        except BaseException:
            await opened.link.close()
            raise
        self._max_payload = opened.link.max_payload
        self._open = opened

    async def disconnect(self) -> None:
        """Close the connection. Jobs still watched are reported lost; what this process runs goes to another."""
        opened, self._open = self._open, None
        if opened is not None:
            await opened.close()

    async def submit(self, envelopes: Sequence[Envelope]) -> None:
        """Store each job; one that the stream did not take is refused by itself."""
        await self._opened().session.submit(envelopes)

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> NatsConsumer:
        """Return a consumer of `functions`; raises ConfigurationError where the server's lease is another."""
        opened = self._opened()
        if not opened.consumers:
            await opened.link.listen(f"{self._options.prefix}.ask", opened.hear)
            opened.link.keep_time(self._options.lease / 8)
        consumer = NatsConsumer(opened.link, opened.streams, opened.session, opened.options, functions, slots, notices)
        try:
            await consumer.open()
        except BaseException as error:
            await consumer.close()
            if isinstance(error, Refused):
                raise ConfigurationError(f"{self._address}: {error}") from error
            if isinstance(error, Silence):
                raise ConnectError(str(self._address), str(error)) from error
            raise
        opened.consumers.append(consumer)
        return consumer

    async def watch(self, watches: Sequence[tuple[str, str]]) -> None:
        """Tell what becomes, or has become, of these jobs, as long as their ends are kept."""
        await self._opened().session.watch(watches)

    async def cancel(self, receipt: str) -> bool:
        """Take a job out of its lane; where a worker runs it, that is told to stop. False if there is no such job."""
        opened = self._opened()
        number = names.sequence(receipt)
        if number is None:
            return False
        try:
            job = await opened.session.store.job(number)
            if job is None:
                return False
            untaken = await opened.session.is_untaken(job)
            # From now on nobody else can take it; its worker, if it has one, tells the end.
            if not await opened.session.store.delete(opened.streams.jobs, job.seq):
                return False
            if untaken or await self._ask(opened, "stop", job.seq) is None:
                await opened.session.tell_end(job.subject, job.seq, job.headers(), CANCELLED)
        except Silence as silence:
            raise ConnectError(str(self._address), str(silence)) from silence
        return True

    async def status(self, receipt: str) -> JobStatus:
        """Return what is known of a job; one that has ended is not known."""
        opened = self._opened()
        number = names.sequence(receipt)
        if number is None:
            return JobStatus(known=False, running=False)
        try:
            job = await opened.session.store.job(number)
            if job is None:
                return JobStatus(known=False, running=False)
            standing = None
            if not await opened.session.is_untaken(job):
                standing = await self._ask(opened, "status", job.seq)
        except Silence as silence:
            raise ConnectError(str(self._address), str(silence)) from silence
        if standing is None:
            return JobStatus(known=True, running=False)
        return JobStatus(True, True, *standing)

    async def _ask(self, opened: _Open, verb: str, number: int) -> _Standing | None:
        """Return what the worker of a job says, None if there is none."""
        try:
            answer = await opened.link.ask(f"{self._options.prefix}.ask", _encode((verb, number)), _ASK_SECONDS)
        except Silence:
            return None
        return _decode_standing(answer.data) if answer.data else None

    async def depths(self) -> Sequence[QueueDepth]:
        """Return each function's jobs (delayed ones count as queued) and the workers that answered."""
        opened = self._opened()
        try:
            jobs = await opened.streams.queued()
            census = await self._census(opened)
        except Silence as silence:
            raise ConnectError(str(self._address), str(silence)) from silence
        total: Counter[str] = Counter()
        for subject, count in jobs.items():
            total[names.function_of(subject)] += count
        running: Counter[str] = Counter()
        workers: Counter[str] = Counter()
        for held in census:
            running.update(held)
            workers.update(held.keys())
        functions = sorted({*total, *workers})
        return [
            QueueDepth(name, max(0, total[name] - running[name]), running[name], workers[name]) for name in functions
        ]

    async def _census(self, opened: _Open) -> list[_Census]:
        """Return what each consumer of each process holds, as far as they answer in time."""
        census: list[_Census] = []
        nobody = asyncio.Event()

        def heard(message: Msg) -> None:
            if message.data:
                census.extend(_decode_census(message.data))
            else:
                nobody.set()

        ear = await opened.link.listen(f"_INBOX.{os.urandom(12).hex()}", heard)
        try:
            await opened.link.publish(f"{self._options.prefix}.ask", _encode(("census", 0)), ear.subject)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ASK_SECONDS):
                    await nobody.wait()
        finally:
            await ear.close()
        return census

    async def dead_letters(self, function: str, limit: int) -> Sequence[DeadLetter]:
        """Return at most `limit` of the function's dead letters, the oldest first."""
        try:
            return await self._opened().graveyard.dead_letters(function, limit)
        except Silence as silence:
            raise ConnectError(str(self._address), str(silence)) from silence

    async def replay(self, receipts: Collection[str]) -> int:
        """Queue these dead letters again, under their receipts; return how many there were."""
        try:
            return await self._opened().graveyard.replay(receipts)
        except Silence as silence:
            raise ConnectError(str(self._address), str(silence)) from silence

    async def drop(self, receipts: Collection[str]) -> int:
        """Forget these dead letters; return how many there were."""
        try:
            return await self._opened().graveyard.drop(receipts)
        except Silence as silence:
            raise ConnectError(str(self._address), str(silence)) from silence

    def _opened(self) -> _Open:
        if self._open is None:
            raise NotConnected(f"{self._address} is not connected")
        return self._open
