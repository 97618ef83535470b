"""docs/promises.md names tests that exist, and says of every row which they are."""

import ast
import importlib
import re
from pathlib import Path

from que.testing import SCENARIOS, DriverSuite
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "promises.md").read_text()
NOT_HELD = "not held by a test"
REFERENCE = re.compile(r"`(tests/[^`]+)`")
EXISTING = "tests/docs/test_promises_page.py::test_every_row_names_a_test_or_says_that_there_is_none"


def test_every_test_that_the_page_names_exists() -> None:
    assert missing(PAGE) == []


def test_every_row_names_a_test_or_says_that_there_is_none() -> None:
    assert len(rows(PAGE)) == 30
    assert [row for row in rows(PAGE) if not is_answered(row)] == []


def test_what_does_not_exist_is_found() -> None:
    absent = [
        "tests/docs/test_promises_page.py::test_that_was_removed",
        "tests/docs/test_promises_page.py::a delayed job never runs early",
        "tests/docs/test_of_nothing.py::test_that_was_removed",
        "tests/contract/test_flows.py::a delayed job never runs early",
        "tests/contract/test_redis.py::a promise that nobody gave",
        "tests/contract/test_amqp.py::a job that outlasts its lease runs once",
        "tests/docs/test_promises_page.py",
    ]
    assert missing(" ".join(f"`{reference}`" for reference in [EXISTING, *absent])) == absent


def test_a_row_without_an_answer_is_found() -> None:
    answers = f"| worse | better | `{EXISTING}` |\n| worse | better | {NOT_HELD} |\n| worse | better | surely |\n"
    assert [is_answered(row) for row in rows(f"| a | b | c |\n|---|---|---|\n{answers}")] == [True, True, False]


def rows(page: str) -> list[str]:
    """Return the lines of the table below its head."""
    return [line for line in page.partition("|---|---|---|\n")[2].splitlines() if line.startswith("|")]


def is_answered(row: str) -> bool:
    cells = row.strip("|").split("|")
    return len(cells) == 3 and (REFERENCE.search(cells[2]) is not None or NOT_HELD in cells[2])


def missing(page: str) -> list[str]:
    """Return the references to tests and promises that are not there."""
    return [reference for reference in REFERENCE.findall(page) if not exists(reference)]


def exists(reference: str) -> bool:
    """Whether the file has that test, or is a driver's that plays the promise of that name."""
    path, _, name = reference.partition("::")
    file = ROOT / path
    if not file.is_file():
        return False
    if name.startswith("test_"):
        return name in names_of_tests(file)
    return name in {each.name for each in SCENARIOS} and any(
        name not in suite.not_applicable for suite in suites(".".join(file.relative_to(ROOT).with_suffix("").parts))
    )


def suites(module: str) -> list[type[DriverSuite]]:
    """Return the drivers' suites that a module declares."""
    return [
        each
        for each in vars(importlib.import_module(module)).values()
        if isinstance(each, type) and issubclass(each, DriverSuite) and each.__module__ == module
    ]


def names_of_tests(file: Path) -> set[str]:
    nodes = ast.walk(ast.parse(file.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
