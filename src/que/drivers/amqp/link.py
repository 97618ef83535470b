"""One connection, kept: a lost one is replaced for ever, by any node of the cluster that answers."""

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Callable, Coroutine
from typing import Generic, TypeVar

from que.drivers.amqp.connection import Connection, ServerRefused, dial
from que.drivers.amqp.options import Options
from que.errors import ProtocolError

_log = logging.getLogger("que.amqp")
_FIRST_PAUSE_SECONDS = 0.05
_INTERNAL_ERROR = 541

SessionT = TypeVar("SessionT")


class Link(Generic[SessionT]):
    """Keeps a connection and what `open_session` makes of it; `session` is None while there is none.

    Pauses between attempts are random between 0 and a bound that doubles up to `options.backoff`. An outage and its end
    are logged once each. `lost` is told when a session has ended, `back` when an outage has.
    """

    def __init__(
        self,
        options: Options,
        tls: ssl.SSLContext | None,
        role: str,
        open_session: Callable[[Connection], Coroutine[object, object, SessionT]],
        lost: Callable[[SessionT, Exception], None],
        back: Callable[[], None],
    ) -> None:
        self.session: SessionT | None = None
        self._up = asyncio.Event()
        self.connection: Connection | None = None
        self._loop = asyncio.get_running_loop()
        # None once the first attempt has succeeded, else why it failed.
        self.first: asyncio.Future[Exception | None] = self._loop.create_future()
        self._options = options
        self._tls = tls
        self._role = role
        self._open_session = open_session
        self._lost = lost
        self.back: Callable[[], None] = back
        self._failures = 0
        self._down = False
        self._closing = False
        self._next_host = random.randrange(len(options.hosts))
        self._tried = 0
        self._patience = self._loop.time() + options.timeout
        self._task = self._loop.create_task(self._run(), name=f"que amqp {role}")

    async def close(self) -> None:
        """Close the connection, if any; none will follow."""
        self._closing = True
        if self.connection is not None:
            await self.connection.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def wait(self) -> SessionT | None:
        """Return the session, once there is one; None if there is none within the timeout."""
        if self.session is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._options.timeout):
                    await self._up.wait()
        return self.session

    async def _run(self) -> None:
        while True:
            host = self._options.hosts[self._next_host]
            try:
                connection = await dial(host, self._options, self._tls)
                self.connection = connection
                session = await self._open(connection)
            except (OSError, ProtocolError, TimeoutError) as error:
                self._next_host = (self._next_host + 1) % len(self._options.hosts)
                self._failed(error)
            else:
                await self._stay(connection, session)
            bound = min(self._options.backoff, _FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures, 32))
            await asyncio.sleep(random.random() * bound)

    async def _open(self, connection: Connection) -> SessionT:
        try:
            async with asyncio.timeout(self._options.timeout * 2):
                return await self._open_session(connection)
        except BaseException as error:
            connection.abort(ConnectionAbortedError(f"it could not be set up: {error}"))
            raise

    async def _stay(self, connection: Connection, session: SessionT) -> None:
        since = self._loop.time()
        self.session = session
        self._up.set()
        self._recovered()
        try:
            reason = await asyncio.shield(connection.closed)
        finally:
            self.session = None
            self._up.clear()
            connection.abort(ConnectionAbortedError("the connection was given up"))
            self._lost(session, connection.closed.result())
        # A server that hangs up at once must not be asked without pause.
        self._failures = 0 if self._loop.time() - since > self._options.backoff else self._failures + 1
        self._failed(reason)

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if not self.first.done():
            self._tried += 1
            if self._tried >= len(self._options.hosts) and not self._passes(error):
                self.first.set_result(error)
        elif not (self._down or self._closing):
            self._down = True
            _log.warning("the %s has no connection: %s; retrying", self._role, error)

    def _passes(self, error: Exception) -> bool:
        """Whether there is time left for it to pass by itself: a node that has just started may have no leaders yet."""
        return isinstance(error, ServerRefused) and error.code == _INTERNAL_ERROR and self._loop.time() < self._patience

    def _recovered(self) -> None:
        if not self.first.done():
            self.first.set_result(None)
        if self._down:
            self._down = False
            _log.warning("the %s is connected again", self._role)
            self.back()
