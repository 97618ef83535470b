"""The public API is typed to its last symbol; that no type of it is a written Any, test_architecture.py holds."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import que

SOURCE = Path(__file__).parents[2] / "src"
CHECK_SECONDS = 110


@dataclass(frozen=True, slots=True)
class Verified:
    """What `pyright --verifytypes` says of a package: its score, and each exported symbol whether its type is known."""

    score: float
    symbols: dict[str, bool]

    @property
    def unknown(self) -> list[str]:
        return sorted(name for name, is_known in self.symbols.items() if not is_known)


def verified(package: str, source: Path) -> Verified:
    # pyright sees the sources by PYTHONPATH, and what they import beside the interpreter that comes first.
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(source),
        "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
    }
    command = [sys.executable, "-m", "pyright", "--outputjson", "--ignoreexternal", "--verifytypes", package]
    ended = subprocess.run(
        command, cwd=source, env=environment, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False
    )
    said = json.loads(ended.stdout)["typeCompleteness"]
    exported = [each for each in said["symbols"] if each["isExported"]]
    return Verified(
        score=said["completenessScore"],
        symbols={each["name"]: each["isTypeKnown"] and not each["isTypeAmbiguous"] for each in exported},
    )


@pytest.fixture(scope="module")
def public() -> Verified:
    return verified("que", SOURCE)


def test_pyright_knows_the_type_of_every_public_symbol(public: Verified) -> None:
    assert public.unknown == []
    assert public.score == 1.0


def test_pyright_looks_at_every_public_name(public: Verified) -> None:
    last_parts = {name.rpartition(".")[2] for name in public.symbols}
    assert set(que.__all__) <= last_parts


@pytest.mark.parametrize(
    "leak",
    [
        pytest.param("def leak(x): ...", id="no annotation"),
        pytest.param("def leak() -> list: ...", id="a bare container"),
        pytest.param("leak = dict[str, 'Missing']()", id="a name that is not there"),
    ],
)
def test_a_type_that_is_not_known_is_found(tmp_path: Path, leak: str) -> None:
    package = tmp_path / "leaky"
    package.mkdir()
    (package / "py.typed").touch()
    (package / "__init__.py").write_text(f"{leak}\n")
    assert "leaky.leak" in verified("leaky", tmp_path).unknown
