"""The engine under test, as the scenarios see it, and how they say what they expect of it."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import que
from que.address import Address
from que.driver import Driver, EventSink, open_driver
from que.testing.ledger import Ledger, Tally
from que.testing.sinks import Recorder
from que.testing.sizes import Sizes


class PromiseBroken(AssertionError):
    """The driver does not do what it states, or states less than it does."""


def expect(condition: object, what: str) -> None:
    """Raise PromiseBroken, saying `what` was expected, unless `condition` is true."""
    if not condition:
        raise PromiseBroken(what)


async def until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Return once `condition()` is true; after `seconds` raise PromiseBroken, which says `what` never came."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        expect(loop.time() < end, f"waited {seconds:g} s in vain for {what}")
        await asyncio.sleep(0.005)


async def refused(ask: Callable[[], object], feature: str) -> None:
    """Expect `ask()`, or what it returns when awaited, to raise UnsupportedFeature: the driver does not state it."""
    try:
        answer = ask()
        if isinstance(answer, Awaitable):
            await answer
    except que.UnsupportedFeature:
        return
    raise PromiseBroken(f"{feature} is not among the capabilities, and asking for it was not refused")


@dataclass(slots=True)
class Subject:
    """One engine by its URL.

    `restart`: stops the engine and starts it again, None where that cannot be done. `imports`: modules that register
    the driver; worker processes import them first. `scratch`: a directory for ledgers and logs.
    `notes` and `ledgers` are for the reader of the run, each a line.
    """

    url: str
    sizes: Sizes
    scratch: Path
    restart: Callable[[], None] | None = None
    imports: Sequence[str] = ()
    notes: list[str] = field(default_factory=list[str])
    ledgers: list[str] = field(default_factory=list[str])
    # Names that no other run has: what another run has left on the engine stays out of this one.
    prefix: str = field(default_factory=lambda: f"que-testing-{secrets.token_hex(4)}-")
    _capabilities: que.Capabilities | None = None

    async def look(self) -> que.Capabilities:
        """Connect once, and return what the driver can on this very server."""
        driver = self.driver()
        await driver.connect(Recorder())
        try:
            self._capabilities = driver.capabilities
        finally:
            await driver.disconnect()
        return self._capabilities

    @property
    def can(self) -> que.Capabilities:
        """What look() has found."""
        if self._capabilities is None:
            raise que.NotConnected("look() at the subject first")
        return self._capabilities

    def driver(self) -> Driver:
        """Return a driver of its own, not connected."""
        return open_driver(Address.parse(self.url))

    async def connected(self, events: EventSink) -> Driver:
        """Return a driver of its own that tells `events`."""
        driver = self.driver()
        await driver.connect(events)
        return driver

    def app(self, *observers: que.Observe) -> que.Que[None]:
        """Return an app of its own, not connected."""
        return que.Que(self.url, observers=observers)

    def name(self, word: str) -> str:
        """Return the name of a job that no other run uses."""
        return f"{self.prefix}{word}"

    def note(self, text: str) -> None:
        """Let the reader know a figure that is not judged."""
        self.notes.append(text)

    def new_ledger(self, name: str) -> Ledger:
        """Return an empty ledger."""
        return Ledger(self.scratch / f"{name}.ledger")

    def show(self, sums: Tally) -> None:
        """Let the reader know the sums, whatever they are."""
        self.ledgers.append(str(sums))
