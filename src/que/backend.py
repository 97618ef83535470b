"""One engine of an app: its driver, what waits unsent, and the handles that wait for its answers."""

import asyncio
import itertools
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TypeVar

import msgspec

from que.address import Address
from que.batch import Batcher
from que.driver import Buries, Cancels, Driver, Inspects, Keeps, Remembers, open_driver
from que.enlisting import enlist, refuse_transaction
from que.errors import (
    ConnectionLost,
    JobError,
    NotConnected,
    NotSent,
    Overloaded,
    QueError,
    Rejected,
    SubmitAmbiguous,
    SubmitError,
    UnsupportedFeature,
    WrongLoop,
)
from que.flow import Plan, StepJob, is_flow_id, new_flow_id
from que.handle import Handle, Receipt, Sending
from que.job import Job
from que.keeping import FlowStart, Keeping
from que.model import (
    Capabilities,
    Chunk,
    DeadLetter,
    Envelope,
    Failed,
    JobStatus,
    Priority,
    Progress,
    QueueDepth,
    Support,
    Warned,
)
from que.options import NO_OPTIONS, Options
from que.outcome import Outcome, Sent, error_of
from que.patience import Patience
from que.stream import Items, map_jobs, send_jobs

if TYPE_CHECKING:
    from que.observer import Observer

ParamsT = TypeVar("ParamsT")
ResultT = TypeVar("ResultT")

_log = logging.getLogger("que")


def _new_prefix() -> None:
    """Ids are a random prefix per process and a count: unique everywhere, and cheap."""
    global _prefix
    _prefix = os.urandom(8).hex() + "-"


_prefix = ""
_counter = itertools.count()
_new_prefix()
os.register_at_fork(after_in_child=_new_prefix)


