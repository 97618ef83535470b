"""The admin client, on a real gearmand and on servers that misbehave."""

import asyncio
import os
import signal
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress

import pytest

from que.drivers.gearman.admin import AdminTimeout, GearmanAdmin
from que.errors import ConnectError, InvalidName, NotConnected, ProtocolError
from que.gearman.admin import (
    CommandRefused,
    FunctionBusy,
    FunctionStatus,
    JobInfo,
    PriorityStatus,
    WorkerInfo,
)
from tests.gearman.conftest import Connect
from tests.gearman.raw import (
    GRAB_JOB_UNIQ,
    NO_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_HIGH_BG,
    WORK_COMPLETE,
    Raw,
    grab,
    worker,
)
from tests.servers import Gearmand, StartGearmand, free_port, wait_until

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


def test_it_tells_version_and_pid(gearmand: Gearmand) -> None:
    async def main() -> None:
        async with GearmanAdmin(*gearmand.address) as admin:
            assert await admin.pid() == gearmand.pid
            assert (await admin.version())[0].isdigit()

    asyncio.run(main())


def test_it_lists_functions_jobs_uniques_and_workers(own_gearmand: StartGearmand) -> None:
    server = own_gearmand()

    async def main() -> None:
        async with GearmanAdmin(*server.address) as admin:
            assert await admin.status() == []
            with worker(server.port, b"f", b"g") as raw, Raw(server.port) as client:
                first = client.submit(SUBMIT_JOB_BG, b"f", b"one", b"data").decode()
                second = client.submit(SUBMIT_JOB_HIGH_BG, b"f", b"two", b"data").decode()
                third = client.submit(SUBMIT_JOB_BG, b"g", b"three", b"data").decode()
                assert grab(raw)[0].decode() == third
                assert await admin.cancel(first)
                assert sorted(await admin.status(), key=lambda row: row.function) == [
                    FunctionStatus("f", 2, 0, 1),
                    FunctionStatus("g", 1, 1, 1),
                ]
                assert sorted(await admin.priority_status(), key=lambda row: row.function) == [
                    PriorityStatus("f", 1, 1, 0, 1),
                    PriorityStatus("g", 0, 0, 0, 1),
                ]
                assert sorted(await admin.show_jobs(), key=lambda row: row.handle) == [
                    JobInfo(first, 0, ignored=True, queued=False),
                    JobInfo(second, 0, ignored=False, queued=True),
                    JobInfo(third, 0, ignored=False, queued=True),
                ]
                assert sorted(await admin.show_unique_jobs()) == ["one", "three", "two"]
                rows = await admin.workers()
                assert [row for row in rows if row.functions] == [
                    WorkerInfo(next(row.fd for row in rows if row.functions), "127.0.0.1", "-", ("g", "f"))
                ]
                assert len(rows) == 3

    asyncio.run(main())


def test_it_cancels_a_waiting_job_and_knows_none_that_is_gone(
    gearmand: Gearmand, connect: Connect, function: bytes
) -> None:
    raw = connect(function)
    handle = raw.submit(SUBMIT_JOB_BG, function, b"u", b"data").decode()

    async def main() -> None:
        async with GearmanAdmin(*gearmand.address) as admin:
            assert await admin.cancel(handle) is True
            assert raw.ask(GRAB_JOB_UNIQ).kind == NO_JOB
            assert await admin.cancel(handle) is False

    asyncio.run(main())


@pytest.mark.parametrize("by_priority", [False, True], ids=["one limit", "by priority"])
def test_it_limits_a_queue(gearmand: Gearmand, connect: Connect, function: bytes, by_priority: bool) -> None:
    client = connect(function)

    async def main() -> None:
        async with GearmanAdmin(*gearmand.address) as admin:
            if by_priority:
                await admin.max_queue_by_priority(function.decode(), high=0, normal=1, low=2)
            else:
                await admin.max_queue(function.decode(), 1)
            client.submit(SUBMIT_JOB_BG, function, b"1", b"data")
            assert client.ask(SUBMIT_JOB_BG, function, b"2", b"data").args[0] == b"QUEUE_ERROR"
            await admin.max_queue(function.decode(), 0)
            client.submit(SUBMIT_JOB_BG, function, b"2", b"data")

    asyncio.run(main())


def test_it_creates_and_drops_a_function_by_its_whole_name(gearmand: Gearmand, function: bytes) -> None:
    name = function.decode() + "-größe"

    async def main() -> None:
        async with GearmanAdmin(*gearmand.address) as admin:
            await admin.create_function(name)
            assert FunctionStatus(name, 0, 0, 0) in await admin.status()
            assert await admin.drop_function(name) is True
            assert FunctionStatus(name, 0, 0, 0) not in await admin.status()
            assert await admin.drop_function(name) is False

    asyncio.run(main())


