"""The built-in drivers are Drivers, and so is anything with the four verbs."""

from collections.abc import Collection, Sequence

import que
from que.address import Address
from que.driver import Cancels, Consumer, ConsumerSink, Driver, Emits, EventSink, Inspects
from que.drivers.gearman import GearmanDriver
from que.drivers.memory import MemoryDriver
from que.model import Capabilities, Delivery, Envelope, Lease, Settled, Settlement

memory: Driver = MemoryDriver(Address.parse("memory://"))
gearman: Driver = GearmanDriver(Address.parse("gearman://127.0.0.1"))
cancels: list[Cancels] = [MemoryDriver(Address.parse("memory://")), GearmanDriver(Address.parse("gearman://a"))]
inspects: list[Inspects] = [MemoryDriver(Address.parse("memory://")), GearmanDriver(Address.parse("gearman://a"))]


class OwnConsumer:
    async def reserve(self, limit: int) -> Sequence[Delivery]:
        return ()

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        return [Settled.CONFIRMED for _ in settlements]

    async def close(self) -> None: ...


class Own:
    calls_in_flight: int | None = 1

    def __init__(self, address: Address) -> None: ...

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(lease=Lease.PROCESS)

    async def connect(self, events: EventSink) -> None: ...
    async def disconnect(self) -> None: ...
    async def submit(self, envelopes: Sequence[Envelope]) -> None: ...

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> OwnConsumer:
        return OwnConsumer()


class SilentConsumer:
    async def reserve(self, limit: int) -> Sequence[Delivery]:
        return ()


class WrongSubmit(Own):
    async def submit(self, envelopes: str) -> None: ...  # E: mypy[override] pyright[reportIncompatibleMethodOverride]


own: Driver = Own(Address.parse("own://"))
consumer: Consumer = OwnConsumer()
que.register_driver("own", Own)
que.register_driver("memory", MemoryDriver)

silent: Consumer = SilentConsumer()  # E: mypy[assignment] pyright[reportAssignmentType]
emits: Emits = OwnConsumer()  # E: mypy[assignment] pyright[reportAssignmentType]
not_a_driver: Driver = OwnConsumer()  # E: mypy[assignment] pyright[reportAssignmentType]
que.register_driver("wrong", OwnConsumer)  # E: mypy[arg-type] pyright[reportArgumentType]
que.register_driver("app", que.Que)  # E: mypy[arg-type] pyright[reportArgumentType]
