"""A connection around a machine: what its transport does not take has not been sent."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from que.drivers.gearman.connection import Connection
from que.gearman.client import Client, Lost
from que.gearman.packets import PacketType
from tests.unit.loops import in_loop, ticks, until
from tests.unit.test_gearman_client import Sink


class Session:
    """Writes down how it ended, and what that left of its machine."""

    def __init__(self) -> None:
        self.machine: Client[str] = Client(Sink())
        self.errors: list[Exception] = []
        self.left: list[Lost[str]] = []

    def submit(self, *tokens: str, payload: bytes = b"x") -> None:
        for token in tokens:
            self.machine.submit(token, PacketType.SUBMIT_JOB, (b"f", token.encode()), payload, watched=True)

    def received(self, nbytes: int) -> None:
        self.machine.buffer_updated(nbytes)

    def lost(self, error: Exception) -> None:
        self.errors.append(error)
        self.left.append(self.machine.lost())


@asynccontextmanager
async def connected() -> AsyncGenerator[tuple[Session, Connection, asyncio.Transport, socket.socket], None]:
    """Give a connection, its transport, and the peer's socket."""
    ours, theirs = socket.socketpair()
    session = Session()
    connection = Connection(session, heartbeat=60, deadline=60)
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: connection, sock=ours)
    try:
        yield session, connection, transport, theirs
    finally:
        connection.abort(ConnectionAbortedError("the test is over"))
        await asyncio.sleep(0)
        theirs.close()


@in_loop
async def test_what_a_closing_transport_would_swallow_counts_as_unsent() -> None:
    async with connected() as (session, connection, transport, _):
        session.submit("sent")
        connection.flush()
        # As asyncio does when a write fails: the protocol hears of it in the next tick.
        transport.abort()
        session.submit("unsent")
        connection.flush()
        assert connection.congested
        assert not await connection.drained()
        (left,) = session.left
        assert (left.unsent, left.unanswered) == (["unsent"], ["sent"])


@in_loop
async def test_what_a_full_transport_does_not_take_counts_as_unsent_until_it_does() -> None:
    async with connected() as (session, connection, _, theirs):
        session.submit(*map(str, range(40)), payload=bytes(100_000))
        connection.flush()
        waiting = len(session.machine)
        assert 0 < waiting < 40
        assert connection.congested
        draining = asyncio.create_task(connection.drained())
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        while not draining.done():
            await loop.sock_recv(theirs, 1 << 20)
        assert await draining
        assert not len(session.machine)
        assert not connection.congested


@in_loop
async def test_a_peer_that_hangs_up_ends_the_session_once() -> None:
    async with connected() as (session, connection, _, theirs):
        session.submit("sent")
        connection.flush()
        theirs.close()
        await until(lambda: not connection.alive)
        connection.abort(ValueError("too late"))
        connection.close(ValueError("too late"))
        (error,) = session.errors
        assert isinstance(error, ConnectionResetError)
        assert session.left[0].unanswered == ["sent"]


@in_loop
async def test_what_is_flushed_soon_waits_for_company_for_so_many_ticks_and_no_longer() -> None:
    async with connected() as (session, connection, _, _):
        waiting: list[int] = []
        session.submit("alone")
        connection.flush_soon(3)
        for _ in range(3):
            waiting.append(len(session.machine))
            await ticks(1)
        assert waiting == [1, 1, 1]
        assert not len(session.machine)
