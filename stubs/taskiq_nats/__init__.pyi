"""taskiq-nats 0.7, as far as the benchmarks use it: checking them shall not take the package."""

from taskiq import AsyncBroker

class PushBasedJetStreamBroker(AsyncBroker):
    def __init__(self, servers: list[str], *, subject: str, stream_name: str) -> None: ...
