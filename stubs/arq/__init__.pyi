"""arq 0.25, as far as the benchmarks use it: checking them shall not take the package."""

from collections.abc import Awaitable, Callable, Sequence

from arq.connections import ArqRedis

class Function: ...

def func(coroutine: Callable[..., Awaitable[object]], *, keep_result: float) -> Function: ...

class Worker:
    def __init__(
        self,
        functions: Sequence[Function],
        *,
        queue_name: str,
        redis_pool: ArqRedis,
        max_jobs: int,
        poll_delay: float,
        handle_signals: bool,
        log_results: bool,
    ) -> None: ...
    async def async_run(self) -> None: ...
