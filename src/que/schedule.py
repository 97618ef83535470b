"""Schedules: jobs that are sent at times told beforehand, once a tick however many schedulers there are.

A scheduler claims a schedule where its ticks are remembered, sends the job of the tick that is due, and says that it is
done; the others find that so. One that dies in between loses its claim in the end, and another one sends the tick.
"""

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, Protocol, Self, TypeVar, Unpack, get_args

from que.address import Address
from que.backend import Backend
from que.driver import Ticks, open_driver
from que.errors import ConfigurationError, ConnectError, UnsupportedFeature, WrongLoop
from que.handle import Sending
from que.job import Job
from que.options import CallOptions, Options
from que.retry import Retry
from que.timetable import Times, latest

ParamsT = TypeVar("ParamsT")
ResultT = TypeVar("ResultT")
Missed = Literal["skip", "last", "all"]

DEFAULT_DEADLINE_SECONDS = 10.0
DEFAULT_GRACE_SECONDS = 30.0
# A tick is missed when nobody could send it for so long: a restart, or a crash just before sending, takes less.
LATE_SECONDS = 60.0
_LONGEST_SLEEP_SECONDS = 30.0
# A claim outlives what is done under it: to claim, to send, to tell.
_CALLS_PER_CLAIM = 3
# While another scheduler is at a tick: it may die there.
_LOOK_AGAIN_SECONDS = 1.0
_AGAIN = Retry(attempts=10**9, base=1.0, max=30.0)

_log = logging.getLogger("que.schedules")


class Clock(Protocol):
    """What a scheduler goes by: Unix seconds."""

    def time(self) -> float: ...
    async def sleep_until(self, moment: float) -> None: ...


class WallClock:
    """The clock of this machine."""

    def time(self) -> float:
        """Return the Unix time."""
        return time.time()

    async def sleep_until(self, moment: float) -> None:
        """Return once the time is `moment`, also where somebody sets the clock meanwhile."""
        while (left := moment - time.time()) > 0:
            await asyncio.sleep(min(left, _LONGEST_SLEEP_SECONDS))


class Sender(Protocol):
    """What schedules need of their app."""

    def route(self, job: Job[ParamsT, ResultT], options: CallOptions, /) -> tuple[Backend, Options]: ...
    def send(self, job: Job[ParamsT, ResultT], params: ParamsT, /, **options: Unpack[CallOptions]) -> Sending: ...


@dataclass(frozen=True, slots=True)
class Schedule:
    """A job with its params, the times of its sending, and what becomes of ticks that nobody could send in time.

    `name`: what the ticks are remembered by, at `memory`. `send`: sends the job, with a unique key or None.
    """

    name: str
    times: Times
    missed: Missed
    backend: Backend
    memory: Backend
    send: Callable[[str | None], Sending]

    def due(self, since: float, now: float) -> float | None:
        """Return the tick to send now, if all up to `since` are done; None if there is none."""
        if self.missed == "all":
            first = self.times.after(since)
            return first if first <= now else None
        last = latest(self.times, since, now)
        if last is not None and self.missed == "skip" and now - last > LATE_SECONDS:
            _log.warning("schedule %s: the tick of %s could not be sent in time: skipped", self.name, _shown(last))
            return None
        return last

    def send_tick(self, tick: float) -> Sending:
        """Send the job of `tick`; a second one is the same job while the first lives, where the engine can tell."""
        if not self.backend.driver.capabilities.unique:
            return self.send(None)
        # Some engines limit the length of a key.
        return self.send("tick-" + hashlib.sha256(f"{self.name}@{tick!r}".encode()).hexdigest()[:32])


class When:
    """Times that have no job yet: decorate a job without params with it, or send() one with params."""

    def __init__(self, timetable: "Timetable", times: Times, missed: Missed, name: str | None) -> None:
        if missed not in get_args(Missed):
            raise ConfigurationError(f"missed={missed!r}: expected 'skip', 'last' or 'all'")
        self._timetable = timetable
        self._times = times
        self._missed: Missed = missed
        self._name = name

    def __call__(self, job: Job[None, ResultT], /) -> Job[None, ResultT]:
        """Let `job`, whose params are None, be sent at these times, and return it; raises what send() raises."""
        self.send(job, None)
        return job

    def send(self, job: Job[ParamsT, ResultT], params: ParamsT, /) -> None:
        """From now on the schedulers of this app send `job` with `params` at these times.

        Raises ParamsInvalid; ConfigurationError if the name is taken or the job is another app's; UnsupportedFeature
        where nothing remembers the ticks.
        """
        job.dump_params(params)
        self._timetable.add(self._name or f"{job.name} {self._times}", self._times, self._missed, job, params)


