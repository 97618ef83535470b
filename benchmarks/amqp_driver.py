"""How many jobs a second go through one RabbitMQ node beside its peers, and how long does a lone one take?

que's queues are quorum queues, which log each message before they have it; its peers' are classic. dramatiq with quorum
queues shows what that takes. que's results come through RabbitMQ, its peers' through Redis. In alone, all wait for the
server's confirms.
"""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

from benchmarks.answer import Answer
from benchmarks.contenders import Module
from benchmarks.engine import Enter, compare, entrant, que_pair
from benchmarks.measure import Contender, Scale
from benchmarks.stage import Stage
from tests.amqp.server import rabbitmq

TITLE = "The RabbitMQ driver"

PAIRS = {
    **que_pair("pamqp"),
    "dramatiq (results in Redis)": Module("dramatiq_pair", ["dramatiq", "pika", "redis"]),
    "dramatiq in quorum queues (results in Redis)": Module(
        "dramatiq_pair", ["dramatiq", "pika", "redis"], env={"QUEUES": "quorum"}
    ),
    "taskiq-aio-pika (results in Redis)": Module("taskiq_pair", ["taskiq_aio_pika", "taskiq_redis", "uvloop"]),
    "celery (results in Redis)": Module("celery_pair", ["celery", "redis"]),
}


def _contender(url: str, results: str, name: str, mode: str) -> Contender:
    # Each loop of que has queues of its own.
    mine = f"{url}?prefix={mode}-{name.removeprefix('que, ')}" if name.startswith("que") else url
    return entrant(name, PAIRS[name], mode, mine, results)


@contextmanager
def field() -> Generator[Enter]:
    with tempfile.TemporaryDirectory(prefix="que-benchmarks-") as directory, Stage() as stage, rabbitmq() as server:
        yield partial(_contender, server.url, f"redis://127.0.0.1:{stage.redis(directory)}/0")


def run(scale: Scale) -> Answer:
    """One worker process and one client process for each contender, on a node that all share in turn."""
    return compare(scale, list(PAIRS), field)
