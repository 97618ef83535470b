"""The sync face: the same verbs for threads, over one event loop in one thread of its own."""

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Protocol, Self, TypeVar, Unpack

from que.backend import Backend
from que.errors import ConfigurationError, NotConnected, Overloaded, QueError
from que.handle import Handle, Promise, Receipt, Sending
from que.job import Job
from que.model import Envelope, JobStatus
from que.options import CallOptions, Options
from que.outcome import Outcome, Refused, Sent
from que.portal import BlockingHandle, BlockingSending, Portal, refuse_inside_loop

ParamsT = TypeVar("ParamsT")
ResultT = TypeVar("ResultT")
PromiseT = TypeVar("PromiseT", bound=Promise[object])
ItemT = TypeVar("ItemT")


class AsyncApp(Protocol):
    """What the sync face needs of an app; Que is one."""

    async def connect(self) -> None: ...
    async def disconnect(self) -> None: ...
    async def drain(self) -> None: ...
    async def status(self, receipt: Receipt, /) -> JobStatus: ...
    async def cancel(self, receipt: Receipt, /) -> bool: ...
    async def work(self, *, concurrency: int = ...) -> None: ...
    def route(self, job: Job[ParamsT, ResultT], options: CallOptions, /) -> tuple[Backend, Options]: ...


