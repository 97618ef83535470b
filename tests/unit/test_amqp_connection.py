"""The handshake and the heart of a connection, against a server that says what a test wants."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from pamqp.common import FieldTable

from que.address import Address, Host
from que.drivers.amqp.connection import Connection, ServerRefused, dial
from que.drivers.amqp.options import Options
from que.drivers.amqp.wire import HEARTBEAT, PREAMBLE, Command, Event, Heartbeat, Method, Reader, method_frame
from que.errors import ProtocolError
from tests.unit.loops import in_loop, until


class Peer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard: list[Event] = []
        self.writer = writer
        self._reader = reader
        self._frames = Reader(131_072)

    async def listen(self) -> None:
        """Read until the client hangs up."""
        while data := await self._reader.read(65_536):
            self.heard += self._frames.feed(data)

    async def until(self, method: Method) -> Command:
        """Read until the client has said `method`."""
        while True:
            for event in self.heard:
                if isinstance(event, Command) and event.method is method:
                    return event
            self.heard += self._frames.feed(await self._reader.read(65_536))

    def say(self, channel: int, method: Method, *args: int | str | bytes | bool | FieldTable) -> None:
        self.writer.write(method_frame(channel, method, *args))

    async def accept(self) -> None:
        """Read what a client begins with."""
        assert await self._reader.readexactly(8) == PREAMBLE

    async def greet(self, product: str = "RabbitMQ", version: str = "3.10.8", mechanisms: bytes = b"PLAIN") -> None:
        await self.accept()
        self.say(0, Method.CONNECTION_START, 0, 9, {"product": product, "version": version}, mechanisms, b"en_US")

    async def open(self, heartbeat: int = 60) -> None:
        await self.greet()
        await self.until(Method.CONNECTION_START_OK)
        self.say(0, Method.CONNECTION_TUNE, 2047, 131_072, heartbeat)
        await self.until(Method.CONNECTION_OPEN)
        self.say(0, Method.CONNECTION_OPEN_OK, "")


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def server(script: Script) -> AsyncGenerator[Host, None]:
    """A server that plays `script` with each client, then listens until it hangs up."""

    playing: list[asyncio.Task[object]] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        task = asyncio.current_task()
        assert task is not None
        playing.append(task)
        try:
            await script(peer)
            await peer.listen()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(play, "127.0.0.1", 0)
    try:
        yield Host("127.0.0.1", listening.sockets[0].getsockname()[1])
    finally:
        listening.close()
        # A loop that ends before them would call that an error.
        if playing:
            await asyncio.wait(playing, timeout=20)


def options(query: str = "", port: int | None = None) -> Options:
    return Options.of(Address.parse(f"amqp://127.0.0.1{f':{port}' if port else ''}?{query}"))


async def dialled(host: Host, query: str = "") -> Connection:
    return await dial(host, options(query), None)


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        ({"version": "3.9.29"}, r"RabbitMQ 3.9.29.*3.10 or later"),
        ({"product": "Qpid"}, r"the server is Qpid"),
        ({"mechanisms": b"EXTERNAL"}, r"only EXTERNAL"),
    ],
    ids=["too old", "another product", "no passwords"],
)
@in_loop
async def test_a_server_that_will_not_do_is_named(greeting: dict[str, str], reason: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet(**greeting)  # type: ignore[arg-type]  # one of them is bytes

    async with server(script) as host:
        with pytest.raises(ProtocolError, match=reason):
            await dialled(host)


@in_loop
async def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()

    async with server(script) as host:
        with pytest.raises(TimeoutError, match=r"0\.1 s"):
            await dialled(host, "timeout=0.1")


@in_loop
async def test_another_protocols_greeting_is_refused() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        peer.writer.write(b"AMQP\x03\x01\x00\x00")

    async with server(script) as host:
        with pytest.raises(ProtocolError, match="another version"):
            await dialled(host)


@in_loop
async def test_a_refusal_keeps_the_servers_words() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.until(Method.CONNECTION_START_OK)
        peer.say(0, Method.CONNECTION_CLOSE, 403, "ACCESS_REFUSED - no", 0, 0)
        await peer.until(Method.CONNECTION_CLOSE_OK)

    async with server(script) as host:
        with pytest.raises(ServerRefused, match="ACCESS_REFUSED - no"):
            await dialled(host)


@in_loop
async def test_heartbeats_go_out_and_a_silent_server_is_given_up() -> None:
    peers: list[Peer] = []

    async def script(peer: Peer) -> None:
        await peer.open(heartbeat=1)
        peers.append(peer)

    async with server(script) as host:
        connection = await dialled(host)
        reason = await asyncio.wait_for(asyncio.shield(connection.closed), 20)
        assert "silent for 2 s" in str(reason)
        assert any(isinstance(event, Heartbeat) for event in peers[0].heard)


@in_loop
async def test_a_server_whose_heart_beats_is_kept() -> None:
    async def script(peer: Peer) -> None:
        await peer.open(heartbeat=1)
        for _ in range(12):
            peer.writer.write(HEARTBEAT)
            await asyncio.sleep(0.25)
        peer.say(0, Method.CONNECTION_CLOSE, 320, "enough", 0, 0)

    async with server(script) as host:
        connection = await dialled(host)
        reason = await asyncio.wait_for(asyncio.shield(connection.closed), 20)
        assert "enough" in str(reason)


@in_loop
async def test_who_waits_for_room_goes_on_when_the_server_reads_again_and_when_it_is_gone() -> None:
    async def script(peer: Peer) -> None:
        await peer.open()
        peer.say(0, Method.CONNECTION_BLOCKED, "low on disk")

    async with server(script) as host:
        connection = await dialled(host)
        await until(lambda: connection.blocked)
        assert (connection.blocked, connection.writable) == ("low on disk", False)
        waiting = asyncio.ensure_future(connection.until_writable())
        connection.data_received(method_frame(0, Method.CONNECTION_UNBLOCKED))
        await asyncio.wait_for(waiting, 20)
        connection.data_received(method_frame(0, Method.CONNECTION_BLOCKED, "again"))
        waiting = asyncio.ensure_future(connection.until_writable())
        await asyncio.sleep(0)
        connection.abort(ConnectionResetError("gone"))
        await asyncio.wait_for(waiting, 20)


@in_loop
async def test_every_question_ends_when_the_connection_does() -> None:
    async def script(peer: Peer) -> None:
        await peer.open()
        await peer.until(Method.CHANNEL_OPEN)
        peer.say(1, Method.CHANNEL_OPEN_OK, b"")
        await peer.until(Method.QUEUE_DELETE)
        peer.writer.transport.abort()

    async with server(script) as host:
        connection = await dialled(host)
        channel = await connection.channel()
        with pytest.raises(ConnectionError):
            await channel.call(Method.QUEUE_DELETE, 0, "que.a", False, False, False)
        with pytest.raises(ConnectionError):
            await connection.channel()
        await connection.close()
