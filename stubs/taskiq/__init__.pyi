"""taskiq 0.13.0, as far as the benchmarks use it: checking them shall not take the package."""

from collections.abc import Awaitable, Callable
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

class TaskiqResult(Generic[R]):
    return_value: R

class AsyncTaskiqTask(Generic[R]):
    async def wait_result(self, check_interval: float = 0.2) -> TaskiqResult[R]: ...

class AsyncTaskiqDecoratedTask(Generic[P, R]):
    async def kiq(self, *args: P.args, **kwargs: P.kwargs) -> AsyncTaskiqTask[R]: ...

class InMemoryBroker:
    def __init__(self, *, await_inplace: bool = False) -> None: ...
    def task(
        self, task_name: str, **labels: float
    ) -> Callable[[Callable[P, Awaitable[R]]], AsyncTaskiqDecoratedTask[P, R]]: ...
    async def startup(self) -> None: ...
    async def shutdown(self) -> None: ...
