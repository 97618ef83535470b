"""que itself, as a user writes it: `que_pair LOOP worker|client PORT|URL FUNCTION MODE`."""

import asyncio
import sys
from collections.abc import Awaitable, Callable

import que
from benchmarks.pairs.typed import Echo, EchoJob, halves, numbered, submit
from benchmarks.player import IN_FLIGHT, play_async, run_loop, say

RawJob = que.Job[bytes, bytes]
NAP_SECONDS = 0.01


async def call_from_tasks(job: EchoJob, count: int) -> None:
    """Let IN_FLIGHT tasks call, one job after the other each, as the requests of a web server do."""
    items = numbered(count)

    async def caller() -> None:
        for params in items:
            assert (await job.submit(params)).number == params.number

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(caller())


async def call_alone(job: EchoJob, count: int) -> None:
    for params in numbered(count):
        assert (await job.submit(params)).number == params.number


async def map_all(job: EchoJob, count: int) -> None:
    done = 0
    async for outcome in job.map(numbered(count), in_flight=IN_FLIGHT):
        assert outcome.result.number == outcome.params.number
        done += 1
    assert done == count


async def send(job: EchoJob, count: int) -> None:
    """Keep between half of IN_FLIGHT and all of it without a receipt."""
    under_way: list[que.Sending] = []
    for half in halves(count):
        leaving = [job.send(params) for params in half]
        for sending in under_way:
            await sending
        under_way = leaving
    for sending in under_way:
        await sending


async def send_all(job: EchoJob, count: int) -> None:
    sent = await job.send_many(numbered(count), in_flight=IN_FLIGHT)
    assert sent.accepted == count, sent.refused


held: list[que.Handle[Echo]] = []


async def hold(job: EchoJob, count: int) -> None:
    """Keep the handles of `count` jobs that nobody works, once the server has them."""
    for half in halves(count):
        handles = job.submit_many(half)
        for handle in handles:
            await handle.accepted()
        held.extend(handles)


MODES: dict[str, Callable[[EchoJob, int], Awaitable[None]]] = {
    "submit": submit,
    "tasks": call_from_tasks,
    "lone": call_alone,
    "map": map_all,
    "nap": submit,
    "hold": hold,
    "send": send,
    "singly": send,
    "drain": send,
    "send_many": send_all,
}


async def upload(job: RawJob, size: int, count: int) -> None:
    payload = b"x" * size
    for _ in range(count):
        assert await job.submit(payload) == b"1"


async def download(job: RawJob, size: int, count: int) -> None:
    for _ in range(count):
        assert len(await job.submit(b"%d" % size)) == size


TRANSFERS: dict[str, Callable[[RawJob, int, int], Awaitable[None]]] = {"upload": upload, "download": download}


def app_on(server: str) -> que.Que[None]:
    """Return an app on that URL, or on the gearmand at that port."""
    return que.Que(server if "://" in server else f"gearman://127.0.0.1:{server}")


async def client(server: str, function: str, mode: str) -> None:
    app = app_on(server)
    way, _, size = mode.partition(":")
    echo = app.add(que.Job(function, Echo, Echo))
    raw = app.add(que.Job(f"{function}/raw", bytes, bytes, serializer=que.RAW))
    async with app:
        if size:
            await play_async(lambda count: TRANSFERS[way](raw, int(size), count))
        else:
            await play_async(lambda count: MODES[mode](echo, count))


class Countdown:
    """An event that is set once so many jobs have run."""

    def __init__(self) -> None:
        self.is_over = asyncio.Event()
        self._left = 0

    def start(self, count: int) -> None:
        self.is_over.clear()
        self._left = count

    def down(self) -> None:
        self._left -= 1
        if not self._left:
            self.is_over.set()


async def worker(server: str, function: str, mode: str) -> None:
    app = app_on(server)
    countdown = Countdown()

    @app.job(function)
    async def echo(params: Echo) -> Echo:
        if mode == "nap":
            await asyncio.sleep(NAP_SECONDS)
        if mode == "drain":
            countdown.down()
        return params

    @app.job(f"{function}/raw", serializer=que.RAW)
    async def transfer(params: bytes) -> bytes:
        return b"x" * int(params) if mode.startswith("download") else b"1"

    async def drain(count: int) -> None:
        """Work until so many jobs have run and are settled."""
        countdown.start(count)
        async with app.worker(concurrency=IN_FLIGHT):
            await countdown.is_over.wait()

    if mode == "drain":
        async with app:
            await play_async(drain)
    async with app, app.worker(concurrency=IN_FLIGHT):
        say("ready")
        await asyncio.Event().wait()


ROLES: dict[str, Callable[..., Awaitable[None]]] = {"client": client, "worker": worker}

if __name__ == "__main__":
    loop, role, *arguments = sys.argv[1:]
    run_loop(loop, ROLES[role](*arguments))
