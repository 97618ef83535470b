"""How many typed jobs a second go from client to worker and back, with 1,000 of them in flight?"""

from functools import partial

from benchmarks.answer import Answer
from benchmarks.contenders import ALL, LIBGEARMAN, QUE, contender
from benchmarks.measure import Lineup, Scale
from benchmarks.report import rates_table
from benchmarks.stage import Stage

TITLE = "1,000 in flight"
WORKERS = 2


def run(scale: Scale, mode: str = "submit") -> Answer:
    """Two worker processes and one client process for each contender; idle ones cost nothing."""
    with Stage() as stage:
        port = stage.gearmand()
        lineup = Lineup(stage)
        for name, pair in ALL.items():
            lineup.add(name, partial(contender, name, pair, port, mode, WORKERS))
        if mode == "submit":
            for name, pair in QUE.items():
                lineup.add(f"{name}, 1,000 tasks", partial(contender, name, pair, port, "tasks", WORKERS))
        rates = lineup.play(scale)
    return Answer(rates_table(rates, [LIBGEARMAN, "gearman3", "the untyped limit, uvloop"]), rates.of)
