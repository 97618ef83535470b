"""rq 3.0, as far as the benchmarks use it: checking them shall not take the package."""

from collections.abc import Callable, Mapping, Sequence

from redis import Redis
from rq.job import Job

class Queue:
    def __init__(self, name: str, *, connection: Redis) -> None: ...
    def enqueue_call(
        self, func: Callable[[int, str], Mapping[str, object]], args: tuple[int, str], *, result_ttl: int
    ) -> Job: ...

class SimpleWorker:
    def __init__(self, queues: Sequence[Queue], *, connection: Redis) -> None: ...
    def work(self, *, logging_level: str) -> bool: ...
