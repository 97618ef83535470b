"""A job's declaration, and the context of one run of it."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from types import NoneType
from typing import (
    TYPE_CHECKING,
    Generic,
    Literal,
    Never,
    Protocol,
    TypedDict,
    TypeVarTuple,
    Unpack,
    cast,
    overload,
)

import msgspec
from typing_extensions import TypeVar

from que.driver import Emits
from que.errors import ConfigurationError, NotBound, NotConnected, ParamsInvalid, ResultInvalid, UnsupportedFeature
from que.flow import Flow, FlowSubmitter, Leads, Step, StepJob
from que.handle import Handle, Sending
from que.model import Delivery, Priority
from que.options import NO_OPTIONS, CallOptions, Options
from que.outcome import Outcome, Sent
from que.retry import NO_RETRY, Retry
from que.serializer import JSON, PayloadError, Serializer
from que.signature import checked_name, place_of, takes, type_name

if TYPE_CHECKING:
    from que.limits import Limits
    from que.portal import BlockingHandle, BlockingSending

ParamsT = TypeVar("ParamsT")
ResultT = TypeVar("ResultT")
GivenT = TypeVar("GivenT")
NextT = TypeVar("NextT")
StateT = TypeVar("StateT", default=None)
StateT_co = TypeVar("StateT_co", covariant=True, default=None)
Ts = TypeVarTuple("Ts")


class Blocking(Protocol):
    """What a `def` handler may do with other jobs from its thread: BlockingQue is one."""

    def submit(
        self, job: "Job[ParamsT, ResultT]", params: ParamsT, /, **options: Unpack[CallOptions]
    ) -> "BlockingHandle[ResultT]": ...
    def send(
        self, job: "Job[ParamsT, ResultT]", params: ParamsT, /, **options: Unpack[CallOptions]
    ) -> "BlockingSending": ...


class Posts(Protocol):
    """Calls back in the thread that may emit; an event loop does."""

    def call_soon_threadsafe(self, callback: Callable[[], object], /) -> object: ...


class Surroundings(msgspec.Struct, frozen=True):
    """What all runs of one consumer share.

    `progress` and `chunks` are None where the driver named `driver` has no such channel. `redelivers`: whether the
    engine delays a redelivery, so that no worker has to. `thread` is the loop's ident. `stopped` tells whether a
    delivery's run has been told to stop. `blocking` is the sync face of the app, None in a child process, which has
    neither that nor a state.
    """

    driver: str
    loop: Posts
    thread: int
    progress: Emits | None
    chunks: Emits | None
    redelivers: bool
    stopped: Callable[[Delivery], bool]
    blocking: Blocking | None


class Context(Generic[StateT_co]):
    """One run of a job, as its handler sees it; `Context("name", state=…)` makes one for a unit test.

    `job`: its name. `job_id`: the submitter's id where the engine carries it. `attempt`: 1 for the first run. Where the
    engine cannot count, None for a job that has just come, which may have run elsewhere, then 2, 3, … as this worker
    runs it again. `deadline`: the loop's time at which the run is stopped, or None.
    """

    __slots__ = (
        "_cancelled",
        "_delivery",
        "_limit",
        "_retry",
        "_state",
        "_surroundings",
        "attempt",
        "deadline",
        "job",
        "job_id",
    )

    def __init__(
        self,
        job: str,
        *,
        state: StateT_co,
        job_id: str = "",
        attempt: int | None = None,
        surroundings: Surroundings | None = None,
        delivery: Delivery | None = None,
        retry: Retry | None = None,
    ) -> None:
        self.job: str = job
        self._state = state
        self.job_id: str = job_id
        self.attempt: int | None = attempt
        self.deadline: float | None = None
        self._cancelled = False
        self._limit: asyncio.Timeout | None = None
        self._surroundings = surroundings
        self._delivery = delivery
        self._retry = retry

    @property
    def state(self) -> StateT_co:
        """What the app's lifespan yielded; raises UnsupportedFeature in a child process."""
        if (site := self._surroundings) is not None and site.blocking is None:
            raise _not_in_a_process(
                site, "context.state", "the lifespan is open in the worker; open what you need here"
            )
        return self._state

    @property
    def cancelled(self) -> bool:
        """True once the run is not wanted any more: cancelled, over time, its lease gone, its worker about to end.

        An `async def` handler gets CancelledError as well, a `def` handler has to look. May be set, for a unit test.
        """
        if self._cancelled or (self._limit is not None and self._limit.expired()):
            return True
        if self._surroundings is None or self._delivery is None:
            return False
        return self._surroundings.stopped(self._delivery)

    @cancelled.setter
    def cancelled(self, value: bool) -> None:
        self._cancelled = value

    @property
    def headers(self) -> Mapping[str, str]:
        """What came beside the params, by names in lower case; empty where the engine has no place for it."""
        return (self._delivery and self._delivery.headers) or {}

    def limit_by(self, limit: asyncio.Timeout) -> None:
        """From now on the run is cancelled, too, once `limit` has expired."""
        self._limit = limit

    def will_retry(self, error: BaseException) -> bool:
        """Return whether the job runs again if this run ends with `error`; False in a context made by hand."""
        return self._retry is not None and self._retry.wait(self.attempt or 1, error) is not None

    @property
    def blocking(self) -> Blocking:
        """The sync face of the app, for a `def` handler that submits jobs; raises NotConnected outside a worker.

        A handler keeps its slot while it waits: where all slots wait for jobs that only this worker takes, none of them
        ends. Give result() a timeout there, the job a run_timeout, or the worker a higher concurrency.
        """
        if (site := self._surroundings) is None:
            raise NotConnected("a context made by hand belongs to no worker, so there is nothing to submit to")
        if site.blocking is None:
            raise _not_in_a_process(site, "context.blocking", "submit from a handler that runs in the worker")
        return site.blocking

    def progress(self, done: int, total: int) -> None:
        """Tell the submitter that `done` of `total` is done; raises UnsupportedFeature where the engine cannot."""
        if (site := self._surroundings) is not None:
            self._emit(site, _channel(site, site.progress, "progress").progress, done, total)

    def warn(self, text: str) -> None:
        """Warn the submitter; the job goes on. Raises UnsupportedFeature where the engine cannot."""
        if (site := self._surroundings) is not None:
            self._emit(site, _channel(site, site.progress, "warnings").warned, text)

    def send_chunk(self, data: bytes) -> None:
        """Send the submitter a part of the result; raises UnsupportedFeature where the engine cannot."""
        if (site := self._surroundings) is not None:
            self._emit(site, _channel(site, site.chunks, "chunks").chunk, data)

    def _emit(self, site: Surroundings, verb: Callable[[Delivery, Unpack[Ts]], None], *args: *Ts) -> None:
        """Call `verb` in the worker's loop, which a `def` handler's thread is not in."""
        delivery = self._delivery
        assert delivery is not None
        if threading.get_ident() == site.thread:
            verb(delivery, *args)
        else:
            site.loop.call_soon_threadsafe(lambda: verb(delivery, *args))


