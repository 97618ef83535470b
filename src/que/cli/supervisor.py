"""`que worker -w`: several workers that start as this process did, and end together."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from que.cli.console import say
from que.cli.serving import SETTLING_SECONDS

_STOPS = (signal.SIGTERM, signal.SIGINT)
_WATCHED = (*_STOPS, signal.SIGCHLD, signal.SIGALRM)
_LIFELINE = "QUE_SUPERVISOR_PIPE"
# A worker ends itself when its time is up; this much later it is killed.
_PATIENCE_SECONDS = 5.0


def supervise(count: int, grace: float) -> int:
    """Run this very command in `count` worker processes; return an exit status once all have ended, 0 if all did well.

    They start with this process's interpreter, options, program and arguments, so they import what it has imported.
    SIGTERM and SIGINT are handed on as SIGTERM. When one worker fails, the others are stopped. None outlives this
    process: each holds one end of a pipe whose other end is here.
    """
    # Blocked and waited for, no signal can come between two steps, such as the start of a worker and the note of it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    # A SIGCHLD that is ignored, as it is by default, need not become pending.
    signal.signal(signal.SIGCHLD, _note_nothing)
    workers = _Workers(grace)
    workers.start(count)
    while workers.pids:
        number = signal.sigwait(_WATCHED)
        if number in _STOPS:
            workers.stop()
        elif number == signal.SIGALRM:
            workers.kill()
        else:
            workers.reap()
    return workers.status


def take_lifeline() -> int | None:
    """Return this process's end of its supervisor's pipe, None if it has no supervisor.

    Nothing that this process starts inherits it, or the variable that tells of it.
    """
    text = os.environ.pop(_LIFELINE, None)
    if text is None:
        return None
    lifeline = int(text)
    os.set_inheritable(lifeline, False)
    return lifeline


def follow(lifeline: int) -> None:
    """From now on the end of the supervisor, even if it lies in the past, is a SIGTERM to this process."""

    def wait() -> None:
        # Nobody writes: this returns when the other end is closed.
        os.read(lifeline, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="que-supervisor", daemon=True).start()


class _Workers:
    """The processes, by id; one stays ours to signal until reap() has taken note of its end."""

    def __init__(self, grace: float) -> None:
        self.pids: set[int] = set()
        self.status = 0
        self._grace = grace
        self._stops = 0

    def start(self, count: int) -> None:
        lifeline, _ = os.pipe()
        os.set_inheritable(lifeline, True)
        command = [sys.executable, *sys.orig_argv[1:]]
        environment = {**os.environ, _LIFELINE: str(lifeline)}
        try:
            for _ in range(count):
                # A session of its own: the terminal's Ctrl-C comes once, through us.
                self.pids.add(os.posix_spawn(command[0], command, environment, setsid=True, setsigmask=()))
        except OSError as error:
            say(f"cannot start a worker: {error}")
            self._fail(1)
        os.close(lifeline)

    def stop(self) -> None:
        """Hand a stop on: the first lets running jobs end, the second gives them back, the third ends at once."""
        # Always SIGTERM: before a worker is ready for signals, SIGINT would make it print a traceback.
        self._signal(signal.SIGTERM)
        allowed = 0.0 if self._stops else self._grace
        self._stops += 1
        signal.setitimer(signal.ITIMER_REAL, allowed + SETTLING_SECONDS + _PATIENCE_SECONDS)

    def kill(self) -> None:
        say(f"killing what does not end: worker {', '.join(map(str, sorted(self.pids)))}")
        self._signal(signal.SIGKILL)

    def reap(self) -> None:
        """Take note of every worker that has ended."""
        for pid, code in _ended():
            # Where this process is the first of a container, it inherits the orphans of others.
            if pid not in self.pids:
                continue
            self.pids.remove(pid)
            # One that was told to stop before it was ready for it has done nothing that could go wrong.
            if code and not (self._stops and code == -signal.SIGTERM):
                say(f"worker {pid} {_death(code)}" + ("; stopping the others" if self.pids and not self._stops else ""))
                self._fail(code if code > 0 else 128 - code)

    def _fail(self, status: int) -> None:
        self.status = self.status or status
        if not self._stops:
            self.stop()

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            os.kill(pid, number)


def _note_nothing(number: int, frame: FrameType | None) -> None:
    pass


def _ended() -> Iterator[tuple[int, int]]:
    """Yield each ended child's id, and its exit code or minus its signal."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, wait_status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, os.waitstatus_to_exitcode(wait_status)


def _death(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"was killed by {names.get(-code, f'signal {-code}')}"
