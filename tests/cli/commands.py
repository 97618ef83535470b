"""How the tests run the command, and the app that it works."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import que
from tests.gearman.raw import Raw
from tests.servers import Gearmand, wait_until

# `here` is the test's directory: files in it are how the tests and the handlers, which are other processes, talk.
APP = """
import asyncio, contextlib, os, pathlib, time, que

here = pathlib.Path(os.environ["TEST_DIRECTORY"])

@contextlib.asynccontextmanager
async def lifespan():
    (here / "opening.started").touch()
    while (here / "opening.stuck").exists():
        await asyncio.sleep(0.01)
    yield

app = que.Que(os.environ["TEST_URL"], lifespan=lifespan)

@app.job("mark")
async def mark(name: str) -> int:
    (here / f"{name}.started").touch()
    while not (here / f"{name}.go").exists():
        await asyncio.sleep(0.01)
    (here / f"{name}.done").touch()
    return os.getpid()

def hold(name: str) -> None:
    print(f"half a line of {name}", end="")
    (here / f"{name}.started").touch()
    time.sleep(300)

@app.job("hold-thread")
def hold_thread(name: str) -> None:
    hold(name)

@app.job("hold-default-executor")
async def hold_default_executor(name: str) -> None:
    await asyncio.to_thread(hold, name)

@app.job("hold-loop")
async def hold_loop(name: str) -> None:
    hold(name)

@app.job("hold-on")
async def hold_on(name: str) -> None:
    print(f"half a line of {name}", end="")
    (here / f"{name}.started").touch()
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(300)

@app.job("environment")
async def environment(name: str) -> list[str]:
    return sorted(os.environ)

@app.job("exit")
async def exit(name: str) -> int:
    if not (here / f"{name}.exited").exists():
        (here / f"{name}.exited").touch()
        os._exit(3)
    return os.getpid()

@app.job("pid")
async def pid(number: int) -> int:
    return os.getpid()

hoarded = []

@app.job("hoard")
async def hoard(mib: int) -> int:
    hoarded.append(b"x" * (mib << 20))
    return os.getpid()

idle = que.Que("memory://")
alone = que.Que("memory://")

@alone.job("never")
async def never(number: int) -> None:
    pass

number = 3
"""
MARK = que.Job("mark", str, int)
PID = que.Job("pid", int, int)


def command(*words: str) -> list[str]:
    # Without -P, a que.py in the working directory would be run in place of ours.
    return [sys.executable, "-P", "-m", "que", *words]


def run(*words: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=60, cwd=cwd, check=False)


def started(project: Path, *names: str) -> None:
    wait_until(lambda: all((project / f"{name}.started").exists() for name in names), "the jobs start")


class Queue(NamedTuple):
    """What gearmand tells of one function."""

    total: int
    running: int
    workers: int


def queue_of(server: Gearmand, function: str) -> Queue:
    with Raw(server.port) as raw:
        rows = dict(row.split("\t", 1) for row in raw.listing("status"))
    return Queue(*map(int, rows.get(function, "0\t0\t0").split("\t")))
