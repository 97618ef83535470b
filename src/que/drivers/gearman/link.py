"""One server, kept connected: each connection is a new session, and a lost one is replaced for ever."""

import asyncio
import logging
import random
import ssl
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from que.address import Host
from que.drivers.gearman.connection import Answer, Connection, Left, Session
from que.drivers.gearman.options import DEFAULT_PORT, Options
from que.errors import ProtocolError, Rejected
from que.gearman.client import Asker

_log = logging.getLogger("que.gearman")
_FIRST_PAUSE_SECONDS = 0.05


class LinkSession(Session, Protocol):
    """A session that a Link can open."""

    connection: Connection

    def greet(self, asker: Asker) -> None:
        """The first packets wait to leave; the last of them is a question of `asker`."""
        ...


SessionT = TypeVar("SessionT", bound=LinkSession)


class Link(Generic[SessionT]):
    """Keeps one session with `host` alive; `session` is None while there is none.

    `open_session` makes a session, `up` is told when the server has answered its greeting, `back` if that ends an
    outage. Pauses between attempts are random between 0 and a bound that doubles up to `options.backoff`. An outage and
    its end are logged once each.
    """

    __slots__ = (
        "_back", "_down", "_failures", "_open_session", "_options", "_role", "_task", "_tls", "_up", "first", "host",
        "session",
    )  # fmt: skip

    def __init__(
        self,
        host: Host,
        options: Options,
        tls: ssl.SSLContext | None,
        role: str,
        open_session: Callable[["Link[SessionT]"], SessionT],
        up: Callable[[SessionT], None],
        back: Callable[[], None],
    ) -> None:
        self.host: Host = host
        self.session: SessionT | None = None
        # None once the first attempt has succeeded, else why it failed.
        self.first: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._options = options
        self._tls = tls
        self._role = role
        self._open_session = open_session
        self._up = up
        self._back = back
        self._down = False
        self._failures = 0
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"que {role} {host}")

    @property
    def is_up(self) -> bool:
        """Whether there is a session, and its connection lives."""
        return self.session is not None and self.session.connection.alive

    async def close(self, why: Exception) -> None:
        """The connection, if any, is aborted and none will follow."""
        self._task.cancel()
        if self.session is not None:
            self.session.connection.abort(why)
        await asyncio.gather(self._task, return_exceptions=True)

    def retire(self) -> None:
        """No connection will follow the present one, which stays as it is."""
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            try:
                session = await self._open()
            except (OSError, ProtocolError) as error:
                self._failed(error)
            else:
                await self._stay(session)
            bound = min(self._options.backoff, _FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures, 32))
            await asyncio.sleep(random.random() * bound)

    async def _stay(self, session: SessionT) -> None:
        loop = asyncio.get_running_loop()
        since = loop.time()
        self._recovered()
        self.session = session
        try:
            self._up(session)
            reason = await asyncio.shield(session.connection.closed)
        finally:
            self.session = None if not session.connection.alive else session
        if isinstance(reason, Left):
            return
        # A server that hangs up on every greeting must not be asked without pause.
        self._failures = 0 if loop.time() - since > self._options.backoff else self._failures + 1
        self._failed(reason)

    async def _open(self) -> SessionT:
        session = self._open_session(self)
        connection = Connection(session, self._options.heartbeat, self._options.deadline)
        session.connection = connection
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                await self._dial(connection)
                answer = Answer()
                session.greet(answer)
                connection.flush()
                await self._greeted(answer)
        except TimeoutError as error:
            reason = TimeoutError(f"no answer within {self._options.connect_timeout:g} s{self._hint()}")
            connection.abort(reason)
            raise reason from error
        except BaseException as error:
            if connection.closed.done() and isinstance(error, ConnectionError):
                # Why it closed says more than that no answer came.
                raise connection.closed.result() from error
            connection.abort(ConnectionAbortedError(str(error)))
            raise
        return session

    async def _greeted(self, answer: Answer) -> None:
        try:
            await answer.future
        except Rejected as error:
            _log.warning("%s does not send exceptions: failures come without a reason (%s)", self.host, error)

    async def _dial(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        tls = self._options.tls
        port = self.host.port or DEFAULT_PORT
        if tls is None or self._tls is None:
            await loop.create_connection(lambda: connection, self.host.name, port)
            return
        name = tls.server_hostname or self.host.name
        try:
            await loop.create_connection(lambda: connection, self.host.name, port, ssl=self._tls, server_hostname=name)
        except ssl.SSLCertVerificationError as error:
            raise ConnectionError(f"its TLS certificate is not trusted for {name}: {error.verify_message}") from error
        except (ssl.SSLError, ConnectionResetError, ConnectionAbortedError) as error:
            raise ConnectionError(f"the TLS handshake failed: {error}{self._hint()}") from error

    def _hint(self) -> str:
        return "" if self._tls is None else " (does it speak TLS? Debian's gearmand does not, whatever --ssl says)"

    def _failed(self, error: Exception) -> None:
        if self.first.done():
            self.warn(error)
        else:
            self.first.set_result(error)
        self._failures += 1

    def warn(self, error: Exception) -> None:
        """Say, once an outage, that there is no connection and that one is being tried for."""
        if not self._down:
            self._down = True
            _log.warning("%s has no connection to %s: %s; retrying", self._role, self.host, error)

    def _recovered(self) -> None:
        if not self.first.done():
            self.first.set_result(None)
        if self._down:
            self._down = False
            _log.warning("%s is connected to %s again", self._role, self.host)
            self._back()


async def first_answers(links: list[Link[SessionT]], patience: float) -> list[tuple[Host, Exception]]:
    """Return the failures of the links' first attempts, once all have had theirs; they are logged where one is up.

    Once one link is up the others get `patience` seconds more; what they are still at then counts as no failure.
    """
    pending = {link.first for link in links}
    while pending and not any(link.session for link in links):
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    if pending:
        await asyncio.wait(pending, timeout=patience)
    failures = [(link, error) for link in links if link.first.done() and (error := link.first.result())]
    if any(link.session for link in links):
        for link, error in failures:
            link.warn(error)
    return [(link.host, error) for link, error in failures]
