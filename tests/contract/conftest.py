"""Fresh engines of each kind, on servers that the room shares; one begins with the first test that needs it."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.amqp.server import RabbitMQ
from tests.contract.engines import Engine, Make, companion
from tests.nats.server import NatsServer
from tests.postgres.server import Postgres, running
from tests.redis.server import RedisServer
from tests.servers import Gearmand


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer.start(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer.start(tmp_path_factory.mktemp("nats"))
    yield server
    server.kill()


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Return a fresh engine of a kind: an engine by itself, or with a file as its companion."""

    def redis() -> Engine:
        server: RedisServer = request.getfixturevalue("redis_server")
        return Engine(f"{server.url}?namespace={secrets.token_hex(8)}", None)

    def postgres() -> Engine:
        server: Postgres = request.getfixturevalue("postgres_server")
        return Engine(server.url(server.new_database()), None)

    def amqp() -> Engine:
        node: RabbitMQ = request.getfixturevalue("node")
        return Engine(f"{node.url}?prefix={secrets.token_hex(8)}", None)

    def nats() -> Engine:
        server: NatsServer = request.getfixturevalue("nats_server")
        return Engine(f"{server.url}?prefix={secrets.token_hex(8)}", None)

    def gearman(store: str | None) -> Engine:
        server: Gearmand = request.getfixturevalue("gearmand")
        return Engine(server.url, store)

    kinds: dict[str, Callable[[], Engine]] = {
        "memory": lambda: Engine("memory://", None, shared=False),
        "memory with a companion": lambda: Engine("memory://", companion(tmp_path), shared=False),
        "sqlite": lambda: Engine(f"sqlite:///{tmp_path / 'jobs.db'}", None),
        "redis": redis,
        "postgres": postgres,
        "amqp": amqp,
        "nats": nats,
        "gearman": lambda: gearman(None),
        "gearman with a companion": lambda: gearman(companion(tmp_path)),
        "gearman with redis": lambda: gearman(redis().url),
        "gearman with postgres": lambda: gearman(postgres().url),
    }
    return lambda kind: kinds[kind]()
