"""`python -m que.testing URL` tells a driver's user whether their own server keeps what the driver states."""

import importlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from que.testing.__main__ import main
from tests.servers import StartGearmand

importlib.import_module("tests.testing.broken")


def test_it_prints_the_capabilities_each_promise_and_the_sums(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory://", "--quick", "-k", "cancelled"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "memory:// states"
    assert "  lease            process" in lines
    assert "  dead_letters     –" in lines
    assert [line.split(" s  ")[1] for line in lines if line.startswith("kept ")] == [
        "a waiting job that is cancelled never runs",
        "a running job that is cancelled ends",
        "a reserve that is cancelled loses nothing",
        "a connect that is cancelled leaves nothing behind",
    ]
    assert lines[-1] == "4 kept, 0 broken, 0 not applicable"


def test_it_prints_the_ledger_of_worker_processes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([f"sqlite:///{tmp_path / 'jobs.db'}", "--quick", "-k", "lost or run twice"]) == 0
    printed = capsys.readouterr().out
    assert "1000 accepted, 1000 runs, 1000 done: 0 lost, 0 twice, 0 phantom\n" in printed
    assert "600 accepted, 600 runs, 600 done: 0 lost, 0 twice, 0 phantom; " in printed


def test_it_says_what_is_broken_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crossing-memory://", "--quick", "-k", "mixed up", "--import", "tests.testing.broken"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].startswith("BROKEN ")
    assert "answers were another's" in lines[-2]
    assert lines[-1] == "0 kept, 1 broken, 0 not applicable"


def test_it_says_why_a_promise_cannot_be_asked_for(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([f"sqlite:///{tmp_path / 'jobs.db'}", "--quick", "-k", "outlasts"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].strip() == "a lease of 30 s is longer than the 3 s that this run waits"


def test_it_restarts_the_engine_by_a_command(own_gearmand: StartGearmand, tmp_path: Path) -> None:
    server = own_gearmand()
    asked, answered = tmp_path / "asked", tmp_path / "answered"
    for pipe in (asked, answered):
        os.mkfifo(pipe)

    def restart_twice() -> None:
        for _ in range(2):
            asked.read_text()
            server.restart()
            answered.write_text("done")

    restarting = threading.Thread(target=restart_twice, daemon=True)
    restarting.start()
    command = f"echo please > {asked}; cat {answered}"
    assert main([server.url, "--quick", "-k", "everyone is back", "--restart", command]) == 0
    restarting.join(20)
    assert not restarting.is_alive()


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        pytest.param("rediss:/x", "invalid engine URL", id="no URL"),
        pytest.param("sqllite:///x", "did you mean sqlite://", id="an unknown scheme"),
        pytest.param("memory://?size=1", "unknown option 'size'", id="an unknown option"),
        pytest.param("gearman://127.0.0.1:1", "cannot connect to gearman://127.0.0.1:1", id="nobody there"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_line(url: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([url]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("que.testing: ")
    assert complaint in err


def test_a_password_is_never_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for url in ("memory://user:hunter2@host", "gearman://user:hunter2@host", "nobody://user:hunter2@host"):
        assert main([url]) == 2
    assert "hunter2" not in "".join(capsys.readouterr())


def test_a_word_that_no_scenario_has_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["memory://", "-k", "flies"])
    assert "no scenario has 'flies' in its name" in capsys.readouterr().err


WITHOUT_PYTEST = """
import sys
sys.modules["pytest"] = None
from que.testing.__main__ import main
status = main(["memory://", "--quick", "-k", "byte for byte"])
import que.testing
try:
    que.testing.DriverSuite
except ImportError as error:
    print(error)
sys.exit(status)
"""


def test_it_works_without_pytest_and_the_suite_says_what_it_needs() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYTEST], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-2:] == [
        "1 kept, 0 broken, 0 not applicable",
        "que.testing.DriverSuite needs pytest: pip install pytest",
    ]
