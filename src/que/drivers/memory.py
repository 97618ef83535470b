"""The memory driver: queues in this process, gone with it. `memory://`, for demos, tests and work within one program.

Params and results are encoded and decoded as on every other engine, so what works here is typed there.
"""

import asyncio
import enum
import heapq
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence

from que.address import Address
from que.driver import ConsumerSink, EventSink
from que.errors import ConfigurationError, ConnectionLost, JobCancelled, JobError, JobExpired, NotConnected
from que.model import (
    Capabilities,
    Completed,
    Delivery,
    Envelope,
    Failed,
    JobStatus,
    Lease,
    Priority,
    QueueDepth,
    Redeliver,
    Released,
    Settled,
    Settlement,
    Support,
    UniqueScope,
    Verdict,
)

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
    inspect=Support.NATIVE,
    fifo=Support.NATIVE,
)


class _State(enum.Enum):
    DELAYED = enum.auto()
    QUEUED = enum.auto()
    RUNNING = enum.auto()
    ENDED = enum.auto()


class _Entry:
    """One job. `watchers` are the ids that want its end: its own, and those that coalesced with it."""

    __slots__ = ("attempts", "consumer", "delivery", "done", "envelope", "state", "total", "watchers")

    def __init__(self, envelope: Envelope) -> None:
        self.envelope: Envelope = envelope
        self.state: _State = _State.QUEUED
        self.attempts: int = 0
        self.watchers: tuple[str, ...] = () if envelope.background else (envelope.id,)
        self.delivery: Delivery | None = None
        self.consumer: _MemoryConsumer | None = None
        self.done: int = 0
        self.total: int = 0


class _Queue:
    """One function's jobs that may run now, in three lanes; an entry that has left its state is passed over."""

    __slots__ = ("_lanes",)

    def __init__(self) -> None:
        self._lanes = {priority: deque[_Entry]() for priority in sorted(Priority, reverse=True)}

    def add(self, entry: _Entry, *, first: bool = False) -> None:
        lane = self._lanes[entry.envelope.priority]
        lane.appendleft(entry) if first else lane.append(entry)

    def pop(self) -> _Entry | None:
        for lane in self._lanes.values():
            while lane:
                entry = lane.popleft()
                if entry.state is _State.QUEUED:
                    return entry
        return None


