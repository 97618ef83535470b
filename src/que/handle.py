"""What a submitter holds: a Handle for a result, a Sending for an acceptance, and ways to wait for many of them."""

# gather() looks into its handles: their public face took a third of its time.
# pyright: reportPrivateUsage=false

import asyncio
import copy
import enum
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from typing import Final, Generic, Literal, Protocol, TypeVar, cast, final, overload

import msgspec

from que.errors import QueError, ResultTimeout, WrongLoop
from que.model import Event, JobStatus

ValueT_co = TypeVar("ValueT_co", covariant=True)
ResultT = TypeVar("ResultT")
ResultT_co = TypeVar("ResultT_co", covariant=True)
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")

_log = logging.getLogger("que")

# A reader that falls further behind loses the oldest events, and is told how many.
_EVENTS_KEPT = 1000


class Receipt(msgspec.Struct, frozen=True):
    """An accepted job: the backend's alias, the job's name, our id, and the engine's own name for it.

    `reference` is "" where the result came before the engine's acceptance did.
    """

    backend: str
    job: str
    id: str
    reference: str


class Watcher(Protocol):
    """What a handle needs of the backend that its job went to."""

    @property
    def alias(self) -> str: ...
    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    async def status(self, reference: str) -> JobStatus: ...
    async def cancel(self, reference: str) -> bool: ...


class Declaration(Protocol[ResultT_co]):
    """What a handle needs of its job; `load_result` raises ResultInvalid."""

    @property
    def name(self) -> str: ...
    def load_result(self, payload: bytes, /) -> ResultT_co: ...


class _Failure:
    """An error that says so in the log if nobody ever looked at it."""

    __slots__ = ("error", "seen", "text")

    def __init__(self, error: QueError, text: str) -> None:
        self.error = error
        self.text = text
        self.seen = False

    def look(self) -> QueError:
        """Return a copy, because one exception raised to several awaiters would collect all their tracebacks."""
        self.seen = True
        error = copy.copy(self.error)
        error.__cause__ = self.error.__cause__
        return error

    def __del__(self) -> None:
        if not self.seen:
            _log.error("%s: %s: %s", self.text, type(self.error).__name__, self.error)


class _Nothing(enum.Enum):
    NOTHING = enum.auto()


# The mark of a result that has not been decoded.
_NOTHING: Final = _Nothing.NOTHING
Callback = Callable[["Promise[object]"], None]
Waiter = asyncio.Future[None] | Callback


@final
class _Several(list[Waiter]):
    """More waiters than one, of one promise."""


