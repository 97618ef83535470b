"""What does que take when it waits: memory for each job in flight, an idle core's share, and the import?"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks.answer import Answer
from benchmarks.contenders import QUE, contender
from benchmarks.measure import PATIENCE_SECONDS, Scale, note
from benchmarks.player import IN_FLIGHT
from benchmarks.report import Cell, table
from benchmarks.stage import ROOT, Missing, Stage

TITLE = "Memory, idling and import"
IDLE_SECONDS_A_ROUND = 2.0

_IMPORT = """
import sys, time
import asyncio, msgspec
modules, begun = len(sys.modules), time.process_time()
import que
print((time.process_time() - begun) * 1e3, len(sys.modules) - modules)
"""


def run(scale: Scale) -> Answer:
    rows: list[list[Cell]] = []
    for name, pair in QUE.items():
        try:
            pair()
        except Missing as why:
            rows.append([f"skipped: {name}: {why}", ""])
            continue
        note(name)
        with Stage() as stage:
            rows.append(
                [f"KiB for each of {scale.jobs:,} jobs in flight: {name}", _job_bytes(stage, name, scale.jobs) / 1024]
            )
        with Stage() as stage:
            worker, client = _idle_shares(stage, name, scale)
            rows.append([f"% of a core, a worker with {IN_FLIGHT:,} idle slots: {name}", worker * 100])
            rows.append([f"% of a core, an idle client: {name}", client * 100])
    milliseconds, modules = _import(scale.rounds * 4)
    rows.append(["CPU ms for `import que` beyond asyncio and msgspec", milliseconds])
    rows.append(["modules of `import que` beyond asyncio and msgspec", modules])
    return Answer(table(["", "figure"], rows))


def _job_bytes(stage: Stage, name: str, jobs: int) -> float:
    """Return how much the client grows for each job that it waits for; nobody works them."""
    port = stage.gearmand()
    client = stage.player(contender(name, QUE[name], port, "hold", 0).client)
    client.ask(str(IN_FLIGHT), PATIENCE_SECONDS)
    before, _ = client.memory_bytes()
    client.ask(str(jobs), PATIENCE_SECONDS)
    return (client.memory_bytes()[0] - before) / jobs


def _idle_shares(stage: Stage, name: str, scale: Scale) -> Sequence[float]:
    """Return the shares of a core that a worker, each of whose slots has run a job, and its client take while idle."""
    port = stage.gearmand()
    commands = contender(name, QUE[name], port, "nap", 1)
    worker = stage.player(commands.workers[0])
    client = stage.player(commands.client)
    client.ask(str(2 * IN_FLIGHT), PATIENCE_SECONDS)
    before = [process.cpu_seconds() for process in (worker, client)]
    begun = time.monotonic()
    time.sleep(IDLE_SECONDS_A_ROUND * scale.rounds)
    seconds = time.monotonic() - begun
    after = [process.cpu_seconds() for process in (worker, client)]
    return [(end - start) / seconds for start, end in zip(before, after, strict=True)]


def _import(runs: int) -> tuple[float, float]:
    """Return the median of the CPU milliseconds that the import takes, compiled before, and the number of modules."""
    figures: list[list[float]] = []
    with tempfile.TemporaryDirectory(prefix="que-benchmarks-") as bytecode:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env["PYTHONPYCACHEPREFIX"] = bytecode
        for _ in range(runs + 1):
            command = [sys.executable, "-c", _IMPORT]
            ended = subprocess.run(
                command, cwd=ROOT / "src", env=env, capture_output=True, text=True, check=True, timeout=60
            )
            figures.append([float(word) for word in ended.stdout.split()])
    # The first one compiled.
    figures = figures[1:]
    return statistics.median(row[0] for row in figures), figures[0][1]