class MemoryDriver:
    """Everything that an engine can do, in one process; nothing survives disconnect()."""

    calls_in_flight: int | None = None

    def __init__(self, address: Address) -> None:
        if address.hosts or address.path or address.username:
            raise ConfigurationError(f"{address}: memory:// has no host and no path; its queues belong to one app")
        address.refuse_other_options(())
        self._events: EventSink | None = None
        self._clear()

    def _clear(self) -> None:
        self._queues: dict[str, _Queue] = {}
        self._jobs: dict[str, _Entry] = {}
        self._uniques: dict[tuple[str, str], _Entry] = {}
        self._consumers: list[_MemoryConsumer] = []
        self._timers: list[tuple[float, int, Callable[[_Entry], None], _Entry]] = []
        self._count = itertools.count()
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def capabilities(self) -> Capabilities:
        """All but durability."""
        return _CAPABILITIES

    async def connect(self, events: EventSink) -> None:
        """Open for business in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._events = events

    async def disconnect(self) -> None:
        """Forget every job; those still watched are reported lost."""
        if self._events is None:
            return
        for entry in list(self._jobs.values()):
            self._lose(entry, ConnectionLost("the memory driver was disconnected, and its jobs are gone"))
        for consumer in list(self._consumers):
            await consumer.close()
        if self._alarm is not None:
            self._alarm.cancel()
        self._clear()
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
            entry = None if envelope.unique is None else self._uniques.get((envelope.function, envelope.unique))
            if entry is None:
                entry = self._add(envelope)
            elif not envelope.background:
                entry.watchers = (*entry.watchers, envelope.id)
            events.accepted(envelope.id, entry.envelope.id)
        self._wake()

    def _add(self, envelope: Envelope) -> _Entry:
        entry = self._jobs[envelope.id] = _Entry(envelope)
        if envelope.unique is not None:
            self._uniques[envelope.function, envelope.unique] = entry
        if envelope.expires is not None:
            self._call_later(envelope.expires, self._expire, entry)
        self._place(entry, 0.0 if envelope.due is None else envelope.due - time.time())
        return entry

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> "_MemoryConsumer":
        """Return a consumer of `functions`, which takes from each of them in turn."""
        consumer = _MemoryConsumer(self, functions, slots, notices)
        self._consumers.append(consumer)
        return consumer

    async def cancel(self, receipt: str) -> bool:
        """End a job that waits, or tell the worker of one that runs; False if there is no such job."""
        entry = self._jobs.get(receipt)
        if entry is None:
            return False
        if entry.state is not _State.RUNNING:
            self._lose(entry, JobCancelled("the job was cancelled before it ran"))
        elif entry.consumer is not None and entry.delivery is not None:
            entry.consumer.notices.cancelled(entry.delivery)
        return True

    async def status(self, receipt: str) -> JobStatus:
        """Return what is known of a job; one that has ended is not known."""
        entry = self._jobs.get(receipt)
        if entry is None:
            return JobStatus(known=False, running=False)
        running = entry.state is _State.RUNNING
        return JobStatus(known=True, running=running, done=entry.done, total=entry.total, waiting=len(entry.watchers))

    async def depths(self) -> Sequence[QueueDepth]:
        """Return each function's jobs (delayed ones count as queued) and consumers."""
        queued: Counter[str] = Counter()
        running: Counter[str] = Counter()
        for entry in self._jobs.values():
            (running if entry.state is _State.RUNNING else queued)[entry.envelope.function] += 1
        workers = Counter(function for consumer in self._consumers for function in consumer.functions)
        names = sorted({*queued, *running, *workers})
        return [QueueDepth(name, queued[name], running[name], workers[name]) for name in names]

    def _place(self, entry: _Entry, wait_seconds: float, *, first: bool = False) -> None:
        """Queue `entry`, now or when `wait_seconds` have passed."""
        if wait_seconds > 0:
            entry.state = _State.DELAYED
            self._call_later(wait_seconds, self._ripen, entry)
            return
        entry.state = _State.QUEUED
        queue = self._queues.get(entry.envelope.function)
        if queue is None:
            queue = self._queues[entry.envelope.function] = _Queue()
        queue.add(entry, first=first)

    def _ripen(self, entry: _Entry) -> None:
        if entry.state is _State.DELAYED:
            self._place(entry, 0.0)
            self._wake()

    def _expire(self, entry: _Entry) -> None:
        if entry.state in (_State.QUEUED, _State.DELAYED) and entry.attempts == 0:
            self._lose(entry, JobExpired(f"nobody took the job within {entry.envelope.expires:g} s"))

    def _lose(self, entry: _Entry, error: JobError) -> None:
        for id in self.end(entry):
            self.events.lost(id, error)

    def end(self, entry: _Entry) -> Iterable[str]:
        """Forget `entry` and return the ids that want to know."""
        envelope = entry.envelope
        entry.state = _State.ENDED
        del self._jobs[envelope.id]
        if envelope.unique is not None:
            del self._uniques[envelope.function, envelope.unique]
        return entry.watchers

    def _call_later(self, seconds: float, act: Callable[[_Entry], None], entry: _Entry) -> None:
        """Let `act(entry)` run after `seconds`; one loop timer serves all."""
        when = self._loop.time() + seconds
        heapq.heappush(self._timers, (when, next(self._count), act, entry))
        if self._timers[0][0] == when:
            self._set_alarm()

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(self._timers[0][0], self._ring) if self._timers else None

    def _ring(self) -> None:
        now = self._loop.time()
        while self._timers and self._timers[0][0] <= now:
            _, _, act, entry = heapq.heappop(self._timers)
            act(entry)
        self._set_alarm()

    def _wake(self) -> None:
        for consumer in self._consumers:
            consumer.wake()

    def take(self, functions: "deque[str]", limit: int) -> list[_Entry]:
        """Return at most `limit` entries, one function after the other in turn; `functions` is left rotated."""
        taken: list[_Entry] = []
        dry = 0
        while len(taken) < limit and dry < len(functions):
            queue = self._queues.get(functions[0])
            entry = None if queue is None else queue.pop()
            functions.rotate(-1)
            if entry is None:
                dry += 1
            else:
                dry = 0
                taken.append(entry)
        return taken

    def redeliver(self, entry: _Entry, after: float) -> None:
        """Queue `entry` again, not before `after` seconds."""
        self._place(entry, after)
        self._wake()

    def release(self, entry: _Entry) -> None:
        """Put `entry` back in front, as if it had not been taken."""
        entry.attempts -= 1
        self._place(entry, 0.0, first=True)
        self._wake()

    def forget(self, consumer: "_MemoryConsumer") -> None:
        """Wake `consumer` no more."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)


class _MemoryConsumer:
    """One worker's claim on some functions."""

    def __init__(self, driver: MemoryDriver, functions: Collection[str], slots: int, notices: ConsumerSink) -> None:
        self.functions: deque[str] = deque(functions)
        self.notices = notices
        self._driver = driver
        self._free = slots
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Let a waiting reserve() look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def reserve(self, limit: int) -> Sequence[Delivery]:
        """Wait for at least one job; there is no await between taking and returning, so none can be lost."""
        while not self._closed:
            entries = self._driver.take(self.functions, min(limit, self._free))
            if entries:
                self._free -= len(entries)
                return [self._deliver(entry) for entry in entries]
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return ()

    def _deliver(self, entry: _Entry) -> Delivery:
        envelope = entry.envelope
        entry.state = _State.RUNNING
        entry.attempts += 1
        entry.consumer = self
        entry.delivery = Delivery(
            envelope.function, envelope.payload, envelope.id, entry.attempts, envelope.run_timeout, entry
        )
        return entry.delivery

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """End, release or queue again each job that is still held by its delivery; else it is LOST."""
        self._free += len(settlements)
        settled = [self._settle(delivery, verdict) for delivery, verdict in settlements]
        self.wake()
        return settled

    def _settle(self, delivery: Delivery, verdict: Verdict) -> Settled:
        entry = self._held(delivery)
        if entry is None:
            return Settled.LOST
        match verdict:
            case Completed(payload):
                for id in self._driver.end(entry):
                    self._driver.events.completed(id, payload)
            case Failed():
                for id in self._driver.end(entry):
                    self._driver.events.failed(id, verdict)
            case Redeliver(after):
                self._driver.redeliver(entry, after)
            case Released():
                self._driver.release(entry)
        return Settled.CONFIRMED

    def _held(self, delivery: Delivery) -> _Entry | None:
        entry = delivery.lease
        if isinstance(entry, _Entry) and entry.state is _State.RUNNING and entry.delivery is delivery:
            return entry
        return None

    def progress(self, delivery: Delivery, done: int, total: int) -> None:
        """Tell those who wait how far the job is."""
        if (entry := self._held(delivery)) is not None:
            entry.done, entry.total = done, total
            for id in entry.watchers:
                self._driver.events.progress(id, done, total)

    def chunk(self, delivery: Delivery, data: bytes) -> None:
        """Give those who wait a part of the result."""
        if (entry := self._held(delivery)) is not None:
            for id in entry.watchers:
                self._driver.events.chunk(id, data)

    def warned(self, delivery: Delivery, text: str) -> None:
        """Warn those who wait."""
        if (entry := self._held(delivery)) is not None:
            for id in entry.watchers:
                self._driver.events.warned(id, text)

    async def close(self) -> None:
        """Take no more; a waiting reserve() returns ()."""
        self._closed = True
        self._driver.forget(self)
        self.wake()
