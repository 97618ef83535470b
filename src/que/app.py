"""The application: engines by URL, jobs, and the ways to submit and to work them."""

import asyncio
import enum
import logging
import math
import os
import weakref
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Never, Self, TypeVar, Unpack, cast, overload

from que.backend import Backend
from que.errors import ConfigurationError, ConnectError, WrongLoop
from que.handle import Handle, Receipt, Sending
from que.job import Blocking, Job, JobOptions, Middleware, StateT, shape_of
from que.model import DEFAULT_CONCURRENCY, DeadLetter, JobStatus, QueueDepth
from que.opening import open_backend, open_store
from que.options import CallOptions, Options
from que.outcome import Outcome, Sent
from que.signature import checked_name, types_of

if TYPE_CHECKING:
    from que.blocking import BlockingQue
    from que.classform import Model
    from que.declare import Declare
    from que.observer import Observe
    from que.schedule import Clock, Missed, Scheduler, Timetable, When
    from que.worker import Worker

ParamsT = TypeVar("ParamsT")
ResultT = TypeVar("ResultT")

DEFAULT_MAX_UNSENT = 100_000

_log = logging.getLogger("que")


class _State(enum.Enum):
    """What an app is."""

    CLOSED = "not connected"
    CONNECTING = "being connected"
    CONNECTED = "connected already"
    CLOSING = "being disconnected"


@asynccontextmanager
async def _stateless() -> AsyncGenerator[None, None]:
    yield None


def _refuse_bounds(max_unsent: object, watch_timeout: object) -> None:
    if not isinstance(max_unsent, int) or max_unsent < 1:
        raise ConfigurationError(f"max_unsent={max_unsent!r}: expected a count of at least 1")
    if watch_timeout is not None and not (isinstance(watch_timeout, int | float) and 0 < watch_timeout < math.inf):
        raise ConfigurationError(f"watch_timeout={watch_timeout!r}: expected more than 0 seconds, or None for never")


