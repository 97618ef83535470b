"""The house stands: floors, no cycles, small rooms, and a front door that opens no more than it must."""

import ast
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import que
import que.errors

SOURCE = Path(__file__).parents[2] / "src"
MOST_FILE_LINES = 500
MOST_FUNCTION_LINES = 60
# Those that `import que` loads beyond what asyncio and msgspec do.
MOST_MODULES = 25

# A module stands where DESIGN.md has it, one that was split from such a module on the same floor, and any other on the
# lowest floor that its imports allow. A new module is not in the house until it is placed here.
FLOORS: dict[int, str] = {
    1: "alarm errors headers limits model address batch options signature tls",
    2: """
        driver serializer retry timetable
        gearman gearman.packets gearman._wire_py gearman._wire_c gearman.wire gearman.outbox gearman.client
        gearman.worker gearman.admin
    """,
    3: """
        handle enlisting outcome stream portal flow job classform declare middleware patience keeping backend
        child observer observing opening
        drivers drivers.memory
        drivers.amqp drivers.amqp.burying drivers.amqp.channel drivers.amqp.connection drivers.amqp.consumer
        drivers.amqp.driver drivers.amqp.link drivers.amqp.messages drivers.amqp.options drivers.amqp.settling
        drivers.amqp.submitter drivers.amqp.topology drivers.amqp.wire
        drivers.gearman drivers.gearman.admin drivers.gearman.client drivers.gearman.connection drivers.gearman.consumer
        drivers.gearman.driver drivers.gearman.link drivers.gearman.mapping drivers.gearman.options
        drivers.gearman.ring drivers.gearman.station
        drivers.nats drivers.nats.burying drivers.nats.consumer drivers.nats.driver drivers.nats.lane drivers.nats.link
        drivers.nats.names drivers.nats.options drivers.nats.session drivers.nats.settling drivers.nats.store
        drivers.nats.streams
        drivers.redis drivers.redis.consumer drivers.redis.driver drivers.redis.line drivers.redis.link
        drivers.redis.options drivers.redis.records drivers.redis.scripts drivers.redis.session drivers.redis.wire
        drivers.sqlite drivers.sqlite.burying drivers.sqlite.consumer drivers.sqlite.database drivers.sqlite.doorbell
        drivers.sqlite.driver drivers.sqlite.keeping drivers.sqlite.options drivers.sqlite.schema drivers.sqlite.session
        drivers.sqlite.submitting drivers.sqlite.throttling drivers.sqlite.ticking drivers.sqlite.turn
        drivers.sqlite.working
        drivers.postgres drivers.postgres.columns drivers.postgres.consumer drivers.postgres.driver drivers.postgres.ear
        drivers.postgres.letters drivers.postgres.options drivers.postgres.pool drivers.postgres.schema
        drivers.postgres.session drivers.postgres.transacting
    """,
    4: "worker station run records slots schedule processes watchdog otel metrics",
    5: "blocking app",
}
PUBLIC_NAMES_FLOOR = 6
PLACED = {f"que.{name}": floor for floor, names in FLOORS.items() for name in names.split()} | {
    "que": PUBLIC_NAMES_FLOOR
}

# Rooms that are placed as a whole, because nothing below may look into them.
TOP_ROOMS = {"que.cli": 7, "que.testing": 7}
# Modules that are part of such a room, and stand outside of it because of who looks for them.
DOORS = {"que.__main__": "que.cli", "pytest_que": "que.testing"}

FORBIDDEN_NAMES = {"utils", "util", "base", "manager", "helpers", "common", "misc"}
NO_IO = {"socket", "asyncio", "time", "ssl", "threading", "select", "selectors"}


def modules_of(root: Path) -> dict[str, Path]:
    """Return every module below `root` by its dotted name, compiled ones by their sources."""
    found: dict[str, Path] = {}
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.pyx")]):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules_of(SOURCE)
PYTHON_MODULES = {name: path for name, path in MODULES.items() if path.suffix == ".py"}


def room_of(module: str) -> str | None:
    if module in DOORS:
        return DOORS[module]
    return next((room for room in TOP_ROOMS if module == room or module.startswith(f"{room}.")), None)


def floor_of(module: str) -> int | None:
    room = room_of(module)
    return PLACED.get(module) if room is None else TOP_ROOMS[room]


def said(source: str, *, compiled: bool) -> Iterator[tuple[str, list[str], int]]:
    """Yield (module, names imported from it, relative level) for every import wherever it stands, TYPE_CHECKING too."""
    if compiled:
        for line in source.splitlines():
            if match := re.match(r"\s*(?:from\s+(\.*)([\w.]*)\s+c?import\s+(.*)|c?import\s+([\w.]+))", line):
                yield match[2] or match[4] or "", re.findall(r"\w+", match[3] or ""), len(match[1] or "")
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, [], 0
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", [alias.name for alias in node.names], node.level


