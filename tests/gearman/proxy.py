"""A TCP proxy in front of a server: it writes down what passes, and can be slow, or speak TLS to its clients."""

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias

from que.gearman.packets import Magic, PacketType
from que.gearman.wire import Parser

Packets: TypeAlias = list[tuple[PacketType, tuple[bytes, ...]]]


class Proxy:
    """`sent` are the packets of its clients, each connection's in a list of its own; `bursts` are what came at once."""

    def __init__(self, port: int, *, bytes_at_once: int = 1 << 20, pause_seconds: float = 0.0) -> None:
        self.port = 0
        self.sent: list[Packets] = []
        self.bursts: list[Packets] = []
        self._server_port = port
        self._bytes_at_once = bytes_at_once
        self._pause_seconds = pause_seconds
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection, until either side ends it."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        record: Packets = []
        self.sent.append(record)
        parser = Parser(Magic.REQUEST)
        with suppress(OSError, asyncio.CancelledError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            try:
                await _first(
                    self._pass_on(reader, up_writer, parser, record), self._pass_on(up_reader, writer, None, record)
                )
            finally:
                up_writer.transport.abort()
        writer.transport.abort()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        parser: Parser | None,
        record: Packets,
    ) -> None:
        while data := await reader.read(self._bytes_at_once):
            # What begins otherwise is the text protocol.
            if parser is not None and (record or data.startswith(b"\0")):
                self.bursts.append([(PacketType(kind), args) for kind, args in parser.feed(data)])
                record += self.bursts[-1]
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(self._pause_seconds)

    def packets(self) -> list[PacketType]:
        """The types of what the workers sent, one worker after the other."""
        return [kind for record in self.sent for kind, _ in record if record[0][0] is PacketType.CAN_DO]

    async def stop(self) -> None:
        """Every connection is cut."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _first(*ways: Coroutine[object, object, None]) -> None:
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def proxying(
    port: int, *, bytes_at_once: int = 1 << 20, pause_seconds: float = 0.0, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[Proxy, None]:
    """Give a proxy that listens on `proxy.port` for as long as the block lasts."""
    proxy = Proxy(port, bytes_at_once=bytes_at_once, pause_seconds=pause_seconds)
    listener = socket.create_server(("127.0.0.1", 0))
    # What the kernel holds for a slow proxy would look like progress that stops.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, min(bytes_at_once, 256 * 1024))
    server = await asyncio.start_server(proxy.serve, sock=listener, ssl=tls, limit=bytes_at_once)
    proxy.port = listener.getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.stop()
