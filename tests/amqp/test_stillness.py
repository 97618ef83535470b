"""A RabbitMQ that stands still."""

import pytest

from tests.amqp.server import RabbitMQ
from tests.engines.stillness import *
from tests.engines.stillness import Freezable


@pytest.fixture
def freezable(node: RabbitMQ, url: str) -> Freezable:
    return Freezable(f"{url}&timeout=0.3", node.stopped)
