"""A scenario: something that a driver promises, acted out, and where it cannot be."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from que.model import Lease
from que.testing.subject import PromiseBroken, Subject

Play = Callable[[Subject], Awaitable[None]]
Hurdle = Callable[[Subject], str | None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """`play` returns if the promise is kept, else raises; `hurdles` give the reasons why it cannot be played here."""

    play: Play
    hurdles: tuple[Hurdle, ...] = ()

    @property
    def name(self) -> str:
        """The promise, as a sentence."""
        return getattr(self.play, "__name__", "?").replace("_", " ")

    def hurdle(self, subject: Subject) -> str | None:
        """Return why `subject` cannot be asked, or None."""
        return next(filter(None, (hurdle(subject) for hurdle in self.hurdles)), None)


def needs_processes(subject: Subject) -> str | None:
    """Several processes have to share the engine."""
    return "its jobs never leave the process" if subject.can.lease is Lease.PROCESS else None


def needs_timed_leases(subject: Subject) -> str | None:
    """A lease has to run out while the scenario looks on."""
    seconds = subject.can.lease_seconds
    if subject.can.lease is not Lease.TIMED or seconds is None:
        return "its leases do not run out"
    most = subject.sizes.longest_lease
    return f"a lease of {seconds:g} s is longer than the {most:g} s that this run waits" if seconds > most else None


def needs_delay(subject: Subject) -> str | None:
    """Jobs have to wait until a time."""
    return None if subject.can.delay else "it cannot delay a job"


def needs_restart(subject: Subject) -> str | None:
    """Somebody has to know how to restart the engine."""
    return "nobody can restart the engine" if subject.restart is None else None


def needs_pushed_results(subject: Subject) -> str | None:
    """Jobs have to be awaited."""
    return None if subject.can.results_pushed else "its jobs cannot be awaited"


def needs_durability(subject: Subject) -> str | None:
    """Jobs have to outlive those who know of them."""
    return None if subject.can.durable else "it does not say that it is durable"


def perform(scenario: Scenario, subject: Subject) -> str | None:
    """Play `scenario` in a loop of its own; return why it cannot be played, or None if the promise is kept.

    Raises what the scenario raises, PromiseBroken if it takes longer than the deadline or something reached the loop's
    exception handler.
    """
    surprises: list[str] = []

    async def main() -> str | None:
        asyncio.get_running_loop().set_exception_handler(lambda _, facts: surprises.append(str(facts)))
        await subject.look()
        hurdle = scenario.hurdle(subject)
        if hurdle is None:
            limit = asyncio.timeout(subject.sizes.deadline)
            try:
                async with limit:
                    await scenario.play(subject)
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise PromiseBroken(f"no end within {subject.sizes.deadline:g} s") from error
        return hurdle

    hurdle = asyncio.run(main())
    if surprises:
        raise PromiseBroken(f"the event loop met what nobody awaited: {'; '.join(surprises)}")
    return hurdle
