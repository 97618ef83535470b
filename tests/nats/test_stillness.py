"""A nats-server that stands still."""

import pytest

from tests.engines.stillness import *
from tests.engines.stillness import Freezable
from tests.nats.conftest import StartNats


@pytest.fixture
def freezable(own_nats: StartNats) -> Freezable:
    server = own_nats()
    return Freezable(f"{server.url}?timeout=0.3&backoff=0.1&lease=1", server.stopped)
