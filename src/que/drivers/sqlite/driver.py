"""The driver of `sqlite:///jobs.db`: the contract, over one file that several processes share."""

import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from que.address import Address
from que.driver import ConsumerSink, EventSink
from que.drivers.sqlite import burying, keeping, submitting, ticking
from que.drivers.sqlite.consumer import SqliteConsumer
from que.drivers.sqlite.options import SqliteOptions
from que.drivers.sqlite.schema import NewerSchema
from que.drivers.sqlite.session import Session
from que.drivers.sqlite.turn import Letter, Turn
from que.errors import ConnectError, NotConnected, NotSent, Rejected, SubmitError
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

ResultT = TypeVar("ResultT")

_OLDEST_SQLITE = (3, 35, 0)
_MOST_PAYLOAD = 256 * 1024 * 1024


class SqliteDriver:
    """Queues in one file: each process that opens it may submit and work. Durable against the death of any of them."""

    calls_in_flight: int | None = 1

    def __init__(self, address: Address) -> None:
        self._address = address
        self._options = SqliteOptions.parse(address)
        self._open: Session | None = None

    @property
    def capabilities(self) -> Capabilities:
        """All of them but headers."""
        native = Support.NATIVE
        return Capabilities(
            lease=Lease.TIMED,
            lease_seconds=self._options.lease_seconds,
            durable=native,
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
        """Open the file, or make it; raises ConnectError where that cannot be."""
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise ConnectError(
                str(self._address), f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or later is needed"
            )
        opened = Session(self._options, events)
        try:
            await opened.open()
        except (OSError, sqlite3.Error, NewerSchema) as error:
            raise ConnectError(str(self._address), _said(error)) from error
        self._open = opened

    async def disconnect(self) -> None:
        """Close the file. Jobs still watched are reported lost; what this process runs goes to another."""
        opened, self._open = self._open, None
        if opened is not None:
            await opened.close()

    async def submit(self, envelopes: Sequence[Envelope]) -> None:
        """Queue the batch in one transaction: all of it, or, with the error that is raised, none."""
        opened = self._opened()
        opened.watched.update(envelope.id for envelope in envelopes if not envelope.background)
        try:
            rows = await opened.database.run(lambda turn: submitting.insert(turn, envelopes))
        except Exception as error:
            opened.watched.difference_update(envelope.id for envelope in envelopes)
            raise _refusal(error) from error
        accepted = opened.events.accepted
        for envelope, row in zip(envelopes, rows, strict=True):
            accepted(envelope.id, str(row))

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> SqliteConsumer:
        """Return a consumer of `functions`, which takes from each its share."""
        return await self._opened().register(functions, slots, notices)

    async def watch(self, watches: Sequence[tuple[str, str]]) -> None:
        """Tell what becomes, or has become, of these jobs, as long as their results are kept."""
        opened = self._opened()
        opened.watched.update(watch_id for watch_id, _ in watches)
        known = [(watch_id, row) for watch_id, receipt in watches for row in _rows([receipt])]
        for watch_id in {watch_id for watch_id, _ in watches}.difference(watch_id for watch_id, _ in known):
            opened.hear(Letter(watch_id, "unknown", b"this is no receipt of this driver"))
        await self._run(lambda turn: submitting.watch(turn, known))

    async def cancel(self, receipt: str) -> bool:
        """End a job that waits, or tell the worker of one that runs; False if there is no such job."""
        return await self._run(lambda turn: any(submitting.cancel(turn, row) for row in _rows([receipt])))

    async def status(self, receipt: str) -> JobStatus:
        """Return what is known of a job; one that has ended is not known."""
        rows = _rows([receipt])
        if not rows:
            return JobStatus(known=False, running=False)
        return await self._run(lambda turn: submitting.status(turn, rows[0]))

    async def depths(self) -> Sequence[QueueDepth]:
        """Return each function's jobs (delayed ones count as queued) and consumers."""
        return await self._run(submitting.depths)

    async def dead_letters(self, function: str, limit: int) -> Sequence[DeadLetter]:
        """Return at most `limit` of the function's dead letters, the oldest first."""
        return await self._run(lambda turn: burying.dead_letters(turn, function, limit))

    async def replay(self, receipts: Collection[str]) -> int:
        """Queue these dead letters again, under their receipts; return how many there were."""
        return await self._run(lambda turn: burying.replay(turn, _rows(receipts)))

    async def drop(self, receipts: Collection[str]) -> int:
        """Forget these dead letters; return how many there were."""
        return await self._run(lambda turn: burying.drop(turn, _rows(receipts)))

    async def begin_ticks(self, schedule: str, until: float, owner: str, seconds: float) -> TickClaim:
        """Grant `owner` the schedule, unless its ticks are done up to `until` or another owner has it."""
        return await self._run(lambda turn: ticking.begin(turn, schedule, until, owner, seconds))

    async def end_ticks(self, schedule: str, until: float, owner: str) -> None:
        """Remember how far the schedule has come, for as long as the file is there."""
        await self._run(lambda turn: ticking.end(turn, schedule, until, owner))

    async def keep(self, entries: Sequence[Kept], keys: Sequence[str] = ()) -> Sequence[Ending | None]:
        """Write what is not written yet, and return what `keys` then hold, in one transaction."""
        return await self._run(lambda turn: keeping.keep(turn, entries, keys))

    async def forget(self, keys: Collection[str]) -> None:
        """Free `keys`."""
        await self._run(lambda turn: keeping.forget(turn, keys))

    async def attend(self, watches: Sequence[tuple[str, str]]) -> None:
        """Tell what is kept, or will be, as soon as whoever keeps it rings."""
        self._opened().watched.update(watch_id for watch_id, _ in watches)
        await self._run(lambda turn: keeping.attend(turn, watches))

    async def _run(self, operation: Callable[[Turn], ResultT]) -> ResultT:
        try:
            return await self._opened().database.run(operation)
        except sqlite3.Error as error:
            raise ConnectError(str(self._address), _said(error)) from error

    def _opened(self) -> Session:
        if self._open is None:
            raise NotConnected(f"{self._address} is not connected")
        return self._open


def _rows(receipts: Collection[str]) -> list[int]:
    """Return the rows that `receipts` name; what is no receipt of this driver names none."""
    return [int(receipt) for receipt in receipts if receipt.isascii() and receipt.isdigit() and len(receipt) < 19]


def _refusal(error: Exception) -> SubmitError:
    """Return what `error`, after which nothing of the batch is in the file, means to its submitter."""
    if isinstance(error, SubmitError):
        return error
    name: str = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_TOOBIG")) or isinstance(error, OverflowError):
        return Rejected(f"SQLite refused the jobs: {_said(error)}")
    return NotSent(f"SQLite could not take the jobs: {_said(error)}")


def _said(error: BaseException) -> str:
    name: str = getattr(error, "sqlite_errorname", "")
    return f"{error} ({name})" if name else str(error)
