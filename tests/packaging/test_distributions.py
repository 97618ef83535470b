"""What leaves the tree: an sdist that builds anywhere, a wheel that holds what it must and no more, and the switch."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from email.parser import Parser
from importlib.metadata import files
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
NOT_SOURCES = shutil.ignore_patterns(
    ".git",
    ".venv*",
    ".*_cache",
    ".hypothesis",
    ".benchmarks",
    "__pycache__",
    "build",
    "dist",
    "*.egg-info",
    "*.so",
    "_wire_c.c",
)
COMPILED = "que/gearman/_wire_c"
PROBE = "import que, que.gearman.wire as wire; print(wire.IMPLEMENTATION, que.__file__)"


def build(output: Path, *kinds: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build `kinds` of the tree into `output` with this environment's setuptools and Cython: nothing is downloaded.

    It builds a copy, so that nothing is left in the tree that other tests import from, nor for the next build.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in {"QUE_EXTENSION", "CC", "CFLAGS"}}
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copytree(ROOT, Path(scratch) / "que", ignore=NOT_SOURCES)
        return subprocess.run(
            [sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", str(output), str(copy)],
            env=inherited | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, and the wheel that was built from it."""
    output = tmp_path_factory.mktemp("dist")
    built = build(output, QUE_EXTENSION="1")
    assert built.returncode == 0, built.stdout
    return output


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (path,) = distributions.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist_names(distributions: Path) -> set[str]:
    """The sdist's files, without its top directory."""
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in archive.getnames()}


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def required(pattern: str) -> list[str]:
    """The tree's files of that pattern, as the sdist should name them."""
    found = [path for path in ROOT.glob(pattern) if "__pycache__" not in path.parts and path.is_file()]
    assert found, f"no {pattern} in the tree"
    return [path.relative_to(ROOT).as_posix() for path in found]


@pytest.mark.parametrize(
    "pattern",
    [
        "src/**/*.py",
        "src/**/*.pyx",
        "src/que/py.typed",
        "tests/**/*.py",
        "tests/run",
        "stubs/**/*.pyi",
        "benchmarks/**/*.py",
        "benchmarks/**/*.c",
        "setup.py",
        "CHANGELOG.md",
    ],
)
def test_the_sdist_holds_what_a_build_and_a_test_run_need(sdist_names: set[str], pattern: str) -> None:
    assert set(required(pattern)) <= sdist_names


@pytest.mark.parametrize("suffix", [".c", ".so", ".pyc", ".html"])
def test_the_sdist_holds_nothing_generated(sdist_names: set[str], suffix: str) -> None:
    generated = {name for name in sdist_names if name.endswith(suffix)}
    assert generated - {"benchmarks/pairs/libgearman_pair.c", "benchmarks/codec_floor.c"} == set()


def test_the_wheel_holds_every_module_and_its_types(wheel: Path) -> None:
    sources = ("src/que/**/*.py", "src/que/**/*.sql", "src/que/**/*.lua")
    modules = {name.removeprefix("src/") for pattern in sources for name in required(pattern)}
    assert modules | {"que/py.typed"} <= set(names_in(wheel))


def test_the_wheel_holds_the_compiled_codec_and_not_what_it_was_made_of(wheel: Path) -> None:
    codec = [name for name in names_in(wheel) if name.startswith(COMPILED)]
    assert [PurePosixPath(name).suffix for name in codec] == [".so"]


def test_the_wheel_installs_nothing_but_que(wheel: Path) -> None:
    tops = {PurePosixPath(name).parts[0] for name in names_in(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"que", "pytest_que.py"}
    assert {PurePosixPath(name).suffix for name in names_in(wheel) if name.startswith("que/")} <= {
        ".py",
        ".so",
        ".typed",
        ".sql",
        ".lua",
    }


def test_the_wheel_declares_what_pyproject_does(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
        entry_points = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    unconditional = [requirement for requirement in metadata.get_all("Requires-Dist", []) if "extra" not in requirement]
    assert sorted(unconditional) == sorted(project["dependencies"])
    assert set(metadata.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_payload(), "the README is the long description"
    assert "que = que.cli:main" in entry_points
    assert "pytest_que = pytest_que" in entry_points


def install(wheel: Path, directory: Path) -> Path:
    """Return the interpreter of a fresh environment that holds the wheel and its two core dependencies alone."""
    venv.create(directory, with_pip=False)
    python = directory / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-index", "--no-deps", str(wheel)],
        check=True,
    )
    (site,) = directory.glob("lib/python*/site-packages")
    for distribution in ("msgspec", "typing_extensions"):
        _lend(distribution, site)
    return python


def _lend(distribution: str, site: Path) -> None:
    """Link an installed distribution of this environment into another one: the same files without a download."""
    listed = files(distribution) or []
    for top in {path.parts[0] for path in listed} - {"..", "__pycache__"}:
        source = Path(str(listed[0].locate())).parents[len(listed[0].parts) - 1] / top
        (site / top).symlink_to(source)


def probe(python: Path) -> tuple[str, Path]:
    """Which codec an environment's que uses, and where that que is."""
    answer = subprocess.run(
        [str(python), "-I", "-W", "error", "-c", PROBE], text=True, capture_output=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    implementation, path = answer.stdout.split()
    return implementation, Path(path)


def test_the_wheel_of_the_sdist_works_compiled_with_the_core_dependencies_alone(wheel: Path, tmp_path: Path) -> None:
    implementation, path = probe(install(wheel, tmp_path))
    assert implementation == "c"
    assert path.is_relative_to(tmp_path)


def test_without_the_extension_the_wheel_is_pure_and_works(tmp_path: Path) -> None:
    built = build(tmp_path, "--wheel", QUE_EXTENSION="0")
    assert built.returncode == 0, built.stdout
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert probe(install(wheel, tmp_path / "environment"))[0] == "py"


# Each makes the extension impossible in its own way; a directory of that name is on the path of the build.
OBSTACLES = {
    "no compiler": ({"CC": "false"}, "'false'"),
    "no Cython": ({"PYTHONPATH": "{blocked}"}, "Cython is not here"),
}
with_an_obstacle = pytest.mark.parametrize(("environment", "reason"), OBSTACLES.values(), ids=OBSTACLES)


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A directory that hides Cython from whoever has it on its path."""
    package = tmp_path / "blocked" / "Cython"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('Cython is not here')\n")
    return package.parent


@with_an_obstacle
def test_a_build_that_insists_on_the_extension_fails_and_says_why(
    environment: dict[str, str], reason: str, blocked: Path, tmp_path: Path
) -> None:
    variables = {name: value.format(blocked=blocked) for name, value in environment.items()}
    built = build(tmp_path, "--wheel", QUE_EXTENSION="1", **variables)
    assert built.returncode != 0
    assert reason in built.stdout
    assert not list(tmp_path.glob("*.whl"))


@with_an_obstacle
def test_a_build_that_does_not_insist_falls_back_with_a_warning_that_says_why(
    environment: dict[str, str], reason: str, blocked: Path, tmp_path: Path
) -> None:
    variables = {name: value.format(blocked=blocked) for name, value in environment.items()}
    built = build(tmp_path, "--wheel", **variables)
    assert built.returncode == 0, built.stdout
    warning = built.stdout[built.stdout.index("que is built without its compiled Gearman codec") :]
    assert "QUE_EXTENSION=1" in warning, "the warning says how to insist"
    assert reason in warning
    (wheel,) = tmp_path.glob("*.whl")
    assert probe(install(wheel, tmp_path / "environment"))[0] == "py"
