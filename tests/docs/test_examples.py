"""The programs of examples/ do what they say, started as their first lines say."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import Gearmand, end, require, spawn, wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAM_SECONDS = 60
PYTHON = [sys.executable, "-W", "error"]


def program_lines(*words: str, url: str = "memory://", **environment: str) -> list[str]:
    """Return what the program printed; it must end well and say nothing on stderr."""
    ended = subprocess.run(
        [*PYTHON, *words],
        cwd=EXAMPLES,
        env=os.environ | environment | {"QUE_URL": url},
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
    return ended.stdout.splitlines()


@contextmanager
def running(*words: str, stdout: int = subprocess.DEVNULL, **environment: str) -> Generator[subprocess.Popen[bytes]]:
    """A program of examples/ that runs on by itself, and that is gone at the end of the block."""
    path = os.pathsep.join(filter(None, [str(EXAMPLES), os.environ.get("PYTHONPATH")]))
    program = spawn([*PYTHON, *words], env=os.environ | environment | {"PYTHONPATH": path}, stdout=stdout)
    try:
        yield program
    finally:
        end(program)
        if program.stdout is not None:
            program.stdout.close()


def next_line(program: "subprocess.Popen[bytes]") -> str:
    assert program.stdout is not None
    return program.stdout.readline().decode().strip()


def test_the_client_gets_thumbnails_of_a_worker_that_it_does_not_import(gearmand: Gearmand) -> None:
    with running("-m", "que", "worker", "thumbnails_worker:app", "-c", "10", QUE_URL=gearmand.url) as worker:
        lines = program_lines("thumbnails_client.py", url=gearmand.url)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PROGRAM_SECONDS) == 0
    assert [len(line) for line in lines[:8]] == [16] * 4 + [8] * 4
    assert lines[4:] == ["........", "..##.##.", "..#.#.#.", "...###..", "refused: params.width: expected int >= 1"]


def test_the_web_page_answers_and_stops_at_an_interrupt() -> None:
    with running(str(EXAMPLES / "web_form.py"), "0", stdout=subprocess.PIPE, QUE_URL="memory://") as server:
        url = next_line(server)
        with urllib.request.urlopen(f"{url}?text=to+be+or+not+to+be", timeout=PROGRAM_SECONDS) as answer:
            assert answer.read().decode() == "be 2\nnot 1\nor 1\nto 2\n"
        server.send_signal(signal.SIGINT)
        assert next_line(server) == "stopped"
        assert server.wait(PROGRAM_SECONDS) == 0


def test_several_hear_of_the_progress_and_one_gives_up() -> None:
    lines = program_lines("progress.py")
    gave_up = lines.index("one of those who wait has given up")
    del lines[gave_up]
    assert lines == [
        *("page 1", "1 of 3", "page 2", "2 of 3", "page 3", "3 of 3"),
        "warning: the paper is used up",
        "done: 3 pages",
    ]
    assert gave_up < 6, "before the job has ended"


def test_the_gearman_command_is_a_client_and_a_worker(gearmand: Gearmand) -> None:
    require("gearman")
    assert program_lines("foreign_peers.py", url=gearmand.url) == [
        'the client of the gearman command got {"echo":"cap2"}',
        "its worker answered HEY",
    ]


def test_the_folder_is_a_queue(tmp_path: Path) -> None:
    file, lengths = program_lines("folder_driver.py", str(tmp_path))
    assert re.fullmatch(r"a file: \d+-[0-9a-f-]+\.job", file)
    assert lengths == "(3, 5)"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_gazette_comes_out_twice_and_its_results_are_kept(gearmand: Gearmand, tmp_path: Path) -> None:
    lines = program_lines("gazette.py", url=gearmand.url, QUE_STORE=f"sqlite:///{tmp_path / 'gazette.db'}")
    assert lines == [
        "posted edition 1: 10 words on the harbour, 10 words on the weather",
        "posted edition 2: 10 words on the harbour, 10 words on the weather",
        "found again: 3",
        "the press has run bind, count, morning, post, wait, write",
    ]


HOLDING = """
import asyncio, pathlib, sys, folder_driver, que
folder, go_on, *to_send = sys.argv[1:]
app = que.Que("folder://" + folder)

@app.job("hold")
async def hold(params: str) -> None:
    print("began", params, flush=True)
    while not pathlib.Path(go_on).exists():
        await asyncio.sleep(0.01)
    print("done", params, flush=True)

async def main():
    async with app, app.worker():
        for params in to_send:
            await hold.send(params)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_worker_that_is_killed_leaves_its_job_to_the_next(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    with running("-c", HOLDING, str(tmp_path), str(go_on), "a job", stdout=subprocess.PIPE) as first:
        assert next_line(first) == "began a job"
        first.kill()
        first.wait(PROGRAM_SECONDS)
    go_on.touch()
    with running("-c", HOLDING, str(tmp_path), str(go_on), stdout=subprocess.PIPE) as second:
        assert [next_line(second), next_line(second)] == ["began a job", "done a job"]
        wait_until(lambda: not list(tmp_path.glob("jobs/*")), "the job's file is gone")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_the_list_of_examples_names_each(path: Path) -> None:
    assert f"]({path.name})" in (EXAMPLES / "README.md").read_text()
