"""What becomes of a delivery: verdicts, renewals, and what is told to those who wait."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from que.drivers.nats import names
from que.drivers.nats.link import Ack, Link, Outgoing, Silence
from que.drivers.nats.options import NatsOptions
from que.drivers.nats.session import News, encode_news
from que.drivers.nats.store import End, Store
from que.drivers.nats.streams import Refused
from que.model import Completed, Delivery, Failed, Redeliver, Released, Settled, Settlement, Verdict

_log = logging.getLogger("que")

_NANOSECONDS = 1_000_000_000
_NEWS_BYTES = 64


class Lease(msgspec.Struct, eq=False):
    """What holds a job: `number` is its sequence, `reply` the subject that acknowledges this delivery of it.

    `deadline`: the loop's time from which the server gives the job to another worker. The server itself takes an
    acknowledgement from whoever held a job once, so it is this clock that makes a late verdict void.
    """

    number: int
    reply: str
    delivered: int
    released: int
    deadline: float
    headers: dict[str, str]
    lane: str

    @property
    def receipt(self) -> int:
        """The job's name to its submitter."""
        return names.receipt_of(self.headers, self.number)


def lease_of(delivery: Delivery) -> Lease:
    """Return what this driver wrote into a delivery."""
    assert isinstance(delivery.lease, Lease), "a delivery of another driver"
    return delivery.lease


def nak(seconds: float) -> bytes:
    """Return the word that gives a job back, to be delivered again after `seconds`."""
    return b'-NAK {"delay": %d}' % int(seconds * _NANOSECONDS) if seconds > 0 else b"-NAK"


