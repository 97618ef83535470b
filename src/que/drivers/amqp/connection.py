"""One connection to a RabbitMQ node over asyncio: handshake, heartbeats, channels, and what the server holds back."""

import asyncio
import contextlib
import math
import platform
import socket
import ssl
from collections.abc import Callable
from typing import cast

from pamqp.common import FieldTable

from que.address import Host
from que.drivers.amqp.channel import Channel
from que.drivers.amqp.options import DEFAULT_PORT, Options
from que.drivers.amqp.wire import (
    HEARTBEAT,
    MIN_FRAME_MAX,
    PREAMBLE,
    Event,
    Heartbeat,
    Message,
    Method,
    Reader,
    Value,
    method_frame,
)
from que.errors import ProtocolError

_OLDEST_SERVER = (3, 10)
_MOST_FRAME_BYTES = 131_072
_CLOSED_BY_US = 200


class ServerRefused(ConnectionError):
    """The server closed the connection and said why."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code


class Left(ConnectionError):
    """We closed the connection ourselves."""


class Connection(asyncio.Protocol):
    """A transport and its channels. `closed` tells why it ended.

    `blocked` is the server's reason for reading nothing more from a connection that publishes, or "". Silence is
    counted in beats, so that a loop that was blocked for long does not blame the server.
    """

    def __init__(self, options: Options) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[Exception] = loop.create_future()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.blocked: str = ""
        self.frame_max: int = MIN_FRAME_MAX
        self.version: tuple[int, ...] = ()
        self._loop = loop
        self._options = options
        self._reader = Reader()
        self._transport: asyncio.Transport | None = None
        self._channels: dict[int, Channel] = {}
        self._numbers = 0
        self._paused = False
        self._waiters: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._period = math.inf
        self._heard = self._said = True
        self._silent_beats = 0
        self._on_command: dict[Method, Callable[[tuple[Value, ...]], None]] = {
            Method.CONNECTION_START: self._start,
            Method.CONNECTION_TUNE: self._tune,
            Method.CONNECTION_OPEN_OK: self._open_ok,
            Method.CONNECTION_CLOSE: self._close,
            Method.CONNECTION_CLOSE_OK: lambda args: self.abort(Left("the connection was closed")),
            Method.CONNECTION_BLOCKED: self._block,
            Method.CONNECTION_UNBLOCKED: self._unblock,
        }

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self.closed.done():
            self._transport.abort()
            return
        sock = cast("socket.socket | None", transport.get_extra_info("socket"))
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._transport.write(PREAMBLE)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self.closed.done():
            return
        try:
            for event in self._reader.feed(data):
                self._handle(event)
        except ProtocolError as error:
            self.abort(error)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._release()

    def connection_lost(self, exc: Exception | None) -> None:
        self.abort(exc or ConnectionResetError("the server closed the connection"))

    # What the owner calls

    @property
    def alive(self) -> bool:
        return not self.closed.done()

    def write(self, data: bytes) -> None:
        """Hand whole frames to the transport; on a connection that is gone, nothing happens."""
        if self._transport is not None and not self.closed.done():
            self._said = True
            self._transport.write(data)

    @property
    def writable(self) -> bool:
        """Whether the server reads what we publish, and the transport takes more."""
        return not (self._paused or self.blocked)

    async def until_writable(self) -> None:
        """Wait until the connection is writable, or gone."""
        while self.alive and not self.writable:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter

    async def channel(self) -> Channel:
        """Return a new, open channel; raises ConnectionError and TimeoutError."""
        if not self.alive:
            raise ConnectionAbortedError(str(self.closed.result()))
        self._numbers += 1
        channel = Channel(self._numbers, self)
        self._channels[channel.number] = channel
        await channel.call(Method.CHANNEL_OPEN, "")
        return channel

    @property
    def timeout(self) -> float:
        """Seconds within which the server must answer."""
        return self._options.timeout

    def forget(self, channel: Channel) -> None:
        """The channel is closed on both sides."""
        self._channels.pop(channel.number, None)
        self._reader.forget(channel.number)

    async def close(self) -> None:
        """Say good-bye and wait for the answer, not for long; harmless on a connection that is gone."""
        if self._transport is None or not self.opened.done():
            self.abort(Left("the connection was closed"))
        self.write(method_frame(0, Method.CONNECTION_CLOSE, _CLOSED_BY_US, "done", 0, 0))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(2.0, self._options.timeout)):
                await asyncio.shield(self.closed)
        self.abort(Left("the connection was closed"))

    def abort(self, error: Exception) -> None:
        """The connection is gone, for every channel too; harmless when it was gone before."""
        if self.closed.done():
            return
        self.closed.set_result(error)
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            # What was written still leaves, as far as the peer takes it at once.
            self._transport.close() if isinstance(error, (Left, ServerRefused)) else self._transport.abort()
        if not self.opened.done():
            self.opened.set_exception(error)
            # Whoever opens it may have been cancelled.
            self.opened.exception()
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            channel.lost(error)
        self._release()

    # What the server says

    def _handle(self, event: Event) -> None:
        if isinstance(event, Heartbeat):
            return
        if event.channel == 0:
            if isinstance(event, Message) or event.method not in self._on_command:
                raise ProtocolError(f"{event.method.name} on channel 0")
            self._on_command[event.method](event.args)
            return
        channel = self._channels.get(event.channel)
        # A channel that we have given up may still have been spoken to.
        if channel is not None:
            channel.handle(event)

    def _start(self, args: tuple[Value, ...]) -> None:
        major, minor, facts, mechanisms, _ = args
        assert isinstance(facts, dict)
        assert isinstance(mechanisms, bytes)
        self.version = _version(facts)
        if self.version < _OLDEST_SERVER:
            shown = f"{_shown(facts.get('product'))} {_shown(facts.get('version'))}, AMQP {major!r}.{minor!r}"
            raise ProtocolError(f"the server is {shown}: RabbitMQ 3.10 or later is needed")
        if b"PLAIN" not in mechanisms.split():
            raise ProtocolError(f"the server takes no passwords, only {mechanisms.decode('ascii', 'replace')}")
        capabilities: FieldTable = {
            "publisher_confirms": True,
            "consumer_cancel_notify": True,
            "exchange_exchange_bindings": True,
            "basic.nack": True,
            "connection.blocked": True,
            "authentication_failure_close": True,
        }
        about: FieldTable = {
            "product": "que",
            "platform": f"Python {platform.python_version()}",
            "capabilities": capabilities,
        }
        secret = f"\0{self._options.username}\0{self._options.password}".encode()
        self.write(method_frame(0, Method.CONNECTION_START_OK, about, "PLAIN", secret, "en_US"))

    def _tune(self, args: tuple[Value, ...]) -> None:
        channel_max, frame_max, heartbeat = cast(tuple[int, int, int], args)
        self.frame_max = min(frame_max or _MOST_FRAME_BYTES, _MOST_FRAME_BYTES)
        self._reader.frame_max = self.frame_max
        # Whole seconds, and 0 would turn it off: a shorter wish is kept by counting our own beats.
        wished = self._options.heartbeat
        agreed = min(heartbeat or 60, math.ceil(wished)) if wished else heartbeat or 60
        self.write(method_frame(0, Method.CONNECTION_TUNE_OK, channel_max, self.frame_max, agreed))
        self.write(method_frame(0, Method.CONNECTION_OPEN, self._options.virtual_host, "", False))
        self._period = agreed / 2
        self._timer = self._loop.call_later(self._period, self._beat)

    def _open_ok(self, args: tuple[Value, ...]) -> None:
        if not self.opened.done():
            self.opened.set_result(None)

    def _close(self, args: tuple[Value, ...]) -> None:
        code, text = cast(tuple[int, str], args[:2])
        self.write(method_frame(0, Method.CONNECTION_CLOSE_OK))
        self.abort(ServerRefused(code, text))

    def _block(self, args: tuple[Value, ...]) -> None:
        self.blocked = cast(str, args[0]) or "no reason given"

    def _unblock(self, args: tuple[Value, ...]) -> None:
        self.blocked = ""
        self._release()

    def _beat(self) -> None:
        """Each half of the interval: speak where nothing was said, and give up after two whole ones of silence."""
        self._timer = self._loop.call_later(self._period, self._beat)
        if not self._said:
            self.write(HEARTBEAT)
        self._said = False
        self._silent_beats = 0 if self._heard else self._silent_beats + 1
        self._heard = False
        if self._silent_beats >= 4:
            self.abort(TimeoutError(f"the server has been silent for {self._period * 4:g} s"))

    def _release(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _version(facts: FieldTable) -> tuple[int, ...]:
    """Return RabbitMQ's version as numbers, () for any other server."""
    product, version = facts.get("product"), facts.get("version")
    if _shown(product) != "RabbitMQ":
        return ()
    return tuple(int(part) for part in _shown(version).split(".")[:2] if part.isdigit())


def _shown(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


async def dial(host: Host, options: Options, tls: ssl.SSLContext | None) -> Connection:
    """Return a connection that is open for use; raises OSError, ProtocolError or ServerRefused."""
    connection = Connection(options)
    loop = asyncio.get_running_loop()
    name = None if tls is None or options.tls is None else options.tls.server_hostname or host.name
    try:
        async with asyncio.timeout(options.timeout):
            await loop.create_connection(
                lambda: connection, host.name, host.port or DEFAULT_PORT, ssl=tls, server_hostname=name
            )
            await asyncio.shield(connection.opened)
    except OSError as error:
        reason: Exception = error
        if isinstance(error, TimeoutError):
            reason = TimeoutError(f"no answer within {options.timeout:g} s")
        if options.tls is not None:
            reason = options.tls.explained(reason, host.name)
        connection.abort(reason)
        raise reason from error
    except BaseException as error:
        connection.abort(ConnectionAbortedError(str(error)))
        raise
    return connection
