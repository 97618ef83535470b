"""The driver contract: four verbs and a consumer, small optional protocols, and the registry of drivers by scheme.

A driver is batch-first: it gets what one loop tick collected and makes one write of it. It maps its engine's errors to
ours in one place and says whose fault each was. It never lets one caller's reply reach another.
"""

import importlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol, cast, runtime_checkable

from typing_extensions import get_protocol_members

from que.address import SCHEME, Address, nearest
from que.errors import ConfigurationError, JobError, SubmitError, UnknownDriver
from que.model import (
    Capabilities,
    DeadLetter,
    Delivery,
    Ending,
    Envelope,
    Failed,
    JobStatus,
    Kept,
    QueueDepth,
    Settled,
    Settlement,
    TickClaim,
)


class EventSink(Protocol):
    """Where a driver tells what became of submitted jobs, by the envelope's id.

    Any order is fine: a result may come before its acceptance. Exactly one of refused, completed, failed and lost ends
    a job; what comes after that, or for an unknown id, is ignored. `reconnected` is of no job: a connection that was
    lost is there again. Call it in the loop that called connect().
    """

    def accepted(self, id: str, receipt: str) -> None: ...
    def refused(self, id: str, error: SubmitError) -> None: ...
    def progress(self, id: str, done: int, total: int) -> None: ...
    def chunk(self, id: str, data: bytes) -> None: ...
    def warned(self, id: str, text: str) -> None: ...
    def completed(self, id: str, payload: bytes) -> None: ...
    def failed(self, id: str, failure: Failed) -> None: ...
    def lost(self, id: str, error: JobError) -> None: ...
    def reconnected(self) -> None: ...


class ConsumerSink(Protocol):
    """What an engine tells a worker about deliveries that it has not settled yet."""

    def lost(self, delivery: Delivery) -> None:
        """The lease is gone: the handler is cancelled and its result not used."""
        ...

    def cancelled(self, delivery: Delivery) -> None:
        """Somebody cancelled the job: the handler is cancelled, and its verdict is still settled."""
        ...


class Consumer(Protocol):
    """One worker's claim on the engine: at most `slots` of its deliveries are unsettled at any time."""

    async def reserve(self, limit: int) -> Sequence[Delivery]:
        """Wait for at least one delivery and return at most `limit`; () once closed.

        If cancelled, what had arrived stays for the next call. A lost connection is not an end: it waits on.
        """
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Hand each verdict to the engine and return what became of it, in the same order. Works after close()."""
        ...

    async def close(self) -> None:
        """Stop reserving; a waiting reserve() returns ()."""
        ...


class Driver(Protocol):
    """One engine behind one URL. `calls_in_flight`: how many submit() calls may run at once, None for as many as come.

    `capabilities` is known before connect(), which may narrow it to what this server can.
    """

    calls_in_flight: int | None

    @property
    def capabilities(self) -> Capabilities: ...

    async def connect(self, events: EventSink) -> None:
        """Reach at least one server; raises ConnectError."""
        ...

    async def disconnect(self) -> None:
        """Close everything; harmless when called again. Jobs still watched are reported lost."""
        ...

    async def submit(self, envelopes: Sequence[Envelope]) -> None:
        """Hand the batch to the engine; each outcome goes to the EventSink, now or later.

        If it raises a SubmitError, those of the batch that have no outcome yet are refused with it.
        """
        ...

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> Consumer:
        """Return a consumer of `functions` that holds at most `slots` deliveries."""
        ...


@runtime_checkable
class Emits(Protocol):
    """A consumer that can report on a delivery before its end; matched by the capabilities progress and chunks."""

    def progress(self, delivery: Delivery, done: int, total: int) -> None: ...
    def chunk(self, delivery: Delivery, data: bytes) -> None: ...
    def warned(self, delivery: Delivery, text: str) -> None: ...


@runtime_checkable
class Extends(Protocol):
    """A consumer whose leases run out; matched by Lease.TIMED and the capability lease_seconds."""

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Let the leases of these begin anew; those that were gone are told to the ConsumerSink as lost."""
        ...


