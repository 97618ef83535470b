"""Where contenders run: a private gearmand and processes that end with the block that started them, or with us."""

import os
import random
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 20.0
STOP_SECONDS = 5.0

# PR_SET_PDEATHSIG (1) to SIGKILL (9): the kernel ends the program when we end, however that happens.
_TIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


class Missing(Exception):
    """Something that a contender needs is not installed; the text says what."""


class Stuck(Exception):
    """A process did not answer in time, or ended; the text says which."""


@dataclass(frozen=True, slots=True)
class Command:
    """A program and its arguments, with variables on top of our environment."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict[str, str])


def python(module: str, *arguments: object, **env: str) -> Command:
    """Return the command that runs a module of ours in this interpreter."""
    return Command([sys.executable, "-m", module, *map(str, arguments)], env)


@cache
def program(name: str) -> str:
    """Return the path of `name`; raises Missing."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    if path is None:
        raise Missing(f"{name} is not installed")
    return path


class Process:
    """A program that answers lines with lines, or just runs."""

    def __init__(self, command: Command) -> None:
        self.name = " ".join(command.argv[-6:])
        paths = [str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._popen = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _TIED, program(command.argv[0]), *command.argv[1:]],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **command.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._stdin, self._stdout = self._popen.stdin, self._popen.stdout

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def ended(self) -> bool:
        return self._popen.poll() is not None

    def line(self, seconds: float) -> str:
        """Return the next line that it writes; raises Stuck after `seconds`, or when it has ended."""
        ready, _, _ = select.select([self._stdout], [], [], seconds)
        line = self._stdout.readline() if ready else b""
        if not line:
            state = f"says nothing for {seconds:g} s" if not ready else f"ended: {self._popen.wait(STOP_SECONDS)}"
            raise Stuck(f"{self.name}: {state}")
        return line.decode().strip()

    def ask(self, question: str, seconds: float) -> str:
        """Return its answer to one line; raises Stuck as line() does."""
        self._stdin.write(f"{question}\n".encode())
        return self.line(seconds)

    def memory_bytes(self) -> tuple[int, int]:
        """Return the resident memory: what it is now, and the most that it has ever been."""
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        now, most = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
        return now, most

    def cpu_seconds(self) -> float:
        """Return the time that all its threads have spent on a core so far."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9

    def end(self) -> None:
        """It is gone: by SIGTERM, or by SIGKILL if that does not do."""
        self._popen.terminate()
        try:
            self._popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait(STOP_SECONDS)
        self._stdin.close()
        self._stdout.close()


class Stage:
    """A context manager: whatever was started on it is gone at the end of the block, the last one first."""

    def __init__(self) -> None:
        self._ending = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def start(self, command: Command) -> Process:
        """Return a process that has been started, and may not be ready yet; raises Missing."""
        process = Process(command)
        self._ending.callback(process.end)
        return process

    def player(self, command: Command) -> Process:
        """Return a process that has said that it is ready; raises Stuck."""
        process = self.start(command)
        greeting = process.line(START_SECONDS)
        if greeting != "ready":
            raise Stuck(f"{process.name}: says {greeting!r}")
        return process

    def gearmand(self, threads: int = 2) -> int:
        """Return the port of a server of our own that answers; raises Missing or Stuck."""
        for _ in range(5):
            port = _free_port()
            options = ["--config-file=/dev/null", "--listen=127.0.0.1", "--log-file=stderr", "--verbose=FATAL"]
            # With the 991 of its default, a hundred thousand queued jobs slow it down by a factor of ten.
            options += [f"--port={port}", f"--threads={threads}", "--hashtable-buckets=1000003"]
            server = self.start(Command([program("gearmand"), *options]))
            if _comes_up(server, port, _answers):
                return port
        raise Stuck("gearmand does not start")

    def redis(self, directory: str) -> int:
        """Return the port of a server of our own that keeps everything in memory; raises Missing or Stuck."""
        for _ in range(5):
            port = _free_port()
            options = ["--bind", "127.0.0.1", "--save", "", "--dir", directory, "--logfile", f"{directory}/log"]
            server = self.start(Command([program("redis-server"), "--port", str(port), *options]))
            if _comes_up(server, port, _redis_answers):
                return port
        raise Stuck("redis-server does not start")


def _comes_up(server: Process, port: int, answers: Callable[[int, int], bool]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and not server.ended:
        if answers(port, server.pid):
            return True
        time.sleep(0.01)
    return False


def _free_port() -> int:
    # Below the range that outgoing connections draw from, so that no client meets itself.
    for port in random.sample(range(15_000, 32_000), k=200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Stuck("no free port")


def ask_server(port: int, line: str) -> str:
    """Return the server's one-line answer in the text protocol; raises OSError."""
    with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        connection.sendall(line.encode() + b"\r\n")
        return connection.makefile("rb").readline().decode().strip()


def _answers(port: int, pid: int) -> bool:
    try:
        return ask_server(port, "getpid") == f"OK {pid}"
    except OSError:
        return False


def _redis_answers(port: int, pid: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"INFO server\r\n")
            return b"process_id:%d\r\n" % pid in connection.recv(65536)
    except OSError:
        return False