class BlockingQue:
    """An app for sync code: `with app.blocking() as q: q.submit(job, params).result(timeout=5)`.

    Usable from any number of threads; every method raises WrongLoop inside a running event loop, and NotConnected
    outside the `with` block and in a forked child, which has to open its own. At exit it is closed and its thread
    joined.
    """

    def __init__(self, app: AsyncApp, portal: Portal | None = None) -> None:
        self._app = app
        self._portal_or_none = portal
        self._thread: threading.Thread | None = None

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
        if self._portal_or_none is not None:
            raise ConfigurationError("this blocking app is connected already")
        loop = asyncio.new_event_loop()
        self._portal_or_none = portal = Portal(loop)
        self._thread = threading.Thread(target=_serve, args=(loop,), name="que-blocking", daemon=True)
        self._thread.start()
        _open.add(self)
        try:
            portal.run(self._app.connect)
        except BaseException:
            self._close(loop_only=True)
            raise

    def disconnect(self) -> None:
        """Disconnect the app, end its loop and join the thread; harmless when called again."""
        refuse_inside_loop()
        self._close(loop_only=False)

    def _close(self, *, loop_only: bool) -> None:
        portal, thread = self._portal_or_none, self._thread
        self._portal_or_none = self._thread = None
        _open.discard(self)
        if portal is None or thread is None:
            return
        try:
            if not loop_only:
                portal.run(self._app.disconnect)
        finally:
            portal.close()
            thread.join()

    def forget(self) -> None:
        """Drop the loop, whose thread a forked child does not have."""
        self._portal_or_none = self._thread = None

    def submit(
        self, job: Job[ParamsT, ResultT], params: ParamsT, /, **options: Unpack[CallOptions]
    ) -> BlockingHandle[ResultT]:
        """Return a handle at once; raises at the call what Job.submit() raises."""
        refuse_inside_loop()
        portal = self._portal
        backend, envelope = self._prepared(job, params, options, background=False)
        handle = Handle(envelope.id, backend, job)
        blocking = BlockingHandle(portal, handle)
        portal.post(partial(_start, backend, envelope, handle, blocking.wake))
        return blocking

    def send(self, job: Job[ParamsT, ResultT], params: ParamsT, /, **options: Unpack[CallOptions]) -> BlockingSending:
        """Return a sending at once, whose result() is the Receipt; raises at the call what Job.send() raises."""
        refuse_inside_loop()
        portal = self._portal
        backend, envelope = self._prepared(job, params, options, background=True)
        sending = Sending(envelope.id, backend, job.name)
        blocking = BlockingSending(portal, sending)
        portal.post(partial(_start, backend, envelope, sending, blocking.wake))
        return blocking

    def _prepared(
        self, job: Job[ParamsT, ResultT], params: ParamsT, options: CallOptions, background: bool
    ) -> tuple[Backend, Envelope]:
        backend, merged = self._app.route(job, options)
        return backend, backend.prepare(job, params, merged, background)

    def submit_many(self, job: Job[ParamsT, ResultT], items: Iterable[ParamsT], /) -> list[BlockingHandle[ResultT]]:
        """Return a handle for each item, in order."""
        return [self.submit(job, params) for params in items]

    def map(
        self, job: Job[ParamsT, ResultT], items: Iterable[ParamsT], /, *, in_flight: int = 1000
    ) -> Iterator[Outcome[ParamsT, ResultT]]:
        """Yield an Outcome for each item as it is done; `items` is read in this thread, and may be endless."""

        def start(params: ParamsT, arrived: Callable[[Promise[object]], None]) -> Handle[ResultT]:
            backend, envelope = self._prepared(job, params, {}, background=False)
            handle = Handle(envelope.id, backend, job)
            self._portal.post(partial(_start, backend, envelope, handle, arrived))
            return handle

        for params, source in self._flow(start, items, in_flight):
            yield Outcome(params, source)

    def send_many(
        self, job: Job[ParamsT, ResultT], items: Iterable[ParamsT], /, *, in_flight: int = 1000
    ) -> Sent[ParamsT]:
        """Send each item and return how many the engine took, and each that it did not, with the error."""

        def start(params: ParamsT, arrived: Callable[[Promise[object]], None]) -> Sending:
            backend, envelope = self._prepared(job, params, {}, background=True)
            sending = Sending(envelope.id, backend, job.name)
            self._portal.post(partial(_start, backend, envelope, sending, arrived))
            return sending

        accepted = 0
        refused: list[Refused[ParamsT]] = []
        for params, source in self._flow(start, items, in_flight):
            error = source if isinstance(source, QueError) else source.error
            if error is None:
                accepted += 1
            else:
                refused.append(Refused(params, error))
        return Sent(accepted, refused)

    def _flow(
        self,
        start: Callable[[ItemT, Callable[[Promise[object]], None]], PromiseT],
        items: Iterable[ItemT],
        in_flight: int,
    ) -> Iterator[tuple[ItemT, PromiseT | QueError]]:
        """Yield each item once it has ended; the loop's thread puts what ends, this thread takes it."""
        refuse_inside_loop()
        if in_flight < 1:
            raise ConfigurationError(f"in_flight={in_flight}: expected at least 1")
        ended: SimpleQueue[Promise[object]] = SimpleQueue()
        under_way: dict[str, tuple[ItemT, PromiseT]] = {}
        for item in items:
            while len(under_way) >= in_flight or not ended.empty():
                yield under_way.pop(ended.get().id)
            try:
                promise = self._started(start, item, ended)
            except NotConnected:
                raise
            except QueError as error:
                yield item, error
            else:
                under_way[promise.id] = (item, promise)
        while under_way:
            yield under_way.pop(ended.get().id)

    def _started(
        self,
        start: Callable[[ItemT, Callable[[Promise[object]], None]], PromiseT],
        item: ItemT,
        ended: "SimpleQueue[Promise[object]]",
    ) -> PromiseT:
        while True:
            try:
                return start(item, ended.put)
            except Overloaded:
                self.drain()

    def drain(self) -> None:
        """Wait until nothing waits unsent."""
        self._portal.run(self._app.drain)

    def status(self, receipt: Receipt, /) -> JobStatus:
        """Return what the engine knows of a job now."""
        return self._portal.run(self._app.status, receipt)

    def cancel(self, receipt: Receipt, /) -> bool:
        """Return True if the engine has cancelled the job or told its worker to stop."""
        return self._portal.run(self._app.cancel, receipt)

    def work(self, *, concurrency: int = 100) -> None:
        """Work the app's jobs until this thread is interrupted, as by Ctrl-C."""
        self._portal.run(self._app.work, concurrency=concurrency)


def _start(
    backend: Backend,
    envelope: Envelope,
    promise: Handle[object] | Sending,
    arrived: Callable[[Promise[object]], None],
) -> None:
    promise.add_done_callback(arrived)
    backend.dispatch(envelope, promise)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


_open: "weakref.WeakSet[BlockingQue]" = weakref.WeakSet()


def _close_all() -> None:
    for each in list(_open):
        each.disconnect()


def _forget_all() -> None:
    for each in list(_open):
        each.forget()
    _open.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
