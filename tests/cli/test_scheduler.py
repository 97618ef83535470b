"""`que scheduler` and `que worker --scheduler` send what the schedules of an app say, until a signal comes."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

import que
from tests.cli.commands import command, run
from tests.servers import end, spawn, wait_until

APP = """
import os, pathlib, que

here = pathlib.Path(os.environ["TEST_DIRECTORY"])
app = que.Que(os.environ["TEST_URL"])

@app.every(seconds=1)
@app.job("tick")
async def tick(params: None) -> None:
    with open(here / "ticks", "a") as file:
        file.write("tick\\n")

idle = que.Que("memory://")
idle.add(que.Job("work", int, None))

lost = que.Que("memory://", schedule_store="sqlite:////no/such/directory/ticks.db")
lost.every(seconds=1).send(que.Job("work", int, None), 1)
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test, with `tasks:app` in it, whose queues are a file there."""
    (tmp_path / "tasks.py").write_text(APP)
    monkeypatch.setenv("TEST_URL", f"sqlite:///{tmp_path / 'jobs.db'}")
    monkeypatch.setenv("TEST_DIRECTORY", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def queued() -> int:
    with que.Que(os.environ["TEST_URL"]).blocking() as q:
        return sum(depth.queued for depths in q.depths().values() for depth in depths)


def stopped(process: "subprocess.Popen[bytes]") -> str:
    """Return what the process said in all, after a SIGTERM; it must end well."""
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    return said.decode()


def test_a_scheduler_sends_and_works_nothing(directory: Path) -> None:
    scheduler = spawn(command("scheduler", "tasks:app", "-v"), stderr=subprocess.PIPE)
    try:
        wait_until(lambda: queued() >= 2, "two ticks are sent")
        said = stopped(scheduler)
    finally:
        end(scheduler)
    assert f"que: {scheduler.pid} keeps the schedules tick every 1 s\n" in said
    assert "INFO que.schedules: schedule tick every 1 s: sent the tick of " in said
    assert said.endswith(f"que: {scheduler.pid} has stopped\n")
    assert not (directory / "ticks").exists()


def test_a_worker_may_be_a_scheduler_too(directory: Path) -> None:
    worker = spawn(command("worker", "tasks:app", "--scheduler"), stderr=subprocess.PIPE)
    try:
        wait_until((directory / "ticks").exists, "a tick is sent and worked")
        said = stopped(worker)
    finally:
        end(worker)
    assert " serves tick with 100 slots at sqlite:" in said
    assert f"que: {worker.pid} keeps the schedules tick every 1 s\n" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param("scheduler tasks:idle", "this app has no schedules", id="no schedules"),
        pytest.param("scheduler tasks:missing", "has no 'missing'", id="no such app"),
        pytest.param("scheduler tasks:lost", "cannot connect to sqlite:////no/such/directory/ticks.db", id="no store"),
        pytest.param("worker tasks:idle --scheduler", "no job of this app has a handler", id="no work"),
    ],
)
def test_what_cannot_be_kept_is_said_in_one_line(directory: Path, words: str, said: str) -> None:
    ended = run(*words.split())
    lines = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert said in lines[-1]
    assert "Traceback" not in ended.stderr
