"""The compiled codec has the reference's signatures, and each kind of drift is reported.

stubtest compares classes; a function that the stub assigns is a variable to it, so functions are compared here.
"""

import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import pytest

from que.gearman import _wire_py
from tests.unit.wire.twins import TWINS

pytest.importorskip("mypy", reason="needs mypy")
if "c" not in TWINS:
    pytest.skip("needs the compiled codec, and QUE_EXTENSION=0 leaves it out", allow_module_level=True)

compiled = import_module("que.gearman._wire_c")
ROOT = Path(__file__).parents[3]
COMPILED = "que.gearman._wire_c"
DRIFTS = {
    "a renamed parameter": ("def feed(self, data:", "def feed(self, octets:"),
    "a new parameter": ("def buffer_updated(self, nbytes: int)", "def buffer_updated(self, nbytes: int, flush: bool)"),
    "another default": ("max_payload: int = DEFAULT_MAX_PAYLOAD) -> None", "max_payload: int = 1) -> None"),
    "a lost default": ("max_payload: int = DEFAULT_MAX_PAYLOAD) -> None", "max_payload: int) -> None"),
    "a lost function": ("def pack_header(", "def pack_head("),
    "a new method": ("    def get_buffer(", "    def reset(self) -> None: ...\n\n    def get_buffer("),
    "a method that was a property": ("    @property\n    def buffered", "    def buffered"),
    "a class that may have heirs": ("@final\nclass Parser", "class Parser"),
}


def tree(target: Path) -> Path:
    """A copy of the sources, the stubs and the compiled codec, wherever that one was built."""
    shutil.copytree(ROOT / "src", target / "src", ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.c"))
    shutil.copytree(ROOT / "stubs", target / "stubs")
    # Several interpreters' builds may lie side by side: this one's is what was imported.
    shutil.copy(str(compiled.__file__), target / "src/que/gearman")
    return target


def stubtest(where: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "MYPYPATH": f"{where / 'stubs'}{os.pathsep}{where / 'src'}",
        "PYTHONPATH": str(where / "src"),
    }
    return subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", COMPILED],
        cwd=where,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def test_the_compiled_codec_is_as_its_stub_says(tmp_path: Path) -> None:
    checked = stubtest(tree(tmp_path))
    assert checked.returncode == 0, checked.stdout
    assert "no issues found in 1 module" in checked.stdout


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_drift_of_the_reference_is_reported(tmp_path: Path, drift: str) -> None:
    reference = tree(tmp_path) / "src/que/gearman/_wire_py.py"
    before, after = DRIFTS[drift]
    source = reference.read_text()
    assert source.count(before) == 1, f"{before!r} is not once in the reference: mend this test"
    reference.write_text(source.replace(before, after))
    checked = stubtest(tmp_path)
    assert checked.returncode != 0, checked.stdout
    assert "error:" in checked.stdout
    assert COMPILED.rpartition(".")[2] in checked.stdout


def signature_of(function: Callable[..., object]) -> list[tuple[str, object, object]]:
    parameters = inspect.signature(function).parameters.values()
    return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]


@pytest.mark.parametrize("name", sorted(set(_wire_py.__all__) - {"Parser"}))
def test_a_compiled_function_has_the_signature_of_the_reference(name: str) -> None:
    assert signature_of(getattr(compiled, name)) == signature_of(getattr(_wire_py, name))


def test_both_twins_have_the_same_public_names() -> None:
    assert compiled.__all__ == _wire_py.__all__
    assert public(compiled.Parser) == public(_wire_py.Parser)


def public(kind: type[object]) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def lost_default(magic: bytes, kind: int, args: Sequence[bytes], max_payload: int) -> None: ...
def another_default(magic: bytes, kind: int, args: Sequence[bytes], max_payload: int = 1) -> None: ...
def renamed(magic: bytes, kind: int, arguments: Sequence[bytes], max_payload: int = 67108864) -> None: ...
def one_more(magic: bytes, kind: int, args: Sequence[bytes], max_payload: int = 67108864, extra: int = 0) -> None: ...


@pytest.mark.parametrize("drifted", [lost_default, another_default, renamed, one_more])
def test_a_drifted_function_would_be_told_apart(drifted: Callable[..., None]) -> None:
    assert signature_of(drifted) != signature_of(compiled.pack)
