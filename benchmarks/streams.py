"""Are map() and send_many() as fast as loops over submit() and send(), and is their memory flat however many jobs?"""

from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks.answer import Answer
from benchmarks.contenders import QUE, Pair, contender
from benchmarks.measure import PATIENCE_SECONDS, Lineup, Play, Rates, Scale, note, play
from benchmarks.report import Cell, skipped_lines, table
from benchmarks.sending import FIRST_COUNT, turn
from benchmarks.stage import Missing, Stage

TITLE = "map and send_many"
WORKERS = 2
MIB = 1024 * 1024
# What streams, beside the loop that it is compared with.
STREAMS = {"map": "submit", "send_many": "send"}


def run(scale: Scale) -> Answer:
    rows: list[list[Cell]] = []
    skipped: dict[str, str] = {}
    for name, pair in QUE.items():
        try:
            pair()
        except Missing as why:
            skipped[name] = str(why)
            continue
        rates = Rates({**_foreground(pair, scale), **_background(pair, scale)}, {})
        for stream, loop in STREAMS.items():
            ratio, median = rates.ratio(stream, loop), rates.median(stream)
            rows.append([f"{stream}, {name}", ratio, median, *_long_run(pair, stream, scale)])
    counts = [f"MiB after {count:,} jobs" for count in (scale.jobs // 10, scale.jobs)]
    head = ["stream", "x the loop", "jobs/s, median", *counts]
    return Answer("\n".join([table(head, rows), *skipped_lines(skipped)]))


def _foreground(pair: Pair, scale: Scale) -> Mapping[str, Sequence[float]]:
    with Stage() as stage:
        port = stage.gearmand()
        lineup = Lineup(stage)
        for mode in ("submit", "map"):
            lineup.add(mode, partial(contender, mode, pair, port, mode, WORKERS))
        return lineup.play(scale).of


def _background(pair: Pair, scale: Scale) -> Mapping[str, Sequence[float]]:
    players: dict[str, Play] = {mode: partial(turn, pair, mode) for mode in ("send", "send_many")}
    return play(players, scale, FIRST_COUNT)


def _long_run(pair: Pair, mode: str, scale: Scale) -> list[float]:
    """Return the most that the client's memory has grown, in MiB, after a tenth of the jobs and after all of them."""
    note(f"a long run of {mode}")
    with Stage() as stage:
        port = stage.gearmand()
        client_and_workers = contender("long", pair, port, mode, WORKERS)
        for command in client_and_workers.workers:
            stage.player(command)
        client = stage.player(client_and_workers.client)
        began, _ = client.memory_bytes()
        growth: list[float] = []
        for count in (scale.jobs // 10, scale.jobs - scale.jobs // 10):
            client.ask(str(count), PATIENCE_SECONDS + count / 1000)
            growth.append((client.memory_bytes()[1] - began) / MIB)
    note("")
    return growth
