"""An engine that does as it is told, where no real one can be made to misbehave, and that writes down what it hears."""

import asyncio
import itertools
from collections.abc import Callable, Collection, Sequence

import que
from que.address import Address
from que.driver import ConsumerSink, EventSink
from que.errors import NotConnected
from que.model import Capabilities, Delivery, Envelope, Lease, Settled, Settlement, Support, Verdict

NOTHING_MORE = Capabilities(lease=Lease.PROCESS, results_pushed=Support.NATIVE)
_schemes = (f"fake{number}" for number in itertools.count())


def accept(events: EventSink, envelope: Envelope) -> None:
    """Answer as an engine that has the job and never runs it."""
    events.accepted(envelope.id, f"receipt of {envelope.id}")


class FakeConsumer:
    """Gives what `feed` was given: lists of deliveries, or errors to raise."""

    def __init__(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> None:
        self.functions = list(functions)
        self.slots = slots
        self.notices = notices
        self.settlements: list[Settlement] = []
        self.settle_errors: list[BaseException] = []
        self.close_error: Exception | None = None
        self.outcome = Settled.CONFIRMED
        self.limits: list[int] = []
        self.last_words: list[Delivery] = []
        self.closed = False
        self.gate = asyncio.Event()
        self.gate.set()
        self._food: asyncio.Queue[list[Delivery] | BaseException] = asyncio.Queue()

    def feed(self, *food: list[Delivery] | BaseException) -> None:
        """Let the next calls of reserve() return or raise this, one each."""
        for each in food:
            self._food.put_nowait(each)

    @property
    def verdicts(self) -> list[Verdict]:
        """What was settled so far."""
        return [verdict for _, verdict in self.settlements]

    async def reserve(self, limit: int) -> Sequence[Delivery]:
        self.limits.append(limit)
        if self.closed:
            return ()
        food = await self._food.get()
        if isinstance(food, BaseException):
            raise food
        return food

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        await self.gate.wait()
        self.settlements += settlements
        if self.settle_errors:
            raise self.settle_errors.pop(0)
        return [self.outcome] * len(settlements)

    async def close(self) -> None:
        self.closed = True
        self.feed(self.last_words)
        if self.close_error is not None:
            raise self.close_error


class FakeDriver:
    """Writes down each batch, waits at `gate`, and answers each envelope with `answer`."""

    calls_in_flight: int | None = None

    def __init__(self, capabilities: Capabilities = NOTHING_MORE) -> None:
        self.capabilities = capabilities
        self.batches: list[list[Envelope]] = []
        self.consumers: list[FakeConsumer] = []
        self.connected = False
        self.calls: list[str] = []
        self.connect_error: BaseException | None = None
        self.disconnect_error: Exception | None = None
        self.register_error: Exception | None = None
        self.submit_errors: list[BaseException] = []
        self.answer: Callable[[EventSink, Envelope], None] = accept
        self.gate = asyncio.Event()
        self.gate.set()
        self._events: EventSink | None = None

    @property
    def events(self) -> EventSink:
        if self._events is None:
            raise NotConnected("the fake is not connected")
        return self._events

    @property
    def envelopes(self) -> list[Envelope]:
        """All that arrived so far."""
        return [envelope for batch in self.batches for envelope in batch]

    async def connect(self, events: EventSink) -> None:
        self.calls.append("connect")
        await self.gate.wait()
        if self.connect_error is not None:
            raise self.connect_error
        self._events = events
        self.connected = True

    async def disconnect(self) -> None:
        self.calls.append("disconnect")
        self.connected = False
        if self.disconnect_error is not None:
            raise self.disconnect_error

    async def submit(self, envelopes: Sequence[Envelope]) -> None:
        self.batches.append(list(envelopes))
        await self.gate.wait()
        if self.submit_errors:
            raise self.submit_errors.pop(0)
        for envelope in envelopes:
            self.answer(self.events, envelope)

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> FakeConsumer:
        if self.register_error is not None:
            raise self.register_error
        consumer = FakeConsumer(functions, slots, notices)
        self.consumers.append(consumer)
        return consumer


def url_of(driver: FakeDriver) -> str:
    """Return a URL that opens `driver`."""
    scheme = next(_schemes)

    def open_it(address: Address) -> FakeDriver:
        return driver

    que.register_driver(scheme, open_it)
    return f"{scheme}://"
