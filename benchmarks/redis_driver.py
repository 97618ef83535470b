"""How many jobs a second go through one Redis server, there and back between two processes, and in alone?"""

import tempfile
from collections.abc import Sequence
from functools import partial

from benchmarks.answer import Answer
from benchmarks.contenders import Module
from benchmarks.measure import Contender, Lineup, Scale
from benchmarks.report import rates_table
from benchmarks.stage import Stage

TITLE = "The Redis driver"

SAQ, TASKIQ = "saq", "taskiq (streams)"
PAIRS = {
    "que, uvloop": Module("que_pair", ["redis", "uvloop"], ["uvloop"]),
    "que, asyncio": Module("que_pair", ["redis"], ["asyncio"]),
    f"{SAQ}, uvloop": Module("saq_pair", ["saq", "uvloop"], ["uvloop"]),
    f"{TASKIQ}, uvloop": Module("taskiq_redis_pair", ["taskiq_redis", "uvloop"], ["uvloop"]),
}
MODES = {"submit": "There and back, 1,000 in flight", "send": "In alone: accepted, and nobody works"}


def _contender(name: str, url: str, mode: str) -> Contender:
    pair, function = PAIRS[name], f"{mode}-{name}".replace(" ", "")
    workers = [pair("worker", url, function, mode)] if mode == "submit" else []
    return Contender(name, pair("client", url, function, mode), workers)


def run(scale: Scale) -> Answer:
    """One worker process and one client process for each contender, all on one server."""
    text: list[str] = []
    rounds: dict[str, Sequence[float]] = {}
    for mode, title in MODES.items():
        with tempfile.TemporaryDirectory(prefix="que-benchmarks-") as directory, Stage() as stage:
            url = f"redis://127.0.0.1:{stage.redis(directory)}"
            lineup = Lineup(stage)
            for name in PAIRS:
                lineup.add(name, partial(_contender, name, url, mode))
            rates = lineup.play(scale)
        bases = [name for name in PAIRS if not name.startswith("que") and name in rates.of]
        text += [f"{title}:", "", rates_table(rates, bases), ""]
        rounds |= {f"{mode}: {name}": rate for name, rate in rates.of.items()}
    return Answer("\n".join(text), rounds)