class Promise(Generic[ValueT_co]):
    """A value that arrives once; any number of awaiters, each cancellable without touching the others.

    Each awaiter has a future of its own, made when it starts to wait; without awaiters there is none.
    """

    __slots__ = ("_end", "_waiters", "_watcher", "id")

    def __init__(self, id: str, watcher: Watcher) -> None:
        self.id: str = id
        self._watcher = watcher
        # What has arrived: a receipt, an encoded result, or a failure; None until then.
        self._end: object = None
        # Mostly one waits.
        self._waiters: Waiter | _Several | None = None

    @property
    def done(self) -> bool:
        """Whether awaiting would return, or raise, at once."""
        return self._end is not None

    def __await__(self) -> Generator[object, None, ValueT_co]:
        if self._end is None:
            waiter = self._new_future()
            self._add_waiter(waiter)
            try:
                yield from waiter
            finally:
                if waiter.cancelled():
                    self._remove_waiter(waiter)
        return self._get()

    def refuse_other_loops(self) -> asyncio.AbstractEventLoop:
        """Return the running loop; raises WrongLoop if it is not the one in which the value will arrive."""
        loop = self._watcher.loop
        if asyncio.get_running_loop() is not loop:
            raise WrongLoop(f"{self!r} belongs to the event loop that its app was connected in")
        return loop

    def _new_future(self) -> asyncio.Future[None]:
        return self.refuse_other_loops().create_future()

    def _get(self) -> ValueT_co:
        """Return the value, or raise what came instead; only once it is done."""
        if isinstance(self._end, _Failure):
            raise self._end.look()
        return cast(ValueT_co, self._end)

    @property
    def error(self) -> QueError | None:
        """What came instead of the value, or None: also while nothing has come."""
        return self._end.look() if isinstance(self._end, _Failure) else None

    def peek(self) -> ValueT_co:
        """Return the value, or raise what came instead; raises asyncio.InvalidStateError if it is not done."""
        if not self.done:
            raise asyncio.InvalidStateError(f"{self!r} is not done")
        return self._get()

    def add_done_callback(self, callback: Callback) -> None:
        """Let `callback(self)` be called once the value or an error is there; at once if it already is."""
        if self.done:
            callback(self)
        else:
            self._add_waiter(callback)

    def remove_done_callback(self, callback: Callback) -> None:
        """Forget `callback`; harmless if it was never added or has been called."""
        self._remove_waiter(callback)

    def _add_waiter(self, waiter: Waiter) -> None:
        if self._waiters is None:
            self._waiters = waiter
        elif isinstance(self._waiters, _Several):
            self._waiters.append(waiter)
        else:
            self._waiters = _Several((self._waiters, waiter))

    def _remove_waiter(self, waiter: Waiter) -> None:
        if isinstance(self._waiters, _Several):
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        elif self._waiters == waiter:
            self._waiters = None

    def _notify(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters if isinstance(waiters, _Several) else (waiters,):
            if isinstance(waiter, asyncio.Future):
                if not waiter.done():
                    waiter.set_result(None)  # pyright: ignore[reportUnknownMemberType] - a Future[None], or a callable one
            elif waiter is not None:
                waiter(self)


class Sending(Promise[Receipt]):
    """A job on its way to the engine; awaiting it gives the Receipt once the engine owns the job."""

    __slots__ = ("_job_name",)

    def __init__(self, id: str, watcher: Watcher, job_name: str) -> None:
        # Spelled out instead of super().__init__(), as in Handle: there is one of these per job.
        self.id = id
        self._watcher = watcher
        self._end = None
        self._waiters = None
        self._job_name = job_name

    def __repr__(self) -> str:
        return f"<Sending of {self._job_name!r} {self.id}>"

    def settle_accepted(self, reference: str) -> None:
        """The engine owns the job, under `reference`."""
        if self._end is None:
            self._end = Receipt(self._watcher.alias, self._job_name, self.id, reference)
            if self._waiters is not None:
                self._notify()

    def settle_failed(self, error: QueError) -> None:
        """The job was not accepted."""
        if self._end is None:
            self._end = _Failure(error, f"job {self._job_name!r} {self.id} was not accepted")
            self._notify()


class Handle(Promise[ResultT_co]):
    """A submitted job; awaiting it gives its result, decoded and checked, or raises what became of it.

    Raises SubmitError if the engine did not take the job, else a JobError.
    """

    __slots__ = ("_acceptance", "_events", "_job", "_reference", "_value")

    def __init__(self, id: str, watcher: Watcher, job: Declaration[ResultT_co]) -> None:
        # Spelled out instead of super().__init__(): there is one of these per job.
        self.id = id
        self._watcher = watcher
        self._end = None
        self._waiters = None
        self._job = job
        self._value: ResultT_co | Literal[_Nothing.NOTHING] = _NOTHING
        self._reference: str | None = None
        self._acceptance: list[asyncio.Future[None]] | None = None
        self._events: _EventLog | None = None

    def __repr__(self) -> str:
        return f"<Handle of {self._job.name!r} {self.id}>"

    @property
    def is_accepted(self) -> bool:
        """Whether the engine has said that it has the job."""
        return self._reference is not None

    def _get(self) -> ResultT_co:
        value = self._value
        if value is _NOTHING:
            end = self._end
            if not isinstance(end, bytes):
                return super()._get()
            value = self._value = self._job.load_result(end)
        return value

    async def result(self, timeout: float | None = None) -> ResultT_co:
        """Return the result, as awaiting does; after `timeout` seconds raise ResultTimeout, and the job goes on."""
        if timeout is None:
            return await self
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                return await self
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise ResultTimeout(f"{self!r} gave no result within {timeout:g} s; the job goes on") from error

    async def accepted(self) -> Receipt:
        """Return the Receipt once the engine has taken the job; raises SubmitError if it does not."""
        if self._reference is None and not self.done:
            waiter = self._new_future()
            if self._acceptance is None:
                self._acceptance = []
            self._acceptance.append(waiter)
            await _until_done(waiter, self._acceptance)
        if self._reference is None and isinstance(self._end, _Failure):
            raise self._end.look()
        return Receipt(self._watcher.alias, self._job.name, self.id, self._reference or "")

    def events(self) -> "Events":
        """Return an async iterator of Progress, Chunk and Warned that ends with the job.

        It starts with the oldest event kept; a reader that is too slow loses the oldest, counted in its `lost`.
        """
        if self._events is None:
            self._events = _EventLog(self.done)
        return Events(self._events, self._new_future)

    async def status(self) -> JobStatus:
        """Return what the engine knows of the job now; raises UnsupportedFeature where it cannot tell."""
        return await self._watcher.status((await self.accepted()).reference)

    async def cancel(self) -> bool:
        """Return True if the engine has cancelled the job or told its worker to stop; awaiters get JobCancelled.

        Raises UnsupportedFeature where the engine cannot.
        """
        if self.done:
            return False
        return await self._watcher.cancel((await self.accepted()).reference)

    def settle_accepted(self, reference: str) -> None:
        """The engine has the job, under `reference`."""
        self._reference = reference
        if self._acceptance is not None:
            self._notify_acceptance()

    def settle_event(self, event: Event) -> None:
        """The job goes on, and something is to be told."""
        if self._events is None:
            self._events = _EventLog(ended=False)
        self._events.append(event)

    def settle_completed(self, payload: bytes) -> None:
        """The encoded result is here."""
        if self._end is None:
            self._arrive(payload)

    def settle_failed(self, error: QueError) -> None:
        """No result will come."""
        if self._end is None:
            self._arrive(_Failure(error, f"job {self._job.name!r} {self.id} failed and nobody awaited it"))

    def _arrive(self, end: bytes | _Failure) -> None:
        self._end = end
        if self._waiters is not None:
            self._notify()
        if self._acceptance is not None:
            self._notify_acceptance()
        if self._events is not None:
            self._events.end()

    def _notify_acceptance(self) -> None:
        waiters, self._acceptance = self._acceptance, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)


