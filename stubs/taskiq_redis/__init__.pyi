"""taskiq-redis 1.2, as far as the benchmarks use it: checking them shall not take the package."""

from taskiq import AsyncBroker, AsyncResultBackend

class RedisAsyncResultBackend(AsyncResultBackend):
    def __init__(self, redis_url: str, *, result_ex_time: int) -> None: ...

class RedisStreamBroker(AsyncBroker):
    def __init__(self, url: str, *, queue_name: str, max_connection_pool_size: int) -> None: ...
