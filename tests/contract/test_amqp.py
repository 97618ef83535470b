"""The RabbitMQ driver keeps what it promises."""

from collections.abc import Callable
from uuid import uuid4

import pytest

from tests.amqp.server import RabbitMQ
from tests.contract.contract import Contract


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
    def url(self, node: RabbitMQ) -> str:
        return f"{node.url}?prefix=c{uuid4().hex[:8]}&backoff=0.2"

    @pytest.fixture
    def restart(self, node: RabbitMQ) -> Callable[[], None]:
        return node.restart
