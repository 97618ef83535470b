"""What ends a worker by itself: the jobs it may work, the memory it may take, nothing left to do."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from que.cli.console import say
from que.cli.supervisor import RECYCLED
from que.worker import Worker

_LOOK_SECONDS = 0.1
# A worker that has had nothing to do for so long has nothing to do.
_QUIET_SECONDS = 1.0


class Quota:
    """A Service: run() returns once the worker has done its share, or stop() was called.

    `max_jobs`: how many jobs it ends; those that run by then are let go on. `max_memory`: how many MiB its process may
    have resident, its children not counted. `burst`: it ends once it has had nothing to do for a second. `status` is
    then the exit status: RECYCLED where another worker is to take its place, else 0.
    """

    def __init__(self, worker: Worker[object], max_jobs: int | None, max_memory: float | None, burst: bool) -> None:
        self.status: int = 0
        self._worker = worker
        self._max_jobs = max_jobs
        self._max_memory = max_memory
        self._burst = burst
        self._stopped = asyncio.Event()

    @property
    def limits(self) -> bool:
        """Whether there is anything to look for."""
        return self._max_jobs is not None or self._max_memory is not None or self._burst

    async def run(self) -> None:
        """Look ten times a second."""
        loop = asyncio.get_running_loop()
        ended, busy_at = -1, loop.time()
        while not self._stopped.is_set():
            if (reason := self._spent()) is not None:
                say(f"{os.getpid()} {reason}: another one takes its place")
                self.status = RECYCLED
                return
            if self._worker.ended != ended or self._worker.running or not self._worker.is_open:
                ended, busy_at = self._worker.ended, loop.time()
            elif self._burst and loop.time() - busy_at > _QUIET_SECONDS:
                say(f"{os.getpid()} has nothing left to do")
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), _LOOK_SECONDS)

    def _spent(self) -> str | None:
        if self._max_jobs is not None and self._worker.ended >= self._max_jobs:
            return f"has worked {self._worker.ended} jobs"
        if self._max_memory is not None and (resident := _resident_mib()) > self._max_memory:
            return f"has {resident:.0f} MiB resident"
        return None

    async def stop(self, grace: float = 0.0) -> None:
        """run() returns."""
        self._stopped.set()


def _resident_mib() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        # Where there is no /proc: the most that it has ever been, in bytes on macOS.
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
