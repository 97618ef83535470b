"""`que worker -w`: processes that start alike, stand in for each other, and end together."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

import que
from tests.cli.commands import MARK, command, run, started
from tests.servers import spawn, wait_until


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def worked_once(project: Path) -> int:
    """Return the id of the worker that has worked one job."""
    (project / "first.go").touch()
    with que.Que(os.environ["TEST_URL"]).blocking() as q:
        return q.submit(MARK, "first").result(timeout=10)


def test_several_processes_work_and_end_together(project: Path) -> None:
    parent = spawn(command("worker", "tasks:app", "-c", "1", "-w", "2"))
    with que.Que(os.environ["TEST_URL"]).blocking() as q:
        handles = [q.submit(MARK, name) for name in ("one", "two")]
        started(project, "one", "two")
        for name in ("one", "two"):
            (project / f"{name}.go").touch()
        pids = {handle.result(timeout=10) for handle in handles}
    assert len(pids) == 2
    assert parent.pid not in pids
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=15) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_stop_while_the_workers_are_being_started_reaches_every_one(project: Path) -> None:
    parent = spawn(command("worker", "tasks:app", "-w", "6"))
    wait_until(lambda: bool(children_of(parent.pid)), "the first worker is started")
    parent.send_signal(signal.SIGINT)
    assert parent.wait(timeout=20) == 0


def test_a_stop_while_the_first_worker_imports_the_app_is_the_end(project: Path) -> None:
    (project / "slow.py").write_text("import os, pathlib, time\npathlib.Path(f'{os.getpid()}').touch()\ntime.sleep(60)")
    parent = spawn(command("worker", "slow:app", "-w", "2"), stderr=subprocess.PIPE)
    wait_until(lambda: any(name.isdigit() for name in os.listdir()), "the first one imports the app")
    parent.send_signal(signal.SIGINT)
    _, said = parent.communicate(timeout=20)
    assert (parent.returncode, said) == (0, b"")


@pytest.mark.parametrize("shadow", ["que", "typing", "asyncio"])
def test_a_module_beside_the_app_does_not_replace_what_the_workers_are_made_of(project: Path, shadow: str) -> None:
    (project / f"{shadow}.py").write_text("raise ImportError('the wrong one')\n")
    parent = spawn(command("worker", "tasks:app", "-w", "2"))
    assert worked_once(project) in children_of(parent.pid)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=15) == 0


def test_what_a_handler_starts_has_no_supervisor(project: Path) -> None:
    parent = spawn(command("worker", "tasks:app", "-w", "2"))
    with que.Que(os.environ["TEST_URL"]).blocking() as q:
        names = q.submit(que.Job("environment", str, list[str]), "").result(timeout=10)
    assert not {name for name in names if name.startswith("QUE_")} - os.environ.keys()
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=15) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1], ids=["SIGKILL", "SIGUSR1"])
def test_a_worker_that_is_killed_is_named_and_replaced_and_the_other_goes_on(
    project: Path, number: signal.Signals
) -> None:
    parent = spawn(command("worker", "tasks:app", "-w", "2"), stderr=subprocess.PIPE)
    first = worked_once(project)
    wait_until(lambda: len(children_of(parent.pid)) == 2, "both are started")
    (other,) = set(children_of(parent.pid)) - {first}
    os.kill(first, number)
    wait_until(lambda: first not in children_of(parent.pid), "it has ended")
    assert worked_once(project) in {other, *children_of(parent.pid)} - {first}
    wait_until(lambda: len(children_of(parent.pid)) == 2, "another one takes its place")
    assert other in children_of(parent.pid)
    parent.send_signal(signal.SIGTERM)
    _, said = parent.communicate(timeout=15)
    assert parent.returncode == 0
    assert f"que: worker {first} was killed by {number.name}; starting another one in 0.5 s\n" in said.decode()


def test_a_worker_that_exits_is_named_with_its_exit_code(project: Path) -> None:
    parent = spawn(command("worker", "tasks:app", "-w", "2"), stderr=subprocess.PIPE)
    with que.Que(os.environ["TEST_URL"]).blocking() as q:
        assert q.submit(que.Job("exit", str, int), "once").result(timeout=20) in children_of(parent.pid)
    parent.send_signal(signal.SIGTERM)
    _, said = parent.communicate(timeout=15)
    assert parent.returncode == 0
    assert b"ended with exit code 3; starting another one in 0.5 s\n" in said


def test_an_app_that_cannot_be_worked_ends_all_with_its_error_told_once(project: Path) -> None:
    ended = run("worker", "broken:app", "-w", "3")
    assert ended.returncode == 1
    first, second = ended.stderr.splitlines()
    assert first.startswith("que: cannot import 'broken': ValueError: no luck")
    assert re.fullmatch(r"que: worker \d+ ended with exit code 1", second)


def test_a_worker_that_cannot_start_again_is_tried_until_it_can(project: Path) -> None:
    parent = spawn(command("worker", "tasks:app", "-w", "2"), stderr=subprocess.PIPE)
    pids = {worked_once(project)}
    (project / "tasks.py").rename(project / "away.py")
    wait_until(lambda: len(children_of(parent.pid)) == 2, "both are started")
    pids |= set(children_of(parent.pid))
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert parent.stderr is not None
    line = b""
    while b"in 1 s" not in line:
        line = parent.stderr.readline()
    assert b"ended with exit code 1; starting another one in 1 s\n" in line
    (project / "away.py").rename(project / "tasks.py")
    assert worked_once(project) not in pids
    parent.send_signal(signal.SIGTERM)
    parent.communicate(timeout=15)
    assert parent.returncode == 0


def test_a_worker_that_ignores_every_stop_is_killed_by_the_supervisor(project: Path) -> None:
    ignore = "import signal, pathlib, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    (project / "deaf.py").write_text(f"{ignore}pathlib.Path('deaf.started').touch()\ntime.sleep(300)\n")
    parent = spawn(command("worker", "deaf:app", "-w", "2", "--grace", "0"), stderr=subprocess.PIPE)
    started(project, "deaf")
    parent.send_signal(signal.SIGTERM)
    _, said = parent.communicate(timeout=40)
    assert parent.returncode == 137
    assert b"killing what does not end" in said


def test_no_worker_outlives_its_supervisor(project: Path) -> None:
    parent = spawn(command("worker", "tasks:app", "-c", "1", "-w", "2"))
    pid = worked_once(project)
    pids = {pid, *children_of(parent.pid)}
    assert len(pids) == 2
    parent.kill()
    parent.wait(timeout=10)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the workers end with their supervisor")
