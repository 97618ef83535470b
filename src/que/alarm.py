"""When a consumer looks again by itself."""

import asyncio
from collections.abc import Callable


class Alarm:
    """Rings once, so many seconds after it was last set."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float, ring: Callable[[], object]) -> None:
        """Call `ring` in `seconds` from now; what was to ring before does not."""
        self.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, ring)

    def cancel(self) -> None:
        """Do not ring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
