"""One worker's claim on some functions: takes in batches, and waits to be woken when there was nothing."""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, cast

import msgspec
import psycopg

from que.alarm import Alarm
from que.batch import Batcher
from que.driver import ConsumerSink
from que.drivers.postgres import columns
from que.drivers.postgres.letters import Kind
from que.drivers.postgres.pool import Broken, Pool, Row, Unreachable
from que.errors import ConnectError
from que.limits import Rate
from que.model import Delivery, Priority, Redeliver, Released, Settled, Settlement, Verdict

_log = logging.getLogger("que.postgres")

_TAKE = "text[] bigint[] bigint[] bigint[] integer integer text bigint float8"
_TAKE_THROTTLED = "text bigint bigint bigint integer text bigint float8 bigint float8"
_LEVELS = (Priority.HIGH, Priority.NORMAL, Priority.LOW)


class Lease(NamedTuple):
    """What holds a delivery: the row, and the token of this run."""

    row: int
    token: int


class Report(NamedTuple):
    """What a handler tells of its job before the end."""

    lease: Lease
    kind: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """What a consumer serves, under a number that no other of its process has."""

    peer: str
    number: int
    functions: tuple[str, ...]
    slots: int
    lease_seconds: float


_Taken = tuple[int, int, str, bytes, str, int, float | None]
_Batch = tuple[list[Delivery], float | None]


