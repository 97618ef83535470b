"""`que worker`: works an app's jobs in this process."""

import asyncio
import atexit
import os
import signal
import threading
from types import FrameType

from que.app import Que
from que.cli.console import say
from que.cli.deadline import Deadline
from que.worker import Worker

# After the grace: a handler that is cancelled has 5 seconds to clean up, then verdicts are settled and all is closed.
SETTLING_SECONDS = 10.0
# After all is settled and closed, for threads that look at their context's `cancelled`.
_THREADS_SECONDS = 1.0
_MOST_NAMED = 10


async def work(app: Que[object], concurrency: int, grace: float) -> None:
    """Work the app's jobs until SIGTERM or SIGINT comes, then drain for at most `grace` seconds.

    A second signal cuts the grace short, a third ends the process at once. Whatever a handler does, the process ends
    SETTLING_SECONDS after the grace: with status 0 if every job's verdict was settled, else with 1, jobs named.
    """
    worker = app.worker(concurrency=concurrency)
    deadline = Deadline(lambda: _last_words(worker))
    signals = _Signals(grace, deadline)
    try:
        async with app:
            for address, names in worker.serves:
                say(f"{os.getpid()} serves {', '.join(names)} with {concurrency} slots at {address}")
            await _work_until_told(worker, signals, grace)
    except asyncio.CancelledError:
        if not signals.came_early:
            raise
    say(f"{os.getpid()} has stopped")
    deadline.bring_forward(_THREADS_SECONDS, status=0)
    # Python calls this when it has joined all threads: what others have registered may take its time.
    atexit.register(deadline.cancel)


async def _work_until_told(worker: Worker[object], signals: "_Signals", grace: float) -> None:
    working = [asyncio.create_task(worker.run())]
    for allowed, what in ((grace, f"letting running jobs end within {grace:g} s"), (0.0, "giving running jobs back")):
        told = asyncio.create_task(signals.next())
        await asyncio.wait([working[0], told], return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            told.cancel()
            break
        say(f"{os.getpid()} has got {told.result()}: {what}")
        working.append(asyncio.create_task(worker.stop(allowed)))
    await asyncio.gather(*working)


class _Signals:
    """SIGTERM and SIGINT, as they come; each brings the deadline forward, even while the event loop is blocked.

    One that comes before the first next() cancels the task in which this was made.
    """

    def __init__(self, grace: float, deadline: Deadline) -> None:
        self.came_early = False
        self._allowed = [0.0, SETTLING_SECONDS, grace + SETTLING_SECONDS]
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._names: asyncio.Queue[str] = asyncio.Queue()
        self._awaited = False
        # Not the loop's own signal handlers: a loop that a handler blocks would never call them.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._come)

    async def next(self) -> str:
        """Wait for a signal and return its name."""
        self._awaited = True
        return await self._names.get()

    def _come(self, number: int, frame: FrameType | None) -> None:
        self._deadline.bring_forward(self._allowed.pop() if self._allowed else 0.0, status=1)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, signal.Signals(number).name)

    def _tell(self, name: str) -> None:
        if self._awaited or self._task is None:
            self._names.put_nowait(name)
        else:
            self.came_early = True
            self._task.cancel()


def _last_words(worker: Worker[object]) -> str:
    jobs = [f"{delivery.function} {delivery.id}" for delivery in worker.running]
    if jobs:
        more = f" and {len(jobs) - _MOST_NAMED} more" if len(jobs) > _MOST_NAMED else ""
        return f"{os.getpid()} ends without these jobs, which do not stop: {', '.join(jobs[:_MOST_NAMED])}{more}"
    names = [
        thread.name for thread in threading.enumerate() if not (thread.daemon or thread is threading.main_thread())
    ]
    return f"{os.getpid()} does not wait for its threads {', '.join(names[:_MOST_NAMED])}"