def test_a_function_with_jobs_is_not_dropped_and_its_jobs_run(
    gearmand: Gearmand, connect: Connect, function: bytes
) -> None:
    handle = connect().submit(SUBMIT_JOB_BG, function, b"u", b"data")

    async def main() -> None:
        async with GearmanAdmin(*gearmand.address) as admin:
            with pytest.raises(FunctionBusy) as caught:
                await admin.drop_function(function.decode())
            assert (caught.value.function, caught.value.queued) == (function.decode(), 1)
            raw = connect(function)
            assert grab(raw)[0] == handle
            raw.send(WORK_COMPLETE, handle, b"")
            assert raw.barrier() == []
            with pytest.raises(CommandRefused, match="still connected workers"):
                await admin.drop_function(function.decode())
            raw.close()
            await asyncio.to_thread(
                wait_until, lambda: _workers_of(gearmand.port, function) == 0, "the worker has gone"
            )
            assert await admin.drop_function(function.decode())

    asyncio.run(main())


def _workers_of(port: int, function: bytes) -> int:
    with Raw(port) as raw:
        return sum(int(row.split("\t")[3]) for row in raw.listing("status") if row.split("\t")[0] == function.decode())


def test_a_refused_name_is_never_sent(gearmand: Gearmand) -> None:
    async def main() -> None:
        async with GearmanAdmin(*gearmand.address) as admin:
            for call in (admin.create_function, admin.drop_function, admin.cancel):
                with pytest.raises(InvalidName):
                    await call("a b\nversion")
            assert await admin.pid() == gearmand.pid

    asyncio.run(main())


def test_concurrent_callers_each_get_their_own_answer(gearmand: Gearmand, function: bytes) -> None:
    name = function.decode()

    async def main() -> None:
        async with GearmanAdmin(*gearmand.address) as admin:
            pids, versions, statuses, cancels = await asyncio.gather(
                asyncio.gather(*(admin.pid() for _ in range(20))),
                asyncio.gather(*(admin.version() for _ in range(20))),
                asyncio.gather(*(admin.status() for _ in range(20))),
                asyncio.gather(*(admin.cancel(f"H:{name}:{n}") for n in range(20))),
            )
            assert set(pids) == {gearmand.pid}
            assert len(set(versions)) == 1
            assert all(isinstance(row, FunctionStatus) for rows in statuses for row in rows)
            assert not any(cancels)

    asyncio.run(main())


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


def test_a_stopped_server_is_a_timeout_and_the_next_call_opens_a_new_connection(own_gearmand: StartGearmand) -> None:
    server = own_gearmand()

    async def main() -> None:
        async with GearmanAdmin(*server.address, timeout=1.0) as admin:
            os.kill(server.pid, signal.SIGSTOP)
            try:
                with pytest.raises(AdminTimeout) as caught:
                    await admin.version()
                assert isinstance(caught.value, TimeoutError)
            finally:
                os.kill(server.pid, signal.SIGCONT)
            assert await admin.pid() == server.pid

    asyncio.run(main())


def test_a_restarted_server_is_asked_over_a_new_connection(own_gearmand: StartGearmand) -> None:
    server = own_gearmand()

    async def main() -> None:
        async with GearmanAdmin(*server.address) as admin:
            assert await admin.pid() == server.pid
            await asyncio.to_thread(server.kill)
            with pytest.raises(ConnectError):
                await admin.pid()
            await asyncio.to_thread(server.restart)
            assert await admin.pid() == server.pid

    asyncio.run(main())


def test_a_server_that_is_not_there_is_a_connect_error_that_names_it() -> None:
    port = free_port()

    async def main() -> None:
        with pytest.raises(ConnectError, match=f"127.0.0.1:{port}"):
            async with GearmanAdmin("127.0.0.1", port):
                pass

    asyncio.run(main())


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


def test_bytes_after_an_answer_are_not_the_next_callers_answer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(b"OK 1\nOK 666\n" if line.startswith(b"version") else b"OK 2\n")

    async def main() -> None:
        async with peer(serve) as port, GearmanAdmin("127.0.0.1", port) as admin:
            assert await admin.version() == "1"
            assert await admin.pid() == 2

    asyncio.run(main())


def test_a_unique_that_looks_like_the_end_of_a_listing_does_not_reach_the_next_caller(
    own_gearmand: StartGearmand,
) -> None:
    server = own_gearmand()

    async def main() -> None:
        with Raw(server.port) as client:
            client.submit(SUBMIT_JOB_BG, b"f", b".\nOK 666", b"data")
            async with GearmanAdmin(*server.address) as admin:
                for _ in range(3):
                    await admin.show_unique_jobs()
                    assert await admin.pid() == server.pid

    asyncio.run(main())


def test_it_is_not_connected_before_and_after_its_block(gearmand: Gearmand) -> None:
    async def main() -> None:
        admin = GearmanAdmin(*gearmand.address)
        with pytest.raises(NotConnected):
            await admin.version()
        async with admin:
            await admin.version()
        with pytest.raises(NotConnected):
            await admin.version()
        async with admin:
            await admin.version()

    asyncio.run(main())


def test_tls_against_a_server_without_it_is_a_connect_error(gearmand: Gearmand) -> None:
    async def main() -> None:
        with pytest.raises(ConnectError):
            async with GearmanAdmin(*gearmand.address, timeout=0.5, tls=ssl.create_default_context()):
                pass

    asyncio.run(main())
