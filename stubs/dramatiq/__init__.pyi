"""dramatiq 2.2, as far as the benchmarks use it: checking them shall not take the package."""

from collections.abc import Callable, Mapping

from dramatiq.results import Results

class Broker:
    def add_middleware(self, middleware: Results) -> None: ...

class Message:
    def get_result(self, *, block: bool, timeout: int) -> Mapping[str, object]: ...

class Actor:
    def send(self, number: int, text: str, /) -> Message: ...

class Worker:
    def __init__(self, broker: Broker, *, worker_threads: int) -> None: ...
    def start(self) -> None: ...

def set_broker(broker: Broker) -> None: ...
def actor(
    fn: Callable[[int, str], Mapping[str, object]],
    *,
    actor_name: str,
    queue_name: str,
    store_results: bool,
    result_ttl: int,
) -> Actor: ...
