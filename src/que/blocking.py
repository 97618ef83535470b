"""The sync face: the same verbs for threads, over one event loop in one thread of its own."""

import asyncio
import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Protocol, Self, TypeVar, Unpack, cast

from que.backend import Backend
from que.errors import ConfigurationError, NotConnected, Overloaded, QueError
from que.flow import DEFAULT_RESULT_TTL, Flow
from que.handle import Handle, Promise, Receipt, Sending
from que.job import Job
from que.model import DEFAULT_CONCURRENCY, DeadLetter, Envelope, JobStatus, QueueDepth
from que.options import CallOptions, Options
from que.outcome import Outcome, Refused, Sent
from que.portal import BlockingHandle, BlockingSending, Portal, refuse_inside_loop
from que.worker import DEFAULT_GRACE_SECONDS

ParamsT = TypeVar("ParamsT")
ResultT = TypeVar("ResultT")
PromiseT = TypeVar("PromiseT", bound=Promise[object])
ItemT = TypeVar("ItemT")

Arrived = Callable[[Promise[object]], None]

_log = logging.getLogger("que")


class AsyncWorker(Protocol):
    """What the sync face needs of a worker; Worker is one."""

    async def run(self) -> None: ...
    async def stop(self, grace: float = ...) -> None: ...
    async def __aenter__(self) -> object: ...


class AsyncApp(Protocol):
    """What the sync face needs of an app; Que is one."""

    async def connect(self) -> None: ...
    async def disconnect(self) -> None: ...
    async def drain(self) -> None: ...
    async def status(self, receipt: Receipt, /) -> JobStatus: ...
    async def cancel(self, receipt: Receipt, /) -> bool: ...
    async def depths(self) -> Mapping[str, Sequence[QueueDepth]]: ...
    async def dead_letters(self, job: Job[ParamsT, ResultT], /, *, limit: int = ...) -> Sequence[DeadLetter]: ...
    async def replay(self, job: Job[ParamsT, ResultT], letters: Iterable[DeadLetter], /) -> int: ...
    async def drop(self, job: Job[ParamsT, ResultT], letters: Iterable[DeadLetter], /) -> int: ...
    async def work(self, *, concurrency: int = ..., children: int | None = ...) -> None: ...
    def receipt_backend(self, job: Job[ParamsT, ResultT], receipt: Receipt, /) -> Backend: ...
    def worker(self, *, concurrency: int = ..., children: int | None = ...) -> AsyncWorker: ...
    def route(self, job: Job[ParamsT, ResultT], options: CallOptions, /) -> tuple[Backend, Options]: ...


