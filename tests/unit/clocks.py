"""A clock that stands still until a test sets it."""

import asyncio

from tests.unit.loops import ticks


class FakeClock:
    """A scheduler's clock: `now` is Unix seconds; `sleepers` counts those who wait for a later time."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self._alarms: dict[asyncio.Future[None], float] = {}

    @property
    def sleepers(self) -> int:
        return len(self._alarms)

    @property
    def next_alarm(self) -> float:
        return min(self._alarms.values())

    def time(self) -> float:
        return self.now

    async def sleep_until(self, moment: float) -> None:
        if moment <= self.now:
            await asyncio.sleep(0)
            return
        alarm = asyncio.get_running_loop().create_future()
        self._alarms[alarm] = moment
        try:
            await alarm
        finally:
            del self._alarms[alarm]

    async def set(self, now: float) -> None:
        """It is `now`, and who waited for that has done what can be done without waiting for others."""
        self.now = now
        for alarm, moment in self._alarms.items():
            if moment <= now and not alarm.done():
                alarm.set_result(None)
        await ticks(30)