def _not_in_a_process(site: Surroundings, feature: str, hint: str) -> UnsupportedFeature:
    return UnsupportedFeature(site.driver, f'{feature} where executor="process"', hint)


def _channel(site: Surroundings, emits: Emits | None, feature: str) -> Emits:
    if emits is None:
        raise UnsupportedFeature(site.driver, feature, "return it as part of the result")
    return emits


Next = Callable[[object], Awaitable[object]]
Middleware = Callable[[Context[StateT], object, Next], Awaitable[object]]
Call = Callable[[object, Context[object]], object]
ExecutorName = Literal["thread", "process"]


class Submitter(FlowSubmitter, Protocol):
    """What a job needs of the app that it belongs to; `options` are already merged with the job's own."""

    def submit(self, job: "Job[ParamsT, ResultT]", params: ParamsT, options: Options, /) -> Handle[ResultT]: ...
    def send(self, job: "Job[ParamsT, ResultT]", params: ParamsT, options: Options, /) -> Sending: ...
    def submit_many(
        self, job: "Job[ParamsT, ResultT]", items: Iterable[ParamsT], options: Options, /
    ) -> list[Handle[ResultT]]: ...
    def map(
        self, job: "Job[ParamsT, ResultT]", items: Iterable[ParamsT] | AsyncIterable[ParamsT], in_flight: int, /
    ) -> AsyncIterator[Outcome[ParamsT, ResultT]]: ...
    async def send_many(
        self, job: "Job[ParamsT, ResultT]", items: Iterable[ParamsT] | AsyncIterable[ParamsT], in_flight: int, /
    ) -> Sent[ParamsT]: ...


class JobOptions(TypedDict, total=False):
    """The keywords of a declaration.

    `driver`: the backend's alias or scheme, the app's first one otherwise. `serializer`: JSON, MSGPACK or RAW.
    `middleware` goes around this job's handler, inside the app's. `retry`: when a run that failed is tried again;
    without it, never. `concurrency`: runs at once in one worker. `rate`: runs that one worker begins in any such time,
    like "100/m" or "5/10s"; `total_rate`: those that all workers begin. A job with one of these has slots of its own.
    `executor`: whether a `def` handler runs in a thread of the worker, the default, or in a process. The rest are
    defaults of each call.
    """

    driver: str | None
    serializer: Serializer
    priority: Priority | None
    expires: float | None
    run_timeout: float | None
    result_ttl: float | None
    retry: Retry | None
    concurrency: int | None
    rate: str | None
    total_rate: str | None
    middleware: Sequence[Middleware[Never]]
    executor: ExecutorName


