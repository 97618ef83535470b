"""From any thread into one event loop and back: what the sync face is made of."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Generic, ParamSpec, TypeVar

from que.errors import NotConnected, ResultTimeout, WrongLoop
from que.handle import Events, Handle, Promise, Receipt, Sending
from que.model import Event, JobStatus

ResultT = TypeVar("ResultT")
ValueT = TypeVar("ValueT")
P = ParamSpec("P")


class Portal:
    """Runs things in `loop` for other threads; what many of them ask for within one wake-up costs one wake-up.

    run() raises WrongLoop inside a running loop, which it would block; both verbs raise NotConnected once closed.
    """

    __slots__ = ("_closed", "_lock", "_loop", "_waiting", "_woken")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], object]] = deque()
        self._woken = False
        self._closed = False

    def post(self, call: Callable[[], object]) -> None:
        """Let `call` run in the loop soon; calls run in the order of their posting."""
        with self._lock:
            if self._closed:
                raise NotConnected("the blocking app is closed: use it inside its with block")
            self._waiting.append(call)
            woken, self._woken = self._woken, True
        if not woken:
            self._loop.call_soon_threadsafe(self._run_waiting)

    def _run_waiting(self) -> None:
        with self._lock:
            self._woken = False
            calls, self._waiting = self._waiting, deque()
        for call in calls:
            call()

    def close(self) -> None:
        """Refuse what comes from now on, and stop the loop once what was posted has run."""
        self.post(self._loop.stop)
        with self._lock:
            self._closed = True

    def run(
        self, function: Callable[P, Coroutine[object, object, ValueT]], *args: P.args, **kwargs: P.kwargs
    ) -> ValueT:
        """Run `function` in the loop and return what it returns, or raise what it raises.

        An exception in this thread meanwhile, as by Ctrl-C, cancels it.
        """
        refuse_inside_loop()
        latch = _Latch()
        tasks: list[asyncio.Task[ValueT]] = []

        def start() -> None:
            task = self._loop.create_task(function(*args, **kwargs))
            tasks.append(task)
            task.add_done_callback(lambda _: latch.open())

        self.post(start)
        try:
            latch.wait(None)
        except BaseException:
            self.post(lambda: tasks[0].cancel() if tasks else None)
            raise
        return tasks[0].result()


def refuse_inside_loop() -> None:
    """Raise WrongLoop if this thread runs an event loop, which a blocking call would stop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise WrongLoop("a blocking call inside a running event loop would stop it: await the async form instead")


class _Latch:
    """Opens once and stays open. A bare lock: threading.Event costs six times as much to make and to wait for."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def open(self) -> None:
        self._lock.release()

    def wait(self, timeout: float | None) -> bool:
        """Return True once open, False after `timeout` seconds."""
        if not self._lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            return False
        self._lock.release()
        return True


class BlockingPromise(Generic[ValueT]):
    """A value that arrives once, for threads; any number of them may wait for it."""

    __slots__ = ("_latch", "_portal", "_promise")

    def __init__(self, portal: Portal, promise: Promise[ValueT]) -> None:
        self._portal = portal
        self._promise = promise
        self._latch = _Latch()

    @property
    def id(self) -> str:
        """Our id of the job."""
        return self._promise.id

    @property
    def done(self) -> bool:
        """Whether result() would return, or raise, at once."""
        return self._promise.done

    def peek(self) -> ValueT:
        """Return the value, or raise what came instead; raises asyncio.InvalidStateError if it is not done."""
        return self._promise.peek()

    def wake(self, _: Promise[object]) -> None:
        """Let the waiting threads look: the promise is done."""
        self._latch.open()

    def result(self, timeout: float | None = None) -> ValueT:
        """Return the value, or raise what came instead; after `timeout` seconds raise ResultTimeout."""
        if not self._promise.done:
            refuse_inside_loop()
            if not self._latch.wait(timeout):
                raise ResultTimeout(f"{self._promise!r} gave nothing within {timeout:g} s; the job goes on")
        return self._promise.peek()


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
        return BlockingEvents(self._portal, self._promise.events())


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
