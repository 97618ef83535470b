"""From any thread into one event loop and back: what the sync face is made of."""

import asyncio
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from typing import Generic, ParamSpec, Protocol, TypeVar

from que.errors import NotConnected, QueError, ResultTimeout, WrongLoop
from que.handle import Events, Handle, Promise, Receipt, Sending
from que.model import Event, JobStatus

ResultT = TypeVar("ResultT")
ValueT = TypeVar("ValueT")
P = ParamSpec("P")

_CLOSED = "the blocking app is closed: use it inside its with block, and open one of its own in a forked child"


class Wakes(Protocol):
    """Something that a thread waits on."""

    def wake(self) -> None: ...


class Waiter:
    """One wait of one thread. A bare lock: threading.Event costs six times as much to make and to wait for.

    Only wake() releases the lock, so an exception that interrupts the wait, as by Ctrl-C, leaves nothing behind.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self, _: object = None) -> None:
        """End the wait; harmless when called again, from any thread."""
        with suppress(RuntimeError):
            self._lock.release()

    def wait(self, timeout: float | None) -> bool:
        """Return True once woken, False after `timeout` seconds."""
        return self._lock.acquire(timeout=-1 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX))


class Portal:
    """Runs things in `loop` for other threads; what many of them ask for within one wake-up costs one wake-up.

    Whoever owns the loop ends a portal in two steps, stop() and end(): after them no thread waits at it, whatever
    became of what it waited for. A forked child, which has no such loop, finds it ended.
    """

    __slots__ = ("__weakref__", "_closed", "_ended", "_lock", "_loop", "_posted", "_tasks", "_waiters", "_woken")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._posted: deque[Callable[[], object]] = deque()
        self._tasks: set[asyncio.Task[object]] = set()
        self._waiters: set[Wakes] = set()
        self._woken = False
        self._closed = False
        self._ended = False
        _portals.add(self)

    def __len__(self) -> int:
        """The calls that were posted and have not begun."""
        return len(self._posted)

    @property
    def is_closed(self) -> bool:
        """Whether post() and run() raise NotConnected."""
        return self._closed

    def post(self, call: Callable[[], object]) -> None:
        """Let `call` run in the loop soon; calls run in the order of their posting. Raises NotConnected once closed."""
        with self._lock:
            if self._closed:
                raise NotConnected(_CLOSED)
            self._posted.append(call)
            woken, self._woken = self._woken, True
        if not woken:
            self._wake_loop()

    def _wake_loop(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._run_posted)
        except RuntimeError as error:
            # The loop was closed under us, as when asyncio.run() ended without a disconnect().
            self.end()
            raise NotConnected(_CLOSED) from error

    def _run_posted(self) -> None:
        with self._lock:
            self._woken = False
            calls, self._posted = self._posted, deque()
        for call in calls:
            try:
                call()
            except Exception as error:
                self._loop.call_exception_handler({"message": "a posted call failed", "exception": error})

    def run(
        self, function: Callable[P, Coroutine[object, object, ValueT]], *args: P.args, **kwargs: P.kwargs
    ) -> ValueT:
        """Run `function` in the loop and return what it returns, or raise what it raises.

        An exception in this thread meanwhile, as by Ctrl-C, cancels it. Raises WrongLoop inside a running event loop,
        NotConnected if the portal is closed before or meanwhile.
        """
        refuse_inside_loop()
        waiter = Waiter()
        started: list[asyncio.Task[ValueT]] = []

        def start() -> None:
            task = self._loop.create_task(function(*args, **kwargs))
            started.append(task)
            self._tasks.add(task)
            task.add_done_callback(finished)

        def finished(task: asyncio.Task[ValueT]) -> None:
            self._tasks.discard(task)
            waiter.wake()

        self.post(start)
        try:
            self.wait(waiter)
        except BaseException:
            with suppress(NotConnected):
                self.post(lambda: [task.cancel() for task in started])
            raise
        if not started or not started[0].done() or (self._closed and started[0].cancelled()):
            raise NotConnected(_CLOSED)
        return started[0].result()

    def wait(self, waiter: Waiter, timeout: float | None = None) -> bool:
        """Return True once `waiter` was woken, or the portal has ended; False after `timeout` seconds."""
        self.add(waiter)
        try:
            return waiter.wait(timeout)
        finally:
            self.discard(waiter)

    def add(self, waiter: Wakes) -> None:
        """Let `waiter` be woken by the portal's end, at once if it has ended."""
        self._waiters.add(waiter)
        if self._ended:
            waiter.wake()

    def discard(self, waiter: Wakes) -> None:
        """Forget `waiter`."""
        self._waiters.discard(waiter)

    async def stop(self) -> None:
        """Refuse what comes from now on, begin what was posted, cancel what run() runs, and wait until it has ended."""
        with self._lock:
            self._closed = True
        self._run_posted()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def end(self) -> None:
        """Wake every thread that still waits."""
        self._closed = self._ended = True
        for waiter in list(self._waiters):
            waiter.wake()

    def forget(self) -> None:
        """In a forked child: end, with a new lock, since the old one's holder may be a thread that is not here."""
        self._lock = threading.Lock()
        self._closed = self._ended = True
        self._waiters.clear()