class Throttles(Protocol):
    """A consumer of one function whose engine holds a rate among all its workers; matched by total_rate."""

    def throttle(self, count: int, seconds: float) -> None:
        """Take no job by which more than `count` would have been taken in the `seconds` up to then.

        What every consumer of the function has taken that was told the same counts. Called once, before reserve().
        """
        ...


@runtime_checkable
class Remembers(Protocol):
    """A driver whose engine keeps results; matched by the capability results_stored."""

    async def watch(self, watches: Sequence[tuple[str, str]]) -> None:
        """From now on tell the EventSink, under the first of each pair, what becomes of the job of that receipt.

        At once if it has ended and its result is kept; lost with JobUnknown if the engine knows no such job.
        """
        ...


@runtime_checkable
class Keeps(Protocol):
    """A driver that keeps endings under keys; matched by the capability keeps. A key is written once.

    What other engines' jobs gave, and how far flows have come, is kept so.
    """

    async def keep(self, entries: Sequence[Kept], keys: Sequence[str] = ()) -> Sequence[Ending | None]:
        """Write each of `entries` whose key is free, tell who attends to it, and return what `keys` then hold.

        All of it is durable when it returns, or none of it has happened; nobody's write comes between its parts.
        """
        ...

    async def forget(self, keys: Collection[str]) -> None:
        """Free `keys`."""
        ...

    async def attend(self, watches: Sequence[tuple[str, str]]) -> None:
        """Tell the EventSink, under the first of each pair, what is or will be kept under the second: once."""
        ...


@runtime_checkable
class Buries(Protocol):
    """A driver whose engine keeps background jobs that failed for good; matched by the capability dead_letters."""

    async def dead_letters(self, function: str, limit: int) -> Sequence[DeadLetter]:
        """Return at most `limit` of the function's dead letters, the oldest first."""
        ...

    async def replay(self, receipts: Collection[str]) -> int:
        """Queue these dead letters again as if they had never run; return how many there were."""
        ...

    async def drop(self, receipts: Collection[str]) -> int:
        """Forget these dead letters; return how many there were."""
        ...


@runtime_checkable
class Cancels(Protocol):
    """A driver that can cancel by receipt; matched by cancel_queued and cancel_running."""

    async def cancel(self, receipt: str) -> bool:
        """Return True if the engine knew the job and has cancelled it, or told its worker to stop."""
        ...


@runtime_checkable
class Inspects(Protocol):
    """A driver that can tell what the engine holds; matched by the capability inspect."""

    async def status(self, receipt: str) -> JobStatus: ...
    async def depths(self) -> Sequence[QueueDepth]: ...


@runtime_checkable
class Ticks(Protocol):
    """A driver whose engine remembers how far schedules have come; matched by the capability ticks.

    Both calls are atomic among all processes that use the engine.
    """

    async def begin_ticks(self, schedule: str, until: float, owner: str, seconds: float) -> TickClaim:
        """Grant `owner` the schedule for `seconds`, unless its ticks are done up to `until` or another owner has it.

        An owner that has it already has it for `seconds` from now.
        """
        ...

    async def end_ticks(self, schedule: str, until: float, owner: str) -> None:
        """Remember that the ticks are done up to `until`, or a later moment known already; `owner` lets go."""
        ...


@runtime_checkable
class Transacts(Protocol):
    """A driver that can queue jobs inside a transaction of the user's own."""

    async def submit_in(self, connection: object, envelopes: Sequence[Envelope]) -> Sequence[str]:
        """Queue the batch on `connection` and return the receipts; the jobs exist once its transaction is committed.

        Raises Rejected, and ConfigurationError for what is no connection that the driver knows. It waits for nothing
        but `connection`: with a blocking one it returns without ever having suspended.
        """
        ...


@runtime_checkable
class Migrates(Protocol):
    """A driver whose engine has to be prepared: `que migrate URL` does that ahead of connect()."""

    async def migrate(self) -> str:
        """Prepare the engine, or bring it up to date, and return a line that says what was done; raises ConnectError.

        Harmless when it is done already, and whoever else does the same.
        """
        ...


DriverFactory = Callable[[Address], Driver]

