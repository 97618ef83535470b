"""The NATS driver keeps what it promises."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.contract import Contract
from tests.nats.server import NatsServer


class TestNats(Contract):
    @pytest.fixture
    def nats(self, tmp_path: Path) -> Iterator[NatsServer]:
        directory = tmp_path / "nats"
        directory.mkdir()
        server = NatsServer.start(directory)
        yield server
        server.kill()

    @pytest.fixture
    def url(self, nats: NatsServer) -> str:
        return f"{nats.url}?lease=1"

    @pytest.fixture
    def restart(self, nats: NatsServer) -> Callable[[], None] | None:
        return nats.restart
