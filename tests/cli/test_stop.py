"""`que worker` ends when it was told to, whatever its handlers do."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

import que
from tests.cli.commands import command, queue_of, started
from tests.servers import Gearmand, spawn, wait_until


def held(project: Path, job: str, grace: str) -> "subprocess.Popen[bytes]":
    """Return a worker with a job that does not end."""
    worker = spawn(command("worker", "tasks:app", "--grace", grace), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with que.Que(os.environ["TEST_URL"]).blocking() as q:
        q.send(que.Job(job, str, None), "it").result(timeout=10)
        started(project, "it")
    return worker


@pytest.mark.parametrize("job", ["hold-thread", "hold-default-executor"])
def test_no_thread_holds_a_worker_whose_grace_is_over(project: Path, server: Gearmand, job: str) -> None:
    worker = held(project, job, grace="0.1")
    worker.send_signal(signal.SIGTERM)
    printed, said = worker.communicate(timeout=20)
    assert worker.returncode == 0
    assert printed == b"half a line of it"
    assert f"job {job} ".encode() in said
    assert b"given back" in said
    assert b"does not wait for its threads" in said
    wait_until(lambda: queue_of(server, job) == (1, 0, 0), "the job is given back")


def test_a_handler_that_blocks_the_loop_is_named_and_left(project: Path, server: Gearmand) -> None:
    worker = held(project, "hold-loop", grace="0")
    worker.send_signal(signal.SIGTERM)
    printed, said = worker.communicate(timeout=20)
    assert worker.returncode == 1
    assert printed == b"half a line of it"
    assert b"ends without these jobs, which do not stop: hold-loop " in said
    wait_until(lambda: queue_of(server, "hold-loop") == (1, 0, 0), "the job is given back")


def test_a_handler_that_ignores_its_cancellation_does_not_hold_a_worker(project: Path, server: Gearmand) -> None:
    worker = held(project, "hold-on", grace="0")
    worker.send_signal(signal.SIGTERM)
    _, said = worker.communicate(timeout=20)
    assert worker.returncode == 0
    assert b"given back" in said
    wait_until(lambda: queue_of(server, "hold-on") == (1, 0, 0), "the job is given back")


def test_a_third_signal_ends_a_worker_at_once(project: Path) -> None:
    worker = held(project, "hold-loop", grace="1000")

    def ended() -> bool:
        # More often than thrice, as a signal that comes before Python has looked at the last one is lost.
        worker.send_signal(signal.SIGTERM)
        return worker.poll() is not None

    wait_until(ended, "it ends")
    assert worker.returncode == 1
    worker.communicate()


def test_a_worker_that_has_not_begun_can_be_stopped(project: Path) -> None:
    (project / "opening.stuck").touch()
    worker = spawn(command("worker", "tasks:app"), stderr=subprocess.PIPE)
    started(project, "opening")
    worker.send_signal(signal.SIGTERM)
    _, said = worker.communicate(timeout=20)
    assert worker.returncode == 0
    assert said.endswith(f"que: {worker.pid} has stopped\n".encode())
