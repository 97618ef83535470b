"""`que worker -w`: workers in processes of their own, each of which starts again when it has died."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator

from que.cli.console import say
from que.cli.serving import SETTLING_SECONDS

# A worker that ends with this has done its share: another one takes its place.
RECYCLED: int = os.EX_TEMPFAIL

_LIFELINE = "QUE_SUPERVISOR_SOCKET"
_STOPS = (signal.SIGTERM, signal.SIGINT)
# A worker ends itself when its time is up; this much later it is killed.
_PATIENCE_SECONDS = 5.0
# Before a worker that has died is replaced; it doubles while the next ones do not live for long.
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_LONG_LIFE_SECONDS = 60.0


async def supervise(count: int, grace: float, changes: AsyncIterator[object] | None = None) -> int:
    """Keep `count` workers running this very command until SIGTERM or SIGINT; return the exit status, 0 if all is well.

    They start with this process's interpreter, options, program and arguments, so they import what it has imported; the
    first one alone, and the others once it works. While none has ever worked, one that fails is the end, with its own
    status. After that one that dies is started again, later each time, and one that has done its share at once; one
    that ends well is not. With each of `changes` all are stopped and started again, however they had ended.
    None outlives this process: each holds one end of a pair of sockets whose other end is here.
    """
    supervisor = _Supervisor(count, grace, follows_changes=changes is not None)
    loop = asyncio.get_running_loop()
    for number in _STOPS:
        loop.add_signal_handler(number, supervisor.stop)
    loop.add_signal_handler(signal.SIGCHLD, supervisor.reap)
    watching = None if changes is None else loop.create_task(supervisor.restart_with(changes))
    await supervisor.run()
    if watching is not None:
        watching.cancel()
    return supervisor.status


class Lifeline:
    """A worker's end of its supervisor's pair of sockets."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    @classmethod
    def take(cls) -> "Lifeline | None":
        """Return this process's own, None if it has no supervisor.

        Nothing that this process starts inherits it, or the variable that tells of it.
        """
        text = os.environ.pop(_LIFELINE, None)
        if text is None:
            return None
        end = socket.socket(fileno=int(text))
        end.set_inheritable(False)
        return cls(end)

    def follow(self) -> None:
        """From now on the end of the supervisor, even if it lies in the past, is a SIGTERM to this process."""

        def wait() -> None:
            # Nobody writes: this returns when the other end is closed.
            with contextlib.suppress(OSError):
                self._end.recv(1)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=wait, name="que-supervisor", daemon=True).start()

    def say_ready(self) -> None:
        """The supervisor knows that this worker works."""
        with contextlib.suppress(OSError):
            self._end.send(b"r")


