"""que beside software that is not ours, both ways, over a private gearmand."""

import asyncio
import json
import subprocess
from collections.abc import Coroutine
from dataclasses import dataclass

import pytest

import que
from que.drivers.gearman.admin import GearmanAdmin
from tests.gearman.foreign import (
    Gearman3Job,
    Gearman3Worker,
    gearman3_request,
    gearman3_send,
    gearman3_submit,
    gearman_cli_worker,
    run_gearadmin,
    run_gearman_client,
)
from tests.servers import Gearmand


@dataclass(frozen=True, slots=True)
class Message:
    message: str


@dataclass(frozen=True, slots=True)
class Reversed:
    echo: str


@pytest.fixture
def name(function: bytes) -> str:
    return function.decode()


def url(gearmand: Gearmand) -> str:
    return f"gearman://127.0.0.1:{gearmand.port}"


def finish(work: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


def test_a_que_worker_serves_the_gearman_tool_and_gearman3(gearmand: Gearmand, name: str) -> None:
    app = que.Que(url(gearmand))
    sent: list[str] = []

    @app.job(name)
    async def echo_reverse(params: Message) -> Reversed:
        sent.append(params.message)
        return Reversed(params.message[::-1])

    async def work() -> None:
        async with app, app.worker():
            by_tool = await asyncio.to_thread(run_gearman_client, gearmand.port, name, b'{"message":"2pac"}')
            assert json.loads(by_tool) == {"echo": "cap2"}
            by_gearman3 = await asyncio.to_thread(gearman3_submit, gearmand.port, name, '{"message":"größe"}'.encode())
            assert json.loads(by_gearman3) == {"echo": "eßörg"}
            await asyncio.to_thread(gearman3_send, gearmand.port, name, b'{"message":"background"}')
            while "background" not in sent:
                await asyncio.sleep(0.01)

    finish(work())


def test_a_failing_que_handler_fails_the_job_of_the_gearman_tool_and_of_gearman3_and_says_why(
    gearmand: Gearmand, name: str
) -> None:
    app = que.Que(url(gearmand))

    @app.job(name)
    async def refuse(params: Message) -> Reversed:
        raise ValueError(params.message)

    reason = b'{"kind":"handler","type":"ValueError","message":"2pac"}\n'

    async def work() -> None:
        async with app, app.worker():
            with pytest.raises(subprocess.CalledProcessError) as failed:
                await asyncio.to_thread(run_gearman_client, gearmand.port, name, b'{"message":"2pac"}')
            assert (failed.value.returncode, failed.value.stderr) == (1, reason + b"Job failed\n")
            request = await asyncio.to_thread(gearman3_request, gearmand.port, name, b'{"message":"2pac"}')
            assert (request.state, list(request.warning_updates)) == ("FAILED", [reason])
            with pytest.raises(que.JobFailed, match="ValueError: 2pac"):
                await refuse.submit(Message("2pac"))

    finish(work())


def test_a_que_client_uses_a_worker_of_the_gearman_tool(gearmand: Gearmand, name: str) -> None:
    app = que.Que(url(gearmand))
    echo = app.add(que.Job(name, Message, Message))

    async def ask() -> None:
        async with app:
            assert await echo.submit(Message("2pac")).result(timeout=10) == Message("2pac")

    with gearman_cli_worker(gearmand.port, name, "cat"):
        finish(ask())


def test_a_que_client_uses_a_gearman3_worker_and_hears_all_that_it_says(gearmand: Gearmand, name: str) -> None:
    def handler(job: Gearman3Job) -> bytes:
        job.progress(1, 2)
        job.send_chunk(b"half")
        job.warn(b"beware")
        return json.dumps({"echo": json.loads(job.data)["message"][::-1]}).encode()

    app = que.Que(url(gearmand))
    reverse = app.add(que.Job(name, Message, Reversed))

    async def ask() -> None:
        async with app:
            handle = reverse.submit(Message("2pac"))
            events = [event async for event in handle.events()]
            assert events == [que.Progress(1, 2), que.Chunk(b"half"), que.Warned("beware")]
            assert await handle == Reversed("cap2")

    with Gearman3Worker(gearmand.port, {name: handler}):
        finish(ask())


def test_params_of_a_foreign_client_that_do_not_fit_fail_its_job_and_the_worker_goes_on(
    gearmand: Gearmand, name: str
) -> None:
    app = que.Que(url(gearmand))

    @app.job(name)
    async def echo_reverse(params: Message) -> Reversed:
        return Reversed(params.message[::-1])

    stranger = que.Que(url(gearmand))
    wrong = stranger.add(que.Job(name, dict[str, int], Reversed))

    async def work() -> None:
        async with app, stranger, app.worker():
            with pytest.raises(que.ParamsInvalid, match=r"params\.message: expected str, got int"):
                await wrong.submit({"message": 5})
            assert await echo_reverse.submit(Message("on")) == Reversed("no")

    finish(work())


def test_gearadmin_and_the_typed_admin_see_a_que_worker(gearmand: Gearmand, name: str) -> None:
    app = que.Que(url(gearmand))

    @app.job(name)
    async def nothing(params: None) -> None:
        return None

    async def look() -> None:
        async with app, app.worker(), GearmanAdmin("127.0.0.1", gearmand.port) as admin:
            seen = await asyncio.to_thread(run_gearadmin, gearmand.port, "--status")
            assert f"{name}\t0\t0\t1" in seen
            assert [row.workers for row in await admin.status() if row.function == name] == [1]

    finish(look())
