"""The driver of `redis://` and `rediss://`: the contract, over scripts that each carry out a whole batch."""

import asyncio
from collections.abc import Collection, Sequence
from typing import cast

from que.address import Address
from que.driver import ConsumerSink, EventSink
from que.drivers.redis.consumer import RedisConsumer
from que.drivers.redis.line import Unsuitable
from que.drivers.redis.options import RedisOptions
from que.drivers.redis.records import Submission, decode_failure, ending_in, entry_of, ids_of, opened, parts
from que.drivers.redis.scripts import Script
from que.drivers.redis.session import Session, progress_of
from que.drivers.redis.wire import Lost, Refused, require
from que.errors import ConnectError, NotConnected, NotSent, QueueFull, Rejected, SubmitAmbiguous, SubmitError
from que.model import (
    Capabilities,
    DeadLetter,
    Ending,
    Envelope,
    JobStatus,
    Kept,
    Lease,
    QueueDepth,
    Support,
    TickClaim,
    UniqueScope,
)

_MOST_PAYLOAD = 128 * 1024 * 1024


class RedisDriver:
    """Queues in one namespace of a server, which any number of processes share."""

    calls_in_flight: int | None = 1

    def __init__(self, address: Address) -> None:
        self._address = address
        self._options = RedisOptions.parse(address)
        require()
        self._session: Session | None = None
        self._durable = Support.NATIVE

    @property
    def capabilities(self) -> Capabilities:
        """All of them but headers; once connected, durable only where the server has an append-only file."""
        native = Support.NATIVE
        return Capabilities(
            lease=Lease.TIMED,
            lease_seconds=self._options.lease,
            durable=self._durable,
            attempts=native,
            results_pushed=native,
            results_stored=native,
            delay=native,
            delayed_results=native,
            unique=native,
            unique_scope=UniqueScope.WHILE_ALIVE,
            priorities=native,
            expiry=native,
            run_timeout=native,
            progress=native,
            chunks=native,
            cancel_queued=native,
            cancel_running=native,
            retry=native,
            dead_letters=native,
            inspect=native,
            ticks=native,
            keeps=native,
            total_rate=native,
            fifo=native,
            max_payload=_MOST_PAYLOAD,
        )

    async def connect(self, events: EventSink) -> None:
        """Reach a server that can be used; raises ConnectError."""
        session = Session(self._address, self._options, events)
        try:
            await session.open()
        except (Lost, Refused, Unsuitable) as error:
            raise ConnectError(str(self._address), str(error)) from error
        self._session = session
        self._durable = Support.NATIVE if session.line.is_durable else Support.NONE

    async def disconnect(self) -> None:
        """Close everything. Jobs still watched are reported lost; what this process runs goes to another."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def submit(self, envelopes: Sequence[Envelope]) -> None:
        """Queue the batch, one script for each thousand: all of such a part or none, and the sink is told which."""
        session = self._connected()
        session.asked.update(envelope.id for envelope in envelopes if not envelope.background)
        await asyncio.gather(*[self._submit(session, part) for part in parts(envelopes, _size)])

    async def _submit(self, session: Session, envelopes: Sequence[Envelope]) -> None:
        submission = Submission(session.name, envelopes)
        try:
            reply = await session.line.call(Script.SUBMIT, submission.request)
        except (Lost, Refused) as error:
            session.asked.difference_update(envelope.id for envelope in envelopes)
            for envelope in envelopes:
                session.events.refused(envelope.id, _refusal(error))
        else:
            session.known([envelope.id for envelope in envelopes])
            for id, receipt in submission.receipts(cast(Sequence[bytes | int], reply)):
                session.events.accepted(id, receipt)

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> RedisConsumer:
        """Return a consumer of `functions`, which takes from each its share; raises ConnectError."""
        try:
            return await self._connected().register(functions, slots, notices)
        except (Lost, Refused) as error:
            raise ConnectError(str(self._address), str(error)) from error

    async def watch(self, watches: Sequence[tuple[str, str]]) -> None:
        """Tell what becomes, or has become, of these jobs, as long as their results are kept."""
        session = self._connected()
        known = [(watch_id, id) for watch_id, receipt in watches for id in ids_of([receipt])]
        for watch_id in {watch_id for watch_id, _ in watches}.difference(watch_id for watch_id, _ in known):
            session.hear("U", watch_id, b"this is no receipt of this driver")
        if known:
            await self._ask(Script.WATCH, known)

    async def attend(self, watches: Sequence[tuple[str, str]]) -> None:
        """Tell what is kept, or will be, as soon as whoever keeps it has written it."""
        for part in parts(watches, lambda _: 0):
            await self._ask(Script.ATTEND, part)

    async def _ask(self, script: Script, watches: Sequence[tuple[str, str]]) -> None:
        """Have the server tell this session of these, and tell at once what it answers."""
        session = self._connected()
        ids = [watch_id for watch_id, _ in watches]
        session.asked.update(ids)
        try:
            ends = cast(Sequence[bytes], await self._call(script, (session.name, watches)))
        except BaseException:
            session.asked.difference_update(ids)
            raise
        session.known(ids)
        for watch_id, end in zip(ids, ends, strict=True):
            if end:
                session.hear(chr(end[0]), watch_id, end[1:])

    async def cancel(self, receipt: str) -> bool:
        """End a job that waits, or tell the worker of one that runs; False if there is no such job."""
        return any([await self._call(Script.CANCEL, [id]) == 1 for id in ids_of([receipt])])

    async def status(self, receipt: str) -> JobStatus:
        """Return what is known of a job; one that has ended is not known."""
        for id in ids_of([receipt]):
            known, running, progress, waiting = cast(tuple[int, int, bytes, int], await self._call(Script.STATUS, [id]))
            if known:
                done, total = progress_of(progress)
                return JobStatus(known=True, running=bool(running), done=done, total=total, waiting=waiting)
        return JobStatus(known=False, running=False)

    async def depths(self) -> Sequence[QueueDepth]:
        """Return each function's jobs (delayed ones count as queued) and consumers."""
        flat, serving = cast(tuple[Sequence[bytes], Sequence[bytes]], await self._call(Script.DEPTHS, []))
        counts: dict[str, list[int]] = {}
        for field, number in zip(flat[::2], flat[1::2], strict=True):
            counts.setdefault(field[1:].decode(), [0, 0, 0])[b"qr".index(field[:1])] = int(number)
        for function in serving:
            counts.setdefault(function.decode(), [0, 0, 0])[2] += 1
        return [QueueDepth(function, *counts[function]) for function in sorted(counts)]

    async def dead_letters(self, function: str, limit: int) -> Sequence[DeadLetter]:
        """Return at most `limit` of the function's dead letters, the oldest first."""
        flat = cast(Sequence[bytes], await self._call(Script.LETTERS, (function, limit)))
        return [_letter(function, flat[place : place + 5]) for place in range(0, len(flat), 5)]

    async def replay(self, receipts: Collection[str]) -> int:
        """Queue these dead letters again, under their receipts; return how many there were."""
        return cast(int, await self._call(Script.UNBURY, (ids_of(receipts), True)))

    async def drop(self, receipts: Collection[str]) -> int:
        """Forget these dead letters; return how many there were."""
        return cast(int, await self._call(Script.UNBURY, (ids_of(receipts), False)))

    async def begin_ticks(self, schedule: str, until: float, owner: str, seconds: float) -> TickClaim:
        """Grant `owner` the schedule, by the server's clock, unless it is done up to `until` or another has it."""
        reply = await self._call(Script.BEGIN_TICKS, (schedule, until, owner, seconds))
        granted, done = cast(tuple[int, bytes], reply)
        return TickClaim(granted=granted == 1, done=float(done) if done else None)

    async def end_ticks(self, schedule: str, until: float, owner: str) -> None:
        """Remember how far the schedule has come, for as long as the server has its keys."""
        await self._call(Script.END_TICKS, (schedule, until, owner))

    async def keep(self, entries: Sequence[Kept], keys: Sequence[str] = ()) -> Sequence[Ending | None]:
        """Write what is not written yet, and return what `keys` then hold, in one script."""
        request = ([entry_of(entry) for entry in entries], keys)
        try:
            kept = await self._connected().line.call(Script.KEEP, request)
        except (Lost, Refused) as error:
            if not (isinstance(error, Lost) and error.sent):
                raise ConnectError(str(self._address), str(error)) from error
            # Sent, and the answer is lost: a key is written once, so it may be asked again.
            kept = await self._call(Script.KEEP, request)
        return [ending_in(each) for each in cast(Sequence[bytes | None], kept)]

    async def forget(self, keys: Collection[str]) -> None:
        """Free `keys`."""
        await self._call(Script.FORGET, list(keys))

    async def _call(self, script: Script, request: object) -> object:
        try:
            return await self._connected().line.call(script, request)
        except (Lost, Refused) as error:
            raise ConnectError(str(self._address), str(error)) from error

    def _connected(self) -> Session:
        if self._session is None:
            raise NotConnected(f"{self._address} is not connected")
        return self._session


def _size(envelope: Envelope) -> int:
    return len(envelope.payload)


def _letter(function: str, parts: Sequence[bytes]) -> DeadLetter:
    id, attempts, buried_at, failure, record = parts
    return DeadLetter(
        id.decode(), function, opened(record)[2], decode_failure(failure), int(attempts), float(buried_at)
    )


def _refusal(error: Lost | Refused) -> SubmitError:
    """Return what `error` means to the submitter of a job that it kept from being accepted."""
    if isinstance(error, Refused):
        kind = QueueFull if error.code == "OOM" else Rejected
        return kind(f"Redis refused the job: {error}")
    if error.sent:
        return SubmitAmbiguous(f"the connection to Redis died before its answer, so the job may exist: {error}")
    return NotSent(f"the job did not reach Redis: {error}")
