"""One connection of a consumer to one server: the jobs it holds and what it owes them."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from que.address import Host
from que.drivers.gearman.connection import Answer, Connection, Left
from que.drivers.gearman.mapping import encode_failure
from que.drivers.gearman.options import Options
from que.errors import PacketError
from que.gearman.client import Asker
from que.gearman.worker import Worker
from que.model import Completed, Delivery, Failed, Settled

Held = tuple["Station", bytes]
# How long the server may take to read our last words.
_FAREWELL_SECONDS = 2.0


class StationOwner(Protocol):
    """The consumer, as far as a station knows it."""

    def arrived(self, delivery: Delivery) -> None: ...
    def moved(self, station: "Station") -> None:
        """Something arrived at `station`: credits, naps and waiting callers may have changed."""
        ...

    def gone(self, station: "Station", held: list[Delivery]) -> None: ...


class Station:
    """A session of a worker machine. A delivery's lease is its station and its handle."""

    connection: Connection

    def __init__(self, owner: StationOwner, host: Host, options: Options, names: Mapping[bytes, str]) -> None:
        self.host = host
        self.machine: Worker[Delivery] = Worker(self, names, options.client_id, options.max_payload)
        # Jobs that end with this connection, because they were released or nobody was there to take them.
        self.released: int = 0
        # Whether it must close once nothing runs.
        self.leaving: bool = False
        self._owner = owner
        self._names = names
        self._patience = min(options.deadline, _FAREWELL_SECONDS)
        self._loop = asyncio.get_running_loop()
        self._farewell: asyncio.Task[None] | None = None

    # What the connection and the machine call

    def greet(self, asker: Asker) -> None:
        self.machine.echo(b"hello", asker)

    def received(self, nbytes: int) -> None:
        self.machine.buffer_updated(nbytes, self._loop.time())
        self._owner.moved(self)

    def lost(self, error: Exception) -> None:
        self.leaving = True
        self._owner.gone(self, self.machine.lost())

    def assigned(self, handle: bytes, function: bytes, unique: bytes, payload: bytes) -> Delivery:
        name = (unique or handle).decode("utf-8", "replace")
        delivery = Delivery(self._names[function], payload, name, lease=(self, handle))
        self._owner.arrived(delivery)
        return delivery

    # Verdicts

    def complete(self, handle: bytes, verdict: Completed) -> Settled:
        try:
            done = self.machine.complete(handle, verdict.payload)
        except PacketError as error:
            return self.fail(handle, Failed("result", "PacketError", str(error)))
        return Settled.CONFIRMED if done else Settled.LOST

    def fail(self, handle: bytes, verdict: Failed) -> Settled:
        try:
            done = self.machine.fail(handle, encode_failure(verdict))
        except PacketError:
            # A small max_payload has no room for the reason, but the job must end.
            done = self.machine.fail_silently(handle)
        return Settled.CONFIRMED if done else Settled.LOST

    def release(self, handle: bytes) -> Settled:
        """The server will give the job to another when this connection closes, which it does once nothing runs."""
        if not self.machine.release(handle):
            return Settled.LOST
        self.released += 1
        self.leave()
        return Settled.CONFIRMED

    # The end

    @property
    def alive(self) -> bool:
        return self.connection.alive

    @property
    def idle(self) -> bool:
        return not self.machine.held and not self.machine.outstanding

    def leave(self) -> None:
        """It grabs no more; leave_if_idle() closes it once nothing runs and no grab is unanswered."""
        self.leaving = True
        self.machine.stop()

    def leave_if_idle(self) -> None:
        """If it is leaving and nothing is under way any more, it closes, once the server has read all it was told."""
        if self.leaving and self.idle and self._farewell is None and self.alive:
            self._farewell = self._loop.create_task(self._part(), name=f"que worker leaves {self.host}")

    async def _part(self) -> None:
        if not self.released:
            self.machine.farewell()
        # A socket that is closed with unread bytes in it is reset, and what we had sent may be lost with it.
        answer = Answer()
        self.machine.echo(b"bye", answer)
        self.connection.flush()
        try:
            await asyncio.wait_for(answer.future, self._patience)
        except OSError:
            pass
        finally:
            self.connection.close(Left("the worker has left"))

    async def left(self) -> None:
        """Wait until a farewell under way is over."""
        if self._farewell is not None:
            await asyncio.gather(self._farewell, return_exceptions=True)