class BlockingQue:
    """An app for sync code: `with app.blocking() as q: q.submit(job, params).result(timeout=5)`.

    Usable from any number of threads; every method raises WrongLoop inside a running event loop, and NotConnected
    outside the `with` block. A forked child gets NotConnected as well, also from handles that it inherited, and may
    open its own. Whoever still waits when it is closed gets an error. At exit it is closed and its thread joined.
    """

    def __init__(self, app: AsyncApp, portal: Portal | None = None) -> None:
        self._app = app
        self._portal_or_none = portal
        self._thread: _LoopThread | None = None
        self._connecting = threading.Lock()

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect()

    @property
    def _portal(self) -> Portal:
        portal = self._portal_or_none
        if portal is None:
            raise NotConnected("the blocking app is not connected: use `with app.blocking() as q`")
        return portal

    def connect(self) -> None:
        """Start the loop's thread and connect the app in it; raises ConnectError."""
        refuse_inside_loop()
        if not self._connecting.acquire(blocking=False):
            raise ConfigurationError("this blocking app is being connected by another thread")
        try:
            if self._portal_or_none is not None and not self._portal_or_none.is_closed:
                raise ConfigurationError("this blocking app is connected already")
            thread = _LoopThread(self._app)
            try:
                thread.open()
            except BaseException:
                thread.close()
                raise
            self._thread, self._portal_or_none = thread, thread.portal
            _open.add(self)
        finally:
            self._connecting.release()

    def disconnect(self) -> None:
        """Disconnect the app, end its loop and join the thread; harmless when called again.

        What waits unsent leaves first; work() and other calls under way in other threads raise NotConnected.
        """
        refuse_inside_loop()
        thread, self._thread, self._portal_or_none = self._thread, None, None
        _open.discard(self)
        if thread is not None:
            thread.close()

    def forget(self) -> None:
        """Drop the loop, whose thread a forked child does not have."""
        self._portal_or_none = self._thread = None

    def submit(
        self, job: Job[ParamsT, ResultT], params: ParamsT, /, **options: Unpack[CallOptions]
    ) -> BlockingHandle[ResultT]:
        """Return a handle at once; raises at the call what Job.submit() raises."""
        refuse_inside_loop()
        portal = self._portal
        backend, merged = self._app.route(job, options)
        envelope = backend.prepare(job, params, merged, background=False, posted=len(portal))
        return _dispatched(portal, backend, job, envelope)

    def send(self, job: Job[ParamsT, ResultT], params: ParamsT, /, **options: Unpack[CallOptions]) -> BlockingSending:
        """Return a sending at once, whose result() is the Receipt; raises at the call what Job.send() raises.

        With a connection, a blocking one, the job is in its transaction when this returns.
        """
        refuse_inside_loop()
        portal = self._portal
        backend, merged = self._app.route(job, options)
        if merged.connection is not None:
            return BlockingSending(portal, _enlisted(backend.enlist(job, params, merged)))
        envelope = backend.prepare(job, params, merged, background=True, posted=len(portal))
        sending = Sending(envelope.id, backend, job.name)
        portal.post(partial(backend.dispatch, envelope, sending))
        return BlockingSending(portal, sending)

    def submit_flow(
        self, flow: Flow[ParamsT, ResultT], params: ParamsT, /, *, result_ttl: float = DEFAULT_RESULT_TTL
    ) -> BlockingHandle[ResultT]:
        """Return a handle of the last job's result at once; raises at the call what Flow.submit() raises."""
        refuse_inside_loop()
        portal = self._portal
        submitter, plan, last = flow.plan(params, result_ttl)
        handle, leave = submitter.prepare_flow(plan, last)
        portal.post(leave)
        return BlockingHandle(portal, cast(Handle[ResultT], handle))

    def submit_many(self, job: Job[ParamsT, ResultT], items: Iterable[ParamsT], /) -> list[BlockingHandle[ResultT]]:
        """Return a handle for each item, in order; if one of them is refused at the call, none leaves."""
        refuse_inside_loop()
        portal = self._portal
        backend, options = self._app.route(job, {})
        envelopes = [
            backend.prepare(job, params, options, background=False, posted=len(portal) + count)
            for count, params in enumerate(items)
        ]
        return [_dispatched(portal, backend, job, envelope) for envelope in envelopes]

    def map(
        self, job: Job[ParamsT, ResultT], items: Iterable[ParamsT], /, *, in_flight: int = 1000
    ) -> Iterator[Outcome[ParamsT, ResultT]]:
        """Yield an Outcome for each item as it is done, in the order in which they end.

        `items` is read in this thread, between the outcomes, and may be endless: at most `in_flight` jobs are on their
        way. Leaving the loop early abandons the jobs under way; they still run.
        """
        portal, backend, options = self._prepared(job, in_flight)

        def start(params: ParamsT, arrived: Arrived) -> Handle[ResultT]:
            envelope = backend.prepare(job, params, options, background=False, posted=len(portal))
            handle = Handle(envelope.id, backend, job)
            portal.post(partial(_start, backend, envelope, handle, arrived))
            return handle

        flow = _flow(portal, start, items, in_flight, self.drain)
        return (Outcome(params, source) for params, source in flow)

    def send_many(
        self, job: Job[ParamsT, ResultT], items: Iterable[ParamsT], /, *, in_flight: int = 1000
    ) -> Sent[ParamsT]:
        """Send each item and return how many the engine took, and each that it did not, with the error.

        `items` is read in this thread; at most `in_flight` jobs wait for their acceptance.
        """
        portal, backend, options = self._prepared(job, in_flight)

        def start(params: ParamsT, arrived: Arrived) -> Sending:
            envelope = backend.prepare(job, params, options, background=True, posted=len(portal))
            sending = Sending(envelope.id, backend, job.name)
            portal.post(partial(_start, backend, envelope, sending, arrived))
            return sending

        accepted = 0
        refused: list[Refused[ParamsT]] = []
        for params, source in _flow(portal, start, items, in_flight, self.drain):
            error = source if isinstance(source, QueError) else source.error
            if error is None:
                accepted += 1
            else:
                refused.append(Refused(params, error))
        return Sent(accepted, refused)

    def _prepared(self, job: Job[ParamsT, ResultT], in_flight: int) -> tuple[Portal, Backend, Options]:
        refuse_inside_loop()
        if in_flight < 1:
            raise ConfigurationError(f"in_flight={in_flight}: expected at least 1")
        return self._portal, *self._app.route(job, {})

    def drain(self) -> None:
        """Wait until nothing waits unsent."""
        self._portal.run(self._app.drain)

    def status(self, receipt: Receipt, /) -> JobStatus:
        """Return what the engine knows of a job now; raises UnsupportedFeature where it cannot tell."""
        return self._portal.run(self._app.status, receipt)

    def cancel(self, receipt: Receipt, /) -> bool:
        """Return True if the engine has cancelled the job or told its worker to stop; raises UnsupportedFeature."""
        return self._portal.run(self._app.cancel, receipt)

    def handle(self, job: Job[ParamsT, ResultT], receipt: Receipt, /) -> BlockingHandle[ResultT]:
        """Return a handle of a job that was submitted or sent before, as Que.handle() does."""
        refuse_inside_loop()
        portal = self._portal
        backend = self._app.receipt_backend(job, receipt)
        handle = backend.prepare_watch(job, receipt)
        portal.post(partial(backend.dispatch_watch, handle, receipt))
        return BlockingHandle(portal, handle)

    def depths(self) -> Mapping[str, Sequence[QueueDepth]]:
        """Return what waits and runs of each function, by backend; raises UnsupportedFeature where one cannot tell."""
        return self._portal.run(self._app.depths)

    def dead_letters(self, job: Job[ParamsT, ResultT], /, *, limit: int = 100) -> Sequence[DeadLetter]:
        """Return the oldest jobs of this kind that failed for good, as Que.dead_letters() does."""
        return self._portal.run(self._app.dead_letters, job, limit=limit)

    def replay(self, job: Job[ParamsT, ResultT], letters: Iterable[DeadLetter], /) -> int:
        """Queue dead letters again, as if they had never run; return how many were there still."""
        return self._portal.run(self._app.replay, job, letters)

    def drop(self, job: Job[ParamsT, ResultT], letters: Iterable[DeadLetter], /) -> int:
        """Forget dead letters; return how many were there still."""
        return self._portal.run(self._app.drop, job, letters)

    def worker(self, *, concurrency: int = DEFAULT_CONCURRENCY, children: int | None = None) -> "BlockingWorker":
        """Return a BlockingWorker of every job that has a handler here, as Que.worker() does.

        `with q.worker():` works them in the loop's thread, and `def` handlers in threads of their own, for a while.
        """
        refuse_inside_loop()
        return BlockingWorker(self._portal, self._app.worker(concurrency=concurrency, children=children))

    def work(self, *, concurrency: int = DEFAULT_CONCURRENCY, children: int | None = None) -> None:
        """Work the app's jobs until this thread is interrupted, as by Ctrl-C, or disconnect() is called."""
        self._portal.run(self._app.work, concurrency=concurrency, children=children)


