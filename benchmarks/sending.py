"""How many background jobs a second does the server accept from one client?"""

from functools import partial

from benchmarks.answer import Answer
from benchmarks.contenders import ALL, LIBGEARMAN, Pair
from benchmarks.measure import PATIENCE_SECONDS, Play, Rates, Scale, play
from benchmarks.report import rates_table
from benchmarks.stage import Missing, Stage

TITLE = "send: accepted in the background"
# Starting a server takes longer than this many jobs.
FIRST_COUNT = 1000


def run(scale: Scale) -> Answer:
    """Nobody works the jobs, so each turn has a server of its own: one that holds many is slower."""
    players: dict[str, Play] = {}
    skipped: dict[str, str] = {}
    for name, pair in ALL.items():
        try:
            pair()
            players[name] = partial(turn, pair, "send")
        except Missing as why:
            skipped[name] = str(why)
    rates = Rates(play(players, scale, FIRST_COUNT), skipped)
    return Answer(rates_table(rates, [LIBGEARMAN, "gearman3", "the untyped limit, uvloop"]), rates.of)


def turn(pair: Pair, mode: str, count: int) -> float:
    """Return the seconds that a new client takes for `count` jobs on a new server; a few more come first."""
    with Stage() as stage:
        client = stage.player(pair("client", stage.gearmand(), "kept", mode))
        client.ask(str(FIRST_COUNT), PATIENCE_SECONDS)
        return float(client.ask(str(count), PATIENCE_SECONDS))
