"""A redis-server that stands still."""

import pytest

from tests.engines.stillness import *
from tests.engines.stillness import Freezable
from tests.redis.conftest import StartRedis


@pytest.fixture
def freezable(own_redis: StartRedis) -> Freezable:
    server = own_redis()
    return Freezable(f"{server.url}?timeout=0.3&backoff=0.1&lease=1", server.stopped)
