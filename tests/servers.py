"""Private servers for tests: on free ports of 127.0.0.1, and gone when the run is, however it ends."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Protocol, Self

import pytest

CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}
START_SECONDS = 20.0
STOP_SECONDS = 10.0

# The kernel ties a child's death signal to the thread that started it, so one thread that lives as long as the run
# starts them all: a server restarted from a short-lived thread must not die with that thread.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tests.servers")

# Sets PR_SET_PDEATHSIG (1) to SIGKILL (9), then becomes the program. Not a preexec_fn: that forks a threaded process.
_DIE_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def require(program: str) -> str:
    """Return the path of `program`; without it the test is skipped, or fails where CI=true."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin:/sbin")
    if path is not None:
        return path
    reason = f"{program} is not installed: tests/run installs it where it may"
    if CI:
        pytest.fail(reason)
    pytest.skip(reason)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Return once `condition()` is true; raises AssertionError naming `what` when that takes over `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain: {what}")
        time.sleep(0.005)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on, below the range that outgoing connections draw from.

    A client that keeps connecting to a stopped server's port inside that range may meet itself and keep the port taken.
    Between this call and the caller's bind another process may take it: retry with the next one.
    """
    low, high = 15_000, _first_ephemeral_port()
    for port in random.sample(range(low, high), k=min(200, high - low)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise OSError(f"no free port between {low} and {high}")


def _first_ephemeral_port() -> int:
    with contextlib.suppress(OSError, ValueError):
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        if first > 16_000:
            return first
    return 32_768


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a program that the kernel kills when this process ends, even by SIGKILL; the caller waits for it.

    `argv[0]` is a path or a name that `require` finds.
    """
    program = [argv[0] if os.sep in argv[0] else require(argv[0]), *argv[1:]]
    if sys.platform == "linux":
        program = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *program]
    start = _spawner.submit(subprocess.Popen[bytes], program, env=env, stdin=stdin, stdout=stdout, stderr=stderr)
    return start.result()


def end(process: subprocess.Popen[bytes], seconds: float = STOP_SECONDS) -> int:
    """Return the exit status of `process` after SIGTERM, or after SIGKILL when it is not gone in `seconds`.

    One that stands still (SIGSTOP) goes on first: else it would never see the SIGTERM.
    """
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(seconds)


class Gearmand:
    """One gearmand of ours; the port and the options outlive its process, so that `restart` finds its clients again."""

    def __init__(self, options: Sequence[str], threads: int) -> None:
        self.port = free_port()
        self._program = require("gearmand")
        self._options = (f"--threads={threads}", *options)
        self._log = ""
        self._log_file: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, *options: str, threads: int = 4) -> Self:
        """Return a server that answers; `options` are gearmand's own, such as "--job-retries=2" or "--round-robin"."""
        server = cls(options, threads)
        for _ in range(5):
            if server._launch():
                return server
            server.port = free_port()
        raise AssertionError(f"gearmand does not start:\n{server.log}")

    @property
    def url(self) -> str:
        return f"gearman://127.0.0.1:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def pid(self) -> int:
        if self._process is None:
            raise AssertionError("gearmand is not running")
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server has logged so far, over all its restarts."""
        if self._log_file is None:
            return self._log
        self._log_file.seek(0)
        return self._log + self._log_file.read().decode(errors="replace")

    def kill(self) -> None:
        """The server is gone by SIGKILL, with no word to its clients."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
            self._forget()

    def stopped(self) -> contextlib.AbstractContextManager[None]:
        """The server stands still, its sockets open, until the block ends."""
        return standing_still(self.pid)

    def stop(self) -> None:
        """The server has shut down by SIGTERM; nothing happens when it is already gone."""
        if self._process is not None:
            end(self._process)
            self._forget()

    def restart(self) -> None:
        """A new process with the same options answers on the same port; one that still runs is stopped first."""
        self.stop()
        deadline = time.monotonic() + START_SECONDS
        while not self._launch():
            if time.monotonic() > deadline:
                raise AssertionError(f"gearmand does not come back on port {self.port}:\n{self.log}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _launch(self) -> bool:
        """Return whether a new process answers on the port; False when it ended, as it does when the port is taken."""
        self._log_file = tempfile.TemporaryFile("a+b", buffering=0)  # noqa: SIM115 -- closed in _forget
        self._process = spawn(
            [
                self._program,
                "--config-file=/dev/null",
                "--listen=127.0.0.1",
                f"--port={self.port}",
                "--log-file=stderr",
                "--verbose=WARNING",
                *self._options,
            ],
            stderr=self._log_file,
        )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._answers():
                return True
            time.sleep(0.01)
        self.kill()
        return False

    def _answers(self) -> bool:
        """Return whether it is this very process that answers on the port, not another that took it first."""
        try:
            with socket.create_connection(self.address, timeout=1) as connection:
                connection.sendall(b"getpid\n")
                return connection.makefile("rb").readline().split() == [b"OK", str(self.pid).encode()]
        except OSError:
            return False

    def _forget(self) -> None:
        self._log = self.log
        if self._log_file is not None:
            self._log_file.close()
        self._log_file = self._process = None


@contextlib.contextmanager
def standing_still(*pids: int) -> Generator[None]:
    """These processes stand still, their sockets open, until the block ends."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        # Each of their threads runs on, and may answer, until the kernel has stopped it.
        wait_until(lambda: {state for pid in pids for state in _states(pid)} == {"T"}, "every thread to stand still")
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


def _states(pid: int) -> list[str]:
    """Return the state of each thread of a process, a letter of proc(5)."""
    stats = (task / "stat" for task in Path(f"/proc/{pid}/task").iterdir())
    return [stat.read_text().rpartition(")")[2].split()[0] for stat in stats]


class StartGearmand(Protocol):
    """What the fixture `own_gearmand` gives: a server for this test alone, stopped at its end."""

    def __call__(self, *options: str, threads: int = 4) -> Gearmand: ...


@contextlib.contextmanager
def gearmands() -> Generator[StartGearmand]:
    """Give a function that starts servers; all of them are gone when the block ends, and their logs are printed."""
    started: list[Gearmand] = []

    def start(*options: str, threads: int = 4) -> Gearmand:
        started.append(Gearmand.start(*options, threads=threads))
        return started[-1]

    try:
        yield start
    finally:
        for server in started:
            # Not stop(): what a test did to a server may leave it seconds of work before it heeds a SIGTERM.
            server.kill()
            print(server.log)
