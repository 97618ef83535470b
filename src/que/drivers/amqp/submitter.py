"""The publishing side: one connection that submits jobs, hears their answers, and sends what workers have to say."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import msgspec

from que.driver import EventSink
from que.drivers.amqp.channel import Fate, Outgoing, Publisher, publish_head
from que.drivers.amqp.connection import Connection
from que.drivers.amqp.messages import REPLY_TO, Letter, expires_at, job_properties, letters_of
from que.drivers.amqp.options import Options
from que.drivers.amqp.topology import MOST_DELAY_SECONDS, Topology, delay_units
from que.drivers.amqp.wire import Message, Method
from que.errors import (
    ConnectionLost,
    JobExpired,
    NotSent,
    QueueFull,
    Rejected,
    SubmitAmbiguous,
    SubmitError,
)
from que.model import Envelope, Failed

_log = logging.getLogger("que.amqp")
_decode_failure = msgspec.json.Decoder(Failed).decode
_decode_progress = msgspec.json.Decoder(tuple[int, int]).decode
# How long after its time a job that nobody said to have taken counts as expired: the note may be on its way.
_EXPIRY_MARGIN_SECONDS = 0.5
_REMAKING_SECONDS = 0.5
_CHAPTERS = frozenset({"progress", "chunk", "warned"})


class Outbox:
    """What one connection offers to publish with. `jobs` hears the answers; `rest` is for workers and dead letters.

    They are apart because the server closes a channel for a message that is too large, and with it goes who waits.
    """

    def __init__(self, connection: Connection, jobs: Publisher, rest: Publisher, options: Options) -> None:
        self.connection = connection
        self.jobs = jobs
        self.rest: Publisher = rest
        self.topology: Topology = Topology(connection, options)
        self.max_payload: int = most_payload(options, connection.version)
        self.heads: dict[tuple[int, str, str], bytes] = {}

    def head(self, publisher: Publisher, exchange: str, key: str, *, mandatory: bool = True) -> bytes:
        """Return the publish method of a way that many messages go."""
        way = (publisher.channel.number, exchange, key)
        found = self.heads.get(way)
        if found is None:
            if len(self.heads) > _MOST_HEADS:
                self.heads.clear()
            found = self.heads[way] = publish_head(publisher.channel.number, exchange, key, mandatory=mandatory)
        return found

    async def mend(self) -> None:
        """`rest` is open, after the server may have closed it; raises ConnectionError and TimeoutError."""
        if self.rest.channel.closed is not None:
            _log.warning("the server had closed a channel: %s", self.rest.channel.closed)
            self.rest = await Publisher.open(await self.connection.channel())

    async def way(self, function: str, delay_seconds: float, publisher: Publisher) -> bytes:
        """Return the publish method for a job, once what it goes through is there; raises as Topology.make()."""
        topology = self.topology
        if not topology.knows(function):
            await topology.make([function])
        if delay_seconds <= 0:
            return self.head(publisher, "", topology.names.jobs(function))
        units = delay_units(delay_seconds)
        if not topology.knows_delay(function, units):
            await topology.make_delay(function, units)
        return publish_head(publisher.channel.number, *topology.names.delayed(function, units))


_MOST_HEADS = 1000
# RabbitMQ 4.0 made its limit smaller.
_MOST_PAYLOAD_OF_4 = 16 * 1024 * 1024


def most_payload(options: Options, version: tuple[int, ...]) -> int:
    """Return the bytes of a message that a server of this version takes."""
    return min(options.max_payload, _MOST_PAYLOAD_OF_4) if version >= (4, 0) else options.max_payload


class Submitter:
    """Submits over whatever connection there is, and tells the EventSink what becomes of the jobs.

    Answers come by direct reply-to: with their connection they are gone, and who waits then is told ConnectionLost.
    """

    def __init__(self, options: Options, events: EventSink) -> None:
        self._options = options
        self._events = events
        self._loop = asyncio.get_running_loop()
        # What is waited for, and the timer of what expires.
        self._watched: dict[str, asyncio.TimerHandle | None] = {}
        # Those of them that the server has not confirmed: their submission says how they ended.
        self._leaving: set[str] = set()
        self._on_letter: dict[str, Callable[[str, bytes], None]] = {
            "completed": events.completed,
            "failed": self._failed,
            "expired": lambda id, body: events.lost(id, JobExpired("nobody took the job in time")),
            "taken": self._taken,
            "progress": self._progress,
            "chunk": events.chunk,
            "warned": lambda id, body: events.warned(id, body.decode("utf-8", "replace")),
        }

    async def open(self, connection: Connection) -> Outbox:
        """Make the channels of a fresh connection."""
        jobs = await Publisher.open(await connection.channel())
        jobs.channel.on_message = self._hear
        await jobs.channel.call(Method.BASIC_CONSUME, 0, REPLY_TO, "", False, True, False, False, {})
        rest = await Publisher.open(await connection.channel())
        # Without it nobody hears an answer: a fresh connection is the simplest way on.
        jobs.lost = connection.abort
        return Outbox(connection, jobs, rest, self._options)

    def lose(self, why: Exception) -> None:
        """The connection that heard the answers is gone."""
        for id in self._watched.keys() - self._leaving:
            self._unwatch(id)
            self._events.lost(id, ConnectionLost(f"the connection to RabbitMQ was lost: {why}"))

    # Submitting

    async def submit(self, outbox: Outbox, envelopes: Sequence[Envelope]) -> None:
        """Publish the batch and tell each outcome; one whose queue somebody has deleted is made and tried once more."""
        unrouted = await self._publish(outbox, envelopes, last=False)
        if unrouted:
            # RabbitMQ 3.10 has consumers of the old queue swallow what comes to one that is made again at once.
            await asyncio.sleep(_REMAKING_SECONDS)
            for envelope in unrouted:
                outbox.topology.forget(envelope.function)
            await self._publish(outbox, unrouted, last=True)

    async def _publish(self, outbox: Outbox, envelopes: Sequence[Envelope], last: bool) -> list[Envelope]:
        now = time.time()
        leaving: list[Envelope] = []
        messages: list[Outgoing] = []
        for envelope in envelopes:
            try:
                delay_seconds = 0.0 if envelope.due is None else envelope.due - now
                if delay_seconds > MOST_DELAY_SECONDS:
                    most = f"{int(MOST_DELAY_SECONDS / 86_400)} days"
                    raise Rejected(f"a delay of {delay_seconds:.0f} s, and RabbitMQ's queues hold a job for {most}")
                head = await outbox.way(envelope.function, delay_seconds, outbox.jobs)
            except SubmitError as error:
                self._events.refused(envelope.id, error)
                continue
            except (OSError, TimeoutError) as error:
                self._events.refused(envelope.id, NotSent(f"its queue cannot be made: {error}"))
                continue
            leaving.append(envelope)
            messages.append(Outgoing(head, job_properties(envelope, now), envelope.payload))
        ids = [envelope.id for envelope in leaving]
        self._watch(leaving, now)
        self._leaving.update(ids)
        try:
            outcomes = await outbox.jobs.publish(messages, ids)
        finally:
            self._leaving.difference_update(ids)
        unrouted: list[Envelope] = []
        for envelope, outcome in zip(leaving, outcomes, strict=True):
            if outcome.fate is Fate.SAFE:
                self._events.accepted(envelope.id, envelope.id)
            elif outcome.fate is Fate.UNROUTED and not last:
                unrouted.append(envelope)
            else:
                self._unwatch(envelope.id)
                self._events.refused(envelope.id, _ERRORS[outcome.fate](outcome.why))
        return unrouted

    def _watch(self, envelopes: Sequence[Envelope], now: float) -> None:
        for envelope in envelopes:
            if envelope.background:
                continue
            self._unwatch(envelope.id)
            timer = None
            if envelope.expires is not None:
                wait_seconds = expires_at(envelope, now) - now + _EXPIRY_MARGIN_SECONDS
                timer = self._loop.call_later(wait_seconds, self._expire, envelope.id)
            self._watched[envelope.id] = timer

    def _unwatch(self, id: str) -> bool:
        if id not in self._watched:
            return False
        timer = self._watched.pop(id)
        if timer is not None:
            timer.cancel()
        return True

    def _expire(self, id: str) -> None:
        """No worker has said that it took the job: whichever takes it now will not run it."""
        if self._unwatch(id):
            self._events.lost(id, JobExpired("nobody took the job in time"))

    # Hearing

    def _hear(self, message: Message) -> None:
        try:
            letters = letters_of(message)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            _log.warning("an answer cannot be read: %s", error)
            return
        for letter in letters:
            self.hear(letter)

    def hear(self, letter: Letter) -> None:
        """Tell what a worker says, if it is about a job that somebody waits for."""
        id, kind, body = letter
        if id not in self._watched:
            return
        if kind not in _CHAPTERS and kind != "taken":
            self._unwatch(id)
        try:
            self._on_letter[kind](id, body)
        except (msgspec.DecodeError, KeyError) as error:
            _log.warning("an answer for job %s cannot be read: %r", id, error)

    def _failed(self, id: str, body: bytes) -> None:
        try:
            failure = _decode_failure(body)
        except msgspec.DecodeError:
            failure = Failed("handler", "", body.decode("utf-8", "replace"))
        self._events.failed(id, failure)

    def _progress(self, id: str, body: bytes) -> None:
        self._events.progress(id, *_decode_progress(body))

    def _taken(self, id: str, body: bytes) -> None:
        timer = self._watched[id]
        if timer is not None:
            timer.cancel()
            self._watched[id] = None


_ERRORS: dict[Fate, type[SubmitError]] = {
    Fate.UNSENT: NotSent,
    Fate.UNROUTED: Rejected,
    Fate.REFUSED: QueueFull,
    Fate.UNKNOWN: SubmitAmbiguous,
}
