"""The promise that types hold from end to end: both checkers report each marked line of the cases, and no other.

A mark is `# E: mypy[code] pyright[rule,rule]` at the end of its line; a checker that the mark leaves out says nothing.
"""

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.typing.checkers import output_of

CASES = Path(__file__).parent / "cases"
FILES = sorted(CASES.glob("*.py"))

# Which line of a file is wrong, and in what way: a line that is wrong twice counts once for each code.
Findings = set[tuple[int, str]]


def marks(source: str, checker: str) -> Findings:
    """Return what the marks of `source` say that `checker` must report."""
    found: Findings = set()
    for number, line in enumerate(source.splitlines(), 1):
        _, marked, mark = line.partition("# E: ")
        known = re.fullmatch(r"(?:(?:mypy|pyright)\[[\w,-]+\] ?)+", mark)
        if marked and known is None:
            raise ValueError(f"line {number}: {mark!r} is no mark")
        for codes in re.findall(rf"\b{checker}\[([\w,-]+)\]", mark):
            found |= {(number, code) for code in codes.split(",")}
    return found


@cache
def mypy() -> dict[str, Findings]:
    """Return what mypy, configured as for the rest of the code, says of each case file."""
    said = output_of("mypy", "--strict", "--output=json", *map(str, FILES))
    found: dict[str, Findings] = {}
    for line in said.splitlines():
        report = json.loads(line)
        if report["severity"] == "error":
            found.setdefault(Path(report["file"]).name, set()).add(
                (report["line"], report["code"] or report["message"])
            )
    return found


@cache
def pyright() -> dict[str, Findings]:
    """Return what pyright, strict, says of each case file; it needs a project of its own to look at excluded files."""
    project = Path(__file__).with_name("pyrightconfig.json")
    said = json.loads(output_of("pyright", "--outputjson", "--project", str(project)))
    assert said["summary"]["filesAnalyzed"] == len(FILES)
    found: dict[str, Findings] = {}
    for report in said["generalDiagnostics"]:
        line = report["range"]["start"]["line"] + 1
        found.setdefault(Path(report["file"]).name, set()).add((line, report.get("rule") or report["message"]))
    return found


CHECKERS: dict[str, Callable[[], dict[str, Findings]]] = {"mypy": mypy, "pyright": pyright}


@pytest.mark.parametrize("checker", CHECKERS)
@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_checker_reports_each_marked_line_and_no_other(path: Path, checker: str) -> None:
    assert CHECKERS[checker]().get(path.name, set()) == marks(path.read_text(), checker)


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_checker_reads_no_file_that_is_not_a_case(checker: str) -> None:
    assert CHECKERS[checker]().keys() <= {path.name for path in FILES}


@pytest.mark.parametrize("word", ["Any", "type: ignore", "pyright: ", "cast("])
def test_no_case_gets_around_a_checker(word: str) -> None:
    assert [path.name for path in FILES if word in path.read_text()] == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        pytest.param("f()  # E: mypy[arg-type] pyright[reportA,reportB]", {(1, "reportA"), (1, "reportB")}, id="both"),
        pytest.param("f()  # E: mypy[misc]", set[tuple[int, str]](), id="another checker's"),
        pytest.param("f()  # nothing", set[tuple[int, str]](), id="none"),
    ],
)
def test_a_mark_is_read_as_it_is_meant(line: str, found: Findings) -> None:
    assert marks(line, "pyright") == found


@pytest.mark.parametrize("line", ["f()  # E: mypy", "f()  # E: pyrite[reportA]", "f()  # E: "])
def test_a_mark_that_says_nothing_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="is no mark"):
        marks(line, "pyright")
