"""A watchdog: tells which job holds up the event loop, while it does."""

import asyncio
import logging
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Self

from que.errors import ConfigurationError
from que.model import Delivery
from que.slots import stepped_in

# How long there is silence about a job name that has been told of.
SILENCE_SECONDS = 60.0
_MOST_FRAMES = 5
_PARTING_SECONDS = 1.0

_log = logging.getLogger("que")


class Watchdog:
    """Within `with Watchdog(0.5):` logs each job that holds up the running loop for `stall_seconds` or more, and where.

    It tells of one job name once a minute. A thread asks the loop for a sign of life four times in that span, and looks
    at the stack of the loop's thread when none comes: the jobs themselves pay nothing.
    Raises ConfigurationError for a span that cannot be meant, RuntimeError outside of a running loop.
    """

    def __init__(self, stall_seconds: float) -> None:
        if not 0 < stall_seconds <= threading.TIMEOUT_MAX:
            raise ConfigurationError(f"stall_seconds={stall_seconds!r}: expected more than 0 seconds")
        self._stall_seconds = stall_seconds
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._seen = time.monotonic()
        self._asked = False
        self._ended = threading.Event()
        self._told: dict[str, float] = {}
        self._thread = threading.Thread(target=self._watch, name="que-watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        # What it is telling, it tells before the block ends.
        self._thread.join(_PARTING_SECONDS)

    def _watch(self) -> None:
        while not self._ended.wait(self._stall_seconds / 4):
            now = time.monotonic()
            if not self._asked:
                self._seen, self._asked = now, True
                try:
                    self._loop.call_soon_threadsafe(self._answer)
                except RuntimeError:  # the loop is closed
                    return
            elif now - self._seen >= self._stall_seconds:
                self._tell(now)

    def _answer(self) -> None:
        self._asked = False

    def _tell(self, now: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)  # pyright: ignore[reportPrivateUsage] - documented
        delivery = None if frame is None else _delivery(frame)
        name = "" if delivery is None else delivery.function
        if frame is None or now - self._told.get(name, -SILENCE_SECONDS) < SILENCE_SECONDS:
            return
        self._told[name] = now
        who = "something other than a job" if delivery is None else f"job {delivery.function} {delivery.id}"
        import traceback  # nobody pays for it until then

        place = "".join(traceback.format_stack(frame)[-_MOST_FRAMES:])
        way = "let it wait with `await`, or make it a `def` handler"
        _log.warning("%s has held up the event loop for %.3g s: %s\n%s", who, now - self._seen, way, place)


def _delivery(innermost: FrameType) -> Delivery | None:
    frame: FrameType | None = innermost
    while frame is not None:
        if (delivery := stepped_in(frame)) is not None:
            return delivery
        frame = frame.f_back
    return None
