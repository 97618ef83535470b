"""A clock for tests: it goes on by itself, and forward at a word."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Clock:
    """The time that que sees: the real one, and what advance() has added to it.

    `install()` puts it in the place of time.time() and of the running loop's clock, so that delays, retries, deadlines
    and asyncio.sleep() believe it.
    """

    ahead: float = 0.0
    _real_time: Callable[[], float] = field(default=time.time)

    def time(self) -> float:
        """Return the Unix seconds."""
        return self._real_time() + self.ahead

    def advance(self, seconds: float) -> None:
        """So many seconds have passed; the running loop sees it at its next turn."""
        if seconds < 0:
            raise ValueError(f"advance({seconds!r}): time does not go back")
        self.ahead += seconds

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """`loop` reads this clock from now on; raises TypeError for one whose clock cannot be replaced, as uvloop's."""
        real_time, before = loop.time, self.ahead
        try:
            # Going back again would be worse for what the loop has been told meanwhile, so it is for good.
            setattr(loop, "time", lambda: real_time() + self.ahead - before)  # noqa: B010 - a method, to the checkers
        except AttributeError as error:
            raise TypeError(f"the clock of {type(loop).__name__} cannot be replaced: use asyncio's own loop") from error
