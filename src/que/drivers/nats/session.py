"""The submitting side while it is connected: who waits for which job, and how its end reaches them."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence

import msgspec
from nats.aio.msg import Msg

from que.driver import EventSink
from que.drivers.nats import names
from que.drivers.nats.link import Ack, Ear, Link, Outgoing, Silence
from que.drivers.nats.options import NatsOptions
from que.drivers.nats.store import End, Store, Stored
from que.drivers.nats.streams import Refused, Streams
from que.errors import (
    ConnectionLost,
    JobCancelled,
    JobError,
    JobExpired,
    JobUnknown,
    NotSent,
    QueueFull,
    Rejected,
    SubmitAmbiguous,
    SubmitError,
)
from que.model import Envelope, Failed

_log = logging.getLogger("que")

# JetStream's own numbers for a stream that takes no more.
_FULL = frozenset({10077, 10122, 10023, 10047})
_MOST_AT_ONCE = 200
_LOST: dict[str, type[JobError]] = {"expired": JobExpired, "cancelled": JobCancelled}
_CHAPTERS = frozenset({"progress", "chunk", "warned"})

News = tuple[str, str, bytes]
_encode = msgspec.msgpack.Encoder().encode
_decode_news = msgspec.msgpack.Decoder(list[News]).decode
_decode_failure = msgspec.json.Decoder(Failed).decode
_decode_progress = msgspec.json.Decoder(tuple[int, int]).decode


def encode_news(news: Sequence[News]) -> bytes:
    """Return what tells these on one subject."""
    return _encode(news)


class _Wait(msgspec.Struct, eq=False):
    """One id whose end the EventSink waits for. `watches`: it was not submitted here, or coalesced."""

    receipt: int | None = None
    function: str | None = None
    watches: bool = False
    timer: asyncio.TimerHandle | None = None


class Session:
    """Submits, hears the ends of jobs on a subject of its own, and those of others' jobs where it watches them."""

    def __init__(self, link: Link, streams: Streams, options: NatsOptions, events: EventSink) -> None:
        self.store: Store = Store(link, streams, options.prefix)
        self._link = link
        self._streams = streams
        self._options = options
        self._events = events
        self._name = os.urandom(9).hex()
        self._waits: dict[str, _Wait] = {}
        self._watchers: dict[int, list[str]] = {}
        self._ears: dict[str, Ear] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._chapters: dict[str, Callable[[str, bytes], None]] = {
            "progress": lambda id, body: events.progress(id, *_decode_progress(body)),
            "chunk": events.chunk,
            "warned": lambda id, body: events.warned(id, body.decode("utf-8", "replace")),
        }

    async def open(self) -> None:
        """Listen for the ends of jobs."""
        await self._link.listen(f"{self._options.prefix}.to.{self._name}", self._hear_own)

    async def close(self) -> None:
        """Report what is still waited for as lost."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for id in list(self._waits):
            self._lose(id, ConnectionLost("the driver was disconnected before the job's end; it may still run"))

    def start(self, work: Coroutine[object, object, None]) -> None:
        """Let `work` be done beside everything else; what it cannot do is logged."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("NATS: %r", error)

    # --- submitting

    async def submit(self, envelopes: Sequence[Envelope]) -> None:
        """Store the batch, each job by itself; raises NotSent if nothing left."""
        options = self._options
        deadline = self._loop.time() + options.timeout
        try:
            await self._link.ready(options.timeout)
        except Silence as silence:
            raise NotSent(str(silence)) from silence
        left = [envelope for envelope in envelopes if self._may_be_kept(envelope)]
        while left:
            unheard = await self._store(left)
            if not unheard:
                return
            # The stream has no leader yet, as after a restart, or is gone: nobody has these, so they may go again.
            if self._loop.time() > deadline:
                break
            left = unheard
            await asyncio.sleep(0.1)
            await self._open_streams()
        for envelope in left:
            self._refuse(envelope, NotSent(f"no stream takes jobs at {options.prefix}.job.*.*"))

    def _may_be_kept(self, envelope: Envelope) -> bool:
        keeps = (envelope.result_ttl or 0) <= names.LONGEST_RESULT_TTL
        if not keeps:
            days = names.LONGEST_RESULT_TTL // 86_400
            self._refuse(envelope, Rejected(f"result_ttl={envelope.result_ttl:g}: NATS keeps results for {days} days"))
        return keeps

    async def _open_streams(self) -> None:
        try:
            await self._streams.open()
        except (Silence, Refused) as error:
            _log.warning("NATS: the streams cannot be opened: %s", error)

    async def _store(self, envelopes: list[Envelope]) -> list[Envelope]:
        """Return those that no stream took, and which are not refused."""
        now = time.time()
        messages = [self._message(envelope, now) for envelope in envelopes]
        unheard: list[Envelope] = []

        def heard(place: int, ack: Ack) -> None:
            envelope = envelopes[place]
            if ack.error is None:
                self._accept(envelope, ack, messages[place][2])
            elif ack.error.err_code == 503:
                unheard.append(envelope)
            else:
                kind = QueueFull if ack.error.err_code in _FULL else Rejected
                self._refuse(envelope, kind(f"JetStream refused the job: {ack.error.description}"))

        for envelope in envelopes:
            if not envelope.background:
                self._waits[envelope.id] = _Wait(function=envelope.function)
        try:
            left = await self._link.store(messages, heard)
        except BaseException:
            for envelope in envelopes:
                wait = self._waits.get(envelope.id)
                if wait is not None and wait.receipt is None:
                    del self._waits[envelope.id]
            raise
        for place, silence in left.items():
            error = SubmitAmbiguous(f"{silence}: the job may exist") if silence.sent else NotSent(str(silence))
            self._refuse(envelopes[place], error)
        return unheard

    def _message(self, envelope: Envelope, now: float) -> Outgoing:
        subject = f"{self._options.prefix}.job.{names.token(envelope.function)}.{names.LANES[envelope.priority]}"
        return subject, envelope.payload, names.headers_of(envelope, self._name, now)

    def _accept(self, envelope: Envelope, ack: Ack, headers: dict[str, str] | None) -> None:
        wait = self._waits.get(envelope.id)
        if wait is not None:
            wait.receipt = ack.seq
            if ack.duplicate:
                wait.watches = True
                self.start(self._follow(envelope.id, ack.seq, JobUnknown))
        self._events.accepted(envelope.id, str(ack.seq))
        if headers is not None and names.EXPIRES in headers and not ack.duplicate:
            seconds = float(headers[names.EXPIRES]) - time.time()
            timer = self._loop.call_later(max(0.0, seconds) + _LATE_SECONDS, self._look_at_expired, envelope, ack.seq)
            if wait is not None:
                wait.timer = timer

    def _refuse(self, envelope: Envelope, error: SubmitError) -> None:
        self._forget(envelope.id)
        self._events.refused(envelope.id, error)

    # --- hearing

    def _hear_own(self, message: Msg) -> None:
        for id, kind, body in _decode_news(message.data):
            self.tell(id, kind, body)

    def _hear_others(self, message: Msg) -> None:
        for receipt, kind, body in _decode_news(message.data):
            number = names.sequence(receipt)
            if number is not None:
                for id in list(self._watchers.get(number, ())):
                    self.tell(id, kind, body)

    def tell(self, id: str, kind: str, body: bytes) -> None:
        """Tell the EventSink, if it waits for that still."""
        if id not in self._waits:
            return
        if kind in _CHAPTERS:
            self._chapters[kind](id, body)
            return
        self._forget(id)
        if kind == "completed":
            self._events.completed(id, body)
        elif kind == "failed":
            self._events.failed(id, _decode_failure(body))
        else:
            self._events.lost(id, _LOST.get(kind, JobError)(body.decode("utf-8", "replace")))

    def _lose(self, id: str, error: JobError) -> None:
        if id in self._waits:
            self._forget(id)
            self._events.lost(id, error)

    def _forget(self, id: str) -> None:
        wait = self._waits.pop(id, None)
        if wait is None:
            return
        if wait.timer is not None:
            wait.timer.cancel()
        if wait.watches and wait.receipt is not None:
            watchers = self._watchers.get(wait.receipt, [])
            if id in watchers:
                watchers.remove(id)
            if not watchers:
                self._watchers.pop(wait.receipt, None)
            self._hush()

    def _hush(self) -> None:
        """Listen no more to functions of which nobody here watches a job."""
        watched = {wait.function for wait in self._waits.values() if wait.watches} if self._watchers else set[str]()
        for function in [function for function in self._ears if function not in watched]:
            self.start(self._ears.pop(function).close())

    # --- watching

    async def watch(self, watches: Sequence[tuple[str, str]]) -> None:
        """Tell what becomes, or has become, of these jobs."""
        following: list[Coroutine[object, object, None]] = []
        for id, receipt in watches:
            number = names.sequence(receipt)
            if number is None:
                self._events.lost(id, JobUnknown("this is no receipt of this driver"))
            else:
                self._waits[id] = _Wait(receipt=number, watches=True)
                following.append(self._follow(id, number, JobUnknown))
        await _gather(following)

    async def _follow(self, id: str, receipt: int, lost: type[JobError]) -> None:
        """Have `id` hear of the end of a job; at once if that was before, and `lost` if it is not kept."""
        try:
            await self._link.ready(self._options.timeout)
            job = await self.store.job(receipt)
            wait = self._waits.get(id)
            if wait is None:
                return
            if job is not None:
                await self._listen(id, wait, receipt, names.function_of(job.subject))
                # It may have ended before anybody listened.
                job = await self.store.job(receipt)
            if job is None:
                await self._look_up(id, receipt, lost)
        except Silence as silence:
            self._lose(id, ConnectionLost(f"the job could not be looked up: {silence}"))

    async def _listen(self, id: str, wait: _Wait, receipt: int, function: str) -> None:
        wait.function = function
        watchers = self._watchers.setdefault(receipt, [])
        if id not in watchers:
            watchers.append(id)
        if function not in self._ears:
            subject = f"{self._options.prefix}.ends.{names.token(function)}"
            self._ears[function] = await self._link.listen(subject, self._hear_others)

    async def _look_up(self, id: str, receipt: int, lost: type[JobError]) -> None:
        end = await self.store.end(receipt)
        if end is not None:
            self.tell(id, end.kind, end.body)
        else:
            self._lose(id, lost("the job has ended, or never was, and its result was not kept, or no longer"))

    async def catch_up(self) -> None:
        """After an outage: what ended meanwhile is told if it is kept, and lost if not; the rest is heard of again."""
        accepted = [(id, wait.receipt) for id, wait in self._waits.items() if wait.receipt is not None]
        await _gather([self._check(id, receipt) for id, receipt in accepted])

    async def _check(self, id: str, receipt: int) -> None:
        try:
            if await self.store.job(receipt) is None:
                await self._look_up(id, receipt, ConnectionLost)
        except Silence as silence:
            if self._link.up.is_set():
                self._lose(id, ConnectionLost(f"the job could not be looked up after an outage: {silence}"))

    # --- ending jobs that nobody runs

    async def is_untaken(self, job: Stored) -> bool:
        """Return whether no worker has ever been given `job`: a lane is handed out in order."""
        function, lane = names.function_of(job.subject), job.subject.rpartition(".")[2]
        consumer = await self._streams.consumer(function, lane)
        return consumer is None or consumer.delivered.stream_seq < job.seq

    async def end(self, job: Stored, end: End) -> bool:
        """Take a job out of its lane and tell all who wait; False if it had ended before. Raises Silence."""
        if not await self.store.delete(self._streams.jobs, job.seq):
            return False
        await self.tell_end(job.subject, job.seq, job.headers(), end)
        return True

    async def tell_end(self, subject: str, number: int, headers: Mapping[str, str], end: End) -> None:
        """Tell all who wait for a job, and keep its end if that was asked for; raises Silence."""
        receipt = names.receipt_of(headers, number)
        seconds = names.kept_seconds(headers, self._options.unique_window)
        if seconds:
            try:
                await self.store.put([await self.store.end_message(receipt, end, seconds)])
            except Refused as refused:
                _log.error("NATS: the end of job %d is not kept: %s", receipt, refused)
        prefix = self._options.prefix
        if to := headers.get(names.TO):
            news = encode_news([(headers.get(names.ID, ""), end.kind, end.body)])
            await self._link.publish(f"{prefix}.to.{to}", news)
        token = subject.split(".")[2]
        await self._link.publish(f"{prefix}.ends.{token}", encode_news([(str(receipt), end.kind, end.body)]))

    def _look_at_expired(self, envelope: Envelope, receipt: int) -> None:
        self.start(self._expire(receipt))

    async def _expire(self, receipt: int) -> None:
        """End a job that nobody took in time; one that was taken is its worker's."""
        try:
            job = await self.store.job(receipt)
            if job is not None and await self.is_untaken(job):
                await self.end(job, EXPIRED)
        except Silence as silence:
            _log.warning("NATS: job %d has expired, and a worker will find out: %s", receipt, silence)


# Workers refuse what has expired by their own clocks, which may be a little behind.
_LATE_SECONDS = 0.05
EXPIRED = End("expired", b"nobody took the job in time")


async def _gather(work: Sequence[Coroutine[object, object, None]]) -> None:
    for first in range(0, len(work), _MOST_AT_ONCE):
        await asyncio.gather(*work[first : first + _MOST_AT_ONCE])
