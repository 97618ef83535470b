"""The memory driver: queues in this process, gone with it. `memory://`, for demos, tests and work within one program.

Params and results are encoded and decoded as on every other engine, so what works here is typed there.
"""

import asyncio
import itertools
import math
import time
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from que.address import Address
from que.alarm import Alarm
from que.driver import ConsumerSink, EventSink
from que.errors import ConfigurationError, ConnectionLost, JobCancelled, JobError, JobExpired, NotConnected
from que.model import (
    Capabilities,
    Completed,
    Delivery,
    Ending,
    Envelope,
    Failed,
    JobStatus,
    Kept,
    Lease,
    Priority,
    QueueDepth,
    Redeliver,
    Released,
    Settled,
    Settlement,
    Support,
    TickClaim,
    UniqueScope,
)

if TYPE_CHECKING:
    from que.limits import Tokens

_CAPABILITIES = Capabilities(
    lease=Lease.PROCESS,
    attempts=Support.NATIVE,
    results_pushed=Support.NATIVE,
    delay=Support.NATIVE,
    delayed_results=Support.NATIVE,
    unique=Support.NATIVE,
    unique_scope=UniqueScope.WHILE_ALIVE,
    priorities=Support.NATIVE,
    expiry=Support.NATIVE,
    run_timeout=Support.NATIVE,
    progress=Support.NATIVE,
    chunks=Support.NATIVE,
    cancel_queued=Support.NATIVE,
    cancel_running=Support.NATIVE,
    retry=Support.NATIVE,
    headers=Support.NATIVE,
    inspect=Support.NATIVE,
    ticks=Support.NATIVE,
    keeps=Support.NATIVE,
    total_rate=Support.NATIVE,
    fifo=Support.NATIVE,
)


class _Job(msgspec.Struct, eq=False):
    """One job, from its submission to its end.

    `number`: its place in the order of submission. `due`: Unix seconds before which it must not run. `expires`: Unix
    seconds from which it may no longer be taken. `watchers`: the ids that want to know its end, its own and those that
    coalesced with it. `timer`: rings when a job that waits is due, or has expired. `held`: by whom, while it runs.
    """

    envelope: Envelope
    number: int
    due: float
    expires: float
    watchers: list[str] = []
    timer: asyncio.TimerHandle | None = None
    held: "tuple[_MemoryConsumer, Delivery] | None" = None
    attempts: int = 0
    cancelled: bool = False
    done: int = 0
    total: int = 0


class _Ticked(msgspec.Struct):
    """How far a schedule has come, and who sees to it until when."""

    done: float | None = None
    owner: str | None = None
    held_until: float = 0.0


# In the order in which they are taken; what is cancelled or expires leaves no trace.
_Lane = OrderedDict[str, _Job]


