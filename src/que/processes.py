"""Processes that run `def` handlers for a worker: one for each slot, each replaced when it dies."""

import asyncio
import atexit
import logging
import math
import multiprocessing
import pickle
import signal
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import cast

from que.child import SIGNALS, Channels, Declared, Message, Raised, Reply, Request, Unfit, serve
from que.errors import ConfigurationError, WorkerLost
from que.job import Context, Job
from que.model import Chunk, Completed, Progress, Warned
from que.run import InProcess, ParamsUnfit, ResultUnfit
from que.signature import place_of

_log = logging.getLogger("que")

# Never by fork: a forked child has the locks of the worker's threads, and none of the threads that would open them.
_spawning = multiprocessing.get_context("spawn")
# multiprocessing reaps children in whatever thread starts one, so nobody may signal a process meanwhile.
_process_table = threading.Lock()
# For what a handler's module imports.
_START_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 5.0
# How often a process is looked at that may have died without a word.
_LOOK_SECONDS = 1.0
# For what a handler's module has registered to be done at exit.
_PARTING_SECONDS = 2.0
# For all children, which end at the same time.
_CLOSING_SECONDS = 10.0


_UNFIT = {"params": ParamsUnfit, "result": ResultUnfit}


@asynccontextmanager
async def processes(
    jobs: Iterable[Job[object, object]], count: int, channels: Channels, hold: Callable[[Future[object]], None]
) -> AsyncGenerator[InProcess, None]:
    """Within the block `count` children are ready to run `jobs`, one at a time each, by what it yields.

    A child that dies takes along only the job that it ran. `hold` is told of what is done once it is replaced: a run
    that began before would spend its time on waiting. The children end with this process, however it ends.
    Raises ConfigurationError for a job that cannot be sent to another process, or that a child cannot import.
    """
    pool = _Pool(jobs, count, channels, hold)
    try:
        await pool.open()
        yield pool.run
    finally:
        async with asyncio.timeout(_CLOSING_SECONDS):
            await pool.close()


class _Pool:
    def __init__(
        self,
        jobs: Iterable[Job[object, object]],
        count: int,
        channels: Channels,
        hold: Callable[[Future[object]], None],
    ) -> None:
        self._hold = hold
        declared = pickle.dumps([_declared(job) for job in jobs])
        self._children = [_Child(declared, channels) for _ in range(count)]
        self._idle: asyncio.Queue[_Child] = asyncio.Queue()

    async def open(self) -> None:
        """Start the children, all at once."""
        await asyncio.gather(*[asyncio.wrap_future(child.start()) for child in self._children])
        for child in self._children:
            self._idle.put_nowait(child)

    async def run(self, job: str, payload: bytes, context: Context[object]) -> bytes:
        """Return the encoded result of one run; a cancellation kills the child.

        Raises what the handler raised, or RuntimeError where that does not pickle; WorkerLost if the child died;
        ParamsUnfit or ResultUnfit.
        """
        child = await self._idle.get()
        facts = (context.job_id, context.attempt, context.headers, context.deadline)
        run = _Run(Request(job, payload, *facts), context)
        try:
            return _result(await asyncio.wrap_future(child.run(run)))
        except asyncio.CancelledError:
            context.cancelled = True
            child.abandon(run)
            self._hold(child.restart())
            raise
        except WorkerLost:
            self._hold(child.restart())
            raise
        finally:
            self._idle.put_nowait(child)

    async def close(self) -> None:
        """End the children: those that are idle at their leisure, the others at once."""
        await asyncio.gather(*[asyncio.wrap_future(child.close()) for child in self._children])


def _declared(job: Job[object, object]) -> Declared:
    """Return `job` as something that pickles; raises ConfigurationError."""
    assert job.worked_by is not None
    module, path = place_of(job.worked_by.function)
    declared = Declared(job.name, module, path, job.params_type, job.result_type, job.serializer)
    try:
        pickle.dumps(declared)
        found = declared.job().worked_by
        if found is None or found.function is not job.worked_by.function:
            raise ConfigurationError(f"{module}.{path} is another function than its handler")
    except Exception as error:
        raise ConfigurationError(
            f'job {job.name!r}: executor="process" cannot take it to another process: {error};'
            " keep its handler, its types and its serializer at module level, each under its own name"
        ) from error
    return declared


def _result(reply: Reply) -> bytes:
    if isinstance(reply, Completed):
        return reply.payload
    if isinstance(reply, Unfit):
        raise _UNFIT[reply.kind](reply.message)
    raise _error(reply)


def _error(reply: Raised) -> BaseException:
    try:
        error = RuntimeError(reply.text) if reply.pickled is None else cast(BaseException, pickle.loads(reply.pickled))
    except Exception:
        error = RuntimeError(reply.text)
    error.add_note(f"In the child process:\n{reply.trace}")
    return error


class _Run:
    """A request, and the context that hears what comes before its reply."""

    __slots__ = ("abandoned", "context", "request")

    def __init__(self, request: Request, context: Context[object]) -> None:
        self.request = request
        self.context = context
        self.abandoned = False

    def tell(self, message: Message) -> Reply | None:
        """Return `message` if it is the reply, else hand it on."""
        match message:
            case Progress(done, total):
                self.context.progress(done, total)
            case Warned(text):
                self.context.warn(text)
            case Chunk(data):
                self.context.send_chunk(data)
            case _:
                return message
        return None