class _Worker:
    """A process: ours to signal until `ended` is set, to its exit code or minus its signal."""

    def __init__(self, pid: int, line: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._line = line
        self._killing: asyncio.TimerHandle | None = None
        self._stops = 0
        self.pid = pid
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self.begun = self._loop.time()
        self.recycles = False

    @property
    def was_told(self) -> bool:
        return self._stops > 0

    async def works(self) -> bool:
        """Wait until it works, and return True, or has ended."""
        self._line.setblocking(False)
        # Its own children may hold its end of the line for longer than it lives.
        words = [asyncio.create_task(word) for word in (self._word(), self._last_word())]
        done, waiting = await asyncio.wait(words, return_when=asyncio.FIRST_COMPLETED)
        for word in waiting:
            word.cancel()
        return any(word.result() == b"r" for word in done)

    async def _word(self) -> bytes:
        with contextlib.suppress(OSError):
            return await self._loop.sock_recv(self._line, 1)
        return b""

    async def _last_word(self) -> bytes:
        await asyncio.shield(self.ended)
        return b""

    def stop(self, grace: float) -> None:
        """The first stop lets its jobs end, the second gives them back, the third ends it at once."""
        # Always SIGTERM: before a worker is ready for signals, SIGINT would make it print a traceback.
        os.kill(self.pid, signal.SIGTERM)
        allowed = 0.0 if self._stops else grace
        self._stops += 1
        if self._killing is not None:
            self._killing.cancel()
        self._killing = self._loop.call_later(allowed + SETTLING_SECONDS + _PATIENCE_SECONDS, self._kill)

    def _kill(self) -> None:
        say(f"killing what does not end: worker {self.pid}")
        os.kill(self.pid, signal.SIGKILL)

    def end(self, code: int) -> None:
        """It has ended."""
        if self._killing is not None:
            self._killing.cancel()
        self.ended.set_result(code)

    def hang_up(self) -> None:
        """There is nothing more to hear of it."""
        self._line.close()

    def lived_long(self) -> bool:
        return self._loop.time() - self.begun > _LONG_LIFE_SECONDS


class _Supervisor:
    def __init__(self, count: int, grace: float, *, follows_changes: bool) -> None:
        self.status = 0
        self._count = count
        self._grace = grace
        self._follows_changes = follows_changes
        self._workers: dict[int, _Worker] = {}
        # Whether one has ever worked: its app can be imported, and its engine be reached.
        self._works = asyncio.Event()
        self._stopping = asyncio.Event()
        self._change = asyncio.Event()

    async def run(self) -> None:
        """Keep the workers running until stop(), or until all have ended well."""
        first = asyncio.create_task(self._keep())
        works = asyncio.create_task(self._works.wait())
        await asyncio.wait([first, works], return_when=asyncio.FIRST_COMPLETED)
        works.cancel()
        await asyncio.gather(first, *[self._keep() for _ in range(self._count - 1) if self._works.is_set()])

    def stop(self) -> None:
        """Hand a stop on to every worker."""
        self._stopping.set()
        for worker in self._workers.values():
            worker.stop(self._grace)

    def reap(self) -> None:
        """Take note of every worker that has ended."""
        for pid, code in _ended():
            # Where this process is the first of a container, it inherits the orphans of others.
            if (worker := self._workers.pop(pid, None)) is not None:
                worker.end(code)

    async def restart_with(self, changes: AsyncIterator[object]) -> None:
        """With each change, start all workers again."""
        async for _ in changes:
            say("the code has changed: the workers start again")
            self._change.set()
            self._change.clear()
            for worker in self._workers.values():
                worker.recycles = True
                worker.stop(self._grace)

    async def _keep(self) -> None:
        """Keep one place filled."""
        failures = 0
        while not self._stopping.is_set():
            worker = self._start()
            if worker is None:
                return
            if await worker.works():
                self._works.set()
            code = await worker.ended
            worker.hang_up()
            failed = code and not (worker.was_told and code == -signal.SIGTERM)
            if self._stopping.is_set():
                # One that was told to stop before it was ready for it has done nothing that could go wrong.
                if failed:
                    say(f"worker {worker.pid} {_death(code)}")
                    self.status = self.status or _status(code)
                return
            if worker.recycles or code == RECYCLED:
                continue
            failures = 0 if worker.lived_long() else failures + 1
            if not await self._may_go_on(worker, code, failures):
                return

    async def _may_go_on(self, worker: _Worker, code: int, failures: int) -> bool:
        """Wait until another one may take the place of `worker`, which ended by itself; return False if none is to."""
        if self._follows_changes and not (code and self._works.is_set()):
            say(f"worker {worker.pid} {_death(code)}; waiting for the code to change")
            await self._until(self._change, None)
        elif not code:
            return False
        elif not self._works.is_set():
            say(f"worker {worker.pid} {_death(code)}")
            self.status = _status(code)
            self.stop()
        else:
            pause = min(_FIRST_PAUSE_SECONDS * 2.0 ** (failures - 1), _LONGEST_PAUSE_SECONDS) if failures else 0.0
            say(f"worker {worker.pid} {_death(code)}; starting another one in {pause:g} s")
            await self._until(self._change, pause)
        return True

    async def _until(self, event: asyncio.Event, seconds: float | None) -> None:
        """Wait for `event`, for so long at most, or for the stop."""
        waits = [asyncio.create_task(each.wait()) for each in (event, self._stopping)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _start(self) -> _Worker | None:
        ours, theirs = socket.socketpair()
        theirs.set_inheritable(True)
        command = [sys.executable, *sys.orig_argv[1:]]
        environment = {**os.environ, _LIFELINE: str(theirs.fileno())}
        try:
            # A session of its own: the terminal's Ctrl-C comes once, through us.
            pid = os.posix_spawn(command[0], command, environment, setsid=True, setsigmask=())
        except OSError as error:
            say(f"cannot start a worker: {error}")
            ours.close()
            self.status = 1
            self.stop()
            return None
        finally:
            theirs.close()
        worker = self._workers[pid] = _Worker(pid, ours)
        return worker


def _ended() -> Iterator[tuple[int, int]]:
    """Yield each ended child's id, and its exit code or minus its signal."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, wait_status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, os.waitstatus_to_exitcode(wait_status)


def _status(code: int) -> int:
    return code if code > 0 else 128 - code


def _death(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"was killed by {names.get(-code, f'signal {-code}')}"
