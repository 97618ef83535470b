"""What a job may use of a worker: how many runs at once, and how many in a time. Pure: the clock is the caller's."""

import re
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from que.errors import ConfigurationError

_RATE = re.compile(r"([1-9]\d*)/([1-9]\d*)?([smhd])")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class Rate(NamedTuple):
    """At most `runs` begin in any `seconds`."""

    runs: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Limits:
    """A job's own limits: at most `concurrency` runs at once in each worker, and how many begin in a time.

    `rate` is one worker's, `total_rate` that of all workers of the engine; None where there is no such limit.
    """

    concurrency: int | None = None
    rate: Rate | None = None
    total_rate: Rate | None = None

    @classmethod
    def parse(cls, concurrency: object, rate: object, total_rate: object) -> "Limits":
        """Return the limits that a declaration means, None for none; raises ConfigurationError."""
        if concurrency is not None and (not isinstance(concurrency, int) or concurrency < 1):
            raise ConfigurationError(f"concurrency={concurrency!r}: expected a count of at least 1")
        return cls(concurrency, _parsed("rate", rate), _parsed("total_rate", total_rate))


def _parsed(option: str, rate: object) -> Rate | None:
    if rate is None:
        return None
    match = _RATE.fullmatch(rate) if isinstance(rate, str) else None
    if match is None:
        raise ConfigurationError(f"{option}={rate!r}: expected like '100/m', '5/10s', '1000/h' or '1/d'")
    return Rate(int(match[1]), int(match[2] or 1) * _UNITS[match[3]])


class Tokens:
    """`count` tokens: each comes back `seconds` after it was taken, so that no span of `seconds` ever sees more taken.

    Moments are seconds of any clock that does not go back.
    """

    def __init__(self, count: int, seconds: float) -> None:
        self._seconds = seconds
        self._free = count
        # When how many come back, the soonest first.
        self._taken: deque[tuple[float, int]] = deque()

    def free(self, now: float) -> int:
        """Return how many may be taken."""
        while self._taken and self._taken[0][0] <= now:
            self._free += self._taken.popleft()[1]
        return self._free

    def take(self, count: int, now: float) -> None:
        """Take `count` of those that are free."""
        self._free -= count
        self._taken.append((now + self._seconds, count))

    @property
    def next_at(self) -> float:
        """The moment at which the next ones come back, some being taken."""
        return self._taken[0][0]
