"""A process that runs `def` handlers for its worker, one job at a time; params, results and errors cross as bytes."""

import importlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from operator import attrgetter
from types import FrameType
from typing import cast

from que.errors import ConfigurationError, ParamsInvalid, ResultInvalid
from que.job import Context, Job, Surroundings, shape_of
from que.model import Chunk, Completed, Delivery, Event, Progress, Warned
from que.serializer import Serializer

# What a worker decides on: a signal to the whole group or service must not end a job that is allowed to go on.
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# These mean something else in whoever would raise them again.
_UNSPOKEN = (KeyboardInterrupt, GeneratorExit, StopIteration)


@dataclass(frozen=True, slots=True)
class Declared:
    """A job as it travels to a child; `module` and `path` lead to its handler, or to the Job that a decorator made."""

    name: str
    module: str
    path: str
    params_type: object
    result_type: object
    serializer: Serializer

    def job(self) -> Job[object, object]:
        """Return the job with its handler, which is imported; raises whatever that import raises."""
        found: object = attrgetter(self.path)(importlib.import_module(self.module))
        if isinstance(found, Job):
            handler = cast(Job[object, object], found).worked_by
            found = None if handler is None else handler.function
        if not callable(found):
            raise ConfigurationError(f"{self.module}.{self.path} is not the handler of job {self.name!r}")
        types = cast(type[object], self.params_type), cast(type[object], self.result_type)
        job = Job[object, object](self.name, *types, serializer=self.serializer)
        job.work_by(shape_of(found))
        return job


@dataclass(frozen=True, slots=True)
class Channels:
    """What the engine `driver` can tell a submitter while the job runs."""

    driver: str
    progress: bool
    chunks: bool


@dataclass(frozen=True, slots=True)
class Request:
    """One run; `deadline` is the time of the monotonic clock, which processes share."""

    job: str
    payload: bytes
    job_id: str
    attempt: int | None
    headers: Mapping[str, str]
    deadline: float | None


@dataclass(frozen=True, slots=True)
class Unfit:
    """The payload or the result does not fit the job's type; `kind` is "params" or "result"."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Raised:
    """The handler raised; `pickled` is the error itself, None where it cannot travel, and `text` tells of it then."""

    pickled: bytes | None
    text: str
    trace: str


Reply = Completed | Unfit | Raised
Message = Event | Reply


def serve(connection: Connection, declared: bytes, channels: Channels) -> None:
    """Answer requests until the worker hangs up, or ends in whatever way; None is sent first, once all is imported."""
    for number in SIGNALS:
        # Not SIG_IGN, which the programs that a handler starts would inherit.
        signal.signal(number, _leave_to_the_worker)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_the_worker, name="que-parent", daemon=True).start()
    try:
        jobs = {each.name: each.job() for each in cast(Sequence[Declared], pickle.loads(declared))}
    except BaseException as error:
        connection.send(_raised(error))
        return
    connection.send(None)
    line = _Line(connection, channels)
    while True:
        try:
            request = cast(Request, connection.recv())
        except EOFError:
            return
        line.send(_answer(jobs[request.job], request, line))


def _answer(job: Job[object, object], request: Request, line: "_Line") -> Reply:
    handler = job.worked_by
    assert handler is not None
    try:
        params = job.load_params(request.payload)
    except ParamsInvalid as error:
        return Unfit("params", str(error))
    try:
        result = handler.call(params, line.context(request))
    except BaseException as error:
        return _raised(error)
    try:
        return Completed(job.dump_result(result))
    except ResultInvalid as error:
        return Unfit("result", str(error))


def _raised(error: BaseException) -> Raised:
    trace = "".join(traceback.format_exception(error))
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:
        text = type(error).__name__
    return Raised(None if isinstance(error, _UNSPOKEN) else _pickled(error), text, trace)


def _pickled(error: BaseException) -> bytes | None:
    """Return `error` as bytes of which it can be made again, None if there are none."""
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
    except Exception:
        return None
    return pickled


class _Line:
    """The child's end of its pipe: what contexts emit goes to the worker, from any thread."""

    def __init__(self, connection: Connection, channels: Channels) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._surroundings = Surroundings(
            driver=channels.driver,
            loop=self,
            thread=threading.get_ident(),
            progress=self if channels.progress else None,
            chunks=self if channels.chunks else None,
            redelivers=False,
            stopped=_never,
            blocking=None,
        )

    def context(self, request: Request) -> Context[object]:
        delivery = Delivery(request.job, request.payload, request.job_id, request.attempt, headers=request.headers)
        context = Context[object](
            request.job,
            state=None,
            job_id=request.job_id,
            attempt=request.attempt,
            surroundings=self._surroundings,
            delivery=delivery,
        )
        context.deadline = request.deadline
        return context

    def send(self, message: Message) -> None:
        with self._lock:
            self._connection.send(message)

    def call_soon_threadsafe(self, callback: Callable[[], object], /) -> object:
        return callback()

    def progress(self, delivery: Delivery, done: int, total: int) -> None:
        self.send(Progress(done, total))

    def chunk(self, delivery: Delivery, data: bytes) -> None:
        self.send(Chunk(data))

    def warned(self, delivery: Delivery, text: str) -> None:
        self.send(Warned(text))


def _never(delivery: Delivery) -> bool:
    return False


def _leave_to_the_worker(number: int, frame: FrameType | None) -> None:
    pass


def _end_with_the_worker() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