_GROUP = "que.drivers"
# Imported when an app first names them, so that `import que` pays for no engine.
_BUILT_IN = {
    "memory": "que.drivers.memory:MemoryDriver",
    "sqlite": "que.drivers.sqlite:SqliteDriver",
    "postgresql": "que.drivers.postgres:PostgresDriver",
    "postgres": "que.drivers.postgres:PostgresDriver",
    "gearman": "que.drivers.gearman:GearmanDriver",
    "gearmans": "que.drivers.gearman:GearmanDriver",
    "redis": "que.drivers.redis:RedisDriver",
    "rediss": "que.drivers.redis:RedisDriver",
    "nats": "que.drivers.nats:NatsDriver",
    "tls": "que.drivers.nats:NatsDriver",
    "amqp": "que.drivers.amqp:AmqpDriver",
    "amqps": "que.drivers.amqp:AmqpDriver",
}
_registered: dict[str, DriverFactory] = {}


def register_driver(scheme: str, factory: DriverFactory) -> None:
    """From now on `scheme://…` is opened by `factory(address)`, in place of any other driver of that scheme.

    Raises ConfigurationError if `scheme` could not stand in a URL, or `factory` cannot be called.
    """
    if not SCHEME.fullmatch(scheme):
        raise ConfigurationError(f"scheme {scheme!r} must be a lower-case word, like gearman")
    _registered[scheme] = _checked_factory(scheme, factory)


def known_schemes() -> list[str]:
    """Return every scheme that open_driver() knows, sorted: registered, built in, or an entry point's."""
    return sorted({*_registered, *_BUILT_IN, *(plugin.name for plugin in _plugins())})


def open_driver(address: Address) -> Driver:
    """Return the driver for `address`, without any I/O.

    Looks at what register_driver() was given, then at the built-in drivers, then at the entry points of the group
    "que.drivers". Raises UnknownDriver with the nearest scheme, ConfigurationError if the driver cannot be imported, is
    none, or is one of several.
    """
    driver = _find(address.scheme)(address)
    missing = sorted(name for name in get_protocol_members(Driver) if not hasattr(driver, name))
    if missing:
        raise ConfigurationError(f"{address}: {type(driver).__name__} is no Driver: it has no {', '.join(missing)}")
    if driver.calls_in_flight is not None and driver.calls_in_flight < 1:
        raise ConfigurationError(f"{address}: calls_in_flight={driver.calls_in_flight}: expected at least 1, or None")
    return driver


class _Plugin(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> str: ...
    def load(self) -> object: ...


def _plugins() -> Iterable[_Plugin]:
    # Imported when it is asked: with all that it imports it is half of what `import que` would cost.
    from importlib.metadata import entry_points

    return entry_points(group=_GROUP)


def _find(scheme: str) -> DriverFactory:
    if scheme in _registered:
        return _registered[scheme]
    if scheme in _BUILT_IN:
        return _load(scheme, _BUILT_IN[scheme], lambda: _built_in(_BUILT_IN[scheme]))
    offers = {plugin.value: plugin for plugin in _plugins() if plugin.name == scheme}
    if len(offers) > 1:
        hint = "uninstall all but one of their packages, or choose by register_driver()"
        raise ConfigurationError(
            f"several drivers are installed for {scheme}://, {' and '.join(sorted(offers))}: {hint}"
        )
    for value, plugin in offers.items():
        return _load(scheme, value, plugin.load)
    known = known_schemes()
    raise UnknownDriver(scheme, f"{near}://" if (near := nearest(scheme, known)) else None, known)


def _built_in(value: str) -> object:
    module, _, name = value.partition(":")
    return getattr(importlib.import_module(module), name)


def _load(scheme: str, value: str, load: Callable[[], object]) -> DriverFactory:
    try:
        factory = load()
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:
        # Whatever a module does while it is imported: it is not the program's own, and the URL is what names it.
        raise ConfigurationError(f"the driver of {scheme}://, {value}, cannot be imported: {error!r}") from error
    return _checked_factory(scheme, factory)


def _checked_factory(scheme: str, factory: object) -> DriverFactory:
    if not callable(factory):
        raise ConfigurationError(f"the driver of {scheme}://, {factory!r}, cannot be called with an address")
    return cast(DriverFactory, factory)
