"""Names and delays on RabbitMQ: no delay ends early, and no name reaches another's queue."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from que.drivers.amqp.topology import MOST_DELAY_SECONDS, Names, delay_units

UNIT = 0.008
NAMES = Names("que")


@given(st.floats(0, MOST_DELAY_SECONDS))
def test_a_delay_is_never_shorter_and_at_most_a_little_longer(seconds: float) -> None:
    waited = delay_units(seconds) * UNIT
    assert seconds <= waited * (1 + 1e-12)
    assert waited - seconds <= max(UNIT, min(1.03, seconds / 100))


@given(st.floats(0.001, 260))
def test_a_delay_of_minutes_takes_at_most_eight_hops(seconds: float) -> None:
    assert delay_units(seconds).bit_count() <= 8


def test_a_longer_delay_than_the_queues_hold_is_cut() -> None:
    assert delay_units(1e300) == delay_units(MOST_DELAY_SECONDS) < 2**32


@given(st.floats(0.001, MOST_DELAY_SECONDS))
def test_a_delayed_job_enters_at_its_highest_bit_and_meets_each_of_its_bits(seconds: float) -> None:
    units = delay_units(seconds)
    exchange, key = NAMES.delayed("resize", units)
    words = key.split(".")
    assert exchange == NAMES.delay(units.bit_length() - 1)
    assert sum(1 << level for level in range(32) if words[level] == "1") == units
    assert NAMES.due_binding("resize") == f"#.{words[32]}"


@given(st.lists(st.text(max_size=300), unique=True, min_size=2, max_size=6))
def test_no_two_names_share_a_queue_and_all_are_short_enough(functions: list[str]) -> None:
    names = [name for function in functions for name in (NAMES.jobs(function), NAMES.dead(function))]
    names += [NAMES.due, *map(NAMES.delay, range(32))]
    assert len(set(names)) == len(names)
    assert all(len(name.encode()) <= 255 and "\n" not in name and "\r" not in name for name in names)


def test_a_name_that_looks_like_another_kind_of_queue_is_only_a_name() -> None:
    shared = {NAMES.due, *map(NAMES.delay, range(32))}
    for one, other in itertools.permutations(["a", "a.b", "*", "#", "!due", "!delay.1", "dead.a", "!dead.a", ""], 2):
        assert NAMES.jobs(one) not in {NAMES.jobs(other), NAMES.dead(other), *shared}
        assert NAMES.due_binding(one) != NAMES.due_binding(other)


def test_a_plain_name_is_the_queues_own() -> None:
    assert NAMES.jobs("größe ändern") == "que.größe ändern"
