"""How many jobs a second go through one NATS JetStream beside its peers, and how long does a lone one take?

taskiq's results are in Redis, which is three times as fast as its own store in NATS; repid's jobs cannot be awaited.
"""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.answer import Answer
from benchmarks.contenders import Module
from benchmarks.engine import SEND, Enter, compare, entrant, que_pair
from benchmarks.measure import Contender, Scale
from benchmarks.stage import Missing, Stage
from tests.nats.server import NatsServer

TITLE = "The NATS driver"

REPID = "repid"
PAIRS = {
    **que_pair("nats"),
    "taskiq-nats (results in Redis)": Module("taskiq_pair", ["taskiq_nats", "taskiq_redis", "uvloop"]),
    REPID: Module("repid_pair", ["repid", "uvloop"]),
}


def _contender(url: str, results: str, name: str, mode: str) -> Contender:
    if name == REPID and mode != SEND:
        raise Missing("its jobs cannot be awaited")
    return entrant(name, PAIRS[name], mode, url, results)


@contextmanager
def field() -> Generator[Enter]:
    with tempfile.TemporaryDirectory(prefix="que-benchmarks-") as directory, Stage() as stage:
        streams = Path(directory, "nats")
        streams.mkdir()
        server = NatsServer.start(streams)
        try:
            yield partial(_contender, server.url, f"redis://127.0.0.1:{stage.redis(directory)}/0")
        finally:
            server.kill()


def run(scale: Scale) -> Answer:
    """One worker process and one client process for each contender, all on one server with a file store."""
    return compare(scale, list(PAIRS), field)
