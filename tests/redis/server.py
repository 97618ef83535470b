"""A redis-server of ours: on a free port of 127.0.0.1, its data in a directory of the test."""

import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Self

from tests.servers import START_SECONDS, STOP_SECONDS, end, free_port, require, spawn, standing_still


class RedisServer:
    """Its port, directory and options outlive its process, so that `restart` finds its clients and its data again."""

    def __init__(self, directory: Path, options: Sequence[str]) -> None:
        self.port = free_port()
        self._program = require("redis-server")
        self._directory = directory
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, directory: Path, *options: str) -> Self:
        """Return a server that answers; `options` are redis-server's own, such as "--requirepass" and a password."""
        server = cls(directory, options)
        for _ in range(5):
            if server._launch():
                return server
            server.port = free_port()
        raise AssertionError(f"redis-server does not start:\n{server.log}")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        path = self._directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        if self._process is None:
            raise AssertionError("redis-server is not running")
        return self._process.pid

    def command(self, *words: str | bytes) -> bytes:
        """Send one command without a client library; return its reply as it stands on the wire."""
        parts = [word.encode() if isinstance(word, str) else word for word in words]
        packed = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(packed)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def names_of_keys(self) -> set[str]:
        """Return the names of all keys of database 0."""
        return set(self.command("KEYS", "*").decode().split("\r\n")[2::2])

    def kill(self) -> None:
        """The server is gone by SIGKILL, with no word to its clients."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
            self._process = None

    def stop(self) -> None:
        """The server has shut down by SIGTERM; nothing happens when it is already gone."""
        if self._process is not None:
            end(self._process)
            self._process = None

    def restart(self) -> None:
        """A new process with the same data answers on the same port; one that still runs is stopped first."""
        self.stop()
        deadline = time.monotonic() + START_SECONDS
        while not self._launch():
            if time.monotonic() > deadline:
                raise AssertionError(f"redis-server does not come back on port {self.port}:\n{self.log}")

    def stopped(self) -> AbstractContextManager[None]:
        """The server stands still, its sockets open, until the block ends."""
        return standing_still(self.pid)

    def _launch(self) -> bool:
        """Return whether a new process answers on the port; False when it ended, as it does when the port is taken."""
        fixed = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self._directory),
            "logfile": str(self._directory / "log"),
            "save": "",
            "appendfsync": "no",
        }
        words = [word for name, value in fixed.items() for word in (f"--{name}", value)]
        self._process = spawn([self._program, *words, *self._options])
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._answers():
                return True
            time.sleep(0.01)
        self.kill()
        return False

    def _answers(self) -> bool:
        """Return whether it is this very process that listens, and has read its data."""
        with suppress(OSError):
            answer = self.command("INFO", "server")
            return b"process_id:%d\r\n" % self.pid in answer or answer.startswith(b"-NOAUTH")
        return False
