"""The pages tell the truth: their programs run, their links lead somewhere, the table is what the drivers say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import capability_table
from tests.docs.pages import PAGES, README, ROOT, programs
from tests.servers import Gearmand

PROGRAMS = programs()
TEXT = README.read_text()


def test_the_readme_has_an_example_of_each_face() -> None:
    assert list(PROGRAMS)[:5] == ["Async", "Blocking", "Class form", "Worker", "A driver of your own"]


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_of_a_page_runs(program: str, gearmand: Gearmand, tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text(program.replace("4730", str(gearmand.port)))
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_table_of_capabilities_is_what_the_drivers_say() -> None:
    assert capability_table.written(TEXT) == TEXT


def test_the_first_screen_has_the_two_commands() -> None:
    commands = re.findall(r"^    (\S.*)$", TEXT[: TEXT.index("## ")], re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith("que demo")
    assert commands[1] == "tests/run"