class PostgresConsumer:
    """Holds at most `claim.slots` deliveries that are not settled, those included that nobody has reserved yet.

    `changed` is called when something will be due that was not before.
    """

    def __init__(self, pool: Pool, claim: Claim, notices: ConsumerSink, changed: Callable[[], None]) -> None:
        self._pool = pool
        self.claim = claim
        self._notices = notices
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._functions = deque(claim.functions)
        # Below these ids nothing waits: dead rows there are not worth a look.
        self._lows: dict[tuple[str, int], int] = {}
        self._arrived: deque[Delivery] = deque()
        self._held: dict[int, Delivery] = {}
        self._doubtful: list[int] = []
        self._taking: asyncio.Task[_Batch] | None = None
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._reports = Batcher[Report](self._report, 1, self._loop)
        self._news = True
        self._missed: list[tuple[tuple[str, int], int]] = []
        self._closed = False
        self._rate: Rate | None = None
        self._alarm = Alarm()

    def throttle(self, count: int, seconds: float) -> None:
        """Take no more than that, with all others that were told so."""
        self._rate = Rate(count, seconds)

    def wake(self) -> None:
        """Look everywhere: there may be jobs."""
        for function in self.claim.functions:
            for level in _LEVELS:
                self.wake_for(function, level, 0)

    def wake_for(self, function: str, priority: int, low: int) -> None:
        """Look for jobs of that function from that id on."""
        if function in self.claim.functions:
            self._lower((function, priority), low)
            if self._taking is not None:
                # What is under way may have looked too early to see it, and would raise the bound over it.
                self._missed.append(((function, priority), low))
            self._news = True
            self._go_on()

    def _lower(self, lane: tuple[str, int], low: int) -> None:
        self._lows[lane] = min(low, self._lows.get(lane, low))

    def _go_on(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def reserve(self, limit: int) -> Sequence[Delivery]:
        """Wait for at least one delivery; one that had arrived when the caller was cancelled is the next caller's."""
        while not self._arrived and not self._closed:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._news and self._taking is None and self._room() > 0:
                self._start_taking(limit)
            self._waiter = self._loop.create_future()
            await self._waiter
        if self._closed:
            return ()
        return [self._arrived.popleft() for _ in range(min(limit, len(self._arrived)))]

    def _room(self) -> int:
        return self.claim.slots - len(self._held)

    def _start_taking(self, limit: int) -> None:
        self._news = False
        limit = min(limit, self._room())
        self._taking = self._loop.create_task(self._take(limit))
        self._taking.add_done_callback(self._took)

    async def _take(self, limit: int) -> _Batch:
        """Return at most `limit` deliveries, from each function its share, and of what one leaves the others take.

        With them in how many seconds there may be more, None where the queues are empty.
        """
        while self._doubtful:
            await self._pool.call("untake", "bigint", self._doubtful[-1])
            self._doubtful.pop()
        if self._rate is not None:
            return await self._take_throttled(self._rate, limit)
        functions = list(self._functions)
        self._functions.rotate(-1)
        share = -(-limit // len(functions))
        taken = await self._take_from(functions, share, limit)
        if share < limit and 0 < len(taken) < limit:
            taken += await self._take_from(functions, limit, limit - len(taken))
        # A full hand says that there may be more.
        return taken, 0.0 if len(taken) == limit else None

    async def _take_from(self, functions: list[str], share: int, limit: int) -> list[Delivery]:
        token = random.getrandbits(62)
        lows = [[self._lows.get((function, level), 0) for function in functions] for level in _LEVELS]
        lease = (self.claim.peer, token, self.claim.lease_seconds)
        return self._delivered(token, await self._call(token, "take", _TAKE, functions, *lows, share, limit, *lease))

    async def _take_throttled(self, rate: Rate, limit: int) -> _Batch:
        token = random.getrandbits(62)
        function = self.claim.functions[0]
        lows = [self._lows.get((function, level), 0) for level in _LEVELS]
        lease = (self.claim.peer, token, self.claim.lease_seconds)
        rows = await self._call(token, "take_throttled", _TAKE_THROTTLED, function, *lows, limit, *lease, *rate)
        return self._delivered(token, [row[:-1] for row in rows[:-1]]), cast(float | None, rows[-1][-1])

    async def _call(self, token: int, function: str, types: str, *arguments: object) -> Sequence[Row]:
        """Return the rows of a function that takes under `token`."""
        try:
            return await self._pool.call(function, types, *arguments)
        except (Broken, asyncio.CancelledError):
            # They may be ours without our knowing: give them back as soon as that can be said.
            self._doubtful.append(token)
            raise

    def _delivered(self, token: int, rows: Sequence[Row]) -> list[Delivery]:
        taken = cast(list[_Taken], rows)
        taken.sort(key=_in_order)
        for row, priority, function, *_ in taken:
            self._lows[function, priority] = max(row + 1, self._lows.get((function, priority), 0))
        return [
            Delivery(function, payload, job_id, attempts, run_timeout, Lease(row, token))
            for row, _, function, payload, job_id, attempts, run_timeout in taken
        ]

    def _took(self, taking: "asyncio.Task[_Batch]") -> None:
        self._taking = None
        while self._missed:
            self._lower(*self._missed.pop())
        error = None if taking.cancelled() else taking.exception()
        if isinstance(error, Unreachable | Broken):
            # The pool has waited as long as it may; it comes back by itself.
            self._news = True
        elif error is not None:
            self._error = error
            self._news = True
        elif not taking.cancelled():
            deliveries, wait_seconds = taking.result()
            self._arrived += deliveries
            self._held.update((lease_of(delivery).row, delivery) for delivery in deliveries)
            self._news |= wait_seconds == 0
            if wait_seconds:
                self._alarm.set(wait_seconds, self._ring)
        self._go_on()

    def _ring(self) -> None:
        self._news = True
        self._go_on()

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Write the verdicts in one transaction, after what was reported; waits out an outage as long as the lease."""
        await self._reports.drain()
        leases = [lease_of(delivery) for delivery, _ in settlements]
        renewing = self._loop.create_task(self._keep_renewing(leases))
        try:
            places, otherwise = await self._write(leases, [verdict for _, verdict in settlements])
        finally:
            renewing.cancel()
        for lease in leases:
            self._held.pop(lease.row, None)
        self._go_on()
        if any(isinstance(verdict, Redeliver) for _, verdict in settlements):
            self._changed()
        if len(places) == len(settlements):
            return [Settled.CONFIRMED] * len(places)
        settled = [otherwise] * len(settlements)
        for place in places:
            settled[place - 1] = Settled.CONFIRMED
        return settled

    async def _write(self, leases: Sequence[Lease], verdicts: Sequence[Verdict]) -> tuple[Sequence[int], Settled]:
        """Return the places, counted from 1, of what was written, and what became of the rest."""
        written = columns.of_verdicts(verdicts)
        deadline = self._loop.time() + self.claim.lease_seconds
        otherwise = Settled.LOST
        while True:
            try:
                ((places,),) = await self._pool.call("settle", columns.SETTLE, *_columns(leases), *written)
            except (Unreachable, Broken) as error:
                if isinstance(error, Broken):
                    # If it was done, the next try finds nothing: that is not known to be a loss.
                    otherwise = Settled.UNCONFIRMED
                if self._loop.time() >= deadline:
                    return (), Settled.UNCONFIRMED
            else:
                return cast(list[int], places), otherwise

    async def _keep_renewing(self, leases: Sequence[Lease]) -> None:
        """Until cancelled, renew the leases of what is being settled: large results take long to travel."""
        while True:
            await asyncio.sleep(self.claim.lease_seconds / 4)
            with suppress(Unreachable, Broken, psycopg.Error):
                await self._renew(leases)

    async def _renew(self, leases: Sequence[Lease]) -> Sequence[int]:
        """Return the places, counted from 1, of those that are held still."""
        types = "bigint[] bigint[] float8"
        ((places,),) = await self._pool.call("extend", types, *_columns(leases), self.claim.lease_seconds)
        return cast(list[int], places)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Renew the leases, also of what has arrived and is not reserved; those that are gone are told as lost."""
        renewed = [*deliveries, *self._arrived]
        try:
            places = await self._renew([lease_of(delivery) for delivery in renewed])
        except (Unreachable, Broken, psycopg.Error) as error:
            raise ConnectError("PostgreSQL", f"leases could not be renewed: {error}") from error
        kept = {place - 1 for place in places}
        for place, delivery in enumerate(renewed):
            if place not in kept:
                self._lose(delivery)

    def _lose(self, delivery: Delivery) -> None:
        held = self._held.get(lease_of(delivery).row)
        if held is not delivery:
            return
        del self._held[lease_of(delivery).row]
        if delivery in self._arrived:
            self._arrived.remove(delivery)
        else:
            self._notices.lost(delivery)

    def stop(self, row: int, token: int) -> None:
        """Somebody has cancelled a job: tell its handler, if it is one of ours still."""
        delivery = self._held.get(row)
        if delivery is not None and lease_of(delivery).token == token:
            self._notices.cancelled(delivery)

    def progress(self, delivery: Delivery, done: int, total: int) -> None:
        """Tell those who wait, and those who ask, how far the job is."""
        self._reports.add(Report(lease_of(delivery), Kind.PROGRESS, msgspec.json.encode((done, total))))

    def chunk(self, delivery: Delivery, data: bytes) -> None:
        """Give those who wait a part of the result."""
        self._reports.add(Report(lease_of(delivery), Kind.CHUNK, data))

    def warned(self, delivery: Delivery, text: str) -> None:
        """Warn those who wait."""
        self._reports.add(Report(lease_of(delivery), Kind.WARNED, text.encode("utf-8", "backslashreplace")))

    async def _report(self, reports: list[Report]) -> None:
        leases = _columns([report.lease for report in reports])
        kinds, bodies = [report.kind for report in reports], [report.body for report in reports]
        try:
            await self._pool.call("report", "bigint[] bigint[] smallint[] bytea[]", *leases, kinds, bodies)
        except (Unreachable, Broken, psycopg.Error) as error:
            _log.warning("what %d times a handler reported is lost: %s", len(reports), error)

    async def close(self) -> None:
        """Take no more, and give back what nobody has reserved."""
        if self._closed:
            return
        self._closed = True
        self._go_on()
        if self._taking is not None:
            await asyncio.wait([self._taking])
        self._alarm.cancel()
        arrived, self._arrived = list(self._arrived), deque()
        if arrived:
            await self.settle([(delivery, Released()) for delivery in arrived])
        try:
            await self._pool.call("serve_no_more", "text integer", self.claim.peer, self.claim.number)
        except (Unreachable, Broken, psycopg.Error) as error:
            _log.warning("a consumer could not say good-bye: %s", error)

    async def end(self) -> None:
        """The driver is being disconnected: what is not settled by now cannot be any more."""
        await self.close()
        await self._reports.close()
        held, self._held = list(self._held.values()), {}
        for delivery in held:
            self._notices.lost(delivery)


def lease_of(delivery: Delivery) -> Lease:
    """Return what this driver wrote into a delivery."""
    assert isinstance(delivery.lease, Lease), "a delivery of another driver"
    return delivery.lease


def _columns(leases: Sequence[Lease]) -> tuple[list[int], list[int]]:
    return [lease.row for lease in leases], [lease.token for lease in leases]


def _in_order(taken: _Taken) -> tuple[int, int]:
    return -taken[1], taken[0]
