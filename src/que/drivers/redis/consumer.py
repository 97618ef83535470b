"""One worker's claim on some functions: takes in batches, and sleeps until woken when there was nothing."""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import msgspec

from que.alarm import Alarm
from que.driver import ConsumerSink
from que.drivers.redis.line import Line
from que.drivers.redis.records import MOST_IN_CALL, Verdicts, deliveries, lease_of, parts, raw
from que.drivers.redis.scripts import Script
from que.drivers.redis.wire import Lost, Refused
from que.errors import ConnectError
from que.limits import Rate
from que.model import Completed, Delivery, Redeliver, Released, Settled, Settlement

_log = logging.getLogger("que")

_tokens = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a consumer serves. `name`: its session's, a slash, and a number that no other of its process has."""

    name: str
    functions: tuple[str, ...]
    slots: int
    lease_seconds: float
    dead_letter_ttl: float

    @property
    def session(self) -> str:
        return self.name.partition("/")[0]


class RedisConsumer:
    """Holds at most `claim.slots` deliveries that are not settled, those included that nobody has reserved yet."""

    def __init__(
        self, line: Line, claim: Claim, notices: ConsumerSink, closed: Callable[["RedisConsumer"], Awaitable[None]]
    ) -> None:
        self.claim = claim
        self._line = line
        self._notices = notices
        self._tell_closed = closed
        self._functions = deque(claim.functions)
        self._arrived: deque[Delivery] = deque()
        self._held: dict[str, Delivery] = {}
        self._reports: list[tuple[str, str, str, msgspec.Raw, str | None, str]] = []
        self._sending: set[asyncio.Task[object]] = set()
        self._taking: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._news = True
        self._is_idle = False
        self._closed = False
        self._rate: Rate | None = None
        self._alarm = Alarm()

    def throttle(self, count: int, seconds: float) -> None:
        """Take no more than that, with all others that were told so."""
        self._rate = Rate(count, seconds)

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
            room = min(limit, self.claim.slots - len(self._held), MOST_IN_CALL)
            if self._news and self._taking is None and room > 0:
                self._taking = asyncio.get_running_loop().create_task(self._take(room))
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._closed:
            return ()
        return [self._arrived.popleft() for _ in range(min(limit, len(self._arrived)))]

    async def _take(self, room: int) -> None:
        self._news = False
        functions = list(self._functions)
        self._functions.rotate(-1)
        token = f"{self.claim.session}/{next(_tokens)}"
        rate = self._rate or (None, 0)
        request = functions, room, token, self.claim.lease_seconds, self.claim.name, self._is_idle, *rate
        try:
            reply = await self._line.call(Script.TAKE, request)
        except Lost:
            # The line is being made again; what was taken, if anything, comes back when its lease runs out.
            self._news = self._is_idle = True
        except Refused as error:
            self._news = True
            self._error = ConnectError(self._line.name, f"Redis gives no jobs: {error}")
        else:
            wait_ms, *flat = cast(Sequence[bytes | int], reply)
            taken = deliveries(token, flat)
            self._arrived += taken
            self._held.update((lease_of(delivery).id, delivery) for delivery in taken)
            self._is_idle = wait_ms == b""
            self._news |= wait_ms == 0
            if isinstance(wait_ms, int) and wait_ms > 0:
                self._alarm.set(wait_ms / 1000, self.wake)
        finally:
            self._taking = None
            self._go_on()

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Hand the verdicts over in one script for each thousand; those that came too late are LOST."""
        self._send_reports()
        calls = [self._settle(part) for part in parts(settlements, _size)]
        try:
            outcomes = await asyncio.gather(*calls)
        except Refused as error:
            raise ConnectError(self._line.name, f"Redis takes no verdicts: {error}") from error
        finally:
            for delivery, _ in settlements:
                self._held.pop(lease_of(delivery).id, None)
            self._go_on()
        return list(itertools.chain.from_iterable(outcomes))

    async def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        verdicts = Verdicts(settlements)
        request = verdicts.groups, self.claim.dead_letter_ttl
        settled = [Settled.CONFIRMED] * len(settlements)
        late = Settled.LOST
        # Verdicts whose answer was lost are handed over again: those that are late then may have been in time before.
        for _ in range(2):
            try:
                told = await self._line.call(Script.SETTLE, request, self.claim.lease_seconds)
            except Lost as error:
                late = Settled.UNCONFIRMED
                if not error.sent:
                    break
            else:
                for place in verdicts.places(cast(Sequence[int], told)):
                    settled[place] = late
                return settled
        return [Settled.UNCONFIRMED] * len(settlements)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Renew the leases, also of what has arrived and is not reserved; those that are gone are told as lost."""
        held = [*deliveries, *self._arrived]
        leases = map(lease_of, held)
        request = self.claim.lease_seconds, [(lease.id, lease.hold) for lease in leases]
        try:
            gone = cast(Sequence[int], await self._line.call(Script.EXTEND, request))
        except (Lost, Refused) as error:
            raise ConnectError(self._line.name, f"leases were not renewed: {error}") from error
        for place in gone:
            delivery = held[place - 1]
            if self._held.pop(lease_of(delivery).id, None) is None:
                # Settled while the server was asked.
                continue
            if delivery in self._arrived:
                self._arrived.remove(delivery)
            else:
                self._notices.lost(delivery)

    def stop(self, id: str, hold: str) -> None:
        """Somebody has cancelled a job: tell its handler, if it is one of ours still."""
        delivery = self._held.get(id)
        if delivery is not None and lease_of(delivery).hold == hold:
            self._notices.cancelled(delivery)

    def progress(self, delivery: Delivery, done: int, total: int) -> None:
        """Tell those who wait, and those who ask, how far the job is."""
        self._report(delivery, "P", b"%d %d" % (done, total))

    def chunk(self, delivery: Delivery, data: bytes) -> None:
        """Give those who wait a part of the result."""
        self._report(delivery, "D", data)

    def warned(self, delivery: Delivery, text: str) -> None:
        """Warn those who wait."""
        self._report(delivery, "W", text.encode("utf-8", "backslashreplace"))

    def _report(self, delivery: Delivery, kind: str, body: bytes) -> None:
        if not self._reports:
            asyncio.get_running_loop().call_soon(self._send_reports)
        lease = lease_of(delivery)
        self._reports.append((lease.id, lease.hold, kind, raw(body), lease.head.submitter, delivery.id))

    def _send_reports(self) -> None:
        reports, self._reports = self._reports, []
        for part in parts(reports, lambda report: len(bytes(report[3]))):
            sending = asyncio.get_running_loop().create_task(self._line.call(Script.REPORT, part))
            self._sending.add(sending)
            sending.add_done_callback(self._sent)

    def _sent(self, sending: asyncio.Task[object]) -> None:
        self._sending.discard(sending)
        if not sending.cancelled() and (error := sending.exception()) is not None:
            _log.warning("what a handler reported is lost: %s", error)

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
        await self._tell_closed(self)

    async def lose_all(self) -> None:
        """The connection is being closed: what is not settled by now cannot be any more, and is for others to run."""
        held = list(self._held.values())
        if held:
            with suppress(Lost, ConnectError):
                await self.settle([(delivery, Redeliver(0)) for delivery in held])
        for delivery in held:
            self._notices.lost(delivery)


_OUTCOMES = (Settled.LOST, Settled.CONFIRMED)


def _size(settlement: Settlement) -> int:
    verdict = settlement[1]
    return len(verdict.payload) if isinstance(verdict, Completed) else 0