class Backend:
    """The EventSink of one driver, and the way of every job to it.

    Its submit() and send() raise NotConnected, WrongLoop, Overloaded, UnsupportedFeature, ParamsInvalid and Rejected
    (a payload over the engine's limit) at the call.
    """

    observers: "Sequence[Observer]" = ()

    def __init__(
        self, alias: str, address: Address, driver: Driver, max_unsent: int, watch_timeout: float | None
    ) -> None:
        self.alias = alias
        self.address = address
        self.driver: Driver = driver
        self._abandoned: Driver | None = None
        self._max_unsent = max_unsent
        self._watch_timeout = watch_timeout
        self._max_payload = sys.maxsize
        self._has_results = False
        self._watched: dict[str, Handle[object] | Sending] = {}
        self._patience: Patience | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._batcher: Batcher[Envelope] | None = None
        self._watches: Batcher[tuple[str, str]] | None = None
        self._keeping: Keeping | None = None
        # What keeps the results that this engine does not, and the state of flows.
        self.companion: Backend | None = None

    def __repr__(self) -> str:
        return f"<Backend {self.alias!r} at {self.address}>"

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop in which this backend was connected; raises NotConnected."""
        if self._loop is None:
            raise NotConnected(f"{self.address} is not connected: use `async with app`, or await app.connect()")
        return self._loop

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can, with its companion."""
        can = self.driver.capabilities
        if self.companion is None or can.results_stored:
            return can
        return msgspec.structs.replace(can, results_stored=Support.EMULATED)

    @property
    def store(self) -> "Backend | None":
        """What keeps the state of this engine's flows: its companion, or the engine itself, or nothing."""
        store = self.companion or self
        return store if isinstance(store.driver, Keeps) and store.driver.capabilities.keeps else None

    async def connect(self) -> None:
        """Reach the engine; raises ConnectError, which names the backend."""
        loop = asyncio.get_running_loop()
        await self.driver.connect(self)
        self._batcher = Batcher(self._submit_batch, self.driver.calls_in_flight, loop)
        self._watches = Batcher(self._watch_batch, self.driver.calls_in_flight, loop)
        self._keeping = None if self.store is None else Keeping(self, self.store)
        can = self.driver.capabilities
        self._max_payload = can.max_payload or sys.maxsize
        self._has_results = bool(can.results_pushed)
        self._thread = threading.get_ident()
        self._loop = loop
        if self._watch_timeout is not None:
            self._patience = Patience(self._watch_timeout, self._watched, self._fail, loop)

    async def disconnect(self) -> None:
        """Let what waits leave, then close; whoever still waits gets an error that says how far the job had come.

        NotSent if it had not left, SubmitAmbiguous if it had no answer, ConnectionLost if it had been accepted.
        """
        keeping, self._keeping = self._keeping, None
        try:
            if keeping is not None:
                await keeping.close()
        finally:
            await self._close()

    async def _close(self) -> None:
        batcher, self._batcher, self._loop = self._batcher, None, None
        watches, self._watches = self._watches, None
        try:
            if batcher is not None and watches is not None:
                await batcher.close()
                await watches.close()
        finally:
            try:
                await self.driver.disconnect()
            finally:
                if self._patience is not None:
                    self._patience.end()
                self._leave_nobody_waiting([] if batcher is None else batcher.waiting)

    def _leave_nobody_waiting(self, unsent: Iterable[Envelope]) -> None:
        for envelope in unsent:
            self._fail(envelope.id, NotSent(f"{self.address} was disconnected before the job could leave"))
        for id, promise in list(self._watched.items()):
            if isinstance(promise, Handle) and promise.is_accepted:
                self._fail(
                    id, ConnectionLost(f"{self.address} was disconnected; the job was accepted and may still run")
                )
            else:
                self._fail(id, SubmitAmbiguous(f"{self.address} was disconnected before its answer: the job may exist"))

    def renew(self) -> None:
        """Start over in a forked child, unconnected: the parent's sockets and event loop are not the child's to use."""
        self._abandoned = self.driver
        self.driver = open_driver(self.address)
        self._batcher = self._watches = self._keeping = self._patience = self._loop = None
        self._watched.clear()

    async def drain(self) -> None:
        """Wait until nothing waits unsent."""
        if self._batcher is not None:
            await self._batcher.drain()

    def prepare(
        self, job: Job[ParamsT, ResultT], params: ParamsT, options: Options, background: bool, posted: int = 0
    ) -> Envelope:
        """Return the checked and encoded job; safe in any thread. `posted`: what waits unsent outside of the loop."""
        batcher = self._batcher
        if batcher is None:
            self._refuse_use()
        if batcher.count + posted >= self._max_unsent:
            raise Overloaded(self._max_unsent)
        if not (background or self._has_results):
            raise UnsupportedFeature(self.address.scheme, "results", "use send(), which waits for none")
        payload = job.dump_params(params)
        if len(payload) > self._max_payload:
            self._refuse_size(job.name, payload)
        id = f"{_prefix}{next(_counter):x}"
        if options is NO_OPTIONS:
            return Envelope(id, job.name, payload, background)
        return self._with_options(Envelope(id, job.name, payload, background), job, options)

    def _refuse_size(self, job: str, payload: bytes) -> NoReturn:
        raise Rejected(f"job {job!r}: {len(payload)} bytes of params, more than the {self._max_payload} allowed")

    def _with_options(self, envelope: Envelope, job: Job[ParamsT, ResultT], options: Options) -> Envelope:
        if options.connection is not None:
            refuse_transaction(self.address.scheme, self.driver, envelope)
        can = self.capabilities
        # A job's own too: it may be bound to no app, and connect() may have found that this server can less.
        options.refuse_unsupported(
            self.address.scheme,
            can,
            background=envelope.background,
            per_call=options.run_timeout != job.options.run_timeout,
        )
        stored = can.results_stored is not Support.EMULATED
        if options.result_ttl is not None and not stored:
            self._refuse_unkept(job, options)
        return msgspec.structs.replace(
            envelope,
            priority=Priority.NORMAL if options.priority is None else options.priority,
            due=options.due(),
            unique=options.unique,
            expires=options.expires,
            # The job's own is known to its worker, which keeps it where the engine cannot carry it.
            run_timeout=options.run_timeout if can.run_timeout else None,
            # A companion is the worker's, which knows what the job declares.
            result_ttl=options.result_ttl if stored else None,
            headers=options.headers or None,
        )

    def _refuse_unkept(self, job: Job[ParamsT, ResultT], options: Options) -> None:
        """Raise UnsupportedFeature where a worker could not know for how long, or under which key, to keep a result."""
        scheme = self.address.scheme
        if options.result_ttl != job.options.result_ttl:
            raise UnsupportedFeature(scheme, "result_ttl per call", "declare it on the job: @app.job(…, result_ttl=…)")
        if options.unique is not None:
            hint = "leave unique= out, or declare the job without result_ttl="
            raise UnsupportedFeature(scheme, "kept results of jobs with a unique key", hint)

    def submit(self, job: Job[ParamsT, ResultT], params: ParamsT, options: Options) -> Handle[ResultT]:
        """Return a handle at once; the job leaves at the end of this loop tick."""
        self._refuse_other_loops()
        envelope = self.prepare(job, params, options, background=False)
        handle = Handle(envelope.id, self, job)
        self.dispatch(envelope, handle)
        return handle

    def send(self, job: Job[ParamsT, ResultT], params: ParamsT, options: Options) -> Sending:
        """Return a sending at once; the job leaves at the end of this tick, or when it is awaited on a connection."""
        self._refuse_other_loops()
        if options.connection is not None:
            return self.enlist(job, params, options)
        envelope = self.prepare(job, params, options, background=True)
        sending = Sending(envelope.id, self, job.name)
        self.dispatch(envelope, sending)
        return sending

    def enlist(self, job: Job[ParamsT, ResultT], params: ParamsT, options: Options) -> Sending:
        """Return a sending that, once awaited, queues the job inside the transaction of `options.connection`."""
        return enlist(self, self.driver, options.connection, self.prepare(job, params, options, background=True))

    def submit_many(
        self, job: Job[ParamsT, ResultT], items: Iterable[ParamsT], options: Options
    ) -> list[Handle[ResultT]]:
        """Return a handle for each item, in order; if one of them is refused, none leaves."""
        self._refuse_other_loops()
        envelopes = [self.prepare(job, params, options, False, count) for count, params in enumerate(items)]
        handles = [Handle(envelope.id, self, job) for envelope in envelopes]
        for envelope, handle in zip(envelopes, handles, strict=True):
            self.dispatch(envelope, handle)
        return handles

    def map(
        self, job: Job[ParamsT, ResultT], items: Items[ParamsT], in_flight: int
    ) -> AsyncIterator[Outcome[ParamsT, ResultT]]:
        """Yield an Outcome for each item as it ends, with at most `in_flight` under way."""
        return map_jobs(lambda params: self.submit(job, params, job.options), items, in_flight, self.drain)

    async def send_many(self, job: Job[ParamsT, ResultT], items: Items[ParamsT], in_flight: int) -> Sent[ParamsT]:
        """Send each item, with at most `in_flight` waiting for their acceptance."""
        return await send_jobs(lambda params: self.send(job, params, job.options), items, in_flight, self.drain)

    def dispatch(self, envelope: Envelope, promise: Handle[object] | Sending) -> None:
        """Let a prepared job leave, and `promise` hear of it; only in the loop."""
        if self._batcher is None:
            promise.settle_failed(NotSent(f"{self.address} was disconnected before the job could leave"))
            return
        self._watched[envelope.id] = promise
        self._batcher.add(envelope)
        if self._patience is not None:
            self._patience.add(envelope.id)

    def post(self, envelope: Envelope) -> Sending:
        """Let an encoded job leave, once where it is on its way already; only in the loop. Raises Rejected."""
        if len(envelope.payload) > self._max_payload:
            self._refuse_size(envelope.function, envelope.payload)
        promise = self._watched.get(envelope.id)
        if not isinstance(promise, Sending):
            promise = Sending(envelope.id, self, envelope.function)
            self.dispatch(envelope, promise)
        return promise

    def submit_flow(self, plan: Plan, job: StepJob) -> Handle[object]:
        """Return a handle of what the last job of a flow will give; the flow begins at the end of this loop tick."""
        self._refuse_other_loops()
        handle, leave = self.prepare_flow(plan, job)
        leave()
        return handle

    def prepare_flow(self, plan: Plan, job: StepJob) -> tuple[Handle[object], Callable[[], None]]:
        """Return a handle, and what lets its flow begin, in the loop; safe in any thread."""
        handle = Handle(new_flow_id(), self, job)
        return handle, partial(self._keeping_or_refuse().add, FlowStart(plan, handle))

    def _keeping_or_refuse(self) -> Keeping:
        if self._watches is None:
            self._refuse_use()
        if self._keeping is None:
            hint = 'add a store: Que(…, results="sqlite:///…")'
            raise UnsupportedFeature(self.address.scheme, "memory for flows", hint)
        return self._keeping

    def watch(self, job: Job[ParamsT, ResultT], receipt: Receipt) -> Handle[ResultT]:
        """Return a handle of a job that was submitted before, maybe by another process."""
        self._refuse_other_loops()
        handle = self.prepare_watch(job, receipt)
        self.dispatch_watch(handle, receipt)
        return handle

    def prepare_watch(self, job: Job[ParamsT, ResultT], receipt: Receipt) -> Handle[ResultT]:
        """Return a handle that hears of nothing yet; safe in any thread. Raises NotConnected and UnsupportedFeature."""
        if self._watches is None:
            self._refuse_use()
        if is_flow_id(receipt.reference):
            self._keeping_or_refuse()
        elif not self.capabilities.results_stored:
            hint = 'use an engine that keeps results, or a store: Que(…, results="sqlite:///…")'
            raise UnsupportedFeature(self.address.scheme, "results by receipt", hint)
        return Handle(f"{_prefix}{next(_counter):x}", self, job)

    def dispatch_watch(self, handle: Handle[object], receipt: Receipt) -> None:
        """Let `handle` hear of the job of that receipt; only in the loop."""
        if self._watches is None:
            handle.settle_failed(ConnectionLost(f"{self.address} was disconnected before it was asked for the job"))
            return
        handle.settle_accepted(receipt.reference)
        flow = is_flow_id(receipt.reference)
        if self._keeping is not None and (flow or not self.driver.capabilities.results_stored):
            self._keeping.seek(handle, receipt.reference if flow else receipt.id, receipt.reference)
        else:
            self._watched[handle.id] = handle
            self._watches.add((handle.id, receipt.reference))

    def expect(self, handle: Handle[object]) -> None:
        """Let `handle` hear of what the driver will tell under its id."""
        self._watched[handle.id] = handle

    async def _watch_batch(self, watches: list[tuple[str, str]]) -> None:
        assert isinstance(self.driver, Remembers)
        try:
            await self.driver.watch(watches)
        except Exception as error:
            for id, _ in watches:
                self._fail(id, ConnectionLost(f"{self.address} could not be asked for the job: {error}"))
            _log.exception("driver of %s: watch() failed", self.address)

    async def depths(self) -> Sequence[QueueDepth]:
        """Return how much of each function's work waits and runs; raises UnsupportedFeature."""
        if not isinstance(self.driver, Inspects) or not self.driver.capabilities.inspect:
            raise UnsupportedFeature(self.address.scheme, "inspection", "ask the engine with its own tools")
        return await self.driver.depths()

    async def dead_letters(self, function: str, limit: int) -> Sequence[DeadLetter]:
        """Return the oldest dead letters of `function`; raises UnsupportedFeature."""
        return await self._graveyard().dead_letters(function, limit)

    async def replay(self, letters: Iterable[DeadLetter]) -> int:
        """Queue `letters` again; return how many there were still. Raises UnsupportedFeature."""
        return await self._graveyard().replay([letter.receipt for letter in letters])

    async def drop(self, letters: Iterable[DeadLetter]) -> int:
        """Forget `letters`; return how many there were still. Raises UnsupportedFeature."""
        return await self._graveyard().drop([letter.receipt for letter in letters])

    def _graveyard(self) -> Buries:
        if not isinstance(self.driver, Buries) or not self.driver.capabilities.dead_letters:
            hint = "let the handler, or a middleware, put aside what fails"
            raise UnsupportedFeature(self.address.scheme, "dead letters", hint)
        return self.driver

    async def status(self, reference: str) -> JobStatus:
        """Return what the engine knows of a job, or the store of a flow; raises UnsupportedFeature."""
        if is_flow_id(reference):
            return await self._keeping_or_refuse().status(reference)
        if not isinstance(self.driver, Inspects) or not self.driver.capabilities.inspect:
            raise UnsupportedFeature(self.address.scheme, "status", "await the result instead")
        return await self.driver.status(reference)

    async def cancel(self, reference: str) -> bool:
        """Return True if the engine has cancelled the job or told its worker; raises UnsupportedFeature."""
        if is_flow_id(reference):
            return await self._keeping_or_refuse().cancel(reference)
        can = self.driver.capabilities
        if not isinstance(self.driver, Cancels) or not (can.cancel_queued or can.cancel_running):
            raise UnsupportedFeature(self.address.scheme, "cancel", "let the handler look for a mark of your own")
        return await self.driver.cancel(reference)

    def accepted(self, id: str, receipt: str) -> None:
        """The engine has a job: the end of the story for a sending, a chapter of it for a handle."""
        promise = self._watched.get(id)
        if promise is not None:
            promise.settle_accepted(receipt)
            if isinstance(promise, Sending):
                del self._watched[id]

    def completed(self, id: str, payload: bytes) -> None:
        """A result is here."""
        promise = self._watched.pop(id, None)
        if isinstance(promise, Handle):
            promise.settle_completed(payload)

    def refused(self, id: str, error: SubmitError) -> None:
        """The engine did not take a job."""
        self._fail(id, error)

    def failed(self, id: str, failure: Failed) -> None:
        """A worker reported a failure."""
        self._fail(id, error_of(failure))

    def lost(self, id: str, error: JobError) -> None:
        """A job can no longer be watched, or will never run."""
        self._fail(id, error)

    def progress(self, id: str, done: int, total: int) -> None:
        """A worker told how far it is."""
        if isinstance(promise := self._watched.get(id), Handle):
            promise.settle_event(Progress(done, total))

    def chunk(self, id: str, data: bytes) -> None:
        """A worker sent a part of its result."""
        if isinstance(promise := self._watched.get(id), Handle):
            promise.settle_event(Chunk(data))

    def warned(self, id: str, text: str) -> None:
        """A worker warned."""
        if isinstance(promise := self._watched.get(id), Handle):
            promise.settle_event(Warned(text))

    def reconnected(self) -> None:
        """A connection that was lost is there again."""

    def _fail(self, id: str, error: QueError) -> None:
        promise = self._watched.pop(id, None)
        if promise is not None:
            promise.settle_failed(error)

    async def _submit_batch(self, envelopes: list[Envelope]) -> None:
        try:
            await self.driver.submit(envelopes)
        except SubmitError as error:
            self._refuse(envelopes, error)
        except (Exception, asyncio.CancelledError) as error:
            self._refuse(envelopes, SubmitAmbiguous(f"the driver failed, and the job may exist: {error!r}"))
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            _log.exception("driver of %s: submit() raised what is no SubmitError", self.address)

    def _refuse(self, envelopes: list[Envelope], error: SubmitError) -> None:
        """End those of `envelopes` that have no outcome yet; a handle whose job was accepted has one."""
        for envelope in envelopes:
            promise = self._watched.get(envelope.id)
            if isinstance(promise, Sending) or (promise is not None and not promise.is_accepted):
                self._fail(envelope.id, error)

    def _refuse_other_loops(self) -> None:
        # In one thread one loop runs at a time. asyncio.get_running_loop() would ask the kernel for our process id on
        # Python 3.11, which is a tenth of a submit().
        if self._loop is None or threading.get_ident() != self._thread or not self._loop.is_running():
            self._refuse_use()

    def _refuse_use(self) -> NoReturn:
        if self._loop is None:
            raise NotConnected(f"{self.address} is not connected: use `async with app`, or await app.connect()")
        raise WrongLoop(
            f"{self.address} was connected in another thread or event loop: use app.blocking() from threads"
        )
