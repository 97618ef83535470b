"""The RabbitMQ driver keeps what it promises."""

from collections.abc import Callable
from uuid import uuid4

import pytest

from tests.amqp.server import RabbitMQ
from tests.contract.contract import WITHOUT_TIMED_LEASES, Contract


class TestAmqp(Contract):
    not_applicable = WITHOUT_TIMED_LEASES

    @pytest.fixture
    def url(self, node: RabbitMQ) -> str:
        return f"{node.url}?prefix=c{uuid4().hex[:8]}&backoff=0.2"

    @pytest.fixture
    def restart(self, node: RabbitMQ) -> Callable[[], None]:
        return node.restart
