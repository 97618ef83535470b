"""The command line, as a user meets it: processes, signals, exit statuses."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import que
from tests.servers import Gearmand, free_port, spawn, wait_until

APP = """
import asyncio, os, pathlib, que
app = que.Que(os.environ["TEST_URL"])
here = pathlib.Path(os.environ["TEST_DIRECTORY"])

@app.job("mark")
async def mark(name: str) -> int:
    (here / f"{name}.started").touch()
    while not (here / f"{name}.go").exists():
        await asyncio.sleep(0.01)
    (here / f"{name}.done").touch()
    return os.getpid()

idle = que.Que("memory://")
number = 3
"""
MARK = que.Job("mark", str, int)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "que", *words]


def run(*words: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=60, cwd=cwd, check=False)


@pytest.fixture
def project(tmp_path: Path, gearmand: Gearmand, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tasks.py").write_text(APP)
    (tmp_path / "broken.py").write_text("raise ValueError('no luck')\n")
    monkeypatch.setenv("TEST_URL", f"gearman://127.0.0.1:{gearmand.port}")
    monkeypatch.setenv("TEST_DIRECTORY", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("engine", ["memory", "gearman"])
def test_the_demo_prints_the_answer_and_its_rate(engine: str, gearmand: Gearmand) -> None:
    ended = run("demo", *([f"gearman://127.0.0.1:{gearmand.port}"] if engine == "gearman" else []))
    assert ended.returncode == 0, ended.stderr
    assert "result:    cap2" in ended.stdout
    assert re.search(r"rate: .* jobs/s.*20,000 of 20,000 right", ended.stdout)


def test_the_demo_without_its_server_says_so_in_one_line() -> None:
    port = free_port()
    ended = run("demo", f"gearman://127.0.0.1:{port}")
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith(f"que: cannot connect to gearman://127.0.0.1:{port}")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere:app", "cannot import 'nowhere'"),
        ("tasks:missing", "has no 'missing'"),
        ("tasks:number", "is a int, not a que.Que"),
        ("tasks", "names no app"),
        ("broken:app", "importing 'broken' failed: ValueError: no luck"),
        ("tasks:idle", "no job of this app has a handler"),
    ],
)
def test_an_app_that_cannot_be_worked_is_named_without_a_traceback(project: Path, target: str, words: str) -> None:
    ended = run("worker", target, cwd=project)
    assert ended.returncode == 1
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def started(project: Path, *names: str) -> None:
    wait_until(lambda: all((project / f"{name}.started").exists() for name in names), "the jobs start")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_lets_the_running_job_end(project: Path, number: signal.Signals) -> None:
    worker = spawn(command("worker", "tasks:app", "-c", "5"), stderr=subprocess.PIPE)
    with que.Que(os.environ["TEST_URL"]).blocking() as q:
        handle = q.submit(MARK, "slow")
        started(project, "slow")
        worker.send_signal(number)
        (project / "slow.go").touch()
        assert handle.result(timeout=10) == worker.pid
    _, said = worker.communicate(timeout=10)
    assert worker.returncode == 0
    assert b"serves mark with 5 slots" in said
    assert b"draining" in said


def test_a_second_signal_gives_the_running_job_back(project: Path) -> None:
    first = spawn(command("worker", "tasks:app"), stderr=subprocess.PIPE)
    with que.Que(os.environ["TEST_URL"]).blocking() as q:
        handle = q.submit(MARK, "stuck")
        started(project, "stuck")
        assert first.stderr is not None
        first.send_signal(signal.SIGTERM)
        lines = iter(first.stderr.readline, b"")
        assert any(b"draining" in line for line in lines)
        first.send_signal(signal.SIGTERM)
        assert first.wait(timeout=10) == 0
        first.stderr.close()
        (project / "stuck.go").touch()
        second = spawn(command("worker", "tasks:app"), stderr=subprocess.DEVNULL)
        assert handle.result(timeout=10) == second.pid
    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=10) == 0


def test_several_processes_work_and_end_together(project: Path) -> None:
    parent = spawn(command("worker", "tasks:app", "-c", "1", "-w", "2"), stderr=subprocess.DEVNULL)
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


def test_a_worker_that_dies_ends_the_others_with_a_failure(project: Path) -> None:
    parent = spawn(command("worker", "tasks:app", "-c", "1", "-w", "2"), stderr=subprocess.DEVNULL)
    (project / "first.go").touch()
    with que.Que(os.environ["TEST_URL"]).blocking() as q:
        pid = q.submit(MARK, "first").result(timeout=10)
    os.kill(pid, signal.SIGKILL)
    assert parent.wait(timeout=15) != 0


def test_no_worker_outlives_its_supervisor(project: Path) -> None:
    parent = spawn(command("worker", "tasks:app", "-c", "1", "-w", "2"), stderr=subprocess.DEVNULL)
    (project / "first.go").touch()
    with que.Que(os.environ["TEST_URL"]).blocking() as q:
        pid = q.submit(MARK, "first").result(timeout=10)
    parent.kill()
    parent.wait(timeout=10)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the worker ends with its supervisor")


def test_the_command_without_its_extra_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('no typer', name='typer')\n")
    ended = subprocess.run(
        command("demo"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )
    assert ended.returncode == 1
    assert ended.stderr.strip() == "que: the command line needs the extra cli: pip install 'que-jobs[cli]'"
