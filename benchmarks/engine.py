"""What the questions about an engine share: que and its peers do the same jobs in the same ways, in the same rounds."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

from benchmarks.answer import Answer
from benchmarks.contenders import Module
from benchmarks.measure import Contender, Lineup, Rates, Scale, play
from benchmarks.report import Cell, rates_table, table
from benchmarks.stage import Process, Stage

Enter = Callable[[str, str], Contender]
"""Return the contender of that name for that mode; raises Missing."""

Field = Callable[[], AbstractContextManager[Enter]]
"""Start the servers; they are gone at the end of the block."""

SUBMIT, SEND = "submit", "send"
MODES = {
    SUBMIT: "There and back, 1,000 in flight",
    SEND: "In alone, one by one, 500 awaiting: accepted, and nobody works",
}
DRAIN = "drain"
PATIENCE_SECONDS = 60.0
# Of a long run's jobs: so many lone ones, and so many at least in a round, which has a thousand of them under way.
LONE, LEAST = 1 / 500, 1 / 50
# Starting and stopping a worker is part of what it takes to empty a queue: a longer run makes little of it.
DRAIN_SECONDS = 3


def que_pair(*needs: str) -> Mapping[str, Module]:
    """Return que on both loops; `needs` are the packages of its driver."""
    loops = {"uvloop": [*needs, "uvloop"], "asyncio": needs}
    return {f"que, {loop}": Module("que_pair", packages, [loop]) for loop, packages in loops.items()}


def entrant(name: str, pair: Module, mode: str, url: str, *results: str) -> Contender:
    """Return one client and, where somebody works, one worker, with a function of their own."""
    function = f"{mode}-{name}".replace(" ", "").replace(",", "-").replace("(", "-").replace(")", "")
    told = (url, function, mode) if pair.name == "que_pair" else (function, mode, url, *results)
    workers = [] if mode in (SEND, "singly") else [pair("worker", *told)]
    return Contender(name, pair("client", *told), workers)


def compare(scale: Scale, names: Sequence[str], field: Field, modes: Mapping[str, str] = MODES) -> Answer:
    """Return a table for each mode, and one of how long a lone job takes, each beside the best of the peers."""
    scale = replace(scale, least=int(scale.jobs * LEAST))
    text: list[str] = []
    rounds: dict[str, Sequence[float]] = {}
    for mode, title in modes.items():
        with field() as enter, Stage() as stage:
            lineup = Lineup(stage)
            for name in names:
                lineup.add(name, partial(enter, name, mode))
            rates = _drained(lineup, scale) if mode == DRAIN else lineup.play(scale)
            text += [f"{title}:", "", rates_table(rates, _best(rates)), ""]
            rounds |= {f"{mode}: {name}": rate for name, rate in rates.of.items()}
            if mode == SUBMIT:
                text += ["A lone job, from the call to its end:", "", _lone_table(lineup, scale), ""]
    return Answer("\n".join(text), rounds)


def _is_peer(name: str) -> bool:
    return not name.startswith("que")


def _best(rates: Rates) -> Sequence[str]:
    peers = [name for name in rates.of if _is_peer(name)]
    return [max(peers, key=rates.median)] if peers else []


def _drained(lineup: Lineup, scale: Scale) -> Rates:
    """Return the rates at which workers empty a queue that was filled before they began."""

    def drain(client: Process, worker: Process, count: int) -> float:
        client.ask(str(count), PATIENCE_SECONDS)
        return float(worker.ask(str(count), PATIENCE_SECONDS))

    players = {name: partial(drain, client, lineup.workers[name][0]) for name, client in lineup.clients.items()}
    return Rates(play(players, replace(scale, seconds=scale.seconds * DRAIN_SECONDS)), lineup.skipped)


def _lone_table(lineup: Lineup, scale: Scale) -> str:
    delays = lineup.lone(int(scale.jobs * LONE))
    middles = {name: statistics.median(seconds) * 1e3 for name, seconds in delays.items()}
    tails = {name: sorted(seconds)[math.ceil(len(seconds) * 0.99) - 1] * 1e3 for name, seconds in delays.items()}
    peers = [name for name in delays if _is_peer(name)]
    quickest = min((middles[name] for name in peers), default=math.nan)
    steadiest = min((tails[name] for name in peers), default=math.nan)
    rows: list[list[Cell]] = [
        [name, middles[name] / quickest, tails[name] / steadiest, middles[name], tails[name]] for name in delays
    ]
    return table(["contender", "p50, x best peer's", "p99, x best peer's", "p50, ms", "p99, ms"], rows)