class Que(Generic[StateT]):
    """An application. Making it opens nothing; `async with app`, or connect(), does.

    Each URL is a backend: a keyword's name is its alias, otherwise its scheme is. The first one listed is the default
    of jobs that name no `driver`. Without a URL it is $QUE_URL, or else memory://.
    `lifespan`: an async context manager function, entered once per worker, that yields the state of its handlers.
    `middleware`: goes around every handler, the first one outermost. `max_unsent`: how many jobs may wait unsent per
    backend before Overloaded is raised. `watch_timeout`: seconds after which a job without an answer raises
    ResultTimeout at its handle, None for never. `schedule_store`: the URL of what remembers the ticks of the schedules,
    where the engines of their jobs cannot or shall not; only schedulers open it.
    `results`: the URL of a store for the results that an engine does not keep, and for the state of flows; the same
    for those who submit and those who work. `observers`: who looks on at each engine, made of its address:
    que.otel.tracing(), que.metrics.prometheus(), or what makes an Observer of your own.
    Raises UnknownDriver, InvalidName or ConfigurationError for a URL or a bound that cannot be used.
    """

    @overload
    def __init__(
        self: "Que[None]",
        *urls: str,
        lifespan: None = ...,
        middleware: Sequence[Middleware[None]] = ...,
        observers: "Sequence[Observe]" = ...,
        max_unsent: int = ...,
        watch_timeout: float | None = ...,
        schedule_store: str | None = ...,
        results: str | None = ...,
        **named_urls: str,
    ) -> None: ...
    @overload
    def __init__(
        self,
        *urls: str,
        lifespan: Callable[[], AbstractAsyncContextManager[StateT]],
        middleware: Sequence[Middleware[StateT]] = ...,
        observers: "Sequence[Observe]" = ...,
        max_unsent: int = ...,
        watch_timeout: float | None = ...,
        schedule_store: str | None = ...,
        results: str | None = ...,
        **named_urls: str,
    ) -> None: ...
    def __init__(
        self,
        *urls: str,
        lifespan: Callable[[], AbstractAsyncContextManager[object]] | None = None,
        middleware: Sequence[Middleware[Never]] = (),
        observers: "Sequence[Observe]" = (),
        max_unsent: int = DEFAULT_MAX_UNSENT,
        watch_timeout: float | None = None,
        schedule_store: str | None = None,
        results: str | None = None,
        **named_urls: str,
    ) -> None:
        _refuse_bounds(max_unsent, watch_timeout)
        self._lifespan = cast(Callable[[], AbstractAsyncContextManager[StateT]], lifespan or _stateless)
        self._middleware = tuple(middleware)
        self._backends: dict[str, Backend] = {}
        self._jobs: dict[Backend, dict[str, Job[object, object]]] = {}
        self._state = _State.CLOSED
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed: asyncio.Future[None] | None = None
        self._workers: weakref.WeakSet[Worker[StateT] | Scheduler] = weakref.WeakSet()
        _apps.add(cast(Que[object], self))
        if not urls and not named_urls:
            urls = (os.environ.get("QUE_URL", "memory://"),)
        parsed = [(None, url) for url in urls] + list(named_urls.items())
        for alias, url in parsed:
            backend = open_backend(alias, url, max_unsent, watch_timeout, observers)
            if backend.alias in self._backends:
                raise ConfigurationError(
                    f"two backends are called {backend.alias!r}: give one an alias, Que(…, other={backend.address!s})"
                )
            self._backends[backend.alias] = backend
        self._schedule_store = schedule_store
        self._timetable_or_none: Timetable | None = None
        if schedule_store is not None:
            # Refused now, if it cannot be used.
            self._timetable()
        self._store = None if results is None else open_store(results, watch_timeout)
        for backend in self._backends.values():
            backend.companion = self._store

    def __repr__(self) -> str:
        return f"<Que {', '.join(f'{backend.alias}={backend.address}' for backend in self._backends.values())}>"

    @property
    def backends(self) -> Mapping[str, Backend]:
        """Each backend by its alias, for tools: while it is not connected, its `driver` may be another."""
        return dict(self._backends)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()

    async def connect(self) -> None:
        """Connect all backends at once; if some cannot, the others are closed again and ConnectError names each.

        Raises ConfigurationError if the app is connected already, or is just being connected or disconnected.
        """
        if self._state is not _State.CLOSED:
            raise ConfigurationError(f"this app is {self._state.value}")
        self._state = _State.CONNECTING
        self._loop = asyncio.get_running_loop()
        try:
            await self._connect_all([*self._backends.values(), *([] if self._store is None else [self._store])])
        except BaseException:
            self._state = _State.CLOSED
            raise
        self._state = _State.CONNECTED

    async def _connect_all(self, backends: Sequence[Backend]) -> None:
        try:
            answers = await asyncio.gather(*[backend.connect() for backend in backends], return_exceptions=True)
        except asyncio.CancelledError:
            await self._close_again()
            raise
        failures: list[ConnectError] = []
        for backend, answer in zip(backends, answers, strict=True):
            if isinstance(answer, ConfigurationError):
                await self._close_again()
                raise answer
            if isinstance(answer, ConnectError):
                failures.append(answer)
            elif answer is not None:
                failures.append(ConnectError(str(backend.address), repr(answer)))
                failures[-1].__cause__ = answer
        if failures:
            await self._close_again()
            raise failures[0] if len(failures) == 1 else ConnectError.of_all(failures)

    async def _close_again(self) -> None:
        """Close every backend; an error of that is logged, because the caller has to hear why connecting failed."""
        try:
            await self._close()
        except Exception:
            _log.exception("%r: closing what had been connected failed", self)

    async def disconnect(self) -> None:
        """Let what waits leave, and close every backend; handles that still wait get an error. Harmless twice.

        Workers that still run are stopped first, without grace: their jobs are released. A call while another one is
        under way waits for the same end. Raises WrongLoop in another loop than the app's, ConfigurationError while it
        is being connected.
        """
        if self._state is _State.CONNECTING:
            raise ConfigurationError("this app is being connected: cancel that instead")
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not loop and self._loop.is_running():
            raise WrongLoop("this app was connected in another event loop: disconnect it there")
        if self._closed is not None:
            await asyncio.wait([self._closed])
            return
        closed = self._closed = loop.create_future()
        self._state = _State.CLOSING
        try:
            await self._close()
        finally:
            self._state = _State.CLOSED
            self._loop = self._closed = None
            closed.set_result(None)

    async def _close(self) -> None:
        workers = [worker.stop(grace=0) for worker in list(self._workers) if worker.is_running]
        try:
            answers = await asyncio.gather(*workers, return_exceptions=True)
        finally:
            backends = [backend.disconnect() for backend in self._backends.values()]
            closed = await asyncio.gather(*backends, return_exceptions=True)
            if self._store is not None:
                # The others may have something to keep until their end.
                await self._store.disconnect()
        for answer in (*answers, *closed):
            if answer is not None:
                raise answer

    def job(self, name: str, /, **options: Unpack[JobOptions]) -> "Declare[StateT]":
        """Return a decorator that declares a handler as the job `name`; its types are the handler's annotations.

        Raises InvalidName, and at the decoration ConfigurationError for a handler of another shape, a missing
        annotation, a type that the serializer cannot carry or a name that is taken, UnsupportedFeature for an option.
        """

        checked_name(name)

        def declare(handler: Callable[..., object], /) -> Job[object, object]:
            params_type, result_type = types_of(handler)
            job = Job[object, object](name, cast(type[object], params_type), cast(type[object], result_type), **options)
            job.work_by(shape_of(handler))
            return self.add(job)

        return cast("Declare[StateT]", declare)

    @overload
    def add(self, job: Job[ParamsT, ResultT], /) -> Job[ParamsT, ResultT]: ...
    @overload
    def add(self, job: "type[Model[ParamsT, ResultT]]", /) -> Job[ParamsT, ResultT]: ...
    def add(self, job: "Job[ParamsT, ResultT] | type[Model[ParamsT, ResultT]]", /) -> Job[ParamsT, ResultT]:
        """Bind a job, or the job of a Model, to this app and return it.

        Raises ConfigurationError if its name is taken or it belongs to another app, UnsupportedFeature if its backend
        lacks one of its options.
        """
        declared = job if isinstance(job, Job) else job.declaration()
        backend = self._backend(declared.driver, declared.name)
        jobs = self._jobs.setdefault(backend, {})
        if jobs.get(declared.name, declared) is not declared:
            raise ConfigurationError(f"this app has a job {declared.name!r} already")
        declared.options.refuse_unsupported(
            backend.address.scheme, backend.capabilities, background=False, per_call=False
        )
        declared.bind(backend)
        jobs[declared.name] = cast(Job[object, object], declared)
        return declared

    def _backend(self, driver: str | None, job: str) -> Backend:
        if driver is None:
            return next(iter(self._backends.values()))
        if driver in self._backends:
            return self._backends[driver]
        same = [backend for backend in self._backends.values() if backend.address.scheme == driver]
        if len(same) != 1:
            why = "is the scheme of several" if same else "is none"
            raise ConfigurationError(
                f"job {job!r}: {driver!r} {why} of this app's backends: {', '.join(self._backends)}"
            )
        return same[0]

    def route(self, job: Job[ParamsT, ResultT], options: CallOptions, /) -> tuple[Backend, Options]:
        """Return where `job` goes, bound or not, and its options; raises ConfigurationError if it is another app's."""
        backend = self._backend(job.driver, job.name)
        if not job.belongs_to(backend):
            raise ConfigurationError(f"job {job.name!r} belongs to another app")
        return backend, job.merged(options) if options else job.options

    def submit(self, job: Job[ParamsT, ResultT], params: ParamsT, /, **options: Unpack[CallOptions]) -> Handle[ResultT]:
        """Return a Handle at once, as Job.submit() does, for a job that need not be bound."""
        backend, merged = self.route(job, options)
        return backend.submit(job, params, merged)

    def send(self, job: Job[ParamsT, ResultT], params: ParamsT, /, **options: Unpack[CallOptions]) -> Sending:
        """Return an awaitable Receipt at once, as Job.send() does, for a job that need not be bound."""
        backend, merged = self.route(job, options)
        return backend.send(job, params, merged)

    def submit_many(self, job: Job[ParamsT, ResultT], items: Iterable[ParamsT], /) -> list[Handle[ResultT]]:
        """Return a Handle for each item, in order, as Job.submit_many() does."""
        backend, options = self.route(job, {})
        return backend.submit_many(job, items, options)

    def map(
        self, job: Job[ParamsT, ResultT], items: Iterable[ParamsT] | AsyncIterable[ParamsT], /, *, in_flight: int = 1000
    ) -> AsyncIterator[Outcome[ParamsT, ResultT]]:
        """Yield an Outcome for each item as it is done, as Job.map() does."""
        backend, _ = self.route(job, {})
        return backend.map(job, items, in_flight)

    async def send_many(
        self, job: Job[ParamsT, ResultT], items: Iterable[ParamsT] | AsyncIterable[ParamsT], /, *, in_flight: int = 1000
    ) -> Sent[ParamsT]:
        """Send each item, as Job.send_many() does."""
        backend, _ = self.route(job, {})
        return await backend.send_many(job, items, in_flight)

    async def drain(self) -> None:
        """Wait until nothing waits unsent on any backend."""
        await asyncio.gather(*[backend.drain() for backend in self._backends.values()])

    async def status(self, receipt: Receipt, /) -> JobStatus:
        """Return what the engine knows of a job now; raises UnsupportedFeature where it cannot tell."""
        return await self._receipt_backend(receipt).status(receipt.reference)

    async def cancel(self, receipt: Receipt, /) -> bool:
        """Return True if the engine has cancelled the job or told its worker to stop; raises UnsupportedFeature."""
        return await self._receipt_backend(receipt).cancel(receipt.reference)

    def handle(self, job: Job[ParamsT, ResultT], receipt: Receipt, /) -> Handle[ResultT]:
        """Return a Handle of a job that was submitted or sent before, by this process or another.

        Its result is there while the job lives, and for `result_ttl` seconds after its end; awaiting it raises
        JobUnknown once the engine has forgotten it. Raises UnsupportedFeature where the engine keeps no results.
        """
        return self.receipt_backend(job, receipt).watch(job, receipt)

    def receipt_backend(self, job: Job[ParamsT, ResultT], receipt: Receipt, /) -> Backend:
        """Return the backend that gave `receipt`; raises ConfigurationError if it is none of `job`."""
        if receipt.job != job.name:
            raise ConfigurationError(f"{receipt} is of job {receipt.job!r}, not of {job.name!r}")
        return self._receipt_backend(receipt)

    async def depths(self) -> Mapping[str, Sequence[QueueDepth]]:
        """Return what waits and runs of each function, by backend; raises UnsupportedFeature where one cannot tell."""
        depths = await asyncio.gather(*[backend.depths() for backend in self._backends.values()])
        return dict(zip(self._backends, depths, strict=True))

    async def dead_letters(self, job: Job[ParamsT, ResultT], /, *, limit: int = 100) -> Sequence[DeadLetter]:
        """Return the oldest jobs of this kind that failed for good and that nobody waited for.

        `job.load_params(letter.payload)` gives the params. Raises UnsupportedFeature where the engine keeps none.
        """
        return await self.route(job, {})[0].dead_letters(job.name, limit)

    async def replay(self, job: Job[ParamsT, ResultT], letters: Iterable[DeadLetter], /) -> int:
        """Queue dead letters again, as if they had never run; return how many were there still."""
        return await self.route(job, {})[0].replay(letters)

    async def drop(self, job: Job[ParamsT, ResultT], letters: Iterable[DeadLetter], /) -> int:
        """Forget dead letters; return how many were there still."""
        return await self.route(job, {})[0].drop(letters)

    def _receipt_backend(self, receipt: Receipt) -> Backend:
        backend = self._backends.get(receipt.backend)
        if backend is None:
            raise ConfigurationError(
                f"no backend is called {receipt.backend!r}; this app has {', '.join(self._backends)}"
            )
        return backend

    def worker(self, *, concurrency: int = DEFAULT_CONCURRENCY, children: int | None = None) -> "Worker[StateT]":
        """Return a Worker of every job that has a handler here, at most `concurrency` at once per backend.

        Jobs whose executor is "process" run in `children` processes per backend, by default one per processor.
        `await worker.run()` until stop() is called, or `async with` it. Raises ConfigurationError if there is none.
        """
        from que.worker import Worker

        work = [
            (backend, {name: job for name, job in jobs.items() if job.worked_by is not None})
            for backend, jobs in self._jobs.items()
        ]
        worker = Worker(
            [(backend, jobs) for backend, jobs in work if jobs],
            concurrency=concurrency,
            children=children,
            lifespan=self._lifespan,
            middleware=self._middleware,
            blocking=self._blocking_inside,
        )
        self._workers.add(worker)
        return worker

    async def work(self, *, concurrency: int = DEFAULT_CONCURRENCY, children: int | None = None) -> None:
        """Work this app's jobs until cancelled; connects first, and disconnects at the end, if need be."""
        worker = self.worker(concurrency=concurrency, children=children)
        if self._state is _State.CONNECTED:
            await worker.run()
        else:
            async with self:
                await worker.run()

    def cron(
        self, expression: str, /, *, tz: str = "UTC", missed: "Missed" = "skip", name: str | None = None
    ) -> "When":
        """Return a decorator of jobs without params, whose send(job, params) takes the others: sent at these times.

        `missed`: what becomes of ticks that no scheduler could send in time, "skip" them, send the "last" one or "all".
        `name`: what the ticks are remembered by, else the job's name and the times. Raises ConfigurationError.
        """
        from que.timetable import Cron

        return self._timetable().at(Cron(expression, tz), missed, name)

    def every(self, *, seconds: float, missed: "Missed" = "skip", name: str | None = None) -> "When":
        """Return what cron() does, for a tick each `seconds`, counted from 1970: all schedulers mean the same ones."""
        from que.timetable import Every

        return self._timetable().at(Every(seconds), missed, name)

    def scheduler(self, *, deadline: float = 10.0, clock: "Clock | None" = None) -> "Scheduler":
        """Return a Scheduler of what cron() and every() declared: any number may run, each tick is sent once.

        `await scheduler.run()` until stop() is called, or `async with` it. `deadline`: seconds for one call to an
        engine. `clock`: for tests. Raises ConfigurationError if there are no schedules.
        """
        scheduler = self._timetable().scheduler(clock, deadline)
        self._workers.add(scheduler)
        return scheduler

    def _timetable(self) -> "Timetable":
        if self._timetable_or_none is None:
            from que.schedule import Timetable

            self._timetable_or_none = Timetable(self, self._schedule_store)
        return self._timetable_or_none

    @asynccontextmanager
    async def _blocking_inside(self) -> AsyncGenerator[Blocking, None]:
        """The sync face over the running loop, for the threads of `def` handlers."""
        from que.blocking import BlockingQue
        from que.portal import Portal

        portal = Portal(asyncio.get_running_loop())
        try:
            yield BlockingQue(self, portal)
        finally:
            await portal.stop()
            portal.end()

    def renew(self) -> None:
        """Start over in a forked child, unconnected."""
        self._state = _State.CLOSED
        self._loop = self._closed = None
        self._workers.clear()
        for backend in self._backends.values():
            backend.renew()
        if self._store is not None:
            self._store.renew()

    def blocking(self) -> "BlockingQue":
        """Return the sync face of this app: `with app.blocking() as q`."""
        if self._state is not _State.CLOSED:
            raise ConfigurationError("this app is connected in an event loop; the blocking face connects it itself")
        from que.blocking import BlockingQue

        return BlockingQue(self)


_apps: weakref.WeakSet[Que[object]] = weakref.WeakSet()


def _renew_all() -> None:
    for app in list(_apps):
        app.renew()


os.register_at_fork(after_in_child=_renew_all)
