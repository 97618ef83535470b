"""The decorator that declares a job."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar, overload

from que.job import Context, Job, StateT_co

ParamsT = TypeVar("ParamsT")
ResultT = TypeVar("ResultT")


class Declare(Protocol[StateT_co]):
    """What `app.job(…)` gives: a decorator that turns a handler, in any of the four shapes, into its Job."""

    @overload
    def __call__(self, handler: Callable[[ParamsT], Awaitable[ResultT]], /) -> Job[ParamsT, ResultT]: ...
    @overload
    def __call__(
        self, handler: Callable[[ParamsT, Context[StateT_co]], Awaitable[ResultT]], /
    ) -> Job[ParamsT, ResultT]: ...
    @overload
    def __call__(self, handler: Callable[[ParamsT], ResultT], /) -> Job[ParamsT, ResultT]: ...
    @overload
    def __call__(self, handler: Callable[[ParamsT, Context[StateT_co]], ResultT], /) -> Job[ParamsT, ResultT]: ...
