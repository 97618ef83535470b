"""How many jobs a second go through one PostgreSQL, there and back between two processes, and in alone?"""

from collections.abc import Sequence
from functools import partial

from benchmarks.answer import Answer
from benchmarks.contenders import Module
from benchmarks.measure import Contender, Lineup, Scale
from benchmarks.report import rates_table
from benchmarks.stage import Stage
from tests.postgres.server import Postgres, running

TITLE = "The PostgreSQL driver"

PGQUEUER = "pgqueuer, uvloop"
PAIRS = {
    "que, uvloop": Module("que_pair", ["psycopg", "uvloop"], ["uvloop"]),
    "que, asyncio": Module("que_pair", ["psycopg"], ["asyncio"]),
    PGQUEUER: Module("pgqueuer_pair", ["pgqueuer", "asyncpg", "uvloop"]),
}
MODES = {
    "submit": "There and back, 1,000 in flight, put in by 500 (pgqueuer: its status, no result)",
    "tasks": "There and back, 1,000 tasks that each call and wait",
    "send": "In alone, by 500: accepted, and nobody works",
}


def _contender(name: str, server: Postgres, mode: str) -> Contender:
    pair, url = PAIRS[name], server.url(server.new_database())
    workers = [] if mode == "send" else [pair("worker", url, "echo", mode)]
    return Contender(name, pair("client", url, "echo", mode), workers)


def run(scale: Scale) -> Answer:
    """One worker process and one client process for each contender, a database for each, all on one server."""
    text: list[str] = []
    rounds: dict[str, Sequence[float]] = {}
    with running() as server:
        for mode, title in MODES.items():
            with Stage() as stage:
                lineup = Lineup(stage)
                for name in PAIRS:
                    lineup.add(name, partial(_contender, name, server, mode))
                rates = lineup.play(scale)
            bases = [PGQUEUER] if PGQUEUER in rates.of else []
            text += [f"{title}:", "", rates_table(rates, bases), ""]
            rounds |= {f"{mode}: {name}": rate for name, rate in rates.of.items()}
    return Answer("\n".join(text), rounds)
