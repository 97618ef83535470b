"""The README tells the truth: its code runs, its table is what the drivers say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import capability_table
from tests.servers import Gearmand

TEXT = capability_table.README.read_text()
SECTIONS = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
BLOCKS = [(title, block) for title, body in SECTIONS for block in re.findall(r"```python\n(.*?)```", body, re.DOTALL)]


def test_the_readme_has_an_example_of_each_face() -> None:
    assert [title for title, _ in BLOCKS] == ["Async", "Blocking", "Class form", "Worker", "A driver of your own"]


@pytest.mark.parametrize("block", [block for _, block in BLOCKS], ids=[title for title, _ in BLOCKS])
def test_an_example_of_the_readme_runs(block: str, gearmand: Gearmand, tmp_path: Path) -> None:
    program = tmp_path / "example.py"
    program.write_text(block.replace("127.0.0.1:4730", f"127.0.0.1:{gearmand.port}"))
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_table_of_capabilities_is_what_the_drivers_say() -> None:
    assert capability_table.written(TEXT) == TEXT


def test_the_first_screen_has_the_two_commands() -> None:
    commands = re.findall(r"^    (\S.*)$", TEXT[: TEXT.index("## ")], re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith("que demo")
    assert commands[1] == "tests/run"
