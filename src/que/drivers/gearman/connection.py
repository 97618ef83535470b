"""One TCP or TLS connection under a sans-I/O machine: it writes what the machine has, and notices a dead peer."""

import asyncio
import contextlib
import fcntl
import socket
import sys
import termios
from typing import Protocol, cast

from que.errors import ProtocolError, Rejected
from que.gearman.client import Asker

_BEAT = b"que"
# As much as this does not wait for an acknowledgement on its own.
_MUCH_BYTES = 64 * 1024
# Seconds of silence before the kernel asks, between its questions, and how many go unanswered.
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6))


class Left(Exception):
    """We closed the connection ourselves, and meant it."""


class Machine(Protocol):
    """What Client and Worker have in common."""

    def __len__(self) -> int: ...
    def take(self) -> bytes | memoryview: ...
    def get_buffer(self, sizehint: int) -> memoryview: ...
    def echo(self, data: bytes, asker: Asker) -> None: ...


class Session(Protocol):
    """What one connection means to its owner; a new connection is a new session with a new machine."""

    @property
    def machine(self) -> Machine: ...

    def received(self, nbytes: int) -> None:
        """So many bytes are in the machine's buffer. ProtocolError ends the connection."""
        ...

    def lost(self, error: Exception) -> None:
        """The connection is gone; this comes once, and after it nothing."""
        ...


class Answer(Asker):
    """The answer to one question, as a future; ConnectionError if the connection went first."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[tuple[bytes, ...]] = asyncio.get_running_loop().create_future()

    def answered(self, args: tuple[bytes, ...]) -> None:
        if not self.future.done():
            self.future.set_result(args)

    def refused(self, error: Rejected) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def lost(self) -> None:
        if not self.future.done():
            self.future.set_exception(ConnectionResetError("the connection was lost before the answer"))


class Connection(asyncio.BufferedProtocol, Asker):
    """A session's transport. `heartbeat` and `deadline` are in seconds, see Options.

    Whatever arrives proves that the peer lives, and so does what leaves while much is queued: a peer that is busy with
    a huge payload either way is not dead. Silence is counted in beats, so that a loop that was blocked for long does
    not blame the peer.
    """

    def __init__(self, session: Session, heartbeat: float, deadline: float) -> None:
        self.closed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._session = session
        self._machine = session.machine
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._waiters: list[asyncio.Future[None]] = []
        self._flushing = False
        self._heartbeat = heartbeat
        self._deadline = deadline
        self._period = min(heartbeat, deadline) / 2
        self._timer: asyncio.TimerHandle | None = None
        self._received = self._written = 0
        self._seen = (0, 0, 0)
        self._silence = 0.0
        self._beating = False

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self.closed.done():
            self._transport.abort()
            return
        _tune(transport.get_extra_info("socket"))
        self._timer = self._loop.call_later(self._period, self._beat)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._machine.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        self._received += nbytes
        if self.closed.done():
            return
        try:
            self._session.received(nbytes)
        except ProtocolError as error:
            self.abort(error)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.abort(exc or ConnectionResetError("the server closed the connection"))

    # What the owner calls

    @property
    def alive(self) -> bool:
        return not self.closed.done()

    @property
    def congested(self) -> bool:
        """Whether packets wait in this process: after flush(), because the transport takes no more."""
        return len(self._machine) > 0

    def flush(self) -> None:
        """What the machine has to send is with the transport, as far as that takes it; the rest follows by itself."""
        transport = self._transport
        if transport is None or self.closed.done():
            return
        # A transport that closes would swallow what it is given: with the machine it counts as unsent.
        while not (self._paused or transport.is_closing()):
            data = self._machine.take()
            if not data:
                self._release()
                return
            self._written += len(data)
            transport.write(data)

    def flush_soon(self, ticks: int = 1) -> None:
        """Flush within so many ticks of the loop, once for all that asked, unless somebody flushes before."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_in, ticks)

    def _flush_in(self, ticks: int) -> None:
        if ticks > 1 and len(self._machine):
            self._loop.call_soon(self._flush_in, ticks - 1)
        else:
            self._flushing = False
            self.flush()

    async def drained(self) -> bool:
        """Wait until the transport has taken every packet; return False if the connection went first."""
        while self.alive and self.congested:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter
        return self.alive

    def abort(self, error: Exception) -> None:
        """The connection is gone, whatever still waited with it; harmless when it was gone before."""
        if self.closed.done():
            return
        self.closed.set_result(error)
        self._end()
        if self._transport is not None:
            self._transport.abort()
        self._session.lost(error)

    def close(self, why: Exception) -> None:
        """The connection closes behind what the transport holds; for us it is gone now."""
        if self.closed.done():
            return
        self.closed.set_result(why)
        self._end()
        if self._transport is not None:
            self._transport.close()
        self._session.lost(why)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._release()

    def _release(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # The heartbeat

    def _beat(self) -> None:
        self._timer = self._loop.call_later(self._period, self._beat)
        self._silence = 0.0 if self._lives() else self._silence + self._period
        if self._silence >= self._heartbeat + self._deadline:
            seconds = self._heartbeat + self._deadline
            self.abort(TimeoutError(f"the server has been silent for {seconds:g} s, and did not answer an echo"))
        elif self._silence >= self._heartbeat and not self._beating:
            self._beating = True
            self._machine.echo(_BEAT, self)
            self.flush()

    def _lives(self) -> bool:
        queued = 0 if self._transport is None else _queued(self._transport)
        received, left, was_queued = self._seen
        self._seen = (self._received, self._written - queued, queued)
        # A stopped peer's kernel still takes a few bytes: only what had to wait for room proves that the peer reads.
        return self._received > received or (was_queued >= _MUCH_BYTES and self._written - queued > left)

    def answered(self, args: tuple[bytes, ...]) -> None:
        self._beating = False

    def refused(self, error: Rejected) -> None:
        self._beating = False

    def lost(self) -> None:
        self._beating = False


def _queued(transport: asyncio.Transport) -> int:
    """Return how many written bytes the peer has not acknowledged: in the transport and, on Linux, in the kernel."""
    sock = transport.get_extra_info("socket")
    unread = bytearray(4)
    with contextlib.suppress(AttributeError, OSError, ValueError):
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, unread)
    return transport.get_write_buffer_size() + int.from_bytes(unread, sys.byteorder)


def _tune(sock: socket.socket | None) -> None:
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        with contextlib.suppress(AttributeError, OSError):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
