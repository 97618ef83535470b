"""`que worker` ends by itself: after so many jobs, with so much memory, with nothing to do, when the code changes."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

import que
from tests.cli.commands import PID, command, queue_of, run, started
from tests.servers import Gearmand, spawn, wait_until

HOARD = que.Job("hoard", int, int)


def stopped(worker: "subprocess.Popen[bytes]") -> str:
    """Stop `worker`, which ends well; return what it has said."""
    worker.send_signal(signal.SIGTERM)
    _, said = worker.communicate(timeout=20)
    assert worker.returncode == 0
    return said.decode()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_worker_that_has_ended_so_many_jobs_is_replaced_and_none_is_lost(project: Path, processes: int) -> None:
    words = ("worker", "tasks:app", "-c", "1", "-w", str(processes), "--max-jobs", "2")
    worker = spawn(command(*words), stderr=subprocess.PIPE)
    with que.Que(os.environ["TEST_URL"]).blocking() as q:
        handles = [q.submit(PID, number) for number in range(1000)]
        pids = {handle.result(timeout=30) for handle in handles}
        # With jobs at hand, one that is told to stop ends many more than two.
        while len(pids) < 4:
            pids.add(q.submit(PID, 0).result(timeout=20))
    assert worker.pid not in pids
    said = stopped(worker)
    assert "jobs: another one takes its place" in said
    # At once, and not as one that has died.
    assert "starting another one in" not in said


def test_a_worker_that_has_grown_too_large_is_replaced(project: Path) -> None:
    worker = spawn(command("worker", "tasks:app", "--max-memory", "200"), stderr=subprocess.PIPE)
    with que.Que(os.environ["TEST_URL"]).blocking() as q:
        small = q.submit(HOARD, 1).result(timeout=20)
        assert q.submit(HOARD, 200).result(timeout=20) == small
        wait_until(lambda: q.submit(PID, 0).result(timeout=20) != small, "another one takes its place", 30)
    assert "MiB resident: another one takes its place" in stopped(worker)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_burst_ends_once_there_is_nothing_to_do(project: Path, server: Gearmand, processes: str) -> None:
    with que.Que(os.environ["TEST_URL"]).blocking() as q:
        for number in range(50):
            q.send(PID, number).result(timeout=20)
    ended = run("worker", "tasks:app", "--burst", "-w", processes)
    assert ended.returncode == 0
    assert ended.stderr.count("has nothing left to do") == int(processes)
    assert queue_of(server, "pid").total == 0


def test_a_burst_waits_for_what_runs(project: Path) -> None:
    (project / "slow.py").write_text(
        "import os, asyncio, que\napp = que.Que(os.environ['TEST_URL'])\n"
        "@app.job('pid')\nasync def slow(number: int) -> int:\n    await asyncio.sleep(2.5)\n    return number\n"
    )
    with que.Que(os.environ["TEST_URL"]).blocking() as q:
        handle = q.submit(PID, 7)
        assert run("worker", "slow:app", "--burst", "--grace", "0").returncode == 0
        assert handle.result(timeout=1) == 7


def test_a_burst_does_not_end_while_its_lifespan_opens(project: Path, server: Gearmand) -> None:
    (project / "opening.stuck").touch()
    with que.Que(os.environ["TEST_URL"]).blocking() as q:
        q.send(PID, 1).result(timeout=20)
        worker = spawn(command("worker", "tasks:app", "--burst"))
        started(project, "opening")
        longer_than_it_waits = time.monotonic() + 1.5
        wait_until(lambda: time.monotonic() > longer_than_it_waits or worker.poll() is not None, "time to pass")
        (project / "opening.stuck").unlink()
        assert worker.wait(timeout=20) == 0
    assert queue_of(server, "pid").total == 0


def test_a_change_of_the_code_starts_the_workers_again(project: Path) -> None:
    code = project / "answers.py"

    def write(answer: str) -> None:
        code.write_text(
            "import os, que\napp = que.Que(os.environ['TEST_URL'])\n"
            f"@app.job('answer')\nasync def answer(params: int) -> int:\n    return {answer}\n"
        )

    answer = que.Job("answer", int, int)
    write("1")
    worker = spawn(command("worker", "answers:app", "-w", "2", "--reload"), stderr=subprocess.PIPE)
    with que.Que(os.environ["TEST_URL"]).blocking() as q:
        assert q.submit(answer, 0).result(timeout=20) == 1
        write("2")
        wait_until(lambda: q.submit(answer, 0).result(timeout=20) == 2, "the new code works", 30)
    said = stopped(worker)
    assert said.count("the code has changed: the workers start again") == 1
    # At once, and none as one that has ended by itself or died.
    assert "starting another one" not in said
    assert "waiting for the code" not in said


def test_code_that_never_worked_is_looked_at_again_when_it_changes(project: Path) -> None:
    code = project / "answers.py"
    code.write_text("a mistake\n")
    worker = spawn(command("worker", "answers:app", "--reload"), stderr=subprocess.PIPE)
    assert worker.stderr is not None
    line = b""
    while b"waiting for the code to change" not in line:
        line = worker.stderr.readline()
    code.write_text((project / "tasks.py").read_text())
    with que.Que(os.environ["TEST_URL"]).blocking() as q:
        assert q.submit(PID, 0).result(timeout=30) != worker.pid
    stopped(worker)
