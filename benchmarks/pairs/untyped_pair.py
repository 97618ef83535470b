"""The limit: bytes in, bytes out, on que's protocol machines; no types, handles, options, deadlines or reconnection.

`untyped_pair LOOP worker|client PORT FUNCTION MODE`
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar, cast

from benchmarks.player import IN_FLIGHT, TEXT, play_async, run_loop, say
from que.errors import Rejected
from que.gearman.client import Client
from que.gearman.packets import PacketType
from que.gearman.worker import Worker

PAYLOAD = b'{"number":1000000,"text":"%b"}' % TEXT.encode()
SUBMIT, SUBMIT_BACKGROUND = int(PacketType.SUBMIT_JOB), int(PacketType.SUBMIT_JOB_BG)


class Machine(Protocol):
    def get_buffer(self, sizehint: int) -> memoryview: ...
    def take(self) -> bytes | memoryview: ...


MachineT = TypeVar("MachineT", bound=Machine)


class Wire(asyncio.BufferedProtocol, Generic[MachineT]):
    machine: MachineT
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast: uvloop's transports are no subclasses.
        self.transport = cast(asyncio.Transport, transport)
        self.flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.machine.get_buffer(sizehint)

    def flush(self) -> None:
        while data := self.machine.take():
            self.transport.write(data)


class Submitting(Wire[Client[int]]):
    """Submits a count of jobs, at most `in_flight` at once, and counts what comes back."""

    def __init__(self, function: bytes, in_flight: int, background: bool) -> None:
        self.machine = Client(self)
        self._function = function
        self._in_flight = in_flight
        self._background = background
        self._unique = self._unsent = self._under_way = 0
        self._ended = asyncio.Event()

    async def run(self, count: int) -> None:
        self._unsent = count
        self._ended.clear()
        self._refill()
        await self._ended.wait()

    def _refill(self) -> None:
        kind = SUBMIT_BACKGROUND if self._background else SUBMIT
        room = min(self._unsent, self._in_flight - self._under_way)
        for unique in range(self._unique, self._unique + room):
            self.machine.submit(unique, kind, (self._function, b"%d" % unique), PAYLOAD, not self._background)
        self._unique += room
        self._unsent -= room
        self._under_way += room
        self.flush()
        if not self._under_way:
            self._ended.set()

    def buffer_updated(self, nbytes: int) -> None:
        self.machine.buffer_updated(nbytes)
        self._refill()

    def accepted(self, token: int, handle: bytes) -> None:
        if self._background:
            self._under_way -= 1

    def completed(self, token: int, payload: bytes) -> None:
        self._under_way -= 1

    def refused(self, token: int, error: Rejected) -> None:
        raise error

    def failed(self, token: int) -> None:
        raise RuntimeError(f"job {token} failed")

    def excepted(self, token: int, data: bytes) -> None:
        raise RuntimeError(f"job {token} failed: {data!r}")

    def progress(self, token: int, done: int, total: int) -> None: ...
    def chunk(self, token: int, data: bytes) -> None: ...
    def warned(self, token: int, data: bytes) -> None: ...


class Echoing(Wire[Worker[bytes]]):
    """Answers each job with its payload, and holds at most `slots` at once."""

    def __init__(self, function: bytes, slots: int) -> None:
        self.machine = Worker(self, [function])
        self._slots = slots
        self._jobs: list[tuple[bytes, bytes]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._grab()
        super().connection_made(transport)

    def _grab(self) -> None:
        room = min(self._slots - self.machine.outstanding, self.machine.room)
        if room > 0:
            self.machine.grab(room)

    def assigned(self, handle: bytes, function: bytes, unique: bytes, payload: bytes) -> bytes:
        self._jobs.append((handle, payload))
        return handle

    def buffer_updated(self, nbytes: int) -> None:
        self.machine.buffer_updated(nbytes, time.monotonic())
        jobs, self._jobs = self._jobs, []
        for handle, payload in jobs:
            self.machine.complete(handle, payload)
        self._grab()
        self.flush()


async def client(port: str, function: str, mode: str) -> None:
    in_flight = 1 if mode == "lone" else IN_FLIGHT
    loop = asyncio.get_running_loop()
    transport, submitting = await loop.create_connection(
        lambda: Submitting(function.encode(), in_flight, background=mode == "send"), "127.0.0.1", int(port)
    )
    await play_async(submitting.run)
    transport.close()


async def worker(port: str, function: str, _: str) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: Echoing(function.encode(), IN_FLIGHT), "127.0.0.1", int(port))
    say("ready")
    await asyncio.Event().wait()


ROLES: dict[str, Callable[..., Awaitable[None]]] = {"client": client, "worker": worker}

if __name__ == "__main__":
    loop, role, *arguments = sys.argv[1:]
    run_loop(loop, ROLES[role](*arguments))
