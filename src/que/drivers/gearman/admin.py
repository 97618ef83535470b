"""Ask and steer a Gearman server over its text protocol, one question at a time on a kept connection."""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, TypeAlias, TypeVar

from que.errors import ConnectError, NotConnected, QueError
from que.gearman import admin
from que.gearman.admin import CommandRefused, FunctionBusy, FunctionStatus, JobInfo, PriorityStatus, WorkerInfo

READ_BYTES = 64 * 1024

ReplyT = TypeVar("ReplyT")
Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class AdminTimeout(QueError, TimeoutError):
    """`server` did not answer within the deadline: whether the command took effect is unknown."""

    def __init__(self, server: str, timeout_seconds: float) -> None:
        super().__init__(f"{server} did not answer within {timeout_seconds} s")
        self.server = server
        self.timeout_seconds = timeout_seconds


class GearmanAdmin:
    """The text protocol of the server at `host` and `port`, with every operation done within `timeout` seconds.

    With `tls` the certificate is verified for `server_hostname`, or for `host` where that is empty.
    Concurrent callers are served in the order in which they came. A call that was cancelled, timed out or broke the
    protocol takes its connection along and the next call opens a new one: no caller sees another's answer. The methods
    raise NotConnected outside of `async with`, ConnectError when the server cannot be reached or hangs up,
    AdminTimeout, CommandRefused (the server's ERR), InvalidName (nothing was sent) and ProtocolError.
    """

    def __init__(
        self,
        host: str,
        port: int = 4730,
        *,
        timeout: float = 5.0,
        tls: ssl.SSLContext | None = None,
        server_hostname: str = "",
    ) -> None:
        self._host = host
        self._port = port
        self._timeout = timeout
        self._tls = tls
        self._name = None if tls is None else server_hostname or host
        self._turn = asyncio.Lock()
        self._entered = False
        self._reached = False
        self._streams: Streams | None = None

    async def __aenter__(self) -> Self:
        self._entered = True
        try:
            async with self._turn_in_time():
                await self._connection()
        except BaseException:
            self._entered = False
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered = False
        self._hang_up()

    async def status(self) -> list[FunctionStatus]:
        """Return every function with its jobs and workers."""
        return await self._ask(admin.status())

    async def priority_status(self) -> list[PriorityStatus]:
        """Return every function with its waiting jobs by priority."""
        return await self._ask(admin.priority_status())

    async def workers(self) -> list[WorkerInfo]:
        """Return every connection of the server: workers, clients and this one."""
        return await self._ask(admin.workers())

    async def version(self) -> str:
        """Return the server's version."""
        return await self._ask(admin.version())

    async def pid(self) -> int:
        """Return the server's process id."""
        return await self._ask(admin.pid())

    async def show_jobs(self) -> list[JobInfo]:
        """Return every job that the server holds."""
        return await self._ask(admin.show_jobs())

    async def show_unique_jobs(self) -> list[str]:
        """Return the unique of every job that the server holds."""
        return await self._ask(admin.show_unique_jobs())

    async def cancel(self, handle: str) -> bool:
        """Keep the job `handle` from being run, and tell whether there was one: its clients get WORK_FAIL at once.

        A running job goes on. A waiting one keeps its unique until a worker asks for jobs, or until it is due: what is
        submitted with that unique in the meantime is lost.
        """
        return await self._ask(admin.cancel(handle))

    async def max_queue(self, function: str, limit: int) -> None:
        """New jobs of `function` are refused while it has `limit` or more, running ones included; 0 is without limit.

        Without effect where the server does not know `function` yet.
        """
        await self._ask(admin.max_queue(function, limit))

    async def max_queue_by_priority(self, function: str, *, high: int, normal: int, low: int) -> None:
        """New jobs of a priority are refused while `function` has its limit or more, of all priorities together."""
        await self._ask(admin.max_queue_by_priority(function, high=high, normal=normal, low=low))

    async def create_function(self, function: str) -> None:
        """The server knows `function`."""
        await self._ask(admin.create_function(function))

    async def drop_function(self, function: str) -> bool:
        """The server has forgotten `function`; tell whether it knew it.

        Raises FunctionBusy, having dropped nothing, while jobs of it are queued, and CommandRefused while workers can
        do it. gearmand itself would drop it and orphan the jobs, so a job that comes between the look and the drop is
        lost: stop the submitters first.
        """
        drop = admin.drop_function(function)
        async with self._turn_in_time():
            queued = sum(row.queued for row in await self._exchange(admin.status()) if row.function == function)
            if queued:
                raise FunctionBusy(function, queued)
            return await self._exchange(drop)

    async def _ask(self, command: admin.Command[ReplyT]) -> ReplyT:
        async with self._turn_in_time():
            return await self._exchange(command)

    @asynccontextmanager
    async def _turn_in_time(self) -> AsyncGenerator[None, None]:
        if not self._entered:
            raise NotConnected("use `async with GearmanAdmin(...) as admin`")
        deadline = asyncio.timeout(self._timeout)
        try:
            async with deadline, self._turn:
                yield
        except TimeoutError as error:
            if self._reached:
                raise AdminTimeout(self._server, self._timeout) from error
            raise ConnectError(self._server, f"no connection within {self._timeout} s") from error

    async def _exchange(self, command: admin.Command[ReplyT]) -> ReplyT:
        reader, writer = await self._connection()
        answered = False
        try:
            writer.write(command.line)
            reply = admin.Reply(command)
            while not reply.complete:
                reply.feed(await self._read(reader))
            answered = not (reply.leftover or command.spoofable)
            return reply.value
        except CommandRefused:
            answered = True
            raise
        except OSError as error:
            raise ConnectError(self._server, f"the connection broke: {error}") from error
        finally:
            # After anything but one whole answer, what comes next on this connection is not the next caller's.
            if not answered:
                self._hang_up()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        if data := await reader.read(READ_BYTES):
            return data
        raise ConnectError(self._server, "it closed the connection before it answered")

    async def _connection(self) -> Streams:
        self._refuse_if_closed()
        if self._streams is not None and _ended(self._streams[0]):
            self._hang_up()
        if self._streams is None:
            self._reached = False
            try:
                self._streams = await asyncio.open_connection(
                    self._host, self._port, ssl=self._tls, server_hostname=self._name
                )
            except OSError as error:
                raise ConnectError(self._server, str(error)) from error
            self._reached = True
            self._refuse_if_closed()
        return self._streams

    def _refuse_if_closed(self) -> None:
        if not self._entered:
            self._hang_up()
            raise NotConnected("closed while this call waited")

    def _hang_up(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    @property
    def _server(self) -> str:
        return f"{self._host}:{self._port}"


def _ended(reader: asyncio.StreamReader) -> bool:
    return reader.at_eof() or reader.exception() is not None
