"""The driver of `postgresql://user@host/database`: the contract, over a schema in that database."""

from collections.abc import Collection, Iterator, Sequence
from typing import cast

import msgspec
import psycopg

from que.address import Address
from que.driver import ConsumerSink, EventSink
from que.drivers.postgres import columns, schema, transacting
from que.drivers.postgres.consumer import PostgresConsumer
from que.drivers.postgres.ear import Deaf
from que.drivers.postgres.letters import Kind
from que.drivers.postgres.options import PostgresOptions
from que.drivers.postgres.pool import Broken, Row, Unreachable, dial
from que.drivers.postgres.session import Session
from que.errors import ConnectError, JobUnknown, NotConnected, NotSent, Rejected, SubmitAmbiguous, SubmitError
from que.model import (
    Capabilities,
    Completed,
    DeadLetter,
    Ending,
    Envelope,
    Failed,
    JobStatus,
    Kept,
    Lease,
    QueueDepth,
    Support,
    TickClaim,
    UniqueScope,
)

_OLDEST_SERVER = 130_000
_MOST_PAYLOAD = 128 * 1024 * 1024
# One call's arguments have to fit into a gigabyte, and into the memory of both sides.
_MOST_BATCH_BYTES = 32 * 1024 * 1024
_MOST_ROW = 2**63 - 1
# The server did nothing, and it is not these jobs' fault: a statement's or lock's timeout, a server that only reads.
_TRY_LATER = frozenset({"57014", "55P03", "25006", "57P01", "57P03", "40001", "40P01"})

_decode_failure = msgspec.json.Decoder(Failed).decode