def imports_of(module: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules that `module` imports; `from package import submodule` is an import of the submodule."""
    found: set[str] = set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for target, names, level in said(path.read_text(), compiled=path.suffix == ".pyx"):
        if level:
            anchor = package.split(".")[: len(package.split(".")) - level + 1]
            target = ".".join([*anchor, target]).rstrip(".")
        inner = {f"{target}.{name}" for name in names} & known.keys()
        found |= inner
        if not names or len(inner) < len(names):
            found.add(target)
    return found


IMPORTS = {name: imports_of(name, path, MODULES) for name, path in MODULES.items()}
OWN_IMPORTS = {name: targets & MODULES.keys() for name, targets in IMPORTS.items()}


def is_upward(importer: str, imported: str) -> bool:
    low, high = floor_of(importer), floor_of(imported)
    return low is not None and high is not None and high > low


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """Return one cycle as a path that ends where it starts, or nothing."""
    finished: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node not in finished:
            for target in sorted(graph.get(node, ())):
                if found := walk(target, [*path, node]):
                    return found
            finished.add(node)
        return []

    return next(filter(None, (walk(node, []) for node in sorted(graph))), list[str]())


def driver_of(module: str) -> str | None:
    match = re.match(r"que\.drivers\.(\w+)", module)
    return match[1] if match else None


# --- floors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_floor(module: str) -> None:
    assert floor_of(module) is not None, f"place {module} in FLOORS"


def test_every_placed_module_is_there() -> None:
    assert PLACED.keys() <= MODULES.keys()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_nothing_from_a_floor_above(module: str) -> None:
    assert [target for target in OWN_IMPORTS[module] if is_upward(module, target)] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_import_of_ours_is_of_a_module_that_exists(module: str) -> None:
    """Else the floors would be blind to it."""
    ours = {target for target in IMPORTS[module] if target.partition(".")[0] == "que"}
    assert ours <= MODULES.keys()


def test_no_import_is_part_of_a_cycle() -> None:
    assert cycle_in(OWN_IMPORTS) == []


@pytest.mark.parametrize("module", [name for name in MODULES if driver_of(name)])
def test_no_driver_imports_another(module: str) -> None:
    assert {driver_of(target) for target in OWN_IMPORTS[module]} <= {driver_of(module), None}


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("que.gearman")])
def test_the_protocol_does_no_io_and_has_no_clock(module: str) -> None:
    reached, ahead = {module}, [module]
    while ahead:
        new = OWN_IMPORTS[ahead.pop()] - reached
        reached |= new
        ahead += new
    foreign = {target.partition(".")[0] for each in reached for target in IMPORTS[each]}
    assert foreign & NO_IO == set()


@pytest.mark.parametrize("module", MODULES)
def test_nobody_looks_into_the_top_rooms_nor_takes_the_front_door(module: str) -> None:
    room = room_of(module)
    assert {room_of(target) for target in OWN_IMPORTS[module]} <= {None, room}
    assert room is not None or "que" not in OWN_IMPORTS[module]


# --- the rules of the floors see what they should ---------------------------------------------------------------------


EVERY_PLACE = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from que.app import Que
def late():
    import que.worker
    class Inner:
        from que.gearman import admin
from . import driver
from .errors import QueError
"""


def test_imports_are_seen_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text(EVERY_PLACE)
    ours = {"que.app", "que.worker", "que.gearman.admin", "que.driver", "que.errors"}
    assert imports_of("que.example", path, MODULES) == {*ours, "typing"}


def test_the_imports_of_a_compiled_module_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "example.pyx"
    path.write_text("from que.errors import QueError\nfrom libc.string cimport memcpy\ncimport cython\nimport time\n")
    assert imports_of("que.gearman.example", path, MODULES) == {"que.errors", "libc.string", "cython", "time"}


def test_an_import_upwards_is_seen() -> None:
    assert is_upward("que.errors", "que.driver")
    assert is_upward("que.app", "que.cli.demo")
    assert not is_upward("que.app", "que.blocking")
    assert not is_upward("que.app", "que.errors")


@pytest.mark.parametrize(
    ("graph", "cycle"),
    [
        pytest.param({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"], id="of two"),
        pytest.param({"a": {"a"}}, ["a", "a"], id="of one"),
        pytest.param({"a": {"b", "c"}, "b": {"c"}, "c": set[str]()}, [], id="none"),
    ],
)
def test_a_cycle_is_found(graph: dict[str, set[str]], cycle: list[str]) -> None:
    assert cycle_in(graph) == cycle


# --- the front door ---------------------------------------------------------------------------------------------------


def test_the_public_names_are_sorted_constants_first_then_classes_then_functions() -> None:
    def rank(name: str) -> tuple[bool, bool, str]:
        return not name.isupper(), not name[0].isupper(), name

    assert que.__all__ == sorted(que.__all__, key=rank)
    assert len(que.__all__) == len(set(que.__all__))


def test_the_public_names_are_all_that_the_package_imports_and_every_error() -> None:
    imported = [name for module, names in imported_by_que() if module != "typing" for name in names]
    assert sorted(que.__all__) == sorted(imported)
    assert {name for name in vars(que.errors) if _is_error(name)} <= set(que.__all__)


def _is_error(name: str) -> bool:
    each: object = vars(que.errors)[name]
    return isinstance(each, type) and issubclass(each, que.QueError)


def imported_by_que() -> Iterator[tuple[str, list[str]]]:
    """Yield each module that que's names are from, and its names, with those that only checkers see imported there."""
    for node in ast.parse(MODULES["que"].read_text()).body:
        for each in node.body if isinstance(node, ast.If) else [node]:
            if isinstance(each, ast.ImportFrom):
                yield each.module or "", [alias.asname or alias.name for alias in each.names]


def printed_by(program: str) -> list[str]:
    """Return the list that `program` calls `told`, of an interpreter that has imported nothing of ours before."""
    command = [sys.executable, "-c", f"{program}\nimport json\nprint(json.dumps(sorted(told)))"]
    names: list[str] = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    return names


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in imported_by_que() for name in names])
def test_a_public_name_is_what_checkers_see(module: str, name: str) -> None:
    assert getattr(que, name) is getattr(importlib.import_module(module), name)


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("import que; told = dir(que)", id="dir"),
        pytest.param("from que import *; told = list(globals())", id="import *"),
    ],
)
def test_every_public_name_is_there_from_the_start(program: str) -> None:
    assert set(que.__all__) <= set(printed_by(program))


