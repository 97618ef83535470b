"""The ledger counts what was lost, what ran twice and what nobody sent, whatever becomes of those who write."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from que.testing import Entry, Ledger, tally

WRITER = """
import os, signal, sys, pathlib
from que.testing.ledger import Ledger
ledger = Ledger(pathlib.Path(sys.argv[1]))
for number in range(500):
    ledger.write("done", f"{sys.argv[2]}-{number}")
os.kill(os.getpid(), signal.SIGKILL)
"""


def entries(*said: str) -> list[Entry]:
    """Entries as "began a" says them."""
    return [Entry(event, key, 1, 0.0) for event, key in map(str.split, said)]


def test_each_line_of_many_writers_that_are_killed_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(name)]) for name in range(4)]
    assert [writer.wait(60) for writer in writers] == [-signal.SIGKILL] * 4
    written = Ledger(path).entries()
    assert {entry.key for entry in written} == {f"{name}-{number}" for name in range(4) for number in range(500)}
    assert {entry.pid for entry in written} == {writer.pid for writer in writers}
    assert os.getpid() not in {entry.pid for entry in written}


def test_a_job_that_was_accepted_and_never_ended_is_lost() -> None:
    sums = tally(entries("began a", "done a", "began b"), ["a", "b", "c"])
    assert (sums.accepted, sums.runs, sums.done, sums.lost) == (3, 2, 1, ["b", "c"])


def test_each_end_beyond_the_first_is_a_duplicate() -> None:
    sums = tally(entries("done a", "done a", "done a", "done b", "done b", "done c"), ["a", "b", "c"])
    assert (sums.twice, sums.duplicates, sums.lost) == ({"a": 2, "b": 1}, 3, [])


@pytest.mark.parametrize("event", ["began", "done"])
def test_a_job_that_nobody_sent_is_a_phantom_even_if_it_only_began(event: str) -> None:
    assert tally(entries(f"{event} x"), ["a"]).phantoms == ["x"]


def test_a_doubtful_job_is_neither_lost_nor_a_phantom() -> None:
    sums = tally(entries("began a"), [], doubtful=["a", "b"])
    assert (sums.lost, sums.phantoms) == ([], [])


def test_the_sums_say_all_there_is_in_one_line() -> None:
    sums = tally(entries("began a", "done a", "done a", "done x"), ["a", "b"], faults={"SIGKILL": 7})
    assert str(sums) == "2 accepted, 1 runs, 3 done: 1 lost, 1 twice, 1 phantom; 7 SIGKILL"
