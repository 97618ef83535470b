"""How many jobs a second go through one SQLite file beside huey, and how long does a lone one take?

huey with 4 threads, each of which looks for a job every millisecond, and 2 ms between two looks for a result.
"""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

from benchmarks.answer import Answer
from benchmarks.contenders import Module
from benchmarks.engine import Enter, compare, entrant, que_pair
from benchmarks.measure import Contender, Scale

TITLE = "The SQLite driver"

FULL = "que, asyncio, synchronous=full"
PAIRS = {**que_pair(), FULL: Module("que_pair", [], ["asyncio"]), "huey": Module("huey_pair", ["huey"])}


def _contender(directory: str, name: str, mode: str) -> Contender:
    file = f"{directory}/{mode}-{len(name)}.db"
    url = f"sqlite:///{file}" if name.startswith("que") else file
    return entrant(name, PAIRS[name], mode, f"{url}?synchronous=full" if name == FULL else url)


@contextmanager
def field() -> Generator[Enter]:
    with tempfile.TemporaryDirectory(prefix="que-benchmarks-") as directory:
        yield partial(_contender, directory)


def run(scale: Scale) -> Answer:
    """One worker process and one client process for each contender, each with a file of its own."""
    return compare(scale, list(PAIRS), field)
