"""The Redis driver keeps what it promises, on a server that writes everything to its append-only file."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.contract import Contract
from tests.redis.server import RedisServer


class TestRedis(Contract):
    @pytest.fixture
    def redis(self, tmp_path: Path) -> Iterator[RedisServer]:
        directory = tmp_path / "redis"
        directory.mkdir()
        server = RedisServer.start(directory, "--appendonly", "yes")
        yield server
        server.kill()

    @pytest.fixture
    def url(self, redis: RedisServer) -> str:
        return f"{redis.url}?lease=1"

    @pytest.fixture
    def restart(self, redis: RedisServer) -> Callable[[], None] | None:
        return redis.restart
