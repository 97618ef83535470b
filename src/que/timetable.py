"""When schedules tick: pure sums over Unix seconds, the same in every process that asks."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Protocol

from que.errors import ConfigurationError


class Times(Protocol):
    """The ticks of a schedule. `str()` of it says when they are, in few words that never change."""

    def after(self, moment: float) -> float:
        """Return the first tick later than `moment`; infinity if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Cron:
    """The ticks of a cron expression in a time zone, as cronsim and Debian's cron have them.

    Five fields, or six with the seconds in front. When clocks go forward, a tick of a fixed hour and minute that the
    day does not have comes at the first minute after the gap; when they go back, it comes once, the first time. Ticks
    by wildcard (`*/5 * * * *`), and all of six fields, follow the time that really passes.
    Raises ConfigurationError for an expression that cannot be read or never comes, for an unknown time zone, and where
    cronsim is not installed.
    """

    expression: str
    tz: str = "UTC"

    def __post_init__(self) -> None:
        try:
            from cronsim import CronSimError
        except ModuleNotFoundError as error:
            hint = "pip install 'que-jobs[cron]', or use every(seconds=…)"
            raise ConfigurationError(f"cron {self.expression!r} needs cronsim: {hint}") from error

        try:
            never = math.isinf(self.after(0.0))
        except CronSimError as error:
            raise ConfigurationError(f"cron {self.expression!r}: {error}: expected like '*/5 * * * *'") from error
        if never:
            raise ConfigurationError(f"cron {self.expression!r}: there is no such day")

    def __str__(self) -> str:
        return f"cron {' '.join(self.expression.split())} {self.tz}"

    def after(self, moment: float) -> float:
        """Return the first tick later than `moment`."""
        # In the hour that comes twice cronsim may answer with the first of the two, which has passed.
        return next((tick for tick in self._from(moment) if tick > moment), math.inf)

    def _from(self, moment: float) -> Iterator[float]:
        from cronsim import CronSim

        ticks = CronSim(self.expression, datetime.fromtimestamp(moment, _zone(self.tz)))
        return (tick.timestamp() for tick in ticks)


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigurationError(f"tz={name!r}: no such time zone here: expected like 'Europe/Berlin'") from error


_SHORTEST_SECONDS = 1.0
_LONGEST_SECONDS = 366 * 86_400.0


@dataclass(frozen=True, slots=True)
class Every:
    """A tick each `seconds`, counted from 1970, so that all processes mean the same ones.

    Raises ConfigurationError for less than a second or more than a year.
    """

    seconds: float

    def __post_init__(self) -> None:
        if not _SHORTEST_SECONDS <= self.seconds <= _LONGEST_SECONDS:
            raise ConfigurationError(f"every seconds={self.seconds!r}: expected 1 second or more, a year at most")

    def __str__(self) -> str:
        return f"every {self.seconds:.17g} s"

    def after(self, moment: float) -> float:
        """Return the first multiple of `seconds` later than `moment`."""
        count = math.floor(moment / self.seconds)
        while count * self.seconds <= moment:
            count += 1
        return count * self.seconds


def latest(times: Times, since: float, until: float) -> float | None:
    """Return the last tick after `since` that is not after `until`, or None: in few steps, however long that is."""
    span = 1.0
    while True:
        start = max(since, until - span)
        tick = times.after(start)
        if tick <= until:
            break
        if start == since:
            return None
        span *= 2
    while (following := times.after(tick)) <= until:
        tick = following
    return tick
