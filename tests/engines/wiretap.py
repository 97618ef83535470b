"""A TCP relay in front of a server, which writes down every byte that passes."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress


class Wiretap:
    """`heard`: what passed over all connections, either way. `alter`: what becomes of the server's words on the way."""

    def __init__(self, server_port: int, alter: Callable[[bytes], bytes]) -> None:
        self.heard: bytearray = bytearray()
        self._alter = alter
        self._server_port = server_port
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection, until both sides have ended it."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(OSError, asyncio.CancelledError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            try:
                await asyncio.gather(
                    self._pass_on(reader, up_writer, _as_it_is), self._pass_on(up_reader, writer, self._alter)
                )
            finally:
                up_writer.transport.abort()
        writer.transport.abort()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, alter: Callable[[bytes], bytes]
    ) -> None:
        while data := await reader.read(1 << 16):
            self.heard += data
            writer.write(alter(data))
            await writer.drain()
        writer.close()

    async def stop(self) -> None:
        """Every connection is cut."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _as_it_is(data: bytes) -> bytes:
    return data


@asynccontextmanager
async def wiretapped(
    server_port: int, alter: Callable[[bytes], bytes] = _as_it_is
) -> AsyncGenerator[tuple[int, Wiretap], None]:
    """Give the port to connect to instead of the server's, and what hears what passes there."""
    tap = Wiretap(server_port, alter)
    server = await asyncio.start_server(tap.serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], tap
    finally:
        server.close()
        await tap.stop()
