"""What a driver talks to when there is no app: sinks that write down what they hear."""

from dataclasses import dataclass, field

from que.errors import JobError, SubmitError
from que.model import Delivery, Failed


@dataclass(slots=True)
class Recorder:
    """An EventSink: the receipts, and each end by the job's id."""

    receipts: dict[str, str] = field(default_factory=dict[str, str])
    ends: dict[str, object] = field(default_factory=dict[str, object])
    reconnects: int = 0

    def accepted(self, id: str, receipt: str) -> None:
        self.receipts[id] = receipt

    def refused(self, id: str, error: SubmitError) -> None:
        self.ends[id] = error

    def progress(self, id: str, done: int, total: int) -> None: ...
    def chunk(self, id: str, data: bytes) -> None: ...
    def warned(self, id: str, text: str) -> None: ...

    def completed(self, id: str, payload: bytes) -> None:
        self.ends[id] = payload

    def failed(self, id: str, failure: Failed) -> None:
        self.ends[id] = failure

    def lost(self, id: str, error: JobError) -> None:
        self.ends[id] = error

    def reconnected(self) -> None:
        self.reconnects += 1


@dataclass(slots=True)
class Notices:
    """A ConsumerSink: the deliveries whose lease is gone, and those that somebody cancelled."""

    gone: list[Delivery] = field(default_factory=list[Delivery])
    stopped: list[Delivery] = field(default_factory=list[Delivery])

    def lost(self, delivery: Delivery) -> None:
        self.gone.append(delivery)

    def cancelled(self, delivery: Delivery) -> None:
        self.stopped.append(delivery)
