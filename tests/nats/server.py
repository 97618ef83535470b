"""A nats-server of ours: on a free port of 127.0.0.1, its streams in a directory of the test."""

import json
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Self, cast

from tests.servers import START_SECONDS, STOP_SECONDS, end, free_port, require, spawn, standing_still


class NatsServer:
    """Its port, directory and options outlive its process, so that `restart` finds its clients and its data again."""

    def __init__(
        self, directory: Path, options: Sequence[str], credentials: Mapping[str, str], tls: ssl.SSLContext | None
    ) -> None:
        self.port = free_port()
        self._program = require("nats-server")
        self._directory = directory
        self._options = options
        self._credentials = credentials
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, directory: Path, *options: str, tls: ssl.SSLContext | None = None, **credentials: str) -> Self:
        """Return a server that answers; `options` are nats-server's own, the rest what they then ask for."""
        server = cls(directory, options, credentials, tls)
        for _ in range(5):
            if server._launch():
                return server
            server.port = free_port()
        raise AssertionError(f"nats-server does not start:\n{server.log}")

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        path = self._directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        if self._process is None:
            raise AssertionError("nats-server is not running")
        return self._process.pid

    def ask(self, subject: str, question: object = None, body: bytes | None = None) -> dict[str, object]:
        """Return the answer to one request, without a client library."""
        told = json.dumps(question or {}).encode() if body is None else body
        words = b"PUB %s in %d\r\n%s\r\n" % (subject.encode(), len(told), told)
        with self._connection() as connection:
            stream = connection.makefile("rb")
            options = json.dumps({"verbose": False, **self._credentials}).encode()
            connection.sendall(b"CONNECT %s\r\nSUB in 1\r\n%sPING\r\n" % (options, words))
            while line := stream.readline():
                if line.startswith(b"MSG"):
                    answer: dict[str, object] = json.loads(stream.read(int(line.split()[-1])))
                    return answer
        raise AssertionError(f"nats-server has not answered {subject}")

    def _connection(self) -> socket.socket:
        """Return one that the server has greeted."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        # Not a byte more than the line: TLS begins after it.
        connection.makefile("rb", buffering=0).readline()
        return connection if self._tls is None else self._tls.wrap_socket(connection, server_hostname="localhost")

    def api(self, verb: str, question: object = None) -> dict[str, object]:
        """Return what JetStream's API answers."""
        return self.ask(f"$JS.API.{verb}", question)

    def streams(self) -> dict[str, int]:
        """Return how many messages each stream holds."""
        names = cast(list[str] | None, self.api("STREAM.NAMES")["streams"])
        return {name: self._messages(name) for name in names or ()}

    def _messages(self, stream: str) -> int:
        state = cast(dict[str, int], self.api(f"STREAM.INFO.{stream}")["state"])
        return state["messages"]

    def remove_streams(self) -> None:
        """The server is as good as new."""
        for name in self.streams():
            self.api(f"STREAM.DELETE.{name}")

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
                raise AssertionError(f"nats-server does not come back on port {self.port}:\n{self.log}")

    def stopped(self) -> AbstractContextManager[None]:
        """The server stands still, its sockets open, until the block ends."""
        return standing_still(self.pid)

    def _launch(self) -> bool:
        """Return whether a new process answers on the port; False when it ended, as it does when the port is taken."""
        fixed = {"--addr": "127.0.0.1", "--port": str(self.port), "--store_dir": str(self._directory / "data")}
        words = [word for pair in fixed.items() for word in pair]
        self._process = spawn(
            [self._program, "--jetstream", *words, "--log", str(self._directory / "log"), *self._options]
        )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._answers():
                return True
            time.sleep(0.01)
        self.kill()
        return False

    def _answers(self) -> bool:
        """Return whether it is this very process that listens, and has read its streams."""
        with suppress(OSError, AssertionError, ValueError):
            return f"[{self.pid}]" in self.log and "type" in self.api("INFO")
        return False
