"""How many calls a second do threads get through que's blocking face, and through run_coroutine_threadsafe?"""

from functools import partial

from benchmarks.answer import Answer
from benchmarks.contenders import Module
from benchmarks.measure import Contender, Lineup, Rates, Scale
from benchmarks.report import Cell, table
from benchmarks.stage import Stage

TITLE = "The blocking face"

# A name, its kind and number of threads, and whom it is compared with.
CONTENDERS = {
    "que, 1 thread": ("blocking", 1, "run_coroutine_threadsafe, 1 thread"),
    "run_coroutine_threadsafe, 1 thread": ("threadsafe", 1, "run_coroutine_threadsafe, 1 thread"),
    "que, 8 threads": ("blocking", 8, "run_coroutine_threadsafe, 8 threads"),
    "run_coroutine_threadsafe, 8 threads": ("threadsafe", 8, "run_coroutine_threadsafe, 8 threads"),
    "que, submit_many": ("blocking-submit_many", 1, "async submit_many"),
    "async submit_many": ("async-submit_many", 1, "async submit_many"),
    "que, map": ("blocking-map", 1, "async map"),
    "async map": ("async-map", 1, "async map"),
}


def run(scale: Scale) -> Answer:
    with Stage() as stage:
        lineup = Lineup(stage)
        for name, (kind, threads, _) in CONTENDERS.items():
            lineup.add(name, partial(_contender, name, kind, threads))
        rates = lineup.play(scale)
    rows = [_row(rates, name, base) for name, (_, _, base) in CONTENDERS.items()]
    return Answer(table(["memory://", "x", "of", "jobs/s, median", "slowest", "fastest"], rows), rates.of)


def _contender(name: str, kind: str, threads: int) -> Contender:
    return Contender(name, Module("blocking_pair")(kind, threads))


def _row(rates: Rates, name: str, base: str) -> list[Cell]:
    return [name, rates.ratio(name, base), base, rates.median(name), min(rates.of[name]), max(rates.of[name])]
