"""Rates that hold among all workers of a file: what counts, and what is left of it."""

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import que
from que.drivers.sqlite.schema import migrate
from que.drivers.sqlite.throttling import take_throttled
from que.drivers.sqlite.turn import Turn, sweep
from que.limits import Rate
from tests.unit.loops import in_loop


@contextmanager
def filled(jobs: int) -> Generator[sqlite3.Connection, None, None]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection)
        connection.executemany(
            "INSERT INTO que_jobs (state, function, priority, job_id, payload) VALUES (0, ?, 0, ?, '')",
            [("work", str(number)) for number in range(jobs)],
        )
        yield connection


def at(connection: sqlite3.Connection, moment: float) -> Turn:
    turn = Turn(connection, "peer")
    turn.now = moment
    return turn


@given(st.integers(1, 5), st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(1, 5)), max_size=40))
def test_no_span_of_the_rate_sees_more_taken_than_its_count(count: int, wishes: Sequence[tuple[float, int]]) -> None:
    now, taken = 1.7e9, list[float]()
    with filled(300) as connection:
        for pause, wanted in wishes:
            now += pause
            deliveries, wait_seconds = take_throttled(at(connection, now), "work", wanted, 60.0, Rate(count, 10.0))
            taken += [now] * len(deliveries)
            free = count - sum(moment + 10.0 > now for moment in taken)
            assert len(deliveries) == wanted or free == 0
            if free:
                assert wait_seconds == 0
            else:
                assert wait_seconds == min(moment for moment in taken if moment + 10.0 > now) + 10.0 - now
    for start in taken:
        assert sum(start <= moment < start + 10.0 for moment in taken) <= count


def test_an_empty_queue_is_told_from_a_used_up_rate() -> None:
    with filled(1) as connection:
        assert take_throttled(at(connection, 100.0), "work", 2, 60.0, Rate(2, 10.0))[1] is None
        assert take_throttled(at(connection, 100.0), "none", 2, 60.0, Rate(2, 10.0)) == ([], None)


def test_a_clock_that_was_put_back_holds_nothing_up() -> None:
    with filled(3) as connection:
        take_throttled(at(connection, 1000.0), "work", 1, 60.0, Rate(1, 10.0))
        deliveries, _ = take_throttled(at(connection, 500.0), "work", 1, 60.0, Rate(1, 10.0))
        assert len(deliveries) == 1


def test_what_counts_no_more_is_swept_away() -> None:
    with filled(3) as connection:
        take_throttled(at(connection, 100.0), "work", 1, 60.0, Rate(5, 10.0))
        take_throttled(at(connection, 105.0), "work", 1, 60.0, Rate(5, 10.0))
        sweep(at(connection, 112.0), 60.0)
        assert connection.execute("SELECT until FROM que_begun").fetchall() == [(115.0,)]


@in_loop
async def test_a_file_of_before_there_were_such_rates_gets_what_they_need(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        migrate(connection)
        connection.execute("DROP TABLE que_begun")
        connection.execute("UPDATE que_schema SET version = 3")
    app = que.Que(f"sqlite:///{path}")

    @app.job("work", total_rate="1/d")
    async def work(params: int) -> int:
        return params

    async with app, app.worker():
        assert await work.submit(7) == 7
