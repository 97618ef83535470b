"""What serves an app in this process until a signal comes: a worker, a scheduler, or both."""

import asyncio
import atexit
import os
import signal
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Protocol

from que.app import Que
from que.cli.console import say
from que.cli.deadline import Deadline

# After the grace: a handler that is cancelled has 5 seconds to clean up, then verdicts are settled and all is closed.
SETTLING_SECONDS = 10.0
# After all is settled and closed, for threads that look at their context's `cancelled`.
_THREADS_SECONDS = 1.0


class Service(Protocol):
    """A Worker or a Scheduler."""

    async def run(self) -> None: ...
    async def stop(self, grace: float = ...) -> None: ...


async def serve(
    app: Que[object],
    services: Sequence[Service],
    served: Sequence[str],
    last_words: Callable[[], str],
    grace: float,
    *,
    ready: Callable[[], None] = lambda: None,
    status: Callable[[], int] = lambda: 0,
) -> int:
    """Run the app's `services` until one ends or SIGTERM or SIGINT comes, then let all end within `grace` seconds.

    Returns the exit status: 0 after a signal, else what `status` says.

    A second signal cuts the grace short, a third ends the process at once. Whatever a handler does, the process ends
    SETTLING_SECONDS after the grace: with that status if all services have ended, else with 1, after `last_words`.
    `served`: what there is to say once the app is connected; then `ready` is called.
    """
    deadline = Deadline(last_words)
    signals = _Signals(grace, deadline)
    try:
        async with app:
            for line in served:
                say(f"{os.getpid()} {line}")
            ready()
            await _serve_until_told(services, signals, grace)
    except asyncio.CancelledError:
        if not signals.came_early:
            raise
    say(f"{os.getpid()} has stopped")
    ending = status()
    deadline.bring_forward(_THREADS_SECONDS, ending)
    # Python calls this when it has joined all threads: what others have registered may take its time.
    atexit.register(deadline.cancel)
    return ending


async def _serve_until_told(services: Sequence[Service], signals: "_Signals", grace: float) -> None:
    serving = [asyncio.create_task(_run(services, grace))]
    for allowed, what in ((grace, f"letting running jobs end within {grace:g} s"), (0.0, "giving running jobs back")):
        told = asyncio.create_task(signals.next())
        await asyncio.wait([serving[0], told], return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            told.cancel()
            break
        say(f"{os.getpid()} has got {told.result()}: {what}")
        serving += [asyncio.create_task(service.stop(allowed)) for service in services]
    await asyncio.gather(*serving)


async def _run(services: Sequence[Service], grace: float) -> None:
    """Run all; the end of one is the end of the others, and its error is raised."""
    runs = [asyncio.create_task(service.run()) for service in services]
    await asyncio.wait(runs, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*[service.stop(grace) for service in services], return_exceptions=True)
    await asyncio.gather(*runs)


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
