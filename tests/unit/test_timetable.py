"""When schedules tick, over the days on which clocks are changed too."""

import math
import re
import sys
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

import que
from que.timetable import Cron, Every, Times, latest

BERLIN = ZoneInfo("Europe/Berlin")
MOMENTS = st.floats(1e9, 2e9, allow_nan=False)
TIMES = st.one_of(
    st.builds(Every, st.floats(1.0, 1e6)),
    st.builds(
        Cron,
        st.sampled_from(["* * * * *", "*/7 */3 * * *", "30 2 * * *", "0 0 1 * *", "*/20 30 2 * * *"]),
        st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
    ),
)


def berlin(text: str, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


def ticks(times: Times, since: float, count: int) -> list[str]:
    """Return the first ticks after `since`, in UTC."""
    found: list[float] = []
    while len(found) < count:
        since = times.after(since)
        found.append(since)
    return [f"{datetime.fromtimestamp(tick, UTC):%d %H:%M:%S}" for tick in found]


@given(TIMES, MOMENTS)
def test_a_tick_comes_after_the_moment_and_none_lies_between(times: Times, moment: float) -> None:
    tick = times.after(moment)
    assert tick > moment
    assert times.after((moment + tick) / 2) == tick or (moment + tick) / 2 >= tick


@given(TIMES, MOMENTS, st.floats(0.0, 1e5))
def test_the_latest_tick_is_the_last_of_all_that_came(times: Times, since: float, span: float) -> None:
    until = since + min(span, 500.0 if isinstance(times, Every) else span)
    expected, tick = None, times.after(since)
    while tick <= until:
        expected, tick = tick, times.after(tick)
    assert latest(times, since, until) == expected


def test_the_latest_tick_of_a_long_time_is_found_in_few_steps() -> None:
    class Counted:
        calls = 0

        def after(self, moment: float) -> float:
            self.calls += 1
            return math.floor(moment) + 1.0

    counted = Counted()
    assert latest(counted, 0.0, 1e9) == 1e9
    assert counted.calls < 10


def test_every_counts_from_1970_so_that_all_processes_mean_the_same_ticks() -> None:
    assert [Every(7.5).after(moment) for moment in (0.0, 7.4, 7.5, 14.0)] == [7.5, 7.5, 15.0, 15.0]


def test_a_fixed_time_that_the_day_does_not_have_comes_once_at_the_first_minute_after_the_gap() -> None:
    since = berlin("2026-03-28T12:00")
    assert ticks(Cron("30 2 * * *", "Europe/Berlin"), since, 2) == ["29 01:00:00", "30 00:30:00"]
    assert ticks(Cron("0,30 2 * * *", "Europe/Berlin"), since, 2) == ["29 01:00:00", "30 00:00:00"]


def test_a_fixed_time_that_comes_twice_ticks_the_first_time_only() -> None:
    since = berlin("2026-10-24T12:00")
    assert ticks(Cron("30 2 * * *", "Europe/Berlin"), since, 2) == ["25 00:30:00", "26 01:30:00"]
    second_time = berlin("2026-10-25T02:10", fold=1)
    assert ticks(Cron("30 2 * * *", "Europe/Berlin"), second_time, 1) == ["26 01:30:00"]


def test_ticks_by_wildcard_follow_the_time_that_really_passes() -> None:
    spring, autumn = berlin("2026-03-29T01:20"), berlin("2026-10-25T01:50")
    halves = Cron("*/30 * * * *", "Europe/Berlin")
    assert ticks(halves, spring, 3) == ["29 00:30:00", "29 01:00:00", "29 01:30:00"]
    assert ticks(halves, autumn, 5) == ["25 00:00:00", "25 00:30:00", "25 01:00:00", "25 01:30:00", "25 02:00:00"]


def test_a_sixth_field_in_front_is_the_seconds() -> None:
    assert ticks(Cron("*/20 * * * * *"), 0.0, 3) == ["01 00:00:20", "01 00:00:40", "01 00:01:00"]


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        pytest.param("61 * * * *", "'61 * * * *': Bad minute", id="no such minute"),
        pytest.param("* * *", "'* * *': Wrong number of fields", id="too few fields"),
        pytest.param("@daily", "'@daily': Wrong number of fields", id="a nickname"),
        pytest.param("0 0 30 2 *", "'0 0 30 2 *'", id="no such day"),
    ],
)
def test_an_expression_that_cannot_be_meant_is_named(expression: str, said: str) -> None:
    with pytest.raises(que.ConfigurationError, match=re.escape(said)):
        Cron(expression)


def test_without_cronsim_a_cron_expression_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(que.ConfigurationError, match=r"needs cronsim: pip install 'que-jobs\[cron\]'"):
        Cron("* * * * *")


@pytest.mark.parametrize("name", ["Europe/Berlinn", "", "../etc", "Europe"])
def test_an_unknown_time_zone_is_named(name: str) -> None:
    with pytest.raises(que.ConfigurationError, match=f"tz='{name}'"):
        Cron("* * * * *", name)


@pytest.mark.parametrize("seconds", [0, -1, 0.5, math.inf, math.nan])
def test_an_interval_that_cannot_be_meant_is_named(seconds: float) -> None:
    with pytest.raises(que.ConfigurationError, match=f"every seconds={seconds}"):
        Every(seconds)
