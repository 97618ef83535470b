"""How many bytes a second go one way, in payloads of 1 MiB and of 64 MiB, and how much memory does that take?"""

from functools import partial

from benchmarks.answer import Answer
from benchmarks.contenders import BULK_RIVALS, KERNEL_BUFFERS, LIBGEARMAN, QUE, contender
from benchmarks.measure import Lineup, Scale
from benchmarks.report import Cell, skipped_lines, table
from benchmarks.stage import Process, Stage

TITLE = "Large payloads"
MIB = 1024 * 1024
SIZES = (1 * MIB, 64 * MIB)
WAYS = {"upload": "params", "download": "result"}


def run(scale: Scale) -> Answer:
    """One worker, one job at a time, its params or its result being large; peaks are over the whole run."""
    rows: list[list[Cell]] = []
    skipped: dict[str, str] = {}
    rounds: dict[str, list[float]] = {}
    for size in SIZES:
        for way, what in WAYS.items():
            with Stage() as stage:
                lineup = _lineup(stage, way, size)
                processes = {name: (client, *lineup.workers[name]) for name, client in lineup.clients.items()}
                began = {process: process.memory_bytes()[0] for pair in processes.values() for process in pair}
                rates = lineup.play(scale, first=1)
                for name, pair in processes.items():
                    peaks = [_growth(process, began[process]) / size for process in pair]
                    row = f"{size // MIB} MiB of {what}: {name}"
                    rounds[row] = [rate * size / MIB for rate in rates.of[name]]
                    rows.append([row, rates.ratio(name, KERNEL_BUFFERS), rates.median(name) * size / MIB, *peaks])
                skipped |= rates.skipped
    head = ["", f"x {KERNEL_BUFFERS}", "MiB/s, median", "client's peak / payload", "worker's peak / payload"]
    return Answer("\n".join([table(head, rows), *skipped_lines(skipped)]), rounds)


def _lineup(stage: Stage, way: str, size: int) -> Lineup:
    port = stage.gearmand()
    lineup = Lineup(stage)
    for name, pair in {**QUE, **BULK_RIVALS}.items():
        # As it comes, libgearman takes half a minute for 64 MiB here.
        if name == LIBGEARMAN and size > MIB:
            continue
        lineup.add(name, partial(contender, name, pair, port, f"{way}:{size}", 1))
    return lineup


def _growth(process: Process, began: int) -> int:
    return process.memory_bytes()[1] - began
