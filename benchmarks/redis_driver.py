"""How many jobs a second go through one Redis server beside its peers, and how long does a lone one take?

Peers at the best settings found: saq looks for many results at once every 20 ms (as it comes: 98 jobs a second), arq
every 10 ms; dramatiq and celery work in 8 threads; rq does not fork.
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

TITLE = "The Redis driver"

PAIRS = {
    **que_pair("redis"),
    "saq": Module("saq_pair", ["saq", "uvloop"]),
    "taskiq (streams)": Module("taskiq_pair", ["taskiq_redis", "uvloop"]),
    "arq": Module("arq_pair", ["arq", "uvloop"]),
    "streaq": Module("streaq_pair", ["streaq", "uvloop"]),
    "dramatiq": Module("dramatiq_pair", ["dramatiq", "redis"]),
    "celery": Module("celery_pair", ["celery", "redis"]),
    "rq": Module("rq_pair", ["rq", "redis"]),
}


def _contender(url: str, name: str, mode: str) -> Contender:
    return entrant(name, PAIRS[name], mode, url)


@contextmanager
def field() -> Generator[Enter]:
    with tempfile.TemporaryDirectory(prefix="que-benchmarks-") as directory, Stage() as stage:
        yield partial(_contender, f"redis://127.0.0.1:{stage.redis(directory)}/0")


def run(scale: Scale) -> Answer:
    """One worker process and one client process for each contender, all on one server."""
    return compare(scale, list(PAIRS), field)
