"""How many typed jobs a second go through memory://, in one process and one loop?"""

from functools import partial

from benchmarks.answer import Answer
from benchmarks.contenders import Module
from benchmarks.measure import Contender, Lineup, Scale
from benchmarks.report import rates_table
from benchmarks.stage import Stage

TITLE = "The memory driver"

KINDS = {
    "que with a deadline": "que-deadline",
    "que": "que",
    "taskiq InMemoryBroker with a deadline": "taskiq-deadline",
    "taskiq InMemoryBroker": "taskiq",
    "a bare loop, a task per job": "tasks",
}
NEEDS = {"taskiq": ["taskiq"], "taskiq-deadline": ["taskiq"]}


def _contender(name: str, loop: str, kind: str) -> Contender:
    needs = [*NEEDS.get(kind, []), *(["uvloop"] if loop == "uvloop" else [])]
    return Contender(name, Module("memory_pair", needs)(loop, kind))


def run(scale: Scale) -> Answer:
    with Stage() as stage:
        lineup = Lineup(stage)
        for described, kind in KINDS.items():
            for loop in ("uvloop", "asyncio"):
                name = f"{described}, {loop}"
                lineup.add(name, partial(_contender, name, loop, kind))
        rates = lineup.play(scale)
    bases = [f"{described}, asyncio" for described in list(KINDS)[2:]]
    return Answer(rates_table(rates, bases), rates.of)
