"""A prefix of its own for each test, on the node of the whole run."""

from uuid import uuid4

import pytest

from tests.amqp.server import RabbitMQ


@pytest.fixture
def url(node: RabbitMQ) -> str:
    """A driver's URL with a prefix that no other test has."""
    return f"{node.url}?prefix=t{uuid4().hex[:8]}&backoff=0.2"
