"""One RabbitMQ node for the whole run, and a prefix of its own for each test."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.amqp.server import RabbitMQ, rabbitmq


@pytest.fixture(scope="session")
def node() -> Iterator[RabbitMQ]:
    """A node that all tests share: none may stop it."""
    with rabbitmq() as server:
        yield server


@pytest.fixture
def url(node: RabbitMQ) -> str:
    """A driver's URL with a prefix that no other test has."""
    return f"{node.url}?prefix=t{uuid4().hex[:8]}&backoff=0.2"
