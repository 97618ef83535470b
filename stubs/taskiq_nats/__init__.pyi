"""taskiq-nats 0.7, as far as the benchmarks use it: checking them shall not take the package."""

from collections.abc import AsyncGenerator

from taskiq import AckableMessage, AsyncBroker

class PullBasedJetStreamBroker(AsyncBroker):
    def __init__(
        self,
        servers: list[str],
        *,
        subject: str,
        stream_name: str,
        durable: str,
        pull_consume_batch: int,
        pull_consume_timeout: float,
    ) -> None: ...
    def listen(self) -> AsyncGenerator[AckableMessage]: ...
