"""Drivers that are broken in one way each, around one that works; importing this module registers their schemes."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import cast

import msgspec
from msgspec.structs import replace

from que.driver import (
    Consumer,
    ConsumerSink,
    Driver,
    DriverFactory,
    Emits,
    EventSink,
    Extends,
    open_driver,
    register_driver,
)
from que.errors import JobError, SubmitError
from que.model import Capabilities, Completed, Delivery, Envelope, Failed, Priority, Settled, Settlement

_NULL = Completed(b"null")


class Wrapper:
    """A driver that does what the one inside does; its optional protocols are those of the one inside."""

    calls_in_flight: int | None

    def __init__(self, inner: Driver) -> None:
        self.inner = inner
        self.calls_in_flight = inner.calls_in_flight

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    async def connect(self, events: EventSink) -> None:
        await self.inner.connect(events)

    async def disconnect(self) -> None:
        await self.inner.disconnect()

    async def submit(self, envelopes: Sequence[Envelope]) -> None:
        await self.inner.submit(envelopes)

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> Consumer:
        return await self.inner.register(functions, slots, notices)


class WrappedConsumer:
    """A consumer that does what the one inside does, but knows of no rate."""

    def __init__(self, inner: Consumer) -> None:
        self.inner = inner

    async def reserve(self, limit: int) -> Sequence[Delivery]:
        return await self.inner.reserve(limit)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        return await self.inner.settle(settlements)

    async def close(self) -> None:
        await self.inner.close()

    def throttle(self, count: int, seconds: float) -> None: ...

    def progress(self, delivery: Delivery, done: int, total: int) -> None:
        cast(Emits, self.inner).progress(delivery, done, total)

    def chunk(self, delivery: Delivery, data: bytes) -> None:
        cast(Emits, self.inner).chunk(delivery, data)

    def warned(self, delivery: Delivery, text: str) -> None:
        cast(Emits, self.inner).warned(delivery, text)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        if isinstance(self.inner, Extends):
            await self.inner.extend(deliveries)


class AcknowledgesEarly(Wrapper):
    """A job leaves the engine when a worker takes it, and its verdict goes nowhere."""

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> Consumer:
        return _EarlyConsumer(await self.inner.register(functions, slots, notices))


class _EarlyConsumer(WrappedConsumer):
    async def reserve(self, limit: int) -> Sequence[Delivery]:
        deliveries = await self.inner.reserve(limit)
        await self.inner.settle([(delivery, _NULL) for delivery in deliveries])
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        return [Settled.CONFIRMED] * len(settlements)


class CrossesReplies(Wrapper):
    """Of two results that are on their way at once, each goes to the caller of the other."""

    async def connect(self, events: EventSink) -> None:
        await self.inner.connect(_Crossing(events))


class _Crossing:
    def __init__(self, events: EventSink) -> None:
        self.events = events
        self.kept: tuple[str, bytes] | None = None
        self.count = 0

    def accepted(self, id: str, receipt: str) -> None:
        self.events.accepted(id, receipt)

    def refused(self, id: str, error: SubmitError) -> None:
        self.events.refused(id, error)

    def progress(self, id: str, done: int, total: int) -> None:
        self.events.progress(id, done, total)

    def chunk(self, id: str, data: bytes) -> None:
        self.events.chunk(id, data)

    def warned(self, id: str, text: str) -> None:
        self.events.warned(id, text)

    def completed(self, id: str, payload: bytes) -> None:
        # Now and then, as such errors are: the rest arrives as it should.
        self.count += 1
        if self.kept is not None:
            other, others_payload = self.kept
            self.kept = None
            self.events.completed(other, payload)
            self.events.completed(id, others_payload)
        elif self.count % 100 == 50:
            self.kept = (id, payload)
        else:
            self.events.completed(id, payload)

    def failed(self, id: str, failure: Failed) -> None:
        self.events.failed(id, failure)

    def lost(self, id: str, error: JobError) -> None:
        self.events.lost(id, error)

    def reconnected(self) -> None: ...


class IgnoresDelay(Wrapper):
    """A delayed job runs at once."""

    async def submit(self, envelopes: Sequence[Envelope]) -> None:
        await self.inner.submit([msgspec.structs.replace(envelope, due=None) for envelope in envelopes])


class IgnoresPriority(Wrapper):
    """Every job is as urgent as any other."""

    async def submit(self, envelopes: Sequence[Envelope]) -> None:
        await self.inner.submit([msgspec.structs.replace(envelope, priority=Priority.NORMAL) for envelope in envelopes])


class IgnoresUniques(Wrapper):
    """Each of many jobs with one key runs."""

    async def submit(self, envelopes: Sequence[Envelope]) -> None:
        await self.inner.submit([msgspec.structs.replace(envelope, unique=None) for envelope in envelopes])


class IgnoresHeaders(Wrapper):
    """What travels beside the params is thrown away."""

    async def submit(self, envelopes: Sequence[Envelope]) -> None:
        await self.inner.submit([msgspec.structs.replace(envelope, headers=None) for envelope in envelopes])


class IgnoresRates(Wrapper):
    """It says that it holds a rate among all workers, and does not."""

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> Consumer:
        return WrappedConsumer(await self.inner.register(functions, slots, notices))


class DropsCancelledReserves(Wrapper):
    """What arrives while a reserve() is being cancelled is gone."""

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> Consumer:
        return _DroppingConsumer(await self.inner.register(functions, slots, notices))


class _DroppingConsumer(WrappedConsumer):
    async def reserve(self, limit: int) -> Sequence[Delivery]:
        deliveries = await self.inner.reserve(limit)
        await asyncio.sleep(0)
        return deliveries


class OverstatesItsLease(Wrapper):
    """A lease is over in half the time that it states."""

    @property
    def capabilities(self) -> Capabilities:
        stated = self.inner.capabilities
        return replace(stated, lease_seconds=2 * (stated.lease_seconds or 0.0))


class TrustsStaleVerdicts(Wrapper):
    """Whoever settles is told that it counts."""

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> Consumer:
        return _TrustingConsumer(await self.inner.register(functions, slots, notices))


class _TrustingConsumer(WrappedConsumer):
    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        await self.inner.settle(settlements)
        return [Settled.CONFIRMED] * len(settlements)


def _around(scheme: str, wrapper: Callable[[Driver], Driver]) -> DriverFactory:
    return lambda address: wrapper(open_driver(replace(address, scheme=scheme)))


BROKEN: dict[str, Callable[[Driver], Driver]] = {
    "early": AcknowledgesEarly,
    "crossing": CrossesReplies,
    "hasty": IgnoresDelay,
    "level": IgnoresPriority,
    "forgetful": IgnoresUniques,
    "bare": IgnoresHeaders,
    "unlimited": IgnoresRates,
    "dropping": DropsCancelledReserves,
    "brief": OverstatesItsLease,
    "trusting": TrustsStaleVerdicts,
}
for _name, _wrapper in BROKEN.items():
    for _scheme in ("memory", "sqlite"):
        register_driver(f"{_name}-{_scheme}", _around(_scheme, _wrapper))
