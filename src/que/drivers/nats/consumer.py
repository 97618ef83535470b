"""One worker's claim on some functions: pulls by priority while it has room, and settles in batches."""

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Collection, Sequence

import msgspec
from nats.aio.msg import Msg

from que.driver import ConsumerSink
from que.drivers.nats import names
from que.drivers.nats.lane import Lane
from que.drivers.nats.link import Link, Silence
from que.drivers.nats.options import NatsOptions
from que.drivers.nats.session import EXPIRED, Session
from que.drivers.nats.settling import Lease, Settling, lease_of, nak
from que.drivers.nats.streams import Streams
from que.errors import Rejected
from que.model import Delivery, Released, Settled, Settlement

_log = logging.getLogger("que")

# For so long the lanes' scouts stay out although nobody waits for jobs: a worker soon has room again.
_RELIEF_SECONDS = 0.05
_RETRY_SECONDS = 0.5


class NatsConsumer:
    """Holds at most `slots` deliveries that are not settled; what arrives beyond them goes back soon.

    `held` are those that reserve() has returned, by their sequence.
    """

    def __init__(
        self,
        link: Link,
        streams: Streams,
        session: Session,
        options: NatsOptions,
        functions: Collection[str],
        slots: int,
        notices: ConsumerSink,
    ) -> None:
        self.functions: tuple[str, ...] = tuple(functions)
        self.held: dict[int, Delivery] = {}
        self.told: dict[int, tuple[int, int]] = {}
        self._link = link
        self._session = session
        self._options = options
        self._slots = slots
        self._notices = notices
        self._settling = Settling(link, session.store, options)
        self._levels = [
            deque(Lane(link, streams, function, lane, self._arrive) for function in functions)
            for lane in names.LANES.values()
        ]
        self._arrived: deque[Delivery] = deque()
        self._examined = 0
        self._change = asyncio.Event()
        self._wanted = asyncio.Event()
        self._ready = asyncio.Event()
        self.closed: bool = False
        self._error: BaseException | None = None
        self._relief: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._pump = self._loop.create_task(self._pull())

    @property
    def _lanes(self) -> "itertools.chain[Lane]":
        return itertools.chain.from_iterable(self._levels)

    @property
    def _room(self) -> int:
        return self._slots - len(self.held) - len(self._arrived) - self._examined

    async def open(self) -> None:
        """Make sure of every lane; raises Refused and Silence."""
        await asyncio.gather(*[lane.open() for lane in self._lanes])

    # --- taking

    async def reserve(self, limit: int) -> Sequence[Delivery]:
        """Wait for at least one delivery; one that had arrived when the caller was cancelled is the next caller's."""
        try:
            while not self.closed:
                taken = self._take(limit)
                if taken:
                    return taken
                if self._error is not None:
                    error, self._error = self._error, None
                    raise error
                self._ready.clear()
                self._wanted.set()
                await self._ready.wait()
            return ()
        finally:
            self._wanted.clear()
            self._relieve_soon()

    def _take(self, limit: int) -> list[Delivery]:
        taken: list[Delivery] = []
        now = self._loop.time()
        while self._arrived and len(taken) < limit and len(self.held) < self._slots:
            delivery = self._arrived.popleft()
            lease = lease_of(delivery)
            # One that waited here for too long is another worker's by now.
            if lease.deadline > now:
                self.held[lease.number] = delivery
                taken.append(delivery)
        return taken

    async def _pull(self) -> None:
        while True:
            await self._wanted.wait()
            try:
                await self._link.ready(self._options.timeout)
                await self._sweep()
            except Silence as silence:
                _log.debug("NATS: %s", silence)
                await asyncio.sleep(_RETRY_SECONDS if self._link.up.is_set() else 0)
            except Exception as error:
                self._error = error
                self._wanted.clear()
                self._ready.set()

    async def _sweep(self) -> None:
        """Look where there may be jobs, the highest priority first; where there is none anywhere, wait for one."""
        self._change.clear()
        for level in self._levels:
            await self._look(level)
            if self._arrived or self._room <= 0:
                break
        if not self._arrived and self._room > 0 and not any(lane.hot for lane in self._lanes):
            for lane in self._lanes:
                if not lane.scouting:
                    await lane.scout()
        if self._arrived and len(self.held) < self._slots:
            self._wanted.clear()
            self._ready.set()
        elif self._room <= 0 or not any(lane.hot for lane in self._lanes):
            await self._wait()

    async def _look(self, level: "deque[Lane]") -> None:
        """Take from each hot lane of a level its share, and of what one leaves the others."""
        level.rotate(-1)
        hot = [lane for lane in level if lane.hot]
        for share in (-(-self._room // len(hot)) if hot else 0, self._room):
            for lane in hot:
                limit = min(share, self._room)
                if limit > 0 and lane.hot:
                    await lane.open()
                    await lane.look(limit)

    async def _wait(self) -> None:
        seconds = min((lane.wait_seconds() for lane in self._lanes if lane.scouting), default=None)
        try:
            async with asyncio.timeout(seconds):
                await self._change.wait()
        except TimeoutError:
            for lane in self._lanes:
                if lane.scouting and lane.wait_seconds() <= 0:
                    lane.overdue()

    def _arrive(self, lane: Lane, message: Msg, since: float) -> None:
        """A lane has news; what is no plain first delivery is looked into first."""
        self._change.set()
        if not message.reply.startswith("$JS.ACK."):
            return
        headers = message.headers or {}
        delivered, number = names.parse_ack(message.reply)
        deadline = since + self._options.lease
        lease = Lease(number, message.reply, delivered, 0, deadline, headers, lane.lane)
        if delivered > 1 or names.DUE in headers or names.EXPIRES in headers:
            self._examined += 1
            self._session.start(self._examine(lane, message, lease))
        else:
            self._admit(lane, message, lease)

    def _admit(self, lane: Lane, message: Msg, lease: Lease) -> None:
        headers = lease.headers
        self._arrived.append(
            Delivery(
                lane.function,
                message.data,
                headers.get(names.ID) or str(lease.number),
                lease.delivered - lease.released,
                names.number(headers, names.RUN_TIMEOUT),
                lease,
                names.given(headers),
            )
        )
        self._ready.set()
        if not self._wanted.is_set():
            self._relieve_soon()

    async def _examine(self, lane: Lane, message: Msg, lease: Lease) -> None:
        """Admit a job whose time it is; put one back that is early, and end one that has expired."""
        try:
            if lease.delivered > 1:
                lease.released = await self._session.store.released(lease.number)
            now = time.time()
            due = names.number(lease.headers, names.DUE) or 0.0
            expires = names.number(lease.headers, names.EXPIRES)
            if due > now:
                await self._settling.give_back([lease], due - now)
            elif expires is not None and expires <= now and lease.delivered - lease.released == 1:
                await self._session.tell_end(message.subject, lease.number, lease.headers, EXPIRED)
                words = [(message.reply, b"+TERM")]
                if lease.released:
                    words.append(self._session.store.forgotten_note(lease.number))
                await self._link.publish_all(words)
            else:
                self._admit(lane, message, lease)
        except Silence as silence:
            _log.info("NATS: job %d comes back when its lease is over: %s", lease.number, silence)
        finally:
            self._examined -= 1
            self._change.set()

    # --- what nobody wants

    def _relieve_soon(self) -> None:
        if self._relief is None and not self.closed and (self._arrived or any(lane.scouting for lane in self._lanes)):
            self._relief = self._loop.call_later(_RELIEF_SECONDS, self._relieve)

    def _relieve(self) -> None:
        """Call the scouts back and give away what has arrived, unless somebody waits for it."""
        self._relief = None
        if self._wanted.is_set() or self.closed:
            return
        for lane in self._lanes:
            if lane.scouting:
                self._session.start(lane.call_off())
        surplus, self._arrived = list(self._arrived), deque()
        if surplus:
            self._session.start(self._release(surplus))

    async def _release(self, deliveries: Sequence[Delivery]) -> None:
        with contextlib.suppress(Silence):
            await self._settling.settle([(delivery, Released()) for delivery in deliveries])

    # --- settling

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Keep what is to be kept, tell those who wait, and let go of the jobs."""
        try:
            return await self._settling.settle(settlements)
        finally:
            for delivery, _ in settlements:
                number = lease_of(delivery).number
                if self.held.get(number) is delivery:
                    del self.held[number]
                    self.told.pop(number, None)
            self._change.set()

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Renew the leases, also of what has arrived and is not reserved; those that are gone are told as lost."""
        lost = await self._settling.extend([*deliveries, *self._arrived])
        for delivery in lost:
            number = lease_of(delivery).number
            if delivery in self._arrived:
                self._arrived.remove(delivery)
            elif self.held.get(number) is delivery:
                del self.held[number]
                self._notices.lost(delivery)
        self._change.set()

    def stop(self, number: int) -> bool:
        """Somebody has cancelled a job: tell its handler, and return whether it is one of ours."""
        delivery = self.held.get(number)
        if delivery is not None:
            self._notices.cancelled(delivery)
        return delivery is not None

    # --- telling

    def progress(self, delivery: Delivery, done: int, total: int) -> None:
        """Tell those who wait, and those who ask, how far the job is."""
        if self.held.get(lease_of(delivery).number) is delivery:
            self.told[lease_of(delivery).number] = (done, total)
        self._tell(delivery, "progress", msgspec.json.encode((done, total)))

    def chunk(self, delivery: Delivery, data: bytes) -> None:
        """Give those who wait a part of the result; raises Rejected for more than a message holds."""
        most = self._link.max_payload - names.HEADER_BYTES
        if len(data) > most:
            raise Rejected(f"a chunk of {len(data)} bytes is more than the {most} that the server takes")
        self._tell(delivery, "chunk", data)

    def warned(self, delivery: Delivery, text: str) -> None:
        """Warn those who wait."""
        self._tell(delivery, "warned", text.encode("utf-8", "backslashreplace"))

    def _tell(self, delivery: Delivery, kind: str, body: bytes) -> None:
        lease = lease_of(delivery)
        if self.held.get(lease.number) is delivery and lease.deadline > self._loop.time():
            self._settling.tell_later(delivery, kind, body)

    # --- the end

    async def close(self) -> None:
        """Take no more, and give back what nobody has reserved."""
        if self.closed:
            return
        self.closed = True
        self._ready.set()
        self._pump.cancel()
        await asyncio.wait([self._pump])
        if self._relief is not None:
            self._relief.cancel()
        if self._link.up.is_set():
            await asyncio.gather(*[lane.call_off() for lane in self._lanes])
        while self._examined and self._link.up.is_set():
            self._change.clear()
            await self._change.wait()
        arrived, self._arrived = list(self._arrived), deque()
        await self._release(arrived)

    def restart(self) -> None:
        """There is a new connection."""
        for lane in self._lanes:
            lane.restart()
        self._change.set()

    async def lose_all(self) -> None:
        """The driver is disconnected: what is not settled by now goes to another worker, and counts as a run."""
        held, self.held = list(self.held.values()), {}
        with contextlib.suppress(Silence):
            for delivery in held:
                await self._link.publish(lease_of(delivery).reply, nak(0))
        for delivery in held:
            self._notices.lost(delivery)