def test_a_name_that_is_not_there_is_told_like_any_other() -> None:
    with pytest.raises(AttributeError, match=r"^module 'que' has no attribute 'Wroker'"):
        getattr(que, "Wroker")  # noqa: B009 - checkers know it as well


def test_importing_que_loads_few_modules() -> None:
    program = "import sys, asyncio, msgspec; before = {*sys.modules}; import que; told = {*sys.modules} - before"
    loaded = printed_by(program)
    assert len(loaded) <= MOST_MODULES, loaded


def test_importing_que_loads_no_engine_and_no_command_line() -> None:
    loaded = printed_by("import sys, que; told = list(sys.modules)")
    ours = ("que.drivers", "que.gearman", "que.cli", "que.testing")
    unwanted = (
        *ours,
        "que.otel",
        "que.metrics",
        "opentelemetry",
        "prometheus_client",
        "typer",
        "click",
        "rich",
        "uvloop",
        "redis",
        "nats",
    )
    assert "que.app" in loaded
    assert [each for each in loaded if each.startswith(unwanted)] == []


# --- small rooms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_a_file_has_no_more_lines_than_a_room_should(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= MOST_FILE_LINES


@pytest.mark.parametrize("module", PYTHON_MODULES)
def test_a_function_has_no_more_lines_than_a_reader_can_hold(module: str) -> None:
    tree = ast.parse(PYTHON_MODULES[module].read_text())
    functions = [each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [each.name for each in functions if lines_of(each) > MOST_FUNCTION_LINES] == []


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_called_by_what_it_holds(module: str) -> None:
    assert FORBIDDEN_NAMES.isdisjoint(module.split("."))


def any_lines(source: str) -> list[int]:
    """Return the lines that use typing's Any as a type; to compare with it, as one that a user declared, is no use."""
    tree = ast.parse(source)
    compared = {part for node in ast.walk(tree) if isinstance(node, ast.Compare) for part in ast.walk(node)}
    quoted = [
        ast.increment_lineno(parsed, each.lineno - 1)
        for each in annotations_in(tree)
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and (parsed := _parsed(each.value))
    ]
    nodes = {node for root in [tree, *quoted] for node in ast.walk(root)} - compared
    return sorted({node.lineno for node in nodes if isinstance(node, ast.expr | ast.alias) and _names_any(node)})


def _parsed(text: str) -> ast.Expression | None:
    """Return `text` as an expression, None if it is prose, as what typer is told in an Annotated is."""
    try:
        return ast.parse(text, mode="eval")
    except SyntaxError:
        return None


def _names_any(node: ast.AST) -> bool:
    return "Any" in (getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "name", None))


def annotations_in(tree: ast.Module) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            annotation = getattr(node, field, None)
            if isinstance(annotation, ast.expr):
                yield from (each for each in ast.walk(annotation) if isinstance(each, ast.expr))


@pytest.mark.parametrize("module", PYTHON_MODULES)
def test_no_annotation_says_any(module: str) -> None:
    assert any_lines(PYTHON_MODULES[module].read_text()) == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        pytest.param("from typing import Any\n", [1], id="imported"),
        pytest.param("import typing\nx: list[typing.Any]\n", [2], id="as an attribute"),
        pytest.param("def f(x: 'dict[str, Any]') -> None: ...\n", [1], id="quoted"),
        pytest.param("if x is typing.Any: y = cast(Any, x)\n", [1], id="beside a comparison"),
        pytest.param("plain = x not in (float, typing.Any)\n", [], id="compared with"),
        pytest.param("'''Any order is fine.'''\nAnyone = 1\n", [], id="as a word"),
    ],
)
def test_any_is_found_where_it_is_a_type(source: str, lines: list[int]) -> None:
    assert any_lines(source) == lines
