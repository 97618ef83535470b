"""The one connection that listens: it is kept, checked, and made again."""

import asyncio
import itertools
import logging
import random
from typing import Protocol

import psycopg

from que.drivers.postgres.options import PostgresOptions
from que.drivers.postgres.pool import Connection, Pool, dial, hang_up

_log = logging.getLogger("que.postgres")

_BEAT_SECONDS = 10.0
_NOTIFY = b"SELECT pg_notify(%b::text, %b::text)"


class Deaf(Exception):
    """What is notified does not arrive."""


class Listener(Protocol):
    """Who is told what the ear hears; `outage` and `back` are called once each per outage."""

    async def hear(self, channel: str, payload: str) -> None: ...
    async def outage(self) -> None: ...
    async def back(self) -> None: ...


class Ear:
    """Listens on a channel of its own and on others.

    Every few seconds it sends itself an echo: one that does not come back, or no answer, is an outage.
    `epoch` counts the connections it has had: what came between two of them was not heard.
    """

    def __init__(self, options: PostgresOptions, name: str, address: str, listener: Listener) -> None:
        self._options = options
        self._own = f"{options.schema}:{name}"
        self._address = address
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._wanted = {self._own}
        self._heard: set[str] = set()
        self._echoes = itertools.count(1)
        self._sent = self._returned = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._connection: Connection | None = None
        self._listening: asyncio.Task[None] | None = None
        self.epoch: int = 0

    async def open(self) -> None:
        """Listen from now on; raises psycopg.Error, OSError or Deaf."""
        connection = await self._connect()
        self._listening = self._loop.create_task(self._listen(connection))

    async def close(self) -> None:
        """Listen no more."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])
        if self._connection is not None:
            await self._connection.close()

    async def want(self, channel: str, pool: Pool) -> None:
        """Listen on that channel too, soon; once it does, the listener hears "" from there."""
        self._wanted.add(f"{self._options.schema}:{channel}")
        await pool.run(_NOTIFY, (self._own, "e0"))

    async def catch_up(self, pool: Pool) -> None:
        """Wait until all has been heard that was told before now."""
        number = next(self._echoes)
        heard = self._waiting[number] = self._loop.create_future()
        try:
            await pool.run(_NOTIFY, (self._own, f"e{number}"))
            await heard
        finally:
            del self._waiting[number]

    async def _connect(self) -> Connection:
        """Return a connection that listens, and hears others."""
        connection = await dial(self._options)
        try:
            self._heard.clear()
            await self._subscribe(connection)
            # From another session: a pooler may well pass on what this one tells itself, and nothing else.
            async with await dial(self._options) as other:
                await self._send_echo(other)
            async with asyncio.timeout(self._options.timeout):
                while self._returned < self._sent:
                    async for notify in connection.notifies(stop_after=1):
                        await self._dispatch(notify.channel, notify.payload)
        except TimeoutError:
            await connection.close()
            raise Deaf("LISTEN has no effect here") from None
        except BaseException:
            await connection.close()
            raise
        self.epoch += 1
        self._connection = connection
        return connection

    async def _listen(self, connection: Connection) -> None:
        while True:
            try:
                await self._hear(connection)
            except (psycopg.Error, OSError, Deaf, TimeoutError) as error:
                _log.warning("%s: the connection that listens is lost: %s", self._address, str(error).strip())
            except Exception:
                _log.exception("%s: what was heard cannot be understood", self._address)
            await connection.close()
            await self._listener.outage()
            connection = await self._reconnect()
            _log.warning("%s: listening again", self._address)
            await self._listener.back()

    async def _hear(self, connection: Connection) -> None:
        beat = self._loop.time() + _BEAT_SECONDS
        while True:
            silence = max(0.0, beat - self._loop.time())
            async for notify in connection.notifies(timeout=silence, stop_after=1):
                await self._dispatch(notify.channel, notify.payload)
            await self._subscribe(connection)
            if self._loop.time() >= beat:
                if self._returned < self._sent:
                    raise Deaf("no echo came back")
                await self._send_echo(connection)
                beat = self._loop.time() + _BEAT_SECONDS

    async def _dispatch(self, channel: str, payload: str) -> None:
        if channel == self._own and payload.startswith("e"):
            number = int(payload[1:])
            self._returned = max(self._returned, number)
            if number in self._waiting and not self._waiting[number].done():
                self._waiting[number].set_result(None)
        else:
            await self._listener.hear(channel, payload)

    async def _subscribe(self, connection: Connection) -> None:
        for channel in sorted(self._wanted - self._heard):
            await self._execute(connection, f'LISTEN "{channel}"'.encode())
            self._heard.add(channel)
            if channel != self._own:
                await self._listener.hear(channel, "")

    async def _send_echo(self, connection: Connection) -> None:
        self._sent = next(self._echoes)
        await self._execute(connection, f"NOTIFY \"{self._own}\", 'e{self._sent}'".encode())

    async def _execute(self, connection: Connection, query: bytes) -> None:
        alarm = self._loop.call_later(self._options.timeout, hang_up, connection)
        try:
            await connection.execute(query)
        finally:
            alarm.cancel()

    async def _reconnect(self) -> Connection:
        longest = min(0.05, self._options.backoff)
        while True:
            await asyncio.sleep(random.uniform(0, longest))
            try:
                return await self._connect()
            except (psycopg.Error, OSError, Deaf) as error:
                _log.info("%s: not back yet: %s", self._address, error)
            longest = min(2 * longest, self._options.backoff)
