"""How a job is to be submitted: values that cannot be meant, defaults, and what an engine lacks."""

import math
import time
from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from que.errors import ConfigurationError, UnsupportedFeature
from que.model import Capabilities, Lease, Priority, Support
from que.options import NO_OPTIONS, CallOptions, Options

NONE = Capabilities(lease=Lease.PROCESS)
ALL = Capabilities(
    lease=Lease.PROCESS,
    delay=Support.NATIVE,
    delayed_results=Support.EMULATED,
    priorities=Support.NATIVE,
    unique=Support.NATIVE,
    expiry=Support.NATIVE,
    run_timeout=Support.NATIVE,
)
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


class NoOffset(tzinfo):
    """A time zone that does not say where it is: a datetime with it is naive."""

    def utcoffset(self, dt: datetime | None) -> None:
        return None

    dst = tzname = utcoffset


@pytest.mark.parametrize("name", ["delay", "expires", "run_timeout"])
@pytest.mark.parametrize("value", [-1, -0.001, math.inf, math.nan, "10", timedelta(seconds=1)])
def test_seconds_that_cannot_be_meant_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}=.*expected seconds, "):
        Options(**{name: value})  # type: ignore[arg-type] # a wrong type is the point


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param({"priority": 50}, "expected que.Priority", id="a number as a priority"),
        pytest.param({"priority": "high"}, "expected que.Priority", id="a word as a priority"),
        pytest.param({"at": datetime(2030, 1, 1)}, "with a time zone", id="a naive datetime"),  # noqa: DTZ001 - it is the point
        pytest.param({"at": NOON.replace(tzinfo=NoOffset())}, "with a time zone", id="a time zone without an offset"),
        pytest.param({"at": "2030-01-01"}, "expected a datetime", id="a text as a datetime"),
        pytest.param({"run_timeout": 0}, "expected seconds, more than 0", id="no time to run"),
        pytest.param({"unique": 5}, "expected a key", id="a number as a key"),
        pytest.param({"at": NOON, "delay": 1}, "exclude each other", id="delay and at"),
        pytest.param({"unique": ""}, "at least one character", id="an empty key"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(options: CallOptions, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        Options(**options)


def test_a_delay_counts_from_now_and_a_datetime_is_an_instant() -> None:
    before = time.time()
    due = Options(delay=100).due()
    assert due is not None
    assert before + 100 <= due <= time.time() + 100
    assert Options(at=NOON).due() == NOON.timestamp()
    assert Options(at=NOON.astimezone(timezone(timedelta(hours=5)))).due() == NOON.timestamp()
    assert NO_OPTIONS.due() is None


OPTIONS = st.builds(
    Options,
    priority=st.none() | st.sampled_from(Priority),
    unique=st.none() | st.text(min_size=1),
    expires=st.none() | st.floats(0, 1e6),
    run_timeout=st.none() | st.floats(0.1, 1e6),
)


@given(OPTIONS, OPTIONS)
def test_what_a_call_says_wins_and_what_it_leaves_out_is_the_default(call: Options, default: Options) -> None:
    merged = call.over(default)
    for name in ("priority", "delay", "at", "unique", "expires", "run_timeout"):
        said = getattr(call, name)
        assert getattr(merged, name) == (getattr(default, name) if said is None else said)


@given(OPTIONS)
def test_no_options_change_nothing(options: Options) -> None:
    assert options.over(NO_OPTIONS) == options
    assert NO_OPTIONS.over(options) == options


@pytest.mark.parametrize(
    ("options", "can", "feature"),
    [
        pytest.param(Options(delay=1), replace(ALL, delay=Support.NONE), "delay", id="delay"),
        pytest.param(Options(delay=0), replace(ALL, delay=Support.NONE), "delay", id="no delay"),
        pytest.param(Options(at=NOON), replace(ALL, delay=Support.NONE), "delay", id="at"),
        pytest.param(
            Options(delay=1),
            replace(ALL, delayed_results=Support.NONE),
            "delay for a job that is awaited",
            id="an awaited delay",
        ),
        pytest.param(
            Options(priority=Priority.HIGH), replace(ALL, priorities=Support.NONE), "priorities", id="a high priority"
        ),
        pytest.param(
            Options(priority=Priority.LOW), replace(ALL, priorities=Support.NONE), "priorities", id="a low priority"
        ),
        pytest.param(Options(unique="a"), replace(ALL, unique=Support.NONE), "unique keys", id="a unique key"),
        pytest.param(Options(expires=1), replace(ALL, expiry=Support.NONE), "expiry", id="expiry"),
        pytest.param(
            Options(run_timeout=1), replace(ALL, run_timeout=Support.NONE), "run_timeout per call", id="a run timeout"
        ),
    ],
)
def test_an_option_that_the_engine_lacks_names_driver_feature_and_a_way_out(
    options: Options, can: Capabilities, feature: str
) -> None:
    options.refuse_unsupported("toy", ALL, background=False, per_call=True)
    with pytest.raises(UnsupportedFeature) as caught:
        options.refuse_unsupported("toy", can, background=False, per_call=True)
    error = caught.value
    assert (error.driver, error.feature) == ("toy", feature)
    assert error.hint
    for part in ("toy", feature, error.hint):
        assert part in str(error)


@pytest.mark.parametrize(
    ("options", "can", "background", "per_call"),
    [
        pytest.param(NO_OPTIONS, NONE, False, True, id="nothing asked for"),
        pytest.param(Options(priority=Priority.NORMAL), NONE, False, True, id="the normal priority"),
        pytest.param(Options(run_timeout=1), NONE, False, False, id="a job's own run timeout"),
        pytest.param(Options(delay=1), replace(ALL, delayed_results=Support.NONE), True, True, id="a sent delay"),
    ],
)
def test_what_needs_nothing_of_the_engine_is_not_refused(
    options: Options, can: Capabilities, background: bool, per_call: bool
) -> None:
    options.refuse_unsupported("toy", can, background=background, per_call=per_call)


def test_options_show_what_they_say_but_for_headers_which_may_be_secrets() -> None:
    options = Options(delay=1, unique="a", headers={"authorization": "hunter2"})
    assert repr(options) == "Options(delay=1, unique='a')"
    assert "hunter2" not in str(options.__rich_repr__())
