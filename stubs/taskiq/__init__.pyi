"""taskiq 0.13.0, as far as the benchmarks use it: checking them shall not take the package."""

from collections.abc import Awaitable, Callable
from typing import Generic, ParamSpec, Self, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

class TaskiqResult(Generic[R]):
    return_value: R

class AsyncTaskiqTask(Generic[R]):
    async def wait_result(self, check_interval: float = 0.2) -> TaskiqResult[R]: ...

class AsyncTaskiqDecoratedTask(Generic[P, R]):
    async def kiq(self, *args: P.args, **kwargs: P.kwargs) -> AsyncTaskiqTask[R]: ...

class AsyncResultBackend: ...

class AsyncBroker:
    is_worker_process: bool
    def with_result_backend(self, result_backend: AsyncResultBackend) -> Self: ...
    def task(
        self, task_name: str, **labels: float
    ) -> Callable[[Callable[P, Awaitable[R]]], AsyncTaskiqDecoratedTask[P, R]]: ...
    def register_task(self, func: Callable[P, Awaitable[R]], task_name: str) -> AsyncTaskiqDecoratedTask[P, R]: ...
    async def startup(self) -> None: ...
    async def shutdown(self) -> None: ...

class InMemoryBroker(AsyncBroker):
    def __init__(self, *, await_inplace: bool = False) -> None: ...
