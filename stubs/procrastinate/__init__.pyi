"""procrastinate 3.10, as far as the benchmarks use it: checking them shall not take the package."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from procrastinate.tasks import Task

class PsycopgConnector:
    def __init__(self, *, conninfo: str, min_size: int, max_size: int) -> None: ...
    async def execute_query_one_async(self, query: str) -> Mapping[str, int]: ...

class SchemaManager:
    async def apply_schema_async(self) -> None: ...

class App:
    connector: PsycopgConnector
    schema_manager: SchemaManager
    def __init__(self, *, connector: PsycopgConnector) -> None: ...
    def task(
        self, *, name: str, queue: str
    ) -> Callable[[Callable[[int, str], Awaitable[Mapping[str, object]]]], Task]: ...
    def open_async(self) -> AbstractAsyncContextManager[App]: ...
    async def run_worker_async(
        self,
        *,
        queues: Sequence[str],
        concurrency: int,
        wait: bool,
        fetch_job_polling_interval: float,
        delete_jobs: str,
        install_signal_handlers: bool,
    ) -> None: ...