class Timetable:
    """The schedules of an app, by name; `store` is the URL of what remembers their ticks, None for the jobs' engines.

    Raises UnsupportedFeature if that store cannot.
    """

    def __init__(self, app: Sender, store: str | None) -> None:
        self._app = app
        self._store: Backend | None = None
        self._schedules: dict[str, Schedule] = {}
        if store is not None:
            address = Address.parse(store)
            self._store = Backend("schedule_store", address, open_driver(address), 1, None)
            ticks_of(self._store)

    def at(self, times: Times, missed: Missed, name: str | None) -> When:
        """Return what takes a job for these times."""
        return When(self, times, missed, name)

    def add(self, name: str, times: Times, missed: Missed, job: Job[ParamsT, ResultT], params: ParamsT) -> None:
        """Take one more schedule; raises what When.send() raises."""
        if name in self._schedules:
            raise ConfigurationError(f"this app has a schedule {name!r} already: give one of them a name=")
        app = self._app
        backend, _ = app.route(job, {})
        memory = self._store or backend
        ticks_of(memory)

        def send(unique: str | None) -> Sending:
            return app.send(job, params, unique=unique)

        self._schedules[name] = Schedule(name, times, missed, backend, memory, send)

    def scheduler(self, clock: Clock | None, deadline: float) -> "Scheduler":
        """Return a scheduler of all that is declared by now; raises ConfigurationError if that is nothing."""
        if not self._schedules:
            raise ConfigurationError("this app has no schedules: use @app.cron, or app.every")
        if deadline <= 0:
            raise ConfigurationError(f"deadline={deadline!r}: expected more than 0 seconds")
        return Scheduler(list(self._schedules.values()), self._store, clock or WallClock(), deadline)


def ticks_of(memory: Backend) -> Ticks:
    """Return what remembers ticks there; raises UnsupportedFeature."""
    driver = memory.driver
    if not isinstance(driver, Ticks) or not driver.capabilities.ticks:
        hint = 'let a file remember them: Que(…, schedule_store="sqlite:///ticks.db")'
        raise UnsupportedFeature(memory.address.scheme, "memory of the ticks of schedules", hint)
    return driver


class Scheduler:
    """Sends the jobs of an app's schedules; any number of them may run, in any processes.

    `await run()` until stop() is called, or `async with` it. Each schedule has a task of its own, so that one whose
    engine does not answer holds no other up. No call to an engine takes longer than `deadline` seconds.
    """

    def __init__(self, schedules: Sequence[Schedule], store: Backend | None, clock: Clock, deadline: float) -> None:
        self._schedules = schedules
        self._store = store
        self._clock = clock
        self._deadline = deadline
        self._life: asyncio.Task[None] | None = None
        self._opened = asyncio.Event()
        self._stopping = asyncio.Event()
        self._keepers: list[_Keeper] = []

    @property
    def is_running(self) -> bool:
        """Whether it has begun, and has not stopped."""
        return self._life is not None and not self._life.done()

    @property
    def names(self) -> Sequence[str]:
        """The names of the schedules."""
        return [schedule.name for schedule in self._schedules]

    async def run(self) -> None:
        """Send what is due until stop() has been called and has finished; a cancellation stops without grace.

        Raises NotConnected if the app is not connected, ConnectError if the schedule_store cannot be reached,
        ConfigurationError if this scheduler has run before. Returns at once if stop() has been called already.
        """
        life = self._begin()
        try:
            await asyncio.wait([life])
        except asyncio.CancelledError:
            await self.stop(grace=0)
            raise
        await life

    async def __aenter__(self) -> Self:
        life = self._begin()
        opened = asyncio.ensure_future(self._opened.wait())
        try:
            await asyncio.wait([life, opened], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.stop(grace=0)
            raise
        finally:
            opened.cancel()
        if life.done():
            await life
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self, grace: float = DEFAULT_GRACE_SECONDS) -> None:
        """Send no more; what is being sent may take `grace` seconds to be accepted and remembered.

        Raises what run() raises. Calling it again waits for the same end, which a shorter grace brings forward.
        """
        self._stopping.set()
        if (life := self._life) is None:
            return
        cut = asyncio.get_running_loop().call_later(grace, self._cut_short)
        await asyncio.wait([life])
        cut.cancel()
        await life

    def _begin(self) -> asyncio.Task[None]:
        if self._life is not None:
            raise ConfigurationError("this scheduler has run already, and one runs once: make another one")
        self._life = asyncio.get_running_loop().create_task(self._live())
        return self._life

    async def _live(self) -> None:
        if self._stopping.is_set():
            return
        for schedule in self._schedules:
            if schedule.backend.loop is not asyncio.get_running_loop():
                raise WrongLoop(f"{schedule.backend.address} was connected in another event loop: run this there")
        await self._open_store()
        try:
            self._keepers = [_Keeper(schedule, self._clock, self._deadline) for schedule in self._schedules]
            self._opened.set()
            await self._until_stopped()
        finally:
            self._cut_short()
            await self._close_store()

    async def _until_stopped(self) -> None:
        tasks = [keeper.task for keeper in self._keepers]
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        for keeper in self._keepers:
            keeper.rest()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()

    async def _open_store(self) -> None:
        if self._store is not None:
            try:
                await in_time(self._deadline, "connect()", self._store.connect())
            except TimeoutError as error:
                raise ConnectError(str(self._store.address), str(error)) from error

    async def _close_store(self) -> None:
        if self._store is not None:
            try:
                await in_time(self._deadline, "disconnect()", self._store.disconnect())
            except Exception:
                _log.exception("closing %s failed", self._store.address)

    def _cut_short(self) -> None:
        for keeper in self._keepers:
            keeper.task.cancel()


