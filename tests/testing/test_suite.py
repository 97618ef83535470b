"""DriverSuite under pytest, as a driver's author sees it."""

import pytest

pytest_plugins = ["pytester"]

MODULE = """
import pytest
from que.testing import DriverSuite
import tests.testing.broken

class Test(DriverSuite):
"""


def run(pytester: pytest.Pytester, body: str, words: str) -> pytest.RunResult:
    pytester.makepyfile(MODULE + "".join(f"    {line}\n" for line in body.splitlines()))
    # In this process, which has imported everything, it takes a tenth of the time.
    return pytester.runpytest_inprocess("-rs", "-p", "pytest_que", "-p", "no:cacheprovider", "-k", words)


def test_a_url_is_all_that_it_needs(pytester: pytest.Pytester) -> None:
    run(pytester, 'url = "memory://"', "byte or twenty").assert_outcomes(passed=2)


def test_a_fixture_may_give_the_url(pytester: pytest.Pytester) -> None:
    body = '@pytest.fixture\ndef url(self):\n    return "memory://"'
    run(pytester, body, "byte").assert_outcomes(passed=1)


@pytest.mark.parametrize(("scheme", "word"), [("early", "went and wrong"), ("crossing", "twenty"), ("hasty", "early")])
def test_a_broken_driver_fails(pytester: pytest.Pytester, scheme: str, word: str) -> None:
    run(pytester, f'url = "{scheme}-memory://"', word).assert_outcomes(failed=1)


def test_what_cannot_be_played_is_skipped_with_the_reason(pytester: pytest.Pytester) -> None:
    result = run(pytester, 'url = "memory://"', "outlasts")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*its leases do not run out*"])


def test_an_expected_skip_passes_and_one_that_can_be_played_fails(pytester: pytest.Pytester) -> None:
    names = ["a job that outlasts its lease runs once", "payloads come back byte for byte"]
    body = f'url = "memory://"\nnot_applicable = {names}'
    result = run(pytester, body, "outlasts or byte")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*'payloads come back byte for byte' can be played*"])


def test_an_expected_skip_that_is_no_scenario_fails(pytester: pytest.Pytester) -> None:
    result = run(pytester, 'url = "memory://"\nnot_applicable = ["it flies"]', "byte")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no scenario is called 'it flies'*"])


def test_the_figures_of_what_passed_are_printed(pytester: pytest.Pytester) -> None:
    result = run(pytester, 'url = "memory://"', "fifty")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*= que.testing =*", "*fifty racing jobs*: 50 jobs with one key have 1 receipts"])


def test_it_needs_neither_url_nor_fixture_to_be_named_otherwise(pytester: pytest.Pytester) -> None:
    result = run(pytester, "pass", "byte")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'url' not found*"])
