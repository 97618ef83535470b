"""One worker's claim on some functions: takes in batches, and waits to be woken when there was nothing."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from que.alarm import Alarm
from que.driver import ConsumerSink
from que.drivers.sqlite import working
from que.drivers.sqlite.database import Database
from que.drivers.sqlite.throttling import take_throttled
from que.drivers.sqlite.turn import Turn, serve, serve_no_more
from que.limits import Rate
from que.model import Delivery, Released, Settled, Settlement

_log = logging.getLogger("que")

_Taken = tuple[list[Delivery], float | None]


@dataclass(frozen=True, slots=True)
class Claim:
    """What a consumer serves, under a number that no other of its process has."""

    number: int
    functions: tuple[str, ...]
    slots: int
    lease_seconds: float


class SqliteConsumer:
    """Holds at most `claim.slots` deliveries that are not settled, those included that nobody has reserved yet."""

    def __init__(self, database: Database[Turn], claim: Claim, notices: ConsumerSink) -> None:
        self._database = database
        self._claim = claim
        self._notices = notices
        self._functions = deque(claim.functions)
        self._arrived: deque[Delivery] = deque()
        self._held: dict[int, Delivery] = {}
        self._taking: asyncio.Future[_Taken] | None = None
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._news = True
        self._closed = False
        self._rate: Rate | None = None
        self._alarm = Alarm()

    def throttle(self, count: int, seconds: float) -> None:
        """Take no more than that, with all others that were told so."""
        self._rate = Rate(count, seconds)

    def enter(self, turn: Turn) -> None:
        """Have this process woken for its jobs; an operation."""
        serve(turn, self._claim.functions, self._claim.number)

    def wake(self) -> None:
        """Look for jobs: there may be some."""
        self._news = True
        self._go_on()

    def _go_on(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def reserve(self, limit: int) -> Sequence[Delivery]:
        """Wait for at least one delivery; one that had arrived when the caller was cancelled is the next caller's."""
        while not self._arrived and not self._closed:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            room = min(limit, self._claim.slots - len(self._held))
            if self._news and self._taking is None and room > 0:
                self._take(room)
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._closed:
            return ()
        return [self._arrived.popleft() for _ in range(min(limit, len(self._arrived)))]

    def _take(self, limit: int) -> None:
        self._news = False
        functions = list(self._functions)
        self._functions.rotate(-1)
        self._taking = self._database.start(lambda turn: self._take_from(functions, turn, limit))
        self._taking.add_done_callback(self._took)

    def _take_from(self, functions: Sequence[str], turn: Turn, limit: int) -> "_Taken":
        """Return what was taken, and in how many seconds there may be more, None if the queues are empty."""
        lease_seconds = self._claim.lease_seconds
        if self._rate is not None:
            return take_throttled(turn, functions[0], limit, lease_seconds, self._rate)
        taken = working.take(turn, functions, limit, lease_seconds)
        # A full hand says that there may be more.
        return taken, 0.0 if len(taken) == limit else None

    def _took(self, taking: "asyncio.Future[_Taken]") -> None:
        self._taking = None
        error = taking.exception()
        if error is not None:
            self._error = error
            self._news = True
        else:
            deliveries, wait_seconds = taking.result()
            self._arrived += deliveries
            self._held.update((working.lease_of(delivery).row, delivery) for delivery in deliveries)
            self._news |= wait_seconds == 0
            if wait_seconds:
                self._alarm.set(wait_seconds, self.wake)
        self._go_on()

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Write the verdicts in one transaction; raises ConnectError where the file cannot be written."""
        settled = await self._database.run(lambda turn: working.settle(turn, settlements))
        for delivery, _ in settlements:
            self._held.pop(working.lease_of(delivery).row, None)
        # There is room again.
        self._go_on()
        return settled

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Renew the leases, also of what has arrived and is not reserved; those that are gone are told as lost."""
        waiting = list(self._arrived)
        lost = await self._database.run(
            lambda turn: working.extend(turn, [*deliveries, *waiting], self._claim.lease_seconds)
        )
        for delivery in lost:
            self._held.pop(working.lease_of(delivery).row, None)
            if delivery in self._arrived:
                self._arrived.remove(delivery)
            else:
                self._notices.lost(delivery)

    def stop(self, row: int, token: int) -> None:
        """Somebody has cancelled a job: tell its handler, if it is one of ours still."""
        delivery = self._held.get(row)
        if delivery is not None and working.lease_of(delivery).token == token:
            self._notices.cancelled(delivery)

    def progress(self, delivery: Delivery, done: int, total: int) -> None:
        """Tell those who wait, and those who ask, how far the job is."""
        self._emit(lambda turn: working.progress(turn, delivery, done, total))

    def chunk(self, delivery: Delivery, data: bytes) -> None:
        """Give those who wait a part of the result."""
        self._emit(lambda turn: working.report(turn, delivery, "chunk", data))

    def warned(self, delivery: Delivery, text: str) -> None:
        """Warn those who wait."""
        self._emit(lambda turn: working.report(turn, delivery, "warned", text.encode("utf-8", "backslashreplace")))

    def _emit(self, operation: Callable[[Turn], None]) -> None:
        self._database.start(operation).add_done_callback(_log_failure)

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
        await self._database.run(lambda turn: serve_no_more(turn, self._claim.number))

    def lose_all(self) -> None:
        """The file is being closed: what is not settled by now cannot be any more."""
        held, self._held = list(self._held.values()), {}
        for delivery in held:
            self._notices.lost(delivery)


def _log_failure(done: "asyncio.Future[None]") -> None:
    if (error := done.exception()) is not None:
        _log.warning("what a handler reported is lost: %r", error)