class _Keeper:
    """Sees to one schedule, in a task of its own that ends only when it is told to."""

    def __init__(self, schedule: Schedule, clock: Clock, deadline: float) -> None:
        self._schedule = schedule
        self._ticks = ticks_of(schedule.memory)
        self._clock = clock
        self._deadline = deadline
        self._owner = os.urandom(8).hex()
        # From its first look on it is known when a schedule began: only then can it miss ticks.
        self._begun = self._until = clock.time()
        # The tick that is accepted, until that is remembered too.
        self._accepted: float | None = None
        self._resting = self._ending = False
        self.task: asyncio.Task[None] = asyncio.get_running_loop().create_task(self._keep())

    def rest(self) -> None:
        """Begin nothing more; what is under way goes on to its end."""
        self._ending = True
        if self._resting:
            self.task.cancel()

    async def _keep(self) -> None:
        failures = 0
        while not self._ending:
            try:
                moment = await self._look()
                failures = 0
            except Exception as error:
                failures += 1
                wait_seconds = _AGAIN.wait(failures, error) or 0.0
                line = "schedule %s: the tick cannot be seen to: %s: %s; next try in %.3g s"
                _log.error(line, self._schedule.name, type(error).__name__, error, wait_seconds)
                moment = self._clock.time() + wait_seconds
            self._resting = True
            if not self._ending:
                await self._clock.sleep_until(moment)
            self._resting = False

    async def _look(self) -> float:
        """Send the tick that is due, unless another scheduler does or has; return when to look again."""
        schedule, ticks, now = self._schedule, self._ticks, self._clock.time()
        lease_seconds = _CALLS_PER_CLAIM * self._deadline
        claim = await self._in_time(
            "a claim", ticks.begin_ticks(schedule.name, self._until, self._owner, lease_seconds)
        )
        done = claim.done
        if claim.granted:
            tick = schedule.due(self._begun if done is None else done, now)
            if tick is not None and tick != self._accepted:
                await self._in_time("a job", schedule.send_tick(tick))
                self._accepted = tick
                _log.info("schedule %s: sent the tick of %s", schedule.name, _shown(tick))
            done = now if tick is None else tick
            await self._in_time("a tick", ticks.end_ticks(schedule.name, done, self._owner))
        elif done is None or done < self._until:
            return now + _LOOK_AGAIN_SECONDS
        self._until = schedule.times.after(done)
        return self._until

    def _in_time(self, what: str, call: Awaitable[ResultT]) -> Awaitable[ResultT]:
        return in_time(self._deadline, what, call)


async def in_time(seconds: float, what: str, call: Awaitable[ResultT]) -> ResultT:
    """Return what `call` gives; raises TimeoutError, which says what got no answer, after `seconds`."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await call
    except TimeoutError as error:
        if limit.expired():
            raise TimeoutError(f"{what} had no answer within {seconds:g} s") from error
        raise


def _shown(tick: float) -> str:
    return datetime.fromtimestamp(tick, UTC).isoformat()
