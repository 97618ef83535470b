"""The RabbitMQ driver keeps what it promises, on a node of its own."""

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from tests.amqp.server import RabbitMQ, rabbitmq
from tests.contract.contract import Contract


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitMQ]:
    with rabbitmq() as server:
        yield server


class TestAmqp(Contract):
    not_applicable = frozenset(
        {
            # Its lease is a connection, which ends with its worker and not before.
            "an abandoned job comes back and never before its lease is over",
            "a stale verdict never reaches the submitter",
            "a job that outlasts its lease runs once",
            "a job delayed for longer than a lease runs once",
            "a frozen worker loses its job to another for good",
        }
    )

    @pytest.fixture
    def url(self, server: RabbitMQ) -> str:
        return f"{server.url}?prefix=c{uuid4().hex[:8]}&backoff=0.2"

    @pytest.fixture
    def restart(self, server: RabbitMQ) -> Callable[[], None]:
        return server.restart
