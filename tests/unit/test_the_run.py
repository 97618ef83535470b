"""The rules of a test run that tests/conftest.py makes: what soaks is left out, and CI allows no surprising skip."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE = """
import pytest
from tests.servers import require

def test_that_passes(): ...
@pytest.mark.soak
def test_that_soaks(): ...
def test_that_skips(): pytest.skip("no server")
@pytest.mark.skip("later")
def test_marked_as_skipped(): ...
def test_skipped_as_expected(): pytest.skip("needs Python 3.12")
@pytest.mark.xfail
def test_failing_as_expected(): assert 0
def test_that_lacks_a_server(): require("no-such-server")
"""


def outcomes(directory: Path, module: str, *arguments: str, ci: str) -> dict[str, str]:
    """Return what pytest says of each test of a module of that text, under the conftest of this suite."""
    path = directory / "test_module.py"
    path.write_text(module)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-c",
        os.devnull,
        "--rootdir",
        str(directory),
        "-p",
        "tests.conftest",
    ]
    run = subprocess.run(
        [*command, "-p", "no:cacheprovider", *arguments, str(path)],
        cwd=ROOT,
        env=os.environ | {"CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    return dict(re.findall(r"^\S*::(\w+) ([A-Z]+)", run.stdout, re.MULTILINE)) | {"exit": str(run.returncode)}


def test_a_skip_fails_in_ci_unless_it_is_expected(tmp_path: Path) -> None:
    assert outcomes(tmp_path, MODULE, ci="true") == {
        "test_that_passes": "PASSED",
        "test_that_skips": "FAILED",
        "test_marked_as_skipped": "ERROR",
        "test_skipped_as_expected": "SKIPPED",
        "test_failing_as_expected": "XFAIL",
        "test_that_lacks_a_server": "FAILED",
        "exit": str(pytest.ExitCode.TESTS_FAILED.value),
    }


def test_elsewhere_a_skip_is_a_skip_and_what_soaks_runs_when_asked_for(tmp_path: Path) -> None:
    assert outcomes(tmp_path, MODULE, "--soak", ci="") == {
        "test_that_passes": "PASSED",
        "test_that_soaks": "PASSED",
        "test_that_skips": "SKIPPED",
        "test_marked_as_skipped": "SKIPPED",
        "test_skipped_as_expected": "SKIPPED",
        "test_failing_as_expected": "XFAIL",
        "test_that_lacks_a_server": "SKIPPED",
        "exit": str(pytest.ExitCode.OK.value),
    }


def test_a_module_that_skips_itself_fails_in_ci(tmp_path: Path) -> None:
    run = outcomes(tmp_path, "import pytest\npytest.importorskip('no_such_module')", ci="true")
    assert run["exit"] == str(pytest.ExitCode.INTERRUPTED.value)