class PostgresDriver:
    """Queues in a database: each process that reaches it may submit and work. As durable as the database is."""

    calls_in_flight: int | None = 1

    def __init__(self, address: Address) -> None:
        self._address = address
        self._options = PostgresOptions.parse(address)
        self._open: Session | None = None

    @property
    def capabilities(self) -> Capabilities:
        """All of them but headers."""
        native = Support.NATIVE
        return Capabilities(
            lease=Lease.TIMED,
            lease_seconds=self._options.lease,
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
        """Reach the database and bring its schema up to date, unless the URL says migrate=0; raises ConnectError."""
        await self._prepare(migrate=self._options.migrate)
        opened = Session(self._options, str(self._address), events)
        try:
            await opened.open()
        except Deaf as error:
            raise ConnectError(
                str(self._address),
                f"{error}, as behind a pooler that hands each transaction to another session: connect to the server"
                " itself, or poll with ?listen=0",
            ) from error
        except (psycopg.Error, OSError, Unreachable, Broken) as error:
            raise ConnectError(str(self._address), _said(error)) from error
        self._open = opened

    async def migrate(self) -> str:
        """Bring the schema up to date and return what was done; raises ConnectError."""
        before, after = await self._prepare(migrate=True)
        if before == after:
            return f"schema {self._options.schema!r} is up to date at version {after}"
        return f"schema {self._options.schema!r} went from version {before} to {after}"

    async def _prepare(self, *, migrate: bool) -> tuple[int, int]:
        try:
            async with await dial(self._options) as connection:
                if connection.info.server_version < _OLDEST_SERVER:
                    version = connection.info.parameter_status("server_version")
                    raise ConnectError(str(self._address), f"PostgreSQL {version} is too old: 13 or later is needed")
                before = await schema.version_of(connection, self._options.schema)
                if before == len(schema.VERSIONS):
                    return before, before
                if not migrate:
                    raise ConnectError(
                        str(self._address),
                        f"schema {self._options.schema!r} has version {before} of que's tables, not"
                        f" {len(schema.VERSIONS)}: run `que migrate {self._address}`, or leave out migrate=0",
                    )
                return await schema.migrate(connection, self._options.schema)
        except (psycopg.Error, OSError, schema.WrongSchema) as error:
            raise ConnectError(str(self._address), _said(error)) from error

    async def disconnect(self) -> None:
        """Close every connection. Jobs still watched are reported lost; what this process runs goes to another."""
        opened, self._open = self._open, None
        if opened is not None:
            await opened.close()

    async def submit(self, envelopes: Sequence[Envelope]) -> None:
        """Queue the batch, as a rule in one transaction: all of it, or, with the error that is raised, none."""
        opened = self._opened()
        good: list[Envelope] = []
        for envelope in envelopes:
            if (refusal := columns.refusal_of(envelope)) is not None:
                opened.events.refused(envelope.id, refusal)
            else:
                good.append(envelope)
        for batch in _bounded(good):
            try:
                await opened.submit(batch)
            except SubmitError:
                raise
            except Exception as error:
                raise _refusal(error) from error

    async def submit_in(self, connection: object, envelopes: Sequence[Envelope]) -> Sequence[str]:
        """Queue the batch inside the transaction of a psycopg, asyncpg or SQLAlchemy connection; return the receipts.

        Raises Rejected, ConfigurationError for another connection.
        """
        return await transacting.submit_in(self._options.schema, connection, envelopes)

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> PostgresConsumer:
        """Return a consumer of `functions`, which takes from each its share."""
        try:
            return await self._opened().register(functions, slots, notices)
        except (Unreachable, Broken, psycopg.Error) as error:
            raise ConnectError(str(self._address), _said(error)) from error

    async def watch(self, watches: Sequence[tuple[str, str]]) -> None:
        """Tell what becomes, or has become, of these jobs, as long as their results are kept."""
        opened = self._opened()
        known = [(watch_id, row) for watch_id, receipt in watches for row in _rows([receipt])]
        for watch_id in {watch_id for watch_id, _ in watches}.difference(watch_id for watch_id, _ in known):
            opened.events.lost(watch_id, JobUnknown("this is no receipt of this driver"))
        try:
            await opened.watch(known)
        except (Unreachable, Broken, psycopg.Error) as error:
            raise ConnectError(str(self._address), _said(error)) from error

    async def cancel(self, receipt: str) -> bool:
        """End a job that waits, or tell the worker of one that runs; False if there is no such job."""
        for row in _rows([receipt]):
            return bool((await self._call("cancel", "bigint", row))[0][0])
        return False

    async def status(self, receipt: str) -> JobStatus:
        """Return what is known of a job; one that has ended is not known."""
        for row in _rows([receipt]):
            found = cast(list[tuple[bool, int, int, int]], await self._call("status", "bigint", row))
            for running, done, total, waiting in found:
                return JobStatus(known=True, running=running, done=done, total=total, waiting=waiting)
        return JobStatus(known=False, running=False)

    async def depths(self) -> Sequence[QueueDepth]:
        """Return each function's jobs (delayed ones count as queued) and consumers."""
        rows = cast(list[tuple[str, int, int, int]], await self._call("depths", ""))
        return [QueueDepth(*row) for row in rows]

    async def dead_letters(self, function: str, limit: int) -> Sequence[DeadLetter]:
        """Return at most `limit` of the function's dead letters, the oldest first."""
        rows = cast(
            list[tuple[int, bytes, bytes, int, float]], await self._call("buried", "text bigint", function, limit)
        )
        return [
            DeadLetter(str(row), function, payload, _decode_failure(failure), attempts, buried_at)
            for row, payload, failure, attempts, buried_at in rows
        ]

    async def replay(self, receipts: Collection[str]) -> int:
        """Queue these dead letters again, under their receipts; return how many there were."""
        return cast(int, (await self._call("replay", "bigint[]", _rows(receipts)))[0][0])

    async def drop(self, receipts: Collection[str]) -> int:
        """Forget these dead letters; return how many there were."""
        return cast(int, (await self._call("drop_letters", "bigint[]", _rows(receipts)))[0][0])

    async def begin_ticks(self, schedule: str, until: float, owner: str, seconds: float) -> TickClaim:
        """Grant `owner` the schedule, by the server's clock, unless it is done up to `until` or another has it."""
        arguments = columns.held_as(schedule), float(until), owner, float(seconds)
        ((granted, done),) = await self._call("begin_ticks", "text float8 text float8", *arguments)
        return TickClaim(granted=cast(bool, granted), done=cast(float | None, done))

    async def end_ticks(self, schedule: str, until: float, owner: str) -> None:
        """Remember how far the schedule has come, for as long as the schema is there."""
        await self._call("end_ticks", "text float8 text", columns.held_as(schedule), float(until), owner)

    async def keep(self, entries: Sequence[Kept], keys: Sequence[str] = ()) -> Sequence[Ending | None]:
        """Write what is not written yet, and return what `keys` then hold, in one transaction."""
        looked_for = [columns.held_as(key) for key in keys]
        rows = await self._call("keep", columns.KEEP, *columns.of_entries(entries), looked_for)
        return [_ending(kind, body) for kind, body in cast(list[tuple[int | None, bytes]], rows)]

    async def forget(self, keys: Collection[str]) -> None:
        """Free `keys`."""
        await self._call("free", "text[]", [columns.held_as(key) for key in keys])

    async def attend(self, watches: Sequence[tuple[str, str]]) -> None:
        """Tell what is kept, or will be, by a notification of whoever keeps it."""
        try:
            await self._opened().attend(watches)
        except (Unreachable, Broken, psycopg.Error) as error:
            raise ConnectError(str(self._address), _said(error)) from error

    async def _call(self, function: str, types: str, *arguments: object) -> list[Row]:
        try:
            return await self._opened().pool.call(function, types, *arguments)
        except (Unreachable, Broken, psycopg.Error) as error:
            raise ConnectError(str(self._address), _said(error)) from error

    def _opened(self) -> Session:
        if self._open is None:
            raise NotConnected(f"{self._address} is not connected")
        return self._open


def _ending(kind: int | None, body: bytes) -> Ending | None:
    if kind is None:
        return None
    return Completed(body) if kind == Kind.COMPLETED else _decode_failure(body)


def _rows(receipts: Collection[str]) -> list[int]:
    """Return the rows that `receipts` name; what is no receipt of this driver names none."""
    plain = (receipt for receipt in receipts if receipt.isascii() and receipt.isdigit() and len(receipt) < 20)
    return [row for row in map(int, plain) if row <= _MOST_ROW]


def _bounded(envelopes: Sequence[Envelope]) -> Iterator[Sequence[Envelope]]:
    """Yield the envelopes in batches of bounded size."""
    begun = size = 0
    for index, envelope in enumerate(envelopes):
        size += len(envelope.payload)
        if size > _MOST_BATCH_BYTES and index > begun:
            yield envelopes[begun:index]
            begun, size = index, len(envelope.payload)
    if begun < len(envelopes):
        yield envelopes[begun:]


def _refusal(error: Exception) -> SubmitError:
    """Return what `error` means to those who submitted the batch."""
    if isinstance(error, Unreachable):
        return NotSent(f"PostgreSQL could not be reached: {error}")
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        if error.sqlstate in _TRY_LATER:
            return NotSent(f"PostgreSQL did not take the jobs: {_said(error)}")
        return Rejected(f"PostgreSQL refused the jobs: {_said(error)}")
    return SubmitAmbiguous(f"PostgreSQL did not answer, and the jobs may exist: {error}")


def _said(error: BaseException) -> str:
    text = str(error).strip() or repr(error)
    code = error.sqlstate if isinstance(error, psycopg.Error) else None
    return f"{text} ({code})" if code else text
