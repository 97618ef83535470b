"""The suite can fail: it catches a driver that is broken in one way, and says what is wrong."""

from dataclasses import replace
from pathlib import Path

import pytest

from que.testing import QUICK, SCENARIOS, PromiseBroken, Scenario, Subject, perform
from tests.testing.broken import BROKEN

SIZES = replace(QUICK, patience=3.0, deadline=6.0)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def subject(url: str, scratch: Path) -> Subject:
    return Subject(url=url, sizes=SIZES, scratch=scratch, imports=["tests.testing.broken"])


@pytest.mark.parametrize(
    ("scheme", "name", "complaint"),
    [
        pytest.param(
            "early", "a released job comes back as if never taken", "no delivery came|no end", id="early, released"
        ),
        pytest.param("early", "a failure says what went wrong", "came back as a success", id="early, failure"),
        pytest.param(
            "crossing",
            "twenty functions and their callers are never mixed up",
            "answers were another's",
            id="crossing, many functions",
        ),
        pytest.param("crossing", "payloads come back byte for byte", "came back as others", id="crossing, payloads"),
        pytest.param("hasty", "a delayed job never runs early", "ran .* s early", id="hasty"),
        pytest.param("level", "urgent jobs overtake those that wait", "the order should be", id="level"),
        pytest.param("forgetful", "fifty racing jobs with one key run once", "ran 50 times", id="forgetful"),
        pytest.param("bare", "headers come with the job in every run", "runs with the headers", id="bare"),
        pytest.param("unlimited", "no more jobs begin than all workers may", "5 jobs begin in 2 s", id="unlimited"),
        pytest.param("dropping", "a reserve that is cancelled loses nothing", "no delivery|no end", id="dropping"),
    ],
)
def test_a_broken_driver_fails(scheme: str, name: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(PromiseBroken, match=complaint):
        perform(BY_NAME[name], subject(f"{scheme}-memory://", tmp_path))


@pytest.mark.parametrize(
    ("scheme", "complaint"),
    [
        pytest.param("brief", "a lease of 1 s was over after 0", id="brief"),
        pytest.param("trusting", "is LOST, not Settled.CONFIRMED", id="trusting"),
    ],
)
def test_a_driver_whose_leases_are_broken_fails(scheme: str, complaint: str, tmp_path: Path) -> None:
    driver = subject(f"{scheme}-sqlite:///{tmp_path / 'jobs.db'}?lease=0.5", tmp_path)
    with pytest.raises(PromiseBroken, match=complaint):
        perform(BY_NAME["an abandoned job comes back and never before its lease is over"], driver)


def test_jobs_that_are_acknowledged_early_are_lost_in_the_ledger_when_their_workers_are_killed(tmp_path: Path) -> None:
    early = subject(f"early-sqlite:///{tmp_path / 'jobs.db'}?lease=1", tmp_path)
    early.sizes = replace(SIZES, deadline=40.0)
    with pytest.raises(PromiseBroken, match="jobs are lost"):
        perform(BY_NAME["no job is lost when workers are killed"], early)
    (sums,) = early.ledgers
    assert " 0 lost" not in sums
    assert " 0 SIGKILL" not in sums


@pytest.mark.parametrize("scenario", [each for each in SCENARIOS if not each.hurdles][:6], ids=lambda each: each.name)
def test_the_driver_inside_of_a_broken_one_passes(scenario: Scenario, tmp_path: Path) -> None:
    assert perform(scenario, subject("memory://", tmp_path)) is None


def test_every_way_of_being_broken_is_tried() -> None:
    assert BROKEN.keys() == {
        "early",
        "crossing",
        "hasty",
        "level",
        "forgetful",
        "bare",
        "unlimited",
        "dropping",
        "brief",
        "trusting",
    }
