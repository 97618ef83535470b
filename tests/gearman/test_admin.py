"""The admin client, on a real gearmand."""

import asyncio
import ssl

import pytest

from que.drivers.gearman.admin import AdminTimeout, GearmanAdmin
from que.errors import ConnectError, InvalidName, NotConnected
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


def test_a_stopped_server_is_a_timeout_and_the_next_call_opens_a_new_connection(own_gearmand: StartGearmand) -> None:
    server = own_gearmand()

    async def main() -> None:
        async with GearmanAdmin(*server.address, timeout=1.0) as admin:
            with server.stopped(), pytest.raises(AdminTimeout) as caught:
                await admin.version()
            assert isinstance(caught.value, TimeoutError)
            assert await admin.pid() == server.pid

    asyncio.run(main())


def test_a_server_that_is_down_is_a_connect_error_and_works_again_when_it_is_back(own_gearmand: StartGearmand) -> None:
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


def test_a_server_that_was_restarted_between_two_calls_is_asked_over_a_new_connection(
    own_gearmand: StartGearmand,
) -> None:
    server = own_gearmand()

    async def main() -> None:
        async with GearmanAdmin(*server.address) as admin:
            before = await admin.pid()
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.restart)
            assert await admin.pid() == server.pid != before

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
