"""How many jobs a second go through one PostgreSQL beside its peers, and how long does a lone one take?

pgqueuer tells a status and no result; procrastinate tells nothing, so those of its jobs that have not ended are counted
every 5 ms.
Every commit of every contender waits for the disk, as it does by default.
"""

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

from benchmarks.answer import Answer
from benchmarks.contenders import Module
from benchmarks.engine import DRAIN, SEND, SUBMIT, Enter, compare, entrant, que_pair
from benchmarks.measure import Contender, Scale
from benchmarks.stage import Missing
from tests.postgres.server import Postgres, running

TITLE = "The PostgreSQL driver"

TASKS, SINGLY = "tasks", "singly"
PROCRASTINATE = "procrastinate (no result)"
PAIRS = {
    **que_pair("psycopg"),
    "pgqueuer (a status, no result)": Module("pgqueuer_pair", ["pgqueuer", "asyncpg", "uvloop"]),
    PROCRASTINATE: Module("procrastinate_pair", ["procrastinate", "uvloop"]),
}
MODES = {
    SUBMIT: "There and back, 1,000 in flight; peers put in 500 a call",
    TASKS: "There and back, 1,000 tasks that each call and wait",
    SEND: "In alone; peers put in 500 a call",
    SINGLY: "In alone, one by one, 500 awaiting",
    DRAIN: "Out alone: workers empty a queue that was filled before, and nobody awaits the jobs",
}


def _contender(server: Postgres, name: str, mode: str) -> Contender:
    if name == PROCRASTINATE and mode == TASKS:
        raise Missing("nobody is told when one job has ended")
    return entrant(name, PAIRS[name], mode, server.url(server.new_database()))


@contextmanager
def field() -> Generator[Enter]:
    with running(fsync="on") as server:
        yield partial(_contender, server)


def run(scale: Scale) -> Answer:
    """One worker process and one client process for each contender, a database for each, all on one server."""
    return compare(scale, list(PAIRS), field, MODES)
