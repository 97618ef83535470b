"""The retry policy decides by run number and error alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import que
from que.retry import NO_RETRY, PATIENCE

ODD = OSError("connection reset")


def test_each_wait_is_the_factor_times_the_one_before_up_to_the_maximum() -> None:
    policy = que.Retry(attempts=6, base=2, factor=3, max=20, jitter=0)
    assert [policy.wait(attempt, ODD) for attempt in range(1, 7)] == [2, 6, 18, 20, 20, None]


def test_the_last_run_is_the_one_that_the_policy_counts_to() -> None:
    assert que.Retry(attempts=1).wait(1, ODD) is None
    assert que.Retry(attempts=2).wait(1, ODD) is not None
    assert que.Retry(attempts=2).wait(2, ODD) is None


def test_jitter_leaves_out_a_share_of_the_wait_and_never_more() -> None:
    policy = que.Retry(base=10, jitter=0.5)
    assert policy.wait(1, ODD, chance=0) == 10
    assert policy.wait(1, ODD, chance=1) == 5
    assert 5 <= (policy.wait(1, ODD) or 0) <= 10


def test_only_the_named_errors_are_retried() -> None:
    policy = que.Retry(on=(ConnectionError, TimeoutError))
    assert policy.wait(1, ConnectionResetError()) is not None
    assert policy.wait(1, ValueError()) is None


def test_a_rejected_job_is_never_retried() -> None:
    assert que.Retry(on=(Exception,)).wait(1, que.Reject("no")) is None


def test_retry_after_is_obeyed_within_the_attempts_whatever_else_is_retried() -> None:
    policy = que.Retry(attempts=2, on=(), max=1)
    assert policy.wait(1, que.RetryAfter(90)) == 90
    assert policy.wait(2, que.RetryAfter(90)) is None


def test_without_a_policy_an_error_ends_the_job_and_retry_after_is_borne_with_a_bounded_number_of_times() -> None:
    assert NO_RETRY.wait(1, ODD) is None
    assert NO_RETRY.wait(PATIENCE - 1, que.RetryAfter(1)) == 1
    assert NO_RETRY.wait(PATIENCE, que.RetryAfter(1)) is None


@given(st.integers(1, 10**9), st.floats(1, 1e6), st.floats(0, 1000))
def test_no_number_of_attempts_overflows(attempt: int, factor: float, base: float) -> None:
    policy = que.Retry(attempts=10**9 + 1, base=base, factor=factor, max=50, jitter=0)
    assert 0 <= (policy.wait(attempt, ODD) or 0) <= 50


@pytest.mark.parametrize(
    ("name", "value"), [("attempts", 0), ("base", -1), ("factor", 0.5), ("max", float("nan")), ("jitter", 1.5)]
)
def test_a_policy_that_cannot_be_meant_is_refused(name: str, value: float) -> None:
    good: dict[str, float] = {"attempts": 3, "base": 1, "factor": 2, "max": 60, "jitter": 0}
    with pytest.raises(que.ConfigurationError, match=f"{name}="):
        que.Retry(**{**good, name: value})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - the point


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_a_time_to_retry_after_that_cannot_be_meant_is_refused(seconds: float) -> None:
    with pytest.raises(que.ConfigurationError, match="RetryAfter"):
        que.RetryAfter(seconds)