class Settling:
    """Settles for one consumer: first what must be kept is stored, then all is told, then the jobs are let go."""

    def __init__(self, link: Link, store: Store, options: NatsOptions) -> None:
        self._link = link
        self._store = store
        self._options = options
        self._news: dict[str, list[News]] = defaultdict(list)
        self._telling = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """Return what became of each verdict, in order."""
        try:
            await self._link.ready(self._options.timeout)
        except Silence:
            return [self._unsent(delivery) for delivery, _ in settlements]
        settlements = [(delivery, self._sized(verdict)) for delivery, verdict in settlements]
        outcomes: dict[int, Settled] = {}
        now = self._loop.time()
        for place, (delivery, _) in enumerate(settlements):
            if lease_of(delivery).deadline <= now:
                outcomes[place] = Settled.LOST
        await self._keep(settlements, outcomes)
        live = [(place, *settlement) for place, settlement in enumerate(settlements) if place not in outcomes]
        if live:
            result = await self._let_go([(delivery, verdict) for _, delivery, verdict in live])
            outcomes.update((place, result) for place, _, _ in live)
        return [outcomes[place] for place in range(len(settlements))]

    def _unsent(self, delivery: Delivery) -> Settled:
        return Settled.LOST if lease_of(delivery).deadline <= self._loop.time() else Settled.UNCONFIRMED

    def _sized(self, verdict: Verdict) -> Verdict:
        most = self._link.max_payload - names.HEADER_BYTES
        if isinstance(verdict, Completed) and len(verdict.payload) > most:
            message = f"{len(verdict.payload)} bytes of result, more than the {most} that the server takes"
            return Failed("result", "ResultInvalid", message)
        return verdict

    async def _keep(self, settlements: Sequence[Settlement], outcomes: dict[int, Settled]) -> None:
        """Store results, dead letters and notes; a verdict whose message is not stored is UNCONFIRMED."""
        messages: list[Outgoing] = []
        places: list[int] = []
        for place, (delivery, verdict) in enumerate(settlements):
            if place in outcomes:
                continue
            try:
                kept = await self._to_keep(delivery, verdict)
            except (Silence, Refused) as error:
                _log.warning("job %s %s: its end cannot be kept: %s", delivery.function, delivery.id, error)
                outcomes[place] = Settled.UNCONFIRMED
                continue
            messages += kept
            places += [place] * len(kept)
        if not messages:
            return
        for place, ack in zip(places, await self._store.put(messages), strict=True):
            if isinstance(ack, Silence) or ack.error is not None:
                outcomes[place] = Settled.UNCONFIRMED

    async def _to_keep(self, delivery: Delivery, verdict: Verdict) -> list[Outgoing]:
        lease = lease_of(delivery)
        if isinstance(verdict, Released):
            lease.released += 1
            return [self._store.note(lease.number, lease.released)]
        end = _end(verdict)
        if end is None:
            return []
        kept: list[Outgoing] = []
        if isinstance(verdict, Failed) and verdict.kind != "cancelled" and names.TO not in lease.headers:
            kept.append(self._store.letter(delivery, lease.receipt, lease.lane, lease.headers, verdict))
        seconds = names.kept_seconds(lease.headers, self._options.unique_window)
        if seconds:
            kept.append(await self._store.end_message(lease.receipt, end, seconds))
        return kept

    async def _let_go(self, settlements: Sequence[Settlement]) -> Settled:
        words: list[tuple[str, bytes]] = []
        for delivery, verdict in settlements:
            lease = lease_of(delivery)
            if isinstance(verdict, Completed):
                self._add_news(delivery, lease, "completed", verdict.payload)
            elif (end := _end(verdict)) is not None:
                self._add_news(delivery, lease, end.kind, end.body)
            words.append((lease.reply, _word(verdict)))
            if lease.released and not isinstance(verdict, Redeliver | Released):
                words.append(self._store.forgotten_note(lease.number))
        try:
            await self._link.publish_all([*self._told(), *words])
        except Silence:
            return Settled.UNCONFIRMED
        return Settled.CONFIRMED

    async def give_back(self, leases: Sequence[Lease], seconds: float) -> None:
        """Let these be delivered again after `seconds`, as if they had not been; raises Silence."""
        for lease in leases:
            lease.released += 1
        acks = await self._store.put([self._store.note(lease.number, lease.released) for lease in leases])
        for lease, ack in zip(leases, acks, strict=True):
            if isinstance(ack, Ack) and ack.error is None:
                await self._link.publish(lease.reply, nak(seconds))

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Let the leases begin anew, and return the deliveries whose lease is gone; raises Silence."""
        now = self._loop.time()
        lost = [delivery for delivery in deliveries if lease_of(delivery).deadline <= now]
        kept = [delivery for delivery in deliveries if lease_of(delivery).deadline > now]
        if self._link.up.is_set():
            await self._link.publish_all([(lease_of(delivery).reply, b"+WPI") for delivery in kept])
            for delivery in kept:
                lease = lease_of(delivery)
                # Renewed from when the word left, if it was there in time.
                if lease.deadline > self._loop.time():
                    lease.deadline = now + self._options.lease
        return lost

    def tell_later(self, delivery: Delivery, kind: str, body: bytes) -> None:
        """Tell those who wait, in the order of the calls, and before the job's end."""
        self._add_news(delivery, lease_of(delivery), kind, body)
        if not self._telling:
            self._telling = True
            self._loop.call_soon(self._start_telling)

    def _start_telling(self) -> None:
        self._telling = False
        task = self._loop.create_task(self._tell())
        self._tasks.add(task)
        task.add_done_callback(self._has_told)

    async def _tell(self) -> None:
        # Nothing comes between the look and the write: what settle() tells later is written later.
        if told := self._told():
            await self._link.publish_all(told)

    def _has_told(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("what a handler reported is lost: %r", error)

    def _add_news(self, delivery: Delivery, lease: Lease, kind: str, body: bytes) -> None:
        headers = lease.headers
        if to := headers.get(names.TO):
            self._news[f"{self._options.prefix}.to.{to}"].append((delivery.id, kind, body))
        receipt = lease.receipt if names.RECEIPT in headers else lease.number
        self._news[self._ends(delivery.function)].append((str(receipt), kind, body))

    def _ends(self, function: str) -> str:
        return f"{self._options.prefix}.ends.{names.token(function)}"

    def _told(self) -> list[tuple[str, bytes]]:
        """Return, and forget, what is to be told, each subject's in as few messages as may be."""
        news, self._news = self._news, defaultdict(list)
        most = self._link.max_payload
        return [(subject, encode_news(part)) for subject, items in news.items() for part in _parts(items, most)]


def _parts(items: Sequence[News], most: int) -> Iterable[Sequence[News]]:
    """Yield the news in messages of at most `most` bytes."""
    part: list[News] = []
    size = 0
    for item in items:
        bytes_ = len(item[2]) + len(item[0]) * 4 + _NEWS_BYTES
        if part and size + bytes_ > most:
            yield part
            part, size = [], 0
        part.append(item)
        size += bytes_
    if part:
        yield part


def _end(verdict: Verdict) -> End | None:
    """Return how a job ends by this verdict, None if it goes on."""
    match verdict:
        case Completed(payload):
            return End("completed", payload)
        case Failed():
            return End("failed", msgspec.json.encode(verdict))
        case _:
            return None


def _word(verdict: Verdict) -> bytes:
    match verdict:
        case Redeliver(after):
            return nak(after)
        case Released():
            return nak(0)
        case _:
            return b"+ACK"
