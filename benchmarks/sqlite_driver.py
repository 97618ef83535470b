"""How many jobs a second go through one SQLite file, there and back between two processes, and in alone?"""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.answer import Answer
from benchmarks.contenders import Module
from benchmarks.measure import Contender, Lineup, Scale
from benchmarks.report import rates_table
from benchmarks.stage import Stage

TITLE = "The SQLite driver"

HUEY = "huey (SqliteHuey)"
PAIRS = {
    "que, uvloop": (Module("que_pair", ["uvloop"], ["uvloop"]), "sqlite:///{file}"),
    "que, asyncio": (Module("que_pair", [], ["asyncio"]), "sqlite:///{file}"),
    "que, asyncio, synchronous=full": (Module("que_pair", [], ["asyncio"]), "sqlite:///{file}?synchronous=full"),
    HUEY: (Module("huey_pair", ["huey"]), "{file}"),
}
MODES = {"submit": "There and back, 1,000 in flight", "send": "In alone: accepted, and nobody works"}


def _contender(name: str, directory: Path, mode: str) -> Contender:
    pair, location = PAIRS[name]
    place = location.format(file=directory / f"{mode}-{len(name)}.db")
    workers = [pair("worker", place, "echo", mode)] if mode == "submit" else []
    return Contender(name, pair("client", place, "echo", mode), workers)


def run(scale: Scale) -> Answer:
    """One worker process and one client process for each contender, each with a file of its own."""
    text: list[str] = []
    rounds: dict[str, Sequence[float]] = {}
    for mode, title in MODES.items():
        with tempfile.TemporaryDirectory(prefix="que-benchmarks-") as directory, Stage() as stage:
            lineup = Lineup(stage)
            for name in PAIRS:
                lineup.add(name, partial(_contender, name, Path(directory), mode))
            rates = lineup.play(scale)
        text += [f"{title}:", "", rates_table(rates, [HUEY]), ""]
        rounds |= {f"{mode}: {name}": rate for name, rate in rates.of.items()}
    return Answer("\n".join(text), rounds)
