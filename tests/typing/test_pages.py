"""The programs on the pages that users read are as typed as the library that they show."""

import json
from pathlib import Path

import pytest

from tests.docs.pages import programs
from tests.typing.checkers import ROOT, output_of

PROGRAMS = {f"{name.lower().replace(' ', '_')}.py": program for name, program in programs().items()}
SETTINGS = {"typeCheckingMode": "strict", "include": ["."], "extraPaths": [str(ROOT / "src")]}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs, one a file, where pyright finds the settings of the rest of the code."""
    made = tmp_path_factory.mktemp("pages")
    for name, program in PROGRAMS.items():
        (made / name).write_text(program)
    (made / "pyrightconfig.json").write_text(json.dumps(SETTINGS))
    return made


def test_mypy_finds_no_error_in_a_program_of_a_page(directory: Path) -> None:
    said = output_of("mypy", "--strict", *(str(directory / name) for name in PROGRAMS))
    assert said.startswith("Success"), said


def test_pyright_finds_no_error_in_a_program_of_a_page(directory: Path) -> None:
    said = json.loads(output_of("pyright", "--outputjson", "--project", str(directory)))
    assert said["generalDiagnostics"] == []
    assert said["summary"]["filesAnalyzed"] == len(PROGRAMS)