_portals: weakref.WeakSet[Portal] = weakref.WeakSet()


def _forget_all() -> None:
    for portal in list(_portals):
        portal.forget()


os.register_at_fork(after_in_child=_forget_all)


def refuse_inside_loop() -> None:
    """Raise WrongLoop if this thread runs an event loop, which a blocking call would stop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise WrongLoop("a blocking call inside a running event loop would stop it: await the async form instead")


class BlockingPromise(Generic[ValueT]):
    """A value that arrives once, for threads; any number of them may wait for it."""

    __slots__ = ("_portal", "_promise")

    def __init__(self, portal: Portal, promise: Promise[ValueT]) -> None:
        self._portal = portal
        self._promise = promise

    def __repr__(self) -> str:
        return f"<Blocking {self._promise!r}>"

    @property
    def id(self) -> str:
        """Our id of the job."""
        return self._promise.id

    @property
    def done(self) -> bool:
        """Whether result() would return, or raise, at once."""
        return self._promise.done

    @property
    def error(self) -> QueError | None:
        """What came instead of the value, or None: also while nothing has come."""
        return self._promise.error

    def peek(self) -> ValueT:
        """Return the value, or raise what came instead; raises asyncio.InvalidStateError if it is not done."""
        return self._promise.peek()

    def result(self, timeout: float | None = None) -> ValueT:
        """Return the value, or raise what came instead; after `timeout` seconds raise ResultTimeout.

        Raises WrongLoop where it would have to wait inside a running event loop, NotConnected if the app is closed
        and nothing has come.
        """
        promise = self._promise
        if not promise.done and not self._wait(timeout) and not promise.done:
            raise ResultTimeout(f"{promise!r} gave nothing within {timeout or 0:g} s; the job goes on")
        if not promise.done:
            raise NotConnected(_CLOSED)
        return promise.peek()

    def _wait(self, timeout: float | None) -> bool:
        """Return True if woken. Only who waits is called back, so a promise that is done in time costs nothing."""
        refuse_inside_loop()
        portal, promise = self._portal, self._promise
        waiter = Waiter()
        try:
            portal.post(partial(promise.add_done_callback, waiter.wake))
        except NotConnected:
            return True
        try:
            woken = portal.wait(waiter, timeout)
        except BaseException:
            self._forget(waiter)
            raise
        if not woken:
            self._forget(waiter)
        return woken

    def _forget(self, waiter: Waiter) -> None:
        with suppress(NotConnected):
            self._portal.post(partial(self._promise.remove_done_callback, waiter.wake))


class BlockingSending(BlockingPromise[Receipt]):
    """A job on its way to the engine; `result()` gives its Receipt."""

    __slots__ = ()
    _promise: Sending


class BlockingHandle(BlockingPromise[ResultT]):
    """A submitted job, for threads: every method is its Handle's, and waits."""

    __slots__ = ()
    _promise: Handle[ResultT]

    def accepted(self) -> Receipt:
        """Return the Receipt once the engine has taken the job; raises SubmitError if it does not."""
        return self._portal.run(self._promise.accepted)

    def status(self) -> JobStatus:
        """Return what the engine knows of the job now; raises UnsupportedFeature where it cannot tell."""
        return self._portal.run(self._promise.status)

    def cancel(self) -> bool:
        """Return True if the engine has cancelled the job or told its worker to stop."""
        return self._portal.run(self._promise.cancel)

    def events(self) -> "BlockingEvents":
        """Return an iterator of Progress, Chunk and Warned that ends with the job."""
        return BlockingEvents(self._portal, self._portal.run(self._open_events))

    async def _open_events(self) -> Events:
        # In the loop, where the job's events arrive and its end does.
        return self._promise.events()


class BlockingEvents:
    """One reader of a job's events, for a thread; `lost` counts those that it came too late for."""

    __slots__ = ("_events", "_portal")

    def __init__(self, portal: Portal, events: Events) -> None:
        self._portal = portal
        self._events = events

    @property
    def lost(self) -> int:
        """How many events were gone before this reader came to them."""
        return self._events.lost

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        try:
            return self._portal.run(self._events.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None
