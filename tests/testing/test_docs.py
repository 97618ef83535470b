"""docs/testing.md tells the truth: its tests pass, and would not if the app did something else."""

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
PROGRAM = "\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))


def test_the_tests_of_the_page_pass(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PROGRAM)
    # As in test_plugin.py, in a process of its own.
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-W", "error")
    result.assert_outcomes(passed=PROGRAM.count("def test_"))


@pytest.mark.parametrize(
    ("right", "wrong", "failures"),
    [
        pytest.param("await welcome.send(address)", "pass", 3, id="nobody is welcomed"),
        pytest.param("delay=7 * 86_400", "delay=8 * 86_400", 1, id="the reminder is late"),
        pytest.param("delay=7 * 86_400", "delay=5 * 86_400", 1, id="the reminder is early"),
        pytest.param("return len(text)", "return 0", 2, id="nothing is counted"),
        pytest.param("raise ValueError", "raise que.Reject", 1, id="a bad address is rejected"),
    ],
)
def test_the_tests_of_the_page_fail_for_another_app(
    pytester: pytest.Pytester, right: str, wrong: str, failures: int
) -> None:
    assert right in PROGRAM
    pytester.makepyfile(PROGRAM.replace(right, wrong, 1))
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    assert result.parseoutcomes().get("failed", 0) == failures
