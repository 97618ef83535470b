"""One server for the room, a database of it, emptied, for each test; and servers for tests that break them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.redis.server import RedisServer

StartRedis = Callable[..., RedisServer]


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer.start(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def redis(shared_redis: RedisServer) -> RedisServer:
    """A server that runs, without a key; never stop it."""
    shared_redis.command("FLUSHALL")
    return shared_redis


@pytest.fixture
def url(redis: RedisServer) -> str:
    return redis.url


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[StartRedis]:
    """Start a server for this test alone: `own_redis("--appendonly", "yes")`."""
    started: list[RedisServer] = []

    def start(*options: str) -> RedisServer:
        directory = tmp_path / f"redis-{len(started)}"
        directory.mkdir()
        started.append(RedisServer.start(directory, *options))
        return started[-1]

    yield start
    for server in started:
        server.kill()
