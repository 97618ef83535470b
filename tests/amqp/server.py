"""Private RabbitMQ nodes for tests: their own ports, cookie and data, and gone when the run is."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Self

from tests.certificates import Certificates
from tests.servers import end, free_port, require, spawn, standing_still

_SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_CONFIG = """
listeners.tcp.1 = 127.0.0.1:{port}
log.console = true
log.console.level = warning
log.file = false
cluster_name = que-tests
disk_free_limit.absolute = 1MB
{tls}
"""
_TLS = """
listeners.ssl.1 = 127.0.0.1:{port}
ssl_options.cacertfile = {authority}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {key}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
"""


class RabbitMQ:
    """One node of ours; the ports and the data outlive its process, so that `restart` finds its clients again."""

    def __init__(self, directory: Path, certificates: Certificates | None) -> None:
        # Debian's wrapper of this name insists on its own user and directories.
        require("rabbitmq-server")
        self.port: int = free_port()
        self.tls_port: int = free_port()
        self._directory = directory
        self._certificates = certificates
        self._epmd: subprocess.Popen[bytes] | None = None
        self._node: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, directory: Path, certificates: Certificates | None = None) -> Self:
        """Return a node that answers; with `certificates` it speaks TLS too, with clients that have one."""
        server = cls(directory, certificates)
        for _ in range(3):
            if server._launch():
                return server
            server.kill()
            server.port = free_port()
            shutil.rmtree(directory / "mnesia", ignore_errors=True)
        raise AssertionError(f"RabbitMQ does not start:\n{server.log}")

    @property
    def url(self) -> str:
        return f"amqp://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._node is not None, "RabbitMQ is not running"
        return self._node.pid

    @property
    def log(self) -> str:
        """What the node has logged so far, over all its restarts."""
        path = self._directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def restart(self) -> None:
        """A new process on the same port and data answers; the one that runs is stopped first, by SIGTERM.

        By SIGKILL RabbitMQ 3.10 may never find a leader for a quorum queue that was made within the last second.
        """
        if self._node is not None:
            end(self._node, _STOP_SECONDS)
            self._node = None
        assert self._launch(), f"RabbitMQ does not come back:\n{self.log}"

    def kill_node(self) -> None:
        """The node is gone by SIGKILL, with no word to its clients."""
        if self._node is not None:
            self._node.kill()
            self._node.wait(_STOP_SECONDS)
            self._node = None

    def kill(self) -> None:
        """The node is gone, and its port mapper too."""
        self.kill_node()
        if self._epmd is not None:
            end(self._epmd)
            self._epmd = None

    def stopped(self) -> contextlib.AbstractContextManager[None]:
        """The node stands still, its sockets open, until the block ends."""
        return standing_still(self.pid)

    def control(self, *arguments: str) -> str:
        """Return what rabbitmqctl prints; it takes a second or more."""
        done = subprocess.run(
            ["/usr/lib/rabbitmq/bin/rabbitmqctl", "--quiet", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def add_user(self, name: str, password: str) -> None:
        """A user of that name may do everything; nothing happens when it is there already."""
        if f"{name}\t" not in self.control("list_users"):
            self.control("add_user", name, password)
            self.control("set_permissions", name, ".*", ".*", ".*")

    def set(self, *settings: str) -> None:
        """Set these at run time, each in Erlang's words as `name, value`; a new channel heeds them."""
        self.control("eval", ", ".join(f"application:set_env(rabbit, {setting})" for setting in settings) + ".")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _launch(self) -> bool:
        """Return whether a new node answers."""
        directory = self._directory
        (directory / "rabbitmq.conf").write_text(_CONFIG.format(port=self.port, tls=self._tls_settings))
        (directory / "plugins").write_text("[].")
        if self._epmd is None:
            self._mapper_port = free_port()
            self._distribution_port = free_port()
            self._epmd = spawn(["epmd", "-address", "127.0.0.1", "-port", str(self._mapper_port)])
        with (directory / "log").open("ab") as log:
            self._node = spawn([_SERVER], env=self._environment, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._node.poll() is None:
            if self._answers():
                return True
            time.sleep(0.05)
        self.kill_node()
        return False

    @property
    def _tls_settings(self) -> str:
        if self._certificates is None:
            return ""
        return _TLS.format(port=self.tls_port, **asdict(self._certificates))

    @property
    def _environment(self) -> Mapping[str, str]:
        directory = self._directory
        return {
            "PATH": os.environ["PATH"],
            # Where Erlang keeps the cookie.
            "HOME": str(directory),
            "RABBITMQ_NODENAME": f"que{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            # Without this a shell stays in front of the node, and a signal does not reach it.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noinput -kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _answers(self) -> bool:
        """Return whether an AMQP server greets us on the port."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
        return False


@contextlib.contextmanager
def rabbitmq(certificates: Certificates | None = None) -> Generator[RabbitMQ]:
    """Give a node that is gone, with all its data, when the block ends."""
    directory = tempfile.mkdtemp(prefix="que-rabbitmq-")
    try:
        with RabbitMQ.start(Path(directory), certificates) as server:
            yield server
    finally:
        shutil.rmtree(directory, ignore_errors=True)
