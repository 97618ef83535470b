"""The command line, as a user meets it: what it prints, bad input, the demo, one worker that a signal stops."""

import importlib.metadata
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

import que
from tests.cli.commands import MARK, command, queue_of, run, started
from tests.servers import Gearmand, free_port, spawn


@pytest.mark.parametrize("engine", ["memory", "gearman"])
def test_the_demo_prints_the_answer_and_its_rate(engine: str, gearmand: Gearmand) -> None:
    ended = run("demo", *([f"gearman://127.0.0.1:{gearmand.port}"] if engine == "gearman" else []))
    assert ended.returncode == 0, ended.stderr
    assert "result:    cap2" in ended.stdout
    assert re.search(r"rate: .* jobs/s.*[1-9][\d,]* answers, all right$", ended.stdout)


def test_the_demo_on_a_shared_server_leaves_no_job_and_takes_none(server: Gearmand) -> None:
    app = que.Que(server.url)
    with app.blocking() as q:
        q.send(que.Job("echoReverse", str, str), "somebody's").result(timeout=10)
        assert run("demo", server.url).returncode == 0
    assert queue_of(server, "echoReverse").total == 1
    assert queue_of(server, "que-demo-echoReverse").total == 0


def test_the_demo_without_its_server_says_so_in_one_line() -> None:
    port = free_port()
    ended = run("demo", f"gearman://127.0.0.1:{port}")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"que: cannot connect to gearman://127.0.0.1:{port}: ")
    assert ended.stderr.count("\n") == 1


def test_the_version_is_that_of_the_distribution() -> None:
    assert run("--version").stdout == f"que {importlib.metadata.version('que-jobs')}\n"


@pytest.mark.parametrize("words", [("demo", "--help"), ("worker", "--help"), ("--help",)], ids=" ".join)
def test_help_is_for_stdout_and_a_success(words: tuple[str, ...]) -> None:
    ended = run(*words)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("Usage: ")


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("demo memry://", 1, "no driver for 'memry'; did you mean memory://?"),
        ("demo nonsense", 1, "expected scheme://host:port"),
        ("demo gearman://somebody:geheim@127.0.0.1", 1, "gearman://somebody:***@127.0.0.1"),
        ("worker tasks:app -c 0", 2, "'-c' / '--concurrency'"),
        ("worker tasks:app -w two", 2, "'-w' / '--processes'"),
        ("worker tasks:app --grace -1", 2, "'--grace'"),
        ("worker tasks:app --grace inf", 2, "'--grace'"),
        ("worker tasks:app --grace nan", 2, "'--grace'"),
        ("worker", 2, "'MODULE:APP'"),
        ("serve", 2, "'serve'"),
    ],
)
def test_bad_input_is_named_in_the_last_line_without_a_traceback(line: str, status: int, said: str) -> None:
    ended = run(*line.split())
    assert (ended.returncode, ended.stdout) == (status, "")
    assert said in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert "geheim" not in ended.stderr


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere:app", "cannot import 'nowhere'"),
        ("tasks:missing", "has no 'missing'"),
        ("tasks:number", "is no que.Que but of type int"),
        ("tasks", "names no app"),
        ("broken:app", "cannot import 'broken': ValueError: no luck ("),
        ("tasks:idle", "no job of this app has a handler"),
    ],
)
def test_an_app_that_cannot_be_worked_is_named_without_a_traceback(project: Path, target: str, words: str) -> None:
    ended = run("worker", target, cwd=project)
    assert ended.returncode == 1
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


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
    assert b"serves mark, hold-thread, " in said
    assert f" with 5 slots at {os.environ['TEST_URL']}\n".encode() in said
    assert b"has got " + number.name.encode() in said


def test_a_second_signal_gives_the_running_job_back(project: Path) -> None:
    first = spawn(command("worker", "tasks:app"), stderr=subprocess.PIPE)
    with que.Que(os.environ["TEST_URL"]).blocking() as q:
        handle = q.submit(MARK, "stuck")
        started(project, "stuck")
        assert first.stderr is not None
        first.send_signal(signal.SIGTERM)
        lines = iter(first.stderr.readline, b"")
        assert any(b"has got SIGTERM" in line for line in lines)
        first.send_signal(signal.SIGTERM)
        assert first.wait(timeout=10) == 0
        first.stderr.close()
        (project / "stuck.go").touch()
        second = spawn(command("worker", "tasks:app"), stderr=subprocess.DEVNULL)
        assert handle.result(timeout=10) == second.pid
    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=10) == 0


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


def test_a_worker_that_no_other_process_can_reach_says_so(project: Path) -> None:
    ended = run("worker", "tasks:alone", "--burst")
    assert ended.returncode == 0
    assert "gets no jobs from other processes at memory://: name an engine that they share\n" in ended.stderr
    assert "from other processes" not in run("worker", "tasks:app", "--burst").stderr
