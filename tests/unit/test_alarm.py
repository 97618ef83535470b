"""A timer that is set again, and does not ring twice."""

from que.alarm import Alarm
from tests.unit.loops import in_loop, ticks, until


@in_loop
async def test_an_alarm_that_is_set_again_rings_once() -> None:
    rings: list[int] = []
    alarm = Alarm()
    alarm.set(0, lambda: rings.append(1))
    alarm.set(0, lambda: rings.append(1))
    await until(lambda: rings)
    await ticks(20)
    assert rings == [1]


@in_loop
async def test_an_alarm_that_was_cancelled_is_silent() -> None:
    rings: list[int] = []
    alarm = Alarm()
    alarm.set(0, lambda: rings.append(1))
    alarm.set(0, lambda: rings.append(1))
    alarm.cancel()
    alarm.cancel()
    await ticks(20)
    assert not rings
