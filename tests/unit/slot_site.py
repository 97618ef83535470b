"""Slots whose jobs are given as bodies, and some bodies."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from que.model import Completed, Delivery, Failed, Verdict
from que.slots import Slots
from tests.unit.loops import until

Body = Callable[[], Awaitable[object]]
PATIENCE_SECONDS = 0.02
DONE = Completed(b"done")


class Site:
    """Slots whose jobs are given as bodies; `reports` holds what was reported, in order."""

    def __init__(self, count: int = 1) -> None:
        self.slots = Slots(count, self._run, self._report, asyncio.get_running_loop())
        self.reports: list[tuple[str, Verdict | None]] = []
        self.errors: list[BaseException] = []
        self._bodies: dict[Delivery, Body] = {}

    def add(self, *bodies: Body) -> list[Delivery]:
        deliveries = [Delivery(body.__name__, b"", f"id of {body.__name__}") for body in bodies]
        self._bodies.update(zip(deliveries, bodies, strict=True))
        self.slots.add(deliveries)
        return deliveries

    async def run(self, *bodies: Body) -> list[Verdict | None]:
        """Run `bodies` to their ends and return the verdicts, in the order in which they came."""
        known = len(self.reports)
        self.add(*bodies)
        await until(lambda: len(self.reports) == known + len(bodies))
        return self.verdicts[known:]

    @property
    def verdicts(self) -> list[Verdict | None]:
        return [verdict for _, verdict in self.reports]

    async def _run(self, delivery: Delivery) -> Verdict:
        try:
            await self._bodies[delivery]()
        except Exception as error:
            self.errors.append(error)
            return Failed("handler", type(error).__name__, str(error))
        return DONE

    def _report(self, delivery: Delivery, verdict: Verdict | None) -> None:
        self.reports.append((delivery.function, verdict))


async def nothing() -> None:
    pass


async def forever() -> None:
    await asyncio.Event().wait()


def holding(gate: asyncio.Event, running: list[int]) -> Body:
    """Return a body that waits for `gate`; running[0] says how many do, running[1] how many did at most."""

    async def body() -> None:
        running[0] += 1
        running[1] = max(running)
        await gate.wait()
        running[0] -= 1

    return body


async def times_out() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await forever()


def slot_tasks() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
