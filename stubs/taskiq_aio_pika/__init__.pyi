"""taskiq-aio-pika 0.6, as far as the benchmarks use it: checking them shall not take the package."""

from collections.abc import Sequence

from taskiq import AsyncBroker

class Exchange:
    def __init__(self, *, name: str) -> None: ...

class Queue:
    def __init__(self, *, name: str) -> None: ...

class AioPikaBroker(AsyncBroker):
    def __init__(self, url: str, *, qos: int, exchange: Exchange, task_queues: Sequence[Queue]) -> None: ...
