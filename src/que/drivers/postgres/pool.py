"""A few connections to one database, and every call of a function of que's there, with a deadline and a verdict."""

import asyncio
import os
import random
import select
import socket
from collections.abc import Sequence
from contextlib import suppress

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo

from que.drivers.postgres.options import PostgresOptions

Row = tuple[object, ...]
Connection = AsyncConnection[Row]

# After these the server has done nothing, and the same call may succeed: a shutdown, a deadlock, a lock not had.
_TRY_AGAIN = frozenset({"57P01", "57P03", "40001", "40P01", "55P03"})
_SHORTEST_PAUSE_SECONDS = 0.05


class Unreachable(Exception):
    """The call has not left this process."""


class Broken(Exception):
    """The call was sent, and no answer came: it may have been done."""


async def dial(options: PostgresOptions) -> Connection:
    """Return a new connection; raises psycopg.Error or OSError, TimeoutError after the options' timeout."""
    try:
        async with asyncio.timeout(options.timeout):
            return await AsyncConnection.connect(
                make_conninfo("", connect_timeout=max(2, int(options.timeout)), **options.connection),
                autocommit=True,
                # A pooler that hands each transaction to another session knows no prepared statements.
                prepare_threshold=5 if options.listen else None,
            )
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {options.timeout:g} s") from error


class Pool:
    """At most `options.connections` connections, opened when needed; one that is in doubt is thrown away."""

    def __init__(self, options: PostgresOptions) -> None:
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._free = asyncio.Semaphore(options.connections)
        self._idle: list[Connection] = []
        self._queries: dict[tuple[str, str], bytes] = {}

    async def call(self, function: str, types: str, *arguments: object, timeout: float | None = None) -> list[Row]:
        """Return the rows of a function of que's schema, each of whose arguments has the type named in `types`.

        Raises Unreachable, Broken, or the psycopg.Error that the server has answered: then nothing has happened.
        """
        query = self._queries.get((function, types))
        if query is None:
            marks = ", ".join(f"%b::{name}" for name in types.split())
            query = self._queries[function, types] = (
                f'SELECT * FROM "{self._options.schema}".{function}({marks})'.encode()
            )
        return await self.run(query, arguments, timeout=timeout)

    async def run(self, query: bytes, arguments: Sequence[object] = (), *, timeout: float | None = None) -> list[Row]:
        """Return the rows of a statement; raises what call() raises."""
        deadline = self._loop.time() + (timeout or self._options.timeout)
        async with _within(self._free, deadline, self._loop):
            while True:
                connection = await self._connected(deadline)
                try:
                    return await self._execute(connection, query, arguments, deadline)
                except psycopg.Error as error:
                    if error.sqlstate not in _TRY_AGAIN or self._loop.time() >= deadline:
                        raise
                await asyncio.sleep(random.uniform(0, _SHORTEST_PAUSE_SECONDS))

    async def _execute(
        self, connection: Connection, query: bytes, arguments: Sequence[object], deadline: float
    ) -> list[Row]:
        alarm = self._loop.call_at(deadline, hang_up, connection)
        try:
            cursor = await connection.execute(query, arguments, prepare=self._options.listen, binary=True)
            rows = await cursor.fetchall()
        except psycopg.Error as error:
            if connection.closed:
                await connection.close()
                if error.sqlstate not in _TRY_AGAIN:
                    raise Broken(str(error).strip() or repr(error)) from error
            elif error.sqlstate == "25006":
                # A server that has become a standby: the next connection may find the one that leads.
                await connection.close()
            else:
                self._idle.append(connection)
            raise
        except BaseException:
            await connection.close()
            raise
        finally:
            alarm.cancel()
        self._idle.append(connection)
        return rows

    async def _connected(self, deadline: float) -> Connection:
        """Return a connection that nobody uses; raises Unreachable if there is none until then."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and not _has_news(connection.fileno()):
                return connection
            await connection.close()
        longest = _SHORTEST_PAUSE_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await dial(self._options)
            except (psycopg.Error, OSError) as error:
                reason = str(error).strip() or repr(error)
                if self._loop.time() >= deadline:
                    raise Unreachable(reason) from error
            pause = min(random.uniform(0, longest), max(0.0, deadline - self._loop.time()))
            await asyncio.sleep(pause)
            longest = min(2 * longest, self._options.backoff)

    async def close(self) -> None:
        """Close what is idle; a call that comes later opens a connection again."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()


class _within:
    """The semaphore's place, had before the deadline; raises Unreachable."""

    def __init__(self, semaphore: asyncio.Semaphore, deadline: float, loop: asyncio.AbstractEventLoop) -> None:
        self._semaphore = semaphore
        self._deadline = deadline
        self._loop = loop

    async def __aenter__(self) -> None:
        if not self._semaphore.locked():
            await self._semaphore.acquire()
            return
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._semaphore.acquire()
        except TimeoutError as error:
            raise Unreachable("all connections were in use until the deadline") from error

    async def __aexit__(self, *_: object) -> None:
        self._semaphore.release()


def hang_up(connection: Connection) -> None:
    """End whatever waits for this connection, with an error, whether the server answers or not."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


def _has_news(fileno: int) -> bool:
    """Whether something has come that nobody asked for: the end of the connection, as a rule."""
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    return bool(poll.poll(0))
