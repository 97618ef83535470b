"""The end of a process that waits neither for its threads nor for its event loop."""

import contextlib
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable

from que.cli.console import say

_FLUSH_SECONDS = 1.0


class Deadline:
    """Ends this process at the earliest time that it was given, whatever its threads and its event loop do.

    Python joins the threads of every executor before it exits, and a blocked event loop runs no callback: neither may
    keep a process that was told to stop. `last_words` is said then. All methods may be called by a signal handler.
    """

    def __init__(self, last_words: Callable[[], str]) -> None:
        self._last_words = last_words
        # The one primitive that a signal handler may use while the code that it interrupts is inside of it.
        self._orders: queue.SimpleQueue[tuple[float, int] | None] = queue.SimpleQueue()
        # Both threads begin now: since Python 3.12 none can while the interpreter waits for the others at its end.
        self._flushes = threading.Event()
        self._flushing = threading.Thread(target=self._flush, name="que-last-words", daemon=True)
        self._flushing.start()
        threading.Thread(target=self._keep, name="que-deadline", daemon=True).start()

    def bring_forward(self, seconds: float, status: int) -> None:
        """The process ends in `seconds` with `status`, unless it is to end before that already."""
        self._orders.put((time.monotonic() + seconds, status))

    def cancel(self) -> None:
        """There is no deadline any more, and will be none."""
        self._orders.put(None)

    def _keep(self) -> None:
        order = nearest = self._orders.get()
        while order is not None and nearest is not None:
            nearest = min(nearest, order)
            try:
                order = self._orders.get(timeout=max(0.0, nearest[0] - time.monotonic()))
            except queue.Empty:
                # Whoever holds the lock of a stream or a log may be what does not end.
                self._flushes.set()
                self._flushing.join(_FLUSH_SECONDS)
                os._exit(nearest[1])

    def _flush(self) -> None:
        self._flushes.wait()
        say(self._last_words())
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        logging.shutdown()
