"""Jobs inside a transaction of the user's own, on a connection of whichever library it is."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from inspect import isawaitable
from typing import Protocol, cast

from que.drivers.postgres import columns
from que.drivers.postgres.columns import SEND_IN
from que.errors import ConfigurationError, Rejected
from que.model import Envelope


async def submit_in(schema: str, connection: object, envelopes: Sequence[Envelope]) -> list[str]:
    """Queue the batch on `connection` and return the receipts; raises Rejected and ConfigurationError."""
    insert = _way_into(connection)
    receipts: list[str] = []
    for envelope in envelopes:
        if (refusal := columns.refusal_of(envelope)) is not None:
            raise refusal
        try:
            row = await insert(f'"{schema}".que_send_bytes', connection, columns.of_envelope(envelope))
        except ConfigurationError:
            raise
        except Exception as error:
            # Whichever library's it is, the transaction is broken, and its owner has to hear of that too.
            raise Rejected(f"job {envelope.function!r} is not in the transaction: {error}") from error
        receipts.append(str(row))
    return receipts


Insert = Callable[[str, object, Sequence[object]], Awaitable[object]]


def _way_into(connection: object) -> Insert:
    for each in type(connection).__mro__:
        insert = _WAYS.get(each.__module__.partition(".")[0])
        if insert is not None:
            return insert
    raise ConfigurationError(
        f"connection={connection!r}: expected a connection of psycopg, asyncpg or SQLAlchemy; with others,"
        " SELECT que.que_send(…) does the same"
    )


class _Cursor(Protocol):
    def execute(self, query: str, params: Sequence[object], /) -> object: ...
    def fetchone(self) -> object: ...


class _Psycopg(Protocol):
    def cursor(self, *, row_factory: object) -> _Cursor: ...


async def _by_psycopg(function: str, connection: object, arguments: Sequence[object]) -> object:
    from psycopg.rows import tuple_row

    marks = ", ".join(f"%s::{kind}" for _, kind in SEND_IN)
    cursor = cast(_Psycopg, connection).cursor(row_factory=tuple_row)
    await _value(cursor.execute(f"SELECT {function}({marks})", arguments))
    (row,) = cast(tuple[object], await _value(cursor.fetchone()))
    return row


class _Asyncpg(Protocol):
    def fetchval(self, query: str, *arguments: object) -> object: ...


async def _by_asyncpg(function: str, connection: object, arguments: Sequence[object]) -> object:
    marks = ", ".join(f"${number}::{kind}" for number, (_, kind) in enumerate(SEND_IN, 1))
    return await _value(cast(_Asyncpg, connection).fetchval(f"SELECT {function}({marks})", *arguments))


class _Result(Protocol):
    def scalar_one(self) -> object: ...


class _SqlAlchemy(Protocol):
    def execute(self, statement: object, params: object, /) -> object: ...


async def _by_sqlalchemy(function: str, connection: object, arguments: Sequence[object]) -> object:
    from sqlalchemy import text

    marks = ", ".join(f"CAST(:{name} AS {kind})" for name, kind in SEND_IN)
    named = {name: argument for (name, _), argument in zip(SEND_IN, arguments, strict=True)}
    executed = cast(_SqlAlchemy, connection).execute(text(f"SELECT {function}({marks})"), named)
    return cast(_Result, await _value(executed)).scalar_one()


async def _value(returned: object) -> object:
    """Return what a blocking call has returned, or what an asynchronous one gives; raises ConfigurationError."""
    if not isawaitable(returned):
        return returned
    if not _is_in_loop():
        if isinstance(returned, Coroutine):
            returned.close()
        raise ConfigurationError("connection=: a thread needs a blocking connection, such as psycopg.Connection")
    return await cast(Awaitable[object], returned)


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


_WAYS: dict[str, Insert] = {"psycopg": _by_psycopg, "asyncpg": _by_asyncpg, "sqlalchemy": _by_sqlalchemy}
