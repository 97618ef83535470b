"""The public API is typed to its last symbol; that no type of it is a written Any, test_architecture.py holds."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

import que
from tests.typing.checkers import ROOT, output_of

SOURCE = ROOT / "src"


@dataclass(frozen=True, slots=True)
class Verified:
    """What `pyright --verifytypes` says of a package: its score, and each exported symbol whether its type is known."""

    score: float
    symbols: dict[str, bool]

    @property
    def unknown(self) -> list[str]:
        return sorted(name for name, is_known in self.symbols.items() if not is_known)


def verified(package: str, source: Path) -> Verified:
    # pyright sees the sources by PYTHONPATH: here it follows no editable install.
    output = output_of(
        "pyright", "--outputjson", "--ignoreexternal", "--verifytypes", package, cwd=source, PYTHONPATH=str(source)
    )
    said = json.loads(output)["typeCompleteness"]
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
