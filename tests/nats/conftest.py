"""One server for the room, without a stream for each test; and servers for tests that break them."""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.nats.server import NatsServer
from tests.servers import free_port, spawn, wait_until

StartNats = Callable[..., NatsServer]


@pytest.fixture(scope="session")
def shared_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer.start(tmp_path_factory.mktemp("nats"))
    yield server
    server.kill()


@pytest.fixture
def nats(shared_nats: NatsServer) -> NatsServer:
    """A server that runs, without a stream; never stop it."""
    shared_nats.remove_streams()
    return shared_nats


@pytest.fixture
def url(nats: NatsServer) -> str:
    return nats.url


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[StartNats]:
    """Start a server for this test alone: `own_nats("--user", "joe", "--pass", "secret", user="joe", …, tls=…)`."""
    started: list[NatsServer] = []

    def start(*options: str, tls: ssl.SSLContext | None = None, **credentials: str) -> NatsServer:
        directory = tmp_path / f"nats-{len(started)}"
        directory.mkdir()
        started.append(NatsServer.start(directory, *options, tls=tls, **credentials))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def bare_nats() -> Iterator[int]:
    """The port of a server without JetStream."""
    port = free_port()
    server = spawn(["nats-server", "--addr", "127.0.0.1", "--port", str(port)])
    wait_until(lambda: _listens(port), "nats-server to listen")
    yield port
    server.kill()
    server.wait()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
