"""How long one waits for answers: all have the same patience, so the oldest is always the next to give up."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

from que.errors import QueError, ResultTimeout

# Deadlines of jobs that have ended stay until there are this many more of them than half: sweeping costs little then.
_DEADLINES_KEPT = 1000


class Patience:
    """Gives up on each id after `seconds`, by `fail(id, ResultTimeout)`, if it is among `waiting` still."""

    def __init__(
        self,
        seconds: float,
        waiting: Mapping[str, object],
        fail: Callable[[str, QueError], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._seconds = seconds
        self._waiting = waiting
        self._fail = fail
        self._loop = loop
        self._deadlines: deque[tuple[float, str]] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    def add(self, id: str) -> None:
        """Let the time of `id` run from now."""
        if len(self._deadlines) > 2 * len(self._waiting) + _DEADLINES_KEPT:
            self._deadlines = deque(each for each in self._deadlines if each[1] in self._waiting)
        self._deadlines.append((self._loop.time() + self._seconds, id))
        if self._alarm is None:
            self._alarm = self._loop.call_later(self._seconds, self._give_up)

    def end(self) -> None:
        """Forget every deadline, and the timer, which a loop that has ended would never ring."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._deadlines.clear()

    def _give_up(self) -> None:
        now = self._loop.time()
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][1] not in self._waiting):
            _, id = self._deadlines.popleft()
            self._fail(id, ResultTimeout(f"no answer within the watch_timeout of {self._seconds:g} s"))
        self._alarm = self._loop.call_at(self._deadlines[0][0], self._give_up) if self._deadlines else None