class Handler(msgspec.Struct, frozen=True):
    """A handler in one shape: `call(params, context)`, whatever the user's looks like.

    `is_async`: the call gives a coroutine. `wants_context`: the user's function looks at the context. `function`: the
    user's own, None for a class form.
    """

    call: Call
    is_async: bool
    wants_context: bool
    function: Callable[..., object] | None = None


def shape_of(function: Callable[..., object]) -> Handler:
    """Return `function` as a Handler; raises ConfigurationError unless it takes (params) or (params, context)."""
    wants_context = takes(function, Context)
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__ is a coroutine function
    )
    if wants_context:
        return Handler(function, is_async, wants_context=True, function=function)
    return Handler(lambda params, context: function(params), is_async, wants_context=False, function=function)


class Job(Generic[ParamsT, ResultT]):
    """A declaration: a name on the wire, the types on both sides, options, and, where it is worked, a handler.

    Raises InvalidName for a name that no engine could carry, ConfigurationError for a type that the serializer cannot.
    """

    @overload
    def __init__(
        self: "Job[GivenT, None]",
        name: str,
        params_type: type[GivenT],
        result_type: None,
        /,
        **options: Unpack[JobOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        params_type: type[ParamsT],
        result_type: type[ResultT],
        /,
        **options: Unpack[JobOptions],
    ) -> None: ...
    def __init__(
        self,
        name: str,
        params_type: object,
        result_type: object,
        /,
        *,
        driver: str | None = None,
        serializer: Serializer = JSON,
        priority: Priority | None = None,
        expires: float | None = None,
        run_timeout: float | None = None,
        result_ttl: float | None = None,
        retry: Retry | None = None,
        concurrency: int | None = None,
        rate: str | None = None,
        total_rate: str | None = None,
        middleware: Sequence[Middleware[Never]] = (),
        executor: ExecutorName = "thread",
    ) -> None:
        self.name: str = checked_name(name)
        self.params_type = params_type
        self.result_type: object = NoneType if result_type is None else result_type
        self.driver = driver
        self.serializer = serializer
        self.middleware: tuple[Middleware[Never], ...] = tuple(middleware)
        given = Options(priority=priority, expires=expires, run_timeout=run_timeout, result_ttl=result_ttl)
        self.options: Options = NO_OPTIONS if given == NO_OPTIONS else given
        self.retry: Retry = retry or NO_RETRY
        self.limits: Limits | None = None
        if (concurrency, rate, total_rate) != (None, None, None):
            from que.limits import Limits as Declared  # few jobs have any

            self.limits = Declared.parse(concurrency, rate, total_rate)
        self.executor: ExecutorName = executor
        if executor not in ("thread", "process"):
            raise ConfigurationError(f"job {name!r}: executor={executor!r}: expected 'thread' or 'process'")
        self.worked_by: Handler | None = None
        self._submitter: Submitter | None = None
        try:
            self._params = serializer.codec(params_type, "params")
            self._result = serializer.codec(self.result_type, "result")
        except ConfigurationError as error:
            raise ConfigurationError(f"job {name!r}: {error}") from error

    def __repr__(self) -> str:
        return f"<Job {self.name!r}: {type_name(self.params_type)} -> {type_name(self.result_type)}>"

    async def __call__(self, params: ParamsT, context: Context[StateT] | None = None, /) -> ResultT:
        """Run the handler here and return its result, without an engine: for unit tests.

        Raises ConfigurationError if this process has no handler for the job.
        """
        if self.worked_by is None:
            raise ConfigurationError(f"job {self.name!r} has no handler in this process")
        given = Context[object](self.name, state=None) if context is None else cast(Context[object], context)
        result = self.worked_by.call(params, given)
        return cast(ResultT, await result if inspect.isawaitable(result) else result)

    @overload
    def handler(self, function: Callable[[ParamsT], Awaitable[ResultT]], /) -> "Job[ParamsT, ResultT]": ...
    @overload
    def handler(
        self, function: Callable[[ParamsT, Context[StateT]], Awaitable[ResultT]], /
    ) -> "Job[ParamsT, ResultT]": ...
    @overload
    def handler(self, function: Callable[[ParamsT], ResultT], /) -> "Job[ParamsT, ResultT]": ...
    @overload
    def handler(self, function: Callable[[ParamsT, Context[StateT]], ResultT], /) -> "Job[ParamsT, ResultT]": ...
    def handler(self, function: Callable[..., object], /) -> "Job[ParamsT, ResultT]":
        """Let `function` work this job in this process; used as a decorator. Raises ConfigurationError if one does."""
        self.work_by(shape_of(function))
        return self

    def work_by(self, handler: Handler) -> None:
        """Let `handler` work this job; raises ConfigurationError if another one does, or if no process could run it."""
        if self.worked_by is not None:
            raise ConfigurationError(f"job {self.name!r} already has a handler")
        if self.executor == "process":
            place_of(handler.function)
        self.worked_by = handler

    def bind(self, submitter: Submitter) -> None:
        """Let `submitter` carry this job; raises ConfigurationError if it belongs to another app."""
        if self._submitter is not None and self._submitter is not submitter:
            raise ConfigurationError(f"job {self.name!r} already belongs to another app")
        self._submitter = submitter

    def belongs_to(self, submitter: Submitter) -> bool:
        """Whether `submitter` may carry this job: it is bound to it, or to none."""
        return self._submitter is None or self._submitter is submitter

    def bound_to(self) -> Submitter:
        """Return what carries this job; raises NotBound."""
        if self._submitter is None:
            raise NotBound(self.name)
        return self._submitter

    def as_flow(self) -> Flow[ParamsT, ResultT]:
        """Return the flow of this job alone; raises ConfigurationError for one that no flow can have."""
        return Flow([Step(cast(StepJob, self))])

    def then(self, next: Leads[ResultT, NextT], /) -> Flow[ParamsT, NextT]:
        """Return a flow in which `next`, a job or a flow, takes what this job gives."""
        return self.as_flow().then(next)

    def given(self, params: ParamsT, /) -> Flow[None, ResultT]:
        """Return a flow of this job whose params are `params`, for `together()`; raises ParamsInvalid."""
        return self.as_flow().given(params)

    def submit(self, params: ParamsT, /, **options: Unpack[CallOptions]) -> Handle[ResultT]:
        """Return a Handle at once; the job leaves with everything else submitted in this loop tick.

        Raises what is known now: NotBound, NotConnected, WrongLoop, UnsupportedFeature, Overloaded, ParamsInvalid.
        What the engine says arrives at the await.
        """
        submitter = self._submitter
        if submitter is None:
            raise NotBound(self.name)
        return submitter.submit(self, params, self.merged(options) if options else self.options)

    def send(self, params: ParamsT, /, **options: Unpack[CallOptions]) -> Sending:
        """Return an awaitable Receipt at once; when it arrives, the engine owns the job, and nobody waits for a result.

        Raises at the call what submit() raises. A refusal that nobody awaits is logged.
        """
        submitter = self._submitter
        if submitter is None:
            raise NotBound(self.name)
        return submitter.send(self, params, self.merged(options) if options else self.options)

    def merged(self, options: CallOptions) -> Options:
        """Return one call's options over the job's own; raises ConfigurationError for a value that cannot be meant."""
        return Options(**options).over(self.options)

    def submit_many(self, items: Iterable[ParamsT], /) -> list[Handle[ResultT]]:
        """Return a Handle for each item, in order; all leave in one batch.

        Raises what submit() raises for the first item that is refused, and then none of them leaves.
        """
        return self.bound_to().submit_many(self, items, self.options)

    def map(
        self, items: Iterable[ParamsT] | AsyncIterable[ParamsT], /, *, in_flight: int = 1000
    ) -> AsyncIterator[Outcome[ParamsT, ResultT]]:
        """Yield an Outcome for each item as it is done, in the order in which they end.

        At most `in_flight` jobs are on their way, so `items` may be endless. Leaving the loop early abandons the
        jobs under way; they still run.
        """
        return self.bound_to().map(self, items, in_flight)

    async def send_many(
        self, items: Iterable[ParamsT] | AsyncIterable[ParamsT], /, *, in_flight: int = 1000
    ) -> Sent[ParamsT]:
        """Send each item and return how many the engine took, and each that it did not, with the error.

        At most `in_flight` jobs wait for their acceptance, so `items` may be of any length.
        """
        return await self.bound_to().send_many(self, items, in_flight)

    def dump_params(self, params: ParamsT, /) -> bytes:
        """Return the encoded params; raises ParamsInvalid with the path and the reason."""
        try:
            return self._params.encode(params)
        except PayloadError as error:
            raise ParamsInvalid(f"job {self.name!r}: {error}") from error

    def load_params(self, payload: bytes, /) -> ParamsT:
        """Return the params that `payload` holds; raises ParamsInvalid."""
        try:
            return cast(ParamsT, self._params.decode(payload))
        except PayloadError as error:
            raise ParamsInvalid(str(error)) from error

    def dump_result(self, result: object, /) -> bytes:
        """Return the encoded result; raises ResultInvalid."""
        try:
            return self._result.encode(result)
        except PayloadError as error:
            raise ResultInvalid(str(error)) from error

    def load_result(self, payload: bytes, /) -> ResultT:
        """Return the result that `payload` holds; raises ResultInvalid."""
        try:
            return cast(ResultT, self._result.decode(payload))
        except PayloadError as error:
            raise ResultInvalid(f"job {self.name!r}: {error}") from error
