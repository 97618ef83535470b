"""The working side: one consumer serves every server of its URL with one limit for all of them."""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Final, cast

from que.address import Host
from que.driver import ConsumerSink
from que.drivers.gearman.link import Link, first_answers
from que.drivers.gearman.options import Options
from que.drivers.gearman.station import Held, Station
from que.errors import UnsupportedFeature
from que.gearman.worker import Phase
from que.model import Completed, Delivery, Failed, Redeliver, Released, Settled, Settlement, Verdict

# gearmand's clock says whole seconds: an epoch job is due a moment after one begins.
_AFTER_THE_EDGE_SECONDS: Final = 0.01
# From a job's arrival: reserve() returns, the handler runs, settle() is called.
_TICKS_TO_A_VERDICT: Final = 3


# In C: there is one of these questions per job.
_held: Callable[[Delivery], Held] = attrgetter("lease")


class GearmanConsumer:
    """A Consumer over one Station for each server, and it Emits.

    Invariant: what is unsettled, released but not yet given back, and asked for with outstanding grabs is together at
    most `slots`. Grabs are sent only while a reserve() waits, and no more than it wants. Credits go round among the
    stations that are awake, so that a busy server cannot starve another.
    """

    def __init__(
        self,
        options: Options,
        tls: ssl.SSLContext | None,
        names: Mapping[bytes, str],
        slots: int,
        notices: ConsumerSink,
        back: Callable[[], None],
    ) -> None:
        self._options = options
        self._names = names
        self._slots = slots
        self._notices = notices
        self._loop = asyncio.get_running_loop()
        # Jobs that have come and that no reserve() has returned yet.
        self._arrivals: deque[Delivery] = deque()
        self._waiters: list[asyncio.Future[None]] = []
        # How many deliveries the waiting reserve() calls have room for.
        self._wanted = 0
        # Whether the caller has room for each job that it settles: not where it wanted less than its slots allow.
        self._refills = True
        self._stations: list[Station] = []
        self._turn = 0
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._poll_at = 0.0
        self._links = [Link(host, options, tls, "worker", self._open, self._up, back) for host in options.hosts]

    # The contract

    async def reserve(self, limit: int) -> Sequence[Delivery]:
        while not self._closed and not self._arrivals:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            self._wanted += limit
            self._refills = limit >= self._slots - self._load
            try:
                self._grab()
                self._set_timer()
                await waiter
            finally:
                self._waiters.remove(waiter)
                self._wanted = max(0, self._wanted - limit) if self._waiters else 0
        if self._closed:
            return ()
        arrivals = self._arrivals
        return [arrivals.popleft() for _ in range(min(limit, len(arrivals)))]

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Write every verdict, and the next grabs behind them. A result that no packet can carry fails its job.

        CONFIRMED: written to a live connection; UNCONFIRMED: it died before it had taken all. Released jobs go back to
        the server when their connection closes, which it does as soon as none of its jobs runs.
        Raises UnsupportedFeature for Redeliver, once all other verdicts are written.
        """
        held = _held
        results: list[Settled] = []
        touched: dict[Station, None] = {}
        misfits = 0
        for delivery, verdict in settlements:
            station, handle = held(delivery)
            touched[station] = None
            if type(verdict) is Completed:
                results.append(station.complete(handle, verdict))
            elif type(verdict) is Redeliver:
                misfits += 1
            else:
                results.append(_VERDICTS[type(verdict)](station, handle, verdict))
        if self._waiters and self._refills:
            self._wanted += len(results)
        self._grab()
        for station in touched:
            self._leave_if_idle(station)
            station.connection.flush()
        if misfits:
            hint = "run it again in the worker, or fail it: Gearman cannot put a job back for later"
            raise UnsupportedFeature("gearman", "redelivery", hint)
        for station in touched:
            if station.connection.congested and not await station.connection.drained():
                _doubt(settlements, results, station)
        return results

    async def close(self) -> None:
        """Stop reserving. Each connection says CANT_DO and closes once the last of its jobs is settled."""
        if self._closed:
            return
        self._closed = True
        self._wake()
        for link in self._links:
            link.retire()
        if self._timer is not None:
            self._timer.cancel()
        for station in list(self._stations):
            station.leave()
            self._leave_if_idle(station)

    def progress(self, delivery: Delivery, done: int, total: int) -> None:
        station, handle = _held(delivery)
        if station.machine.progress(handle, done, total):
            station.connection.flush_soon()

    def chunk(self, delivery: Delivery, data: bytes) -> None:
        station, handle = _held(delivery)
        if station.machine.chunk(handle, data):
            station.connection.flush_soon()

    def warned(self, delivery: Delivery, text: str) -> None:
        station, handle = _held(delivery)
        if station.machine.warn(handle, text.encode(errors="replace")):
            station.connection.flush_soon()

    # What the driver calls

    @property
    def connected(self) -> bool:
        return bool(self._stations)

    @property
    def buffered(self) -> int:
        """The jobs that have come and wait for a reserve() to return them."""
        return len(self._arrivals)

    @property
    def finished(self) -> bool:
        return self._closed and not self._stations

    async def connect(self, patience: float) -> list[tuple[Host, Exception]]:
        """Return the failures of the first attempts, see first_answers()."""
        return await first_answers(self._links, patience)

    async def disconnect(self) -> None:
        """Every connection is closed; jobs that still run are lost."""
        await self.close()
        await asyncio.gather(*(station.left() for station in self._stations))
        why = ConnectionAbortedError("the driver was disconnected")
        await asyncio.gather(*(link.close(why) for link in self._links))

    # What the links and stations call

    def _open(self, link: Link[Station]) -> Station:
        return Station(self, link.host, self._options, self._names)

    def _up(self, station: Station) -> None:
        self._stations.append(station)
        if self._closed:
            station.leave()
            station.leave_if_idle()
        self._grab()
        self._set_timer()

    def arrived(self, delivery: Delivery) -> None:
        self._arrivals.append(delivery)

    def moved(self, station: Station) -> None:
        self._leave_if_idle(station)
        if self._arrivals:
            self._wake()
        self._grab()
        # Grabs have left. A PRE_SLEEP that waits for so long leaves with the verdict of a handler that never waits.
        station.connection.flush_soon(_TICKS_TO_A_VERDICT)
        self._set_timer()

    def gone(self, station: Station, held: Sequence[Delivery]) -> None:
        if station not in self._stations:
            return
        self._stations.remove(station)
        waiting = {id(delivery) for delivery in self._arrivals}
        self._arrivals = deque(delivery for delivery in self._arrivals if _station(delivery) is not station)
        for delivery in held:
            if id(delivery) not in waiting:
                self._notices.lost(delivery)
        self._grab()
        self._set_timer()

    def _leave_if_idle(self, station: Station) -> None:
        """A leaving station gives back what nobody has taken, and closes if nothing of it runs."""
        if not station.leaving:
            return
        for delivery in [delivery for delivery in self._arrivals if _station(delivery) is station]:
            self._arrivals.remove(delivery)
            station.release(_held(delivery)[1])
        station.leave_if_idle()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    # Credits

    def _grab(self) -> None:
        """Send as many grabs as slots, callers and naps allow."""
        if self._closed or not self._waiters:
            return
        asked = sum([station.machine.outstanding for station in self._stations])
        free = min(self._slots - self._load, self._wanted - len(self._arrivals)) - asked
        if free > 0:
            self._share(free)

    @property
    def _load(self) -> int:
        """What is unsettled, or released and not yet given back."""
        return sum([len(station.machine.held) + station.released for station in self._stations])

    def _share(self, free: int) -> None:
        self._turn += 1
        start = self._turn % max(1, len(self._stations))
        order = (*self._stations[start:], *self._stations[:start])
        awake: list[Station] = [station for station in order if station.machine.room > 0]
        touched = awake
        while free > 0 and awake:
            share = max(1, free // len(awake))
            for station in awake:
                count = min(share, station.machine.room, free)
                station.machine.grab(count)
                free -= count
                if not free:
                    break
            awake = [station for station in awake if station.machine.room > 0]
        if not self._arrivals:
            for station in touched:
                station.connection.flush()

    # Naps

    def _set_timer(self) -> None:
        """The timer goes off by the time the first rest is over, or the next poll is due."""
        if self._closed or not self._waiters:
            return
        now = self._loop.time()
        times = [station.machine.rest_until for station in self._stations if station.machine.phase is Phase.RESTING]
        if any(station.machine.phase is Phase.ASLEEP for station in self._stations):
            if self._poll_at <= now and self._timer is None:
                self._poll_at = now + _until_the_edge(time.time())
            times.append(self._poll_at)
        if times and (self._timer is None or min(times) < self._timer_at):
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = min(times)
            self._timer = self._loop.call_at(self._timer_at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._closed or not self._waiters:
            return
        now = self._loop.time()
        for station in self._stations:
            station.machine.tick(now)
            if now >= self._poll_at:
                station.machine.poll()
        self._grab()
        for station in self._stations:
            station.connection.flush()
        self._set_timer()


def _until_the_edge(wall: float) -> float:
    return 1 - wall % 1 + _AFTER_THE_EDGE_SECONDS


def _station(delivery: Delivery) -> Station:
    return _held(delivery)[0]


def _doubt(settlements: Sequence[Settlement], results: list[Settled], station: Station) -> None:
    for index, (delivery, _) in enumerate(settlements):
        if _station(delivery) is station and results[index] is Settled.CONFIRMED:
            results[index] = Settled.UNCONFIRMED


def _failed(station: Station, handle: bytes, verdict: Verdict) -> Settled:
    return station.fail(handle, cast(Failed, verdict))


def _released(station: Station, handle: bytes, verdict: Verdict) -> Settled:
    return station.release(handle)


_VERDICTS: Final[Mapping[type[Verdict], Callable[[Station, bytes, Verdict], Settled]]] = {
    Failed: _failed,
    Released: _released,
}