class MemoryDriver:
    """Everything that an engine can do, in one process; nothing survives disconnect()."""

    calls_in_flight: int | None = None

    def __init__(self, address: Address) -> None:
        if address.hosts or address.path or address.username:
            raise ConfigurationError(f"{address}: memory:// has no host and no path; its queues belong to one app")
        address.refuse_other_options(())
        self._events: EventSink | None = None
        self._numbers = itertools.count()
        self._jobs: dict[str, _Job] = {}
        self._uniques: dict[tuple[str, str], _Job] = {}
        self._lanes = {priority: defaultdict[str, _Lane](_Lane) for priority in sorted(Priority, reverse=True)}
        self._consumers: list[_MemoryConsumer] = []
        self._tokens: dict[tuple[str, int, float], Tokens] = {}
        self._ticked = defaultdict[str, _Ticked](_Ticked)
        self._kept: dict[str, tuple[Ending, asyncio.TimerHandle]] = {}
        self._attending = defaultdict[str, list[str]](list)

    @property
    def capabilities(self) -> Capabilities:
        """All but durability."""
        return _CAPABILITIES

    async def connect(self, events: EventSink) -> None:
        """Open for business in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._events = events

    async def disconnect(self) -> None:
        """Forget every job; those who wait for it, and the worker that runs it, are told that it is lost."""
        for job in list(self._jobs.values()):
            if job.held is not None:
                consumer, delivery = job.held
                consumer.lose(delivery)
            self._lose(job, ConnectionLost("the memory driver was disconnected, and its jobs are gone"))
        for consumer in list(self._consumers):
            await consumer.close()
        await self.forget(list(self._kept))
        attending, self._attending = self._attending, defaultdict[str, list[str]](list)
        for id in itertools.chain.from_iterable(attending.values()):
            self.events.lost(id, ConnectionLost("the memory driver was disconnected, and keeps nothing more"))
        self._events = None

    @property
    def events(self) -> EventSink:
        """The sink given to connect(); raises NotConnected."""
        if self._events is None:
            raise NotConnected("the memory driver is not connected")
        return self._events

    async def submit(self, envelopes: Sequence[Envelope]) -> None:
        """Queue the batch; the receipt is the job's id, or that of the job it coalesced with."""
        events = self.events
        for envelope in envelopes:
            unique = envelope.unique
            job = None if unique is None else self._uniques.get((envelope.function, unique))
            if job is None:
                job = self._add(envelope)
            if not envelope.background:
                job.watchers.append(envelope.id)
            events.accepted(envelope.id, job.envelope.id)
        self._wake()

    def _add(self, envelope: Envelope) -> _Job:
        due = 0.0 if envelope.due is None else envelope.due
        expires = math.inf if envelope.expires is None else max(time.time(), due) + envelope.expires
        job = self._jobs[envelope.id] = _Job(envelope, next(self._numbers), due, expires)
        if envelope.unique is not None:
            self._uniques[envelope.function, envelope.unique] = job
        self._place(job)
        return job

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> "_MemoryConsumer":
        """Return a consumer of `functions`; raises NotConnected."""
        consumer = _MemoryConsumer(self, functions, slots, notices)
        self._consumers.append(consumer)
        return consumer

    async def cancel(self, receipt: str) -> bool:
        """End a job that waits, or tell the worker of one that runs; False if there is no such job."""
        job = self._jobs.get(receipt)
        if job is None:
            return False
        if job.held is None:
            self._lose(job, JobCancelled("the job was cancelled before it ran"))
        else:
            job.cancelled = True
            consumer, delivery = job.held
            consumer.notices.cancelled(delivery)
        return True

    async def status(self, receipt: str) -> JobStatus:
        """Return what is known of a job; one that has ended is not known."""
        job = self._jobs.get(receipt)
        if job is None:
            return JobStatus(known=False, running=False)
        return JobStatus(True, job.held is not None, job.done, job.total, waiting=len(job.watchers))

    async def depths(self) -> Sequence[QueueDepth]:
        """Return each function's jobs (delayed ones count as queued) and consumers."""
        running = Counter(job.envelope.function for job in self._jobs.values() if job.held is not None)
        queued = Counter(job.envelope.function for job in self._jobs.values() if job.held is None)
        workers = Counter(function for consumer in self._consumers for function in consumer.functions)
        names = sorted({*queued, *running, *workers})
        return [QueueDepth(name, queued[name], running[name], workers[name]) for name in names]

    async def begin_ticks(self, schedule: str, until: float, owner: str, seconds: float) -> TickClaim:
        """Grant `owner` the schedule; what is remembered outlives a disconnect(), not the process."""
        ticked, now = self._ticked[schedule], time.time()
        if ticked.done is not None and ticked.done >= until:
            return TickClaim(granted=False, done=ticked.done)
        if ticked.owner not in (None, owner) and ticked.held_until > now:
            return TickClaim(granted=False, done=ticked.done)
        ticked.owner, ticked.held_until = owner, now + seconds
        return TickClaim(granted=True, done=ticked.done)

    async def end_ticks(self, schedule: str, until: float, owner: str) -> None:
        """Remember how far the schedule has come."""
        ticked = self._ticked[schedule]
        ticked.done = until if ticked.done is None else max(ticked.done, until)
        if ticked.owner == owner:
            ticked.owner = None

    async def keep(self, entries: Sequence[Kept], keys: Sequence[str] = ()) -> Sequence[Ending | None]:
        """Write what is not written yet, and return what `keys` then hold."""
        events = self.events
        for entry in entries:
            if entry.key not in self._kept:
                timer = self._loop.call_later(entry.ttl, self._kept.pop, entry.key)
                self._kept[entry.key] = (entry.ending, timer)
                for id in self._attending.pop(entry.key, ()):
                    _tell(events, id, entry.ending)
        return [self._kept[key][0] if key in self._kept else None for key in keys]

    async def forget(self, keys: Collection[str]) -> None:
        """Free `keys`."""
        for key in keys:
            if (kept := self._kept.pop(key, None)) is not None:
                kept[1].cancel()

    async def attend(self, watches: Sequence[tuple[str, str]]) -> None:
        """Tell what is kept, or will be."""
        events = self.events
        for id, key in watches:
            if key in self._kept:
                _tell(events, id, self._kept[key][0])
            else:
                self._attending[key].append(id)

    def _place(self, job: _Job, *, first: bool = False) -> None:
        """Queue `job`, now or when it is due."""
        now = time.time()
        if job.due > now:
            job.timer = self._loop.call_later(job.due - now, self._ripen, job)
            return
        envelope = job.envelope
        lane = self._lanes[envelope.priority][envelope.function]
        lane[envelope.id] = job
        if first:
            lane.move_to_end(envelope.id, last=False)
        if job.expires < math.inf:
            job.timer = self._loop.call_later(job.expires - now, self._expire, job)

    def _ripen(self, job: _Job) -> None:
        # A loop's timer may ring a little early; then this sets it again.
        self._place(job)
        self._wake()

    def _expire(self, job: _Job) -> None:
        self._lose(job, JobExpired(f"nobody took the job within {job.envelope.expires:g} s"))

    def _lose(self, job: _Job, error: JobError) -> None:
        """End `job`, which nobody holds, without a result."""
        envelope = job.envelope
        self._lanes[envelope.priority][envelope.function].pop(envelope.id, None)
        for id in self.end(job):
            self.events.lost(id, error)

    def end(self, job: _Job) -> Iterable[str]:
        """Forget `job`, which waits in no lane, and return the ids that want to know."""
        envelope = job.envelope
        del self._jobs[envelope.id]
        if envelope.unique is not None:
            del self._uniques[envelope.function, envelope.unique]
        if job.timer is not None:
            job.timer.cancel()
        return job.watchers

    def _wake(self) -> None:
        for consumer in self._consumers:
            consumer.wake()

    def take(self, functions: "deque[str]", limit: int) -> list[_Job]:
        """Return at most `limit` jobs, the highest priority first, and among equals one function after the other.

        `functions` is left rotated, so that the next call goes on where this one ended.
        """
        taken: list[_Job] = []
        now = time.time()
        for lanes in self._lanes.values():
            dry = 0
            while len(taken) < limit and dry < len(functions):
                lane = lanes.get(functions[0])
                functions.rotate(-1)
                if not lane:
                    dry += 1
                    continue
                dry = 0
                _, job = lane.popitem(last=False)
                if job.expires <= now:
                    self._expire(job)
                    continue
                taken.append(job)
        return taken

    def tokens(self, function: str, count: int, seconds: float) -> "Tokens":
        """Return what holds this rate among the consumers of a function."""
        from que.limits import Tokens  # few jobs have any

        return self._tokens.setdefault((function, count, seconds), Tokens(count, seconds))

    def redeliver(self, job: _Job, after: float) -> None:
        """Queue `job` again, not before `after` seconds; it was taken in time, so it expires no more."""
        job.due = time.time() + after
        job.expires = math.inf
        self._requeue(job)

    def give_back(self, jobs: Iterable[_Job]) -> None:
        """Put `jobs` back in front, in their old order, as if they had not been taken."""
        for job in sorted(jobs, key=lambda job: job.number, reverse=True):
            job.attempts -= 1
            self._requeue(job, first=True)

    def _requeue(self, job: _Job, *, first: bool = False) -> None:
        job.held = None
        if job.cancelled:
            self._lose(job, JobCancelled("the job was cancelled while it ran"))
        else:
            self._place(job, first=first)
            self._wake()

    def dismiss(self, consumer: "_MemoryConsumer") -> None:
        """Wake `consumer` no more."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)


def _tell(events: EventSink, id: str, ending: Ending) -> None:
    match ending:
        case Completed(payload):
            events.completed(id, payload)
        case Failed():
            events.failed(id, ending)


class _MemoryConsumer:
    """One worker's claim on some functions; what it holds takes up its slots."""

    def __init__(self, driver: MemoryDriver, functions: Collection[str], slots: int, notices: ConsumerSink) -> None:
        self.functions: deque[str] = deque(functions)
        self.notices = notices
        self._driver = driver
        self._events = driver.events
        self._slots = slots
        self._held: dict[Delivery, _Job] = {}
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None
        self._tokens: Tokens | None = None
        self._alarm = Alarm()

    def throttle(self, count: int, seconds: float) -> None:
        """Take no more than that, with all others that were told so."""
        self._tokens = self._driver.tokens(self.functions[0], count, seconds)

    def wake(self) -> None:
        """Let a waiting reserve() look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def reserve(self, limit: int) -> Sequence[Delivery]:
        """Wait for at least one job; there is no await between taking and returning, so none can be lost."""
        while not self._closed:
            jobs = self._take(min(limit, self._slots - len(self._held)))
            if jobs:
                return [self._deliver(job) for job in jobs]
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return ()

    def _take(self, limit: int) -> list[_Job]:
        tokens = self._tokens
        if tokens is None:
            return self._driver.take(self.functions, limit)
        now = asyncio.get_running_loop().time()
        free = tokens.free(now)
        jobs = self._driver.take(self.functions, min(limit, free))
        if jobs:
            tokens.take(len(jobs), now)
        elif not free:
            self._alarm.set(tokens.next_at - now, self.wake)
        return jobs

    def _deliver(self, job: _Job) -> Delivery:
        envelope = job.envelope
        job.attempts += 1
        delivery = Delivery(
            envelope.function, envelope.payload, envelope.id, job.attempts, envelope.run_timeout, None, envelope.headers
        )
        job.held = (self, delivery)
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None
        self._held[delivery] = job
        return delivery

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """End, queue again or give back each job; one that is no longer held is LOST."""
        given_back: list[_Job] = []
        settled: list[Settled] = []
        for delivery, verdict in settlements:
            job = self._held.pop(delivery, None)
            if job is None:
                settled.append(Settled.LOST)
                continue
            settled.append(Settled.CONFIRMED)
            match verdict:
                case Completed() | Failed():
                    for id in self._driver.end(job):
                        _tell(self._events, id, verdict)
                case Redeliver():
                    self._driver.redeliver(job, verdict.after)
                case Released():
                    given_back.append(job)
        self._driver.give_back(given_back)
        self.wake()
        return settled

    def lose(self, delivery: Delivery) -> None:
        """Let go of a job that the worker runs, and tell it."""
        del self._held[delivery]
        self.notices.lost(delivery)

    def progress(self, delivery: Delivery, done: int, total: int) -> None:
        """Tell those who wait how far the job is."""
        if (job := self._held.get(delivery)) is not None:
            job.done, job.total = done, total
            for id in job.watchers:
                self._events.progress(id, done, total)

    def chunk(self, delivery: Delivery, data: bytes) -> None:
        """Give those who wait a part of the result."""
        if (job := self._held.get(delivery)) is not None:
            for id in job.watchers:
                self._events.chunk(id, data)

    def warned(self, delivery: Delivery, text: str) -> None:
        """Warn those who wait."""
        if (job := self._held.get(delivery)) is not None:
            for id in job.watchers:
                self._events.warned(id, text)

    async def close(self) -> None:
        """Take no more; a waiting reserve() returns ()."""
        self._closed = True
        self._alarm.cancel()
        self._driver.dismiss(self)
        self.wake()