class BlockingWorker:
    """A Worker, for threads: run() until another thread calls stop(), or a `with` block."""

    __slots__ = ("_portal", "_worker")

    def __init__(self, portal: Portal, worker: AsyncWorker) -> None:
        self._portal = portal
        self._worker = worker

    def __enter__(self) -> Self:
        self._portal.run(self._worker.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whoever closes the app stops its workers.
        with suppress(NotConnected):
            self.stop()

    def run(self) -> None:
        """Work until stop() has been called and has finished; an interruption, as by Ctrl-C, stops without grace."""
        self._portal.run(self._worker.run)

    def stop(self, grace: float = DEFAULT_GRACE_SECONDS) -> None:
        """Take no more jobs, let the running ones end within `grace` seconds, then cancel and release them."""
        self._portal.run(self._worker.stop, grace)


def _dispatched(
    portal: Portal, backend: Backend, job: Job[ParamsT, ResultT], envelope: Envelope
) -> BlockingHandle[ResultT]:
    handle = Handle(envelope.id, backend, job)
    portal.post(partial(backend.dispatch, envelope, handle))
    return BlockingHandle(portal, handle)


def _start(backend: Backend, envelope: Envelope, promise: Handle[object] | Sending, arrived: Arrived) -> None:
    promise.add_done_callback(arrived)
    backend.dispatch(envelope, promise)


def _enlisted(sending: Sending) -> Sending:
    """Return `sending` with its job queued, in this thread, as is its connection's right."""
    steps = sending.__await__()
    try:
        next(steps)
    except StopIteration:
        return sending
    steps.close()
    raise ConfigurationError("connection=: the blocking face needs a blocking connection, such as psycopg.Connection")


class _Ended(SimpleQueue[Promise[object] | None]):
    """The promises of one thread's flow that have ended; None if no more will come."""

    def wake(self) -> None:
        self.put(None)


def _flow(
    portal: Portal,
    start: Callable[[ItemT, Arrived], PromiseT],
    items: Iterable[ItemT],
    in_flight: int,
    drain: Callable[[], None],
) -> Generator[tuple[ItemT, PromiseT | QueError], None, None]:
    """Yield each item once it has ended; the loop's thread puts what ends, this thread takes it."""
    ended = _Ended()
    under_way: dict[str, tuple[ItemT, PromiseT]] = {}

    def take() -> tuple[ItemT, PromiseT]:
        refuse_inside_loop()
        promise = ended.get()
        if promise is None:
            raise NotConnected("the blocking app was closed meanwhile")
        return under_way.pop(promise.id)

    portal.add(ended)
    try:
        for item in items:
            while len(under_way) >= in_flight or (under_way and not ended.empty()):
                yield take()
            try:
                promise = _started(start, item, ended.put, drain)
            except (NotConnected, ConfigurationError):
                # Not this item's fault: every other one would end in the same way.
                raise
            except QueError as error:
                yield item, error
            else:
                under_way[promise.id] = (item, promise)
        while under_way:
            yield take()
    finally:
        portal.discard(ended)


def _started(
    start: Callable[[ItemT, Arrived], PromiseT], item: ItemT, arrived: Arrived, drain: Callable[[], None]
) -> PromiseT:
    while True:
        try:
            return start(item, arrived)
        except Overloaded:
            drain()


class _LoopThread:
    """An event loop in a thread of its own, for one connection of `app`; close() ends both."""

    def __init__(self, app: AsyncApp) -> None:
        self._app = app
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._connected = False
        self._failure: BaseException | None = None
        self.portal = Portal(self._loop)
        # A daemon, so that a second Ctrl-C ends a process whose engine does not let it go.
        self._thread = threading.Thread(target=self._serve, name="que-blocking", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._loop.close()
            raise

    def open(self) -> None:
        """Connect the app in the thread's loop; raises what its connect() raises."""
        self.portal.run(self._connect)

    def close(self) -> None:
        """Disconnect the app, end the loop and join the thread; raises what its disconnect() raises."""
        with suppress(NotConnected):
            self.portal.post(self._closing.set)
        self._thread.join()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            life = runner.get_loop().create_task(self._live())
            while not life.done():
                try:
                    self._loop.run_until_complete(life)
                except (SystemExit, KeyboardInterrupt):
                    # asyncio lets these two out of run_until_complete(); the loop is whole, and there is work to end.
                    _log.critical("something exited the loop of the blocking app, which closes", exc_info=True)
                    self._closing.set()
                except Exception as error:
                    self._failure = error

    async def _connect(self) -> None:
        # What connect() does not finish it takes back itself.
        await self._app.connect()
        self._connected = True

    async def _live(self) -> None:
        try:
            await self._closing.wait()
            await self.portal.stop()
            if self._connected:
                await self._app.disconnect()
        finally:
            self.portal.end()


_open: weakref.WeakSet[BlockingQue] = weakref.WeakSet()


def _close_all() -> None:
    for each in list(_open):
        each.disconnect()


def _forget_all() -> None:
    for each in list(_open):
        each.forget()
    _open.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