class _Child:
    """One process and the thread that talks to it, in which all but abandon() and kill() happens, in order."""

    def __init__(self, declared: bytes, channels: Channels) -> None:
        self._declared = declared
        self._channels = channels
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="que-process")
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        # What the process does; None: it waits.
        self._run: _Run | None = None
        _children.add(self)

    def start(self) -> Future[None]:
        return self._thread.submit(self._start)

    def restart(self) -> Future[object]:
        """Return what is done once a process is ready for the next run."""
        return self._thread.submit(self._start_again)

    def run(self, run: _Run) -> Future[Reply]:
        return self._thread.submit(self._reply, run)

    def abandon(self, run: _Run) -> None:
        """Kill the process if it runs `run`, or see to it that it never does."""
        with self._lock:
            run.abandoned = True
            if self._run is run:
                self._kill()

    def kill(self) -> None:
        with self._lock:
            self._kill()

    def close(self) -> Future[None]:
        """End the process, at once if it runs something or starts."""
        with self._lock:
            self._closing.set()
            if self._run is not None or self._connection is None:
                self._kill()
        ended = self._thread.submit(self._end)
        self._thread.shutdown(wait=False)
        return ended

    def _kill(self) -> None:
        process = self._process
        if process is not None:
            with _process_table:
                process.kill()

    def _start(self) -> None:
        """Start a process that is ready for requests; raises ConfigurationError."""
        ours, theirs = _spawning.Pipe()
        process = _spawning.Process(target=serve, args=(theirs, self._declared, self._channels), name="que-child")
        try:
            _launch(process)
        except OSError as error:
            ours.close()
            raise ConfigurationError(f"no process for jobs can be started: {error}") from error
        finally:
            theirs.close()
        with self._lock:
            self._process = process
            if self._closing.is_set():
                self._kill()
        try:
            if not ours.poll(_START_SECONDS):
                self.kill()
            answer = cast(Raised | None, ours.recv())
        except (EOFError, OSError):
            ours.close()
            hint = 'a program that works jobs in processes needs `if __name__ == "__main__":` around what it does'
            raise ConfigurationError(f"a process for jobs {_death(self._bury())} at its start: {hint}") from None
        if answer is not None:
            ours.close()
            self._bury()
            raise ConfigurationError(f"a process for jobs cannot import them: {answer.text}\n{answer.trace}")
        self._connection = ours

    def _start_again(self) -> None:
        """Have a process, however often it takes to start one, unless this child is to end."""
        pause = 0.1
        while self._connection is None and not self._closing.is_set():
            try:
                self._start()
            except ConfigurationError as error:
                if not self._closing.is_set():
                    _log.error("%s", error)
                self._closing.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _reply(self, run: _Run) -> Reply:
        if self._process is not None and _has_ended(self._process, 0):
            # It died at leisure, and this run is not to blame.
            self._bury()
        self._start_again()
        with self._lock:
            connection = self._connection
            if run.abandoned or connection is None:
                raise WorkerLost("the worker stops")
            self._run = run
        reply: Reply | None = None
        try:
            connection.send(run.request)
            while reply is None:
                reply = run.tell(self._received(connection))
            return reply
        except (EOFError, OSError):
            raise WorkerLost(f"the process that ran it {_death(self._bury())}") from None
        finally:
            with self._lock:
                self._run = None
            if reply is None:
                self._bury()

    def _received(self, connection: Connection) -> Message:
        """Return the next message; raises EOFError once the process is dead, even if one that it forked lives on."""
        while not connection.poll(_LOOK_SECONDS):
            if self._process is None or _has_ended(self._process, 0):
                raise EOFError
        return cast(Message, connection.recv())

    def _bury(self) -> int | None:
        """Kill the process if it still lives and forget it; return its exit code, minus a signal's number."""
        with self._lock:
            process, self._process = self._process, None
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if process is None:
            return None
        # One that has just closed its end of the pipe is about to tell how it ends.
        if not _has_ended(process, _PARTING_SECONDS):
            with _process_table:
                process.kill()
            _has_ended(process, math.inf)
        code = process.exitcode
        process.close()
        return code

    def _end(self) -> None:
        self._bury()
        _children.discard(self)


def _launch(process: SpawnProcess) -> None:
    with _process_table:
        # Until the child is ready for these signals it is deaf to them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _has_ended(process: SpawnProcess, seconds: float) -> bool:
    """Return whether `process` ends within `seconds`; looks at itself, not at pipes that its children may hold."""
    end = time.monotonic() + seconds
    while True:
        with _process_table:
            if process.exitcode is not None:
                return True
        if time.monotonic() >= end:
            return False
        if wait([process.sentinel], _LOOK_SECONDS):
            # It is gone, and the kernel takes a moment to say so.
            time.sleep(0.001)


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


_children: weakref.WeakSet[_Child] = weakref.WeakSet()


def _kill_all() -> None:
    for child in list(_children):
        child.kill()


# Registered after multiprocessing's own, and so called before it, which waits for every child without an end.
atexit.register(_kill_all)