async def _until_done(waiter: asyncio.Future[None], waiters: list[asyncio.Future[None]]) -> None:
    """Wait for `waiter`, one of `waiters`, and leave nothing of it there if the wait is cancelled."""
    try:
        await waiter
    finally:
        if waiter.cancelled() and waiter in waiters:
            waiters.remove(waiter)


class _EventLog:
    """The newest events of one job, numbered from 0 over its whole life."""

    __slots__ = ("ended", "kept", "seen", "waiters")

    def __init__(self, ended: bool) -> None:
        self.kept: deque[Event] = deque(maxlen=_EVENTS_KEPT)
        self.seen: int = 0
        self.ended: bool = ended
        self.waiters: list[asyncio.Future[None]] = []

    def append(self, event: Event) -> None:
        self.kept.append(event)
        self.seen += 1
        self._notify()

    def end(self) -> None:
        self.ended = True
        self._notify()

    def _notify(self) -> None:
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class Events:
    """One reader of a job's events; `lost` counts those that it came too late for."""

    __slots__ = ("_log", "_new_future", "_position", "lost")

    def __init__(self, log: _EventLog, new_future: Callable[[], asyncio.Future[None]]) -> None:
        self._log = log
        self._new_future = new_future
        self._position = 0
        self.lost: int = 0

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> Event:
        log = self._log
        while self._position == log.seen:
            if log.ended:
                raise StopAsyncIteration
            waiter = self._new_future()
            log.waiters.append(waiter)
            await _until_done(waiter, log.waiters)
        oldest = log.seen - len(log.kept)
        if self._position < oldest:
            self.lost += oldest - self._position
            self._position = oldest
        event = log.kept[self._position - oldest]
        self._position += 1
        return event


@overload
async def gather(first: Handle[A], /) -> tuple[A]: ...
@overload
async def gather(first: Handle[A], second: Handle[B], /) -> tuple[A, B]: ...
@overload
async def gather(first: Handle[A], second: Handle[B], third: Handle[C], /) -> tuple[A, B, C]: ...
@overload
async def gather(first: Handle[A], second: Handle[B], third: Handle[C], fourth: Handle[D], /) -> tuple[A, B, C, D]: ...
@overload
async def gather(*handles: Handle[ResultT]) -> tuple[ResultT, ...]: ...
async def gather(*handles: Handle[object]) -> tuple[object, ...]:
    """Return the results in the order of `handles`, or raise the first error as soon as it is there.

    It makes one future for all, and no task; the other jobs go on after an error or a cancellation.
    """
    waiting = [handle for handle in handles if handle._end is None]
    left = len(waiting)
    finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def arrived(handle: Promise[object]) -> None:
        nonlocal left
        left -= 1
        if (not left or _went_wrong(handle)) and not finished.done():
            finished.set_result(None)

    if left and not any(_went_wrong(handle) for handle in handles if handle._end is not None):
        for handle in {handle._watcher: handle for handle in waiting}.values():
            handle.refuse_other_loops()
        for handle in waiting:
            handle._add_waiter(arrived)
        try:
            await finished
        finally:
            if left:
                for handle in waiting:
                    handle._remove_waiter(arrived)
    if left:
        for handle in handles:
            if handle._end is not None:
                handle._get()
    return tuple([handle._get() for handle in handles])


def _went_wrong(handle: Promise[object]) -> bool:
    """Whether awaiting `handle`, which is done, would raise, be it for a result that does not fit its type."""
    try:
        handle._get()
    except QueError:
        return True
    return False


async def as_completed(handles: Iterable[Handle[ResultT]]) -> AsyncIterator[Handle[ResultT]]:
    """Yield each of `handles` once it is done, the first done first, without a task for any of them."""
    waiting = {handle.id: handle for handle in handles}
    done: deque[str] = deque()
    waiter: asyncio.Future[None] | None = None

    def arrived(handle: Promise[object]) -> None:
        done.append(handle.id)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    for handle in waiting.values():
        if not handle.done:
            handle.refuse_other_loops()
    for handle in list(waiting.values()):
        handle.add_done_callback(arrived)
    try:
        while waiting:
            if not done:
                waiter = asyncio.get_running_loop().create_future()
                await waiter
            yield waiting.pop(done.popleft())
    finally:
        for handle in waiting.values():
            handle.remove_done_callback(arrived)
