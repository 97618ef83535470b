"""The benchmarks still run: each question in its smallest size, beside whichever rivals are installed."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import QUESTIONS
from tests.servers import require

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered_in_its_smallest_size(question: str) -> None:
    require("gearmand")
    command = [sys.executable, "-m", "benchmarks", "--quick", question]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    _, _, rows = ended.stdout.partition("| ---")
    ours = "py" if question == "codec_floor" else "que"
    # The first figure of a row: one that a small size does not have is a dash behind it.
    figures = [line.split("|")[2 if ours == "py" else -2] for line in rows.splitlines()[1:] if _is_row_of(ours, line)]
    assert figures
    assert all(math.isfinite(float(figure.strip().replace(",", ""))) for figure in figures)


def _is_row_of(word: str, line: str) -> bool:
    return line.startswith("| ") and word in line.split("|")[1]


def test_a_question_that_does_not_exist_is_refused_by_name() -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "speed"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 2
    assert "no such question: speed" in ended.stderr
