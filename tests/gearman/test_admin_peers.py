"""The admin client, on servers that misbehave in ways that a gearmand cannot be made to."""

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress

import pytest

from que.drivers.gearman.admin import GearmanAdmin
from que.errors import ConnectError, NotConnected, ProtocolError
from que.gearman.admin import (
    CommandRefused,
)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


@asynccontextmanager
async def peer(serve: Serve) -> AsyncGenerator[int, None]:
    """Give the port of a server that treats each connection as `serve` does, and hangs up when that returns."""
    served = list[asyncio.Task[None]]()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.ensure_future(_serve(serve, reader, writer)))

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in served:
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)


async def _serve(serve: Serve, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await serve(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def test_callers_are_served_in_the_order_in_which_they_came() -> None:
    lines = list[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            lines.append(line)
            writer.write(b"OK\r\n")

    async def main() -> None:
        async with peer(serve) as port, GearmanAdmin("127.0.0.1", port) as admin:
            await asyncio.gather(*(admin.create_function(f"f{n}") for n in range(50)))

    asyncio.run(main())
    assert lines == [b"create function f%d\r\n" % n for n in range(50)]


def test_the_answer_of_a_cancelled_call_never_reaches_the_next_caller() -> None:
    asked = asyncio.Event()
    go_on = asyncio.Event()
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while line := await reader.readline():
            if line.startswith(b"version"):
                asked.set()
                await go_on.wait()
            with suppress(ConnectionError):
                writer.write(b"OK 1\n" if line.startswith(b"version") else b"OK 2\n")
                await writer.drain()

    async def main() -> None:
        async with peer(serve) as port, GearmanAdmin("127.0.0.1", port) as admin:
            slow = asyncio.create_task(admin.version())
            await asked.wait()
            slow.cancel()
            waiting = asyncio.create_task(admin.pid())
            with pytest.raises(asyncio.CancelledError):
                await slow
            go_on.set()
            assert await waiting == 2
            assert await admin.pid() == 2

    asyncio.run(main())
    assert connections == 2


def test_a_caller_that_gives_up_its_turn_leaves_the_connection_alone() -> None:
    asked = asyncio.Event()
    go_on = asyncio.Event()
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.readline():
            asked.set()
            await go_on.wait()
            writer.write(b"OK 1\n")

    async def main() -> None:
        async with peer(serve) as port, GearmanAdmin("127.0.0.1", port) as admin:
            served = asyncio.create_task(admin.pid())
            await asked.wait()
            waiting = asyncio.create_task(admin.pid())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            go_on.set()
            assert await served == 1
            assert await admin.pid() == 1

    asyncio.run(main())
    assert connections == 1


def test_a_server_that_does_not_accept_in_time_is_a_connect_error() -> None:
    async def main() -> None:
        with (
            socket.create_server(("127.0.0.1", 0), backlog=0) as deaf,
            socket.socket() as first,
            socket.socket() as second,
        ):
            for filler in (first, second):
                filler.setblocking(False)
                filler.connect_ex(deaf.getsockname())
            with pytest.raises(ConnectError, match="no connection within"):
                async with GearmanAdmin(*deaf.getsockname(), timeout=0.3):
                    pass

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", ConnectError),
        (b"OK 1.1", ConnectError),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ProtocolError),
        (b"\0RES\0\0\0\x13\0\0\0\n", ProtocolError),
    ],
    ids=["hangs up", "hangs up within a line", "speaks HTTP", "speaks in packets"],
)
def test_a_peer_that_answers_nonsense_is_a_typed_error_and_is_hung_up_on(answer: bytes, error: type[Exception]) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readline()
        writer.write(answer if connections == 1 else b"OK fine\n")

    async def main() -> None:
        async with peer(serve) as port, GearmanAdmin("127.0.0.1", port) as admin:
            with pytest.raises(error):
                await admin.version()
            assert await admin.version() == "fine"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("first", "answer", "tail"),
    [("version", b"OK 1\nOK 6", b"66\n"), ("show_unique_jobs", b".\n", b"OK 666\n"), ("workers", b".\n", b"OK 666\n")],
    ids=["bytes after an answer", "uniques that imitate an end", "workers that imitate an end"],
)
def test_what_comes_after_an_answer_is_not_the_next_callers(first: str, answer: bytes, tail: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readline() == b"getpid\r\n":
            writer.write(b"OK 2\n")
            return
        writer.write(answer)
        if await reader.readline():
            writer.write(tail)

    async def main() -> None:
        async with peer(serve) as port, GearmanAdmin("127.0.0.1", port) as admin:
            calls = {"version": admin.version, "show_unique_jobs": admin.show_unique_jobs, "workers": admin.workers}
            await calls[first]()
            assert await admin.pid() == 2

    asyncio.run(main())


def test_a_refusal_keeps_the_connection() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while line := await reader.readline():
            writer.write(b"OK 1\n" if line.startswith(b"getpid") else b"ERR NO_SUCH_THING for+you\r\n")

    async def main() -> None:
        async with peer(serve) as port, GearmanAdmin("127.0.0.1", port) as admin:
            for call in (admin.version, admin.status):
                with pytest.raises(CommandRefused, match="for you"):
                    await call()
                assert await admin.pid() == 1

    asyncio.run(main())
    assert connections == 1


def test_a_connection_that_breaks_is_a_connect_error() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        # Closing without lingering sends a reset.
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async def main() -> None:
        async with peer(serve) as port, GearmanAdmin("127.0.0.1", port) as admin:
            with pytest.raises(ConnectError, match="the connection broke"):
                await admin.version()

    asyncio.run(main())


def test_a_caller_that_waits_when_the_block_ends_is_not_connected() -> None:
    asked = asyncio.Event()
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.readline():
            asked.set()

    async def main() -> None:
        async with peer(serve) as port:
            async with GearmanAdmin("127.0.0.1", port) as admin:
                running = asyncio.create_task(admin.version())
                await asked.wait()
                waiting = asyncio.create_task(admin.version())
                await asyncio.sleep(0)
            with pytest.raises(ConnectError):
                await running
            with pytest.raises(NotConnected):
                await waiting

    asyncio.run(main())
    assert connections == 1
