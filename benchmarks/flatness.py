"""Does a reserve take as long with 1,000,000 queued jobs as with 1,000, and how much memory does a queued job take?

A queue grows, and at each depth one consumer reserves and settles batches of 20: on PostgreSQL, Redis and SQLite.
"""

import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.answer import Answer
from benchmarks.contenders import Module
from benchmarks.measure import PATIENCE_SECONDS, Scale, note
from benchmarks.report import Cell, skipped_lines, table
from benchmarks.stage import Missing, Process, Stage, program
from que.address import Address
from que.driver import open_driver
from que.model import Completed, Settlement
from que.testing.sinks import Notices, Recorder

TITLE = "From a thousand to a million queued jobs"

FUNCTION = "echo"
LEAST_DEPTH = 1_000
BATCH, BATCHES = 20, 40
KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True, slots=True)
class Engine:
    """An empty engine: its URL, and how to learn how many bytes it takes."""

    url: str
    size: Callable[[], int]


@contextmanager
def _postgres() -> Generator[Engine]:
    import psycopg

    from tests.postgres.server import running

    with running() as server:
        database = server.new_database()

        def size() -> int:
            with psycopg.connect(server.conninfo(database)) as connection:
                row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
                assert row is not None
                return int(row[0])

        yield Engine(server.url(database), size)


@contextmanager
def _redis() -> Generator[Engine]:
    with tempfile.TemporaryDirectory(prefix="que-benchmarks-") as directory, Stage() as stage:
        port = stage.redis(directory)

        def size() -> int:
            command = [program("redis-cli"), "-p", str(port), "INFO", "memory"]
            said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS)
            return int(said.stdout.split("used_memory:")[1].split()[0])

        yield Engine(f"redis://127.0.0.1:{port}", size)


@contextmanager
def _sqlite() -> Generator[Engine]:
    with tempfile.TemporaryDirectory(prefix="que-benchmarks-") as directory:
        files = Path(directory)
        yield Engine(f"sqlite:///{directory}/jobs.db", lambda: sum(file.stat().st_size for file in files.iterdir()))


ENGINES: Mapping[str, tuple[str, Callable[[], AbstractContextManager[Engine]]]] = {
    "PostgreSQL": ("psycopg", _postgres),
    "Redis": ("redis", _redis),
    "SQLite": ("sqlite3", _sqlite),
}


def run(scale: Scale) -> Answer:
    """Each depth is ten times the one before, up to ten long runs."""
    longest = scale.jobs * 10
    depths = sorted({max(LEAST_DEPTH, longest // part) for part in (1000, 100, 10, 1)})
    rows: list[list[Cell]] = []
    skipped: dict[str, str] = {}
    for name, (package, start) in ENGINES.items():
        filling = Module("que_pair", [package], ["asyncio"])
        try:
            with start() as engine, Stage() as stage:
                client = stage.player(filling("client", engine.url, FUNCTION, "send_many"))
                rows += _rows(name, engine, client, depths)
        except Missing as why:
            skipped[name] = str(why)
    head = ["queued", "x the time at first", "ms to reserve and settle 20", "slowest", "KiB of the engine a job"]
    return Answer("\n".join([table([*head, "MiB of the consumer"], rows), *skipped_lines(skipped)]))


def _rows(name: str, engine: Engine, client: Process, depths: list[int]) -> Generator[list[Cell]]:
    empty, first, queued = engine.size(), 0.0, 0
    for depth in depths:
        note(f"{name}: {depth:,} jobs")
        client.ask(str(depth - queued), PATIENCE_SECONDS + depth / 1000)
        grown = engine.size() - empty
        times = asyncio.run(_times(engine.url))
        queued = depth - BATCH * BATCHES
        middle = statistics.median(times) * 1e3
        first = first or middle
        figures = (middle / first, middle, max(times) * 1e3, grown / depth / KIB, _own_bytes() / MIB)
        yield [f"que, {name}, {depth:,}", *figures]
    note("")


async def _times(url: str) -> list[float]:
    """Return how many seconds each batch took from the call of reserve() to the end of settle()."""
    driver = open_driver(Address.parse(url))
    await driver.connect(Recorder())
    consumer = await driver.register([FUNCTION], BATCH, Notices())
    times: list[float] = []
    for _ in range(BATCHES):
        begun, settled = time.perf_counter(), 0
        while settled < BATCH:
            deliveries = await consumer.reserve(BATCH - settled)
            verdicts: list[Settlement] = [(delivery, Completed(delivery.payload)) for delivery in deliveries]
            await consumer.settle(verdicts)
            settled += len(deliveries)
        times.append(time.perf_counter() - begun)
    await consumer.close()
    await driver.disconnect()
    return times


def _own_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
