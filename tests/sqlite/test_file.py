"""The file: what it may be called, who may read it, what is in it, and what happens when it cannot be written."""

import asyncio
import os
import re
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import que
from que.address import Address
from que.driver import open_driver
from que.drivers.sqlite import submitting, turn, working
from que.model import Completed, Envelope, Settled
from tests.engines.recording import Notices, Told
from tests.sqlite.recording import opened
from tests.unit.loops import in_loop, until


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite://", "memory://"),
        ("sqlite:///", "memory://"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite://jobs.db", "sqlite:///jobs.db"),
        ("sqlite:///../jobs.db", "without .."),
        ("sqlite:////var/../etc/jobs.db", "without .."),
        ("sqlite:///%2e%2e/jobs.db", "without .."),
        ("sqlite:///file:jobs.db", "file:"),
        ("sqlite:///jobs/", "trailing slash"),
        ("sqlite:///jobs.db?mode=ro", "unknown option 'mode'"),
        ("sqlite:///jobs.db?synchronous=off", "normal or full"),
        ("sqlite:///jobs.db?lease=0", "lease"),
    ],
)
def test_a_url_that_names_no_plain_file_is_refused_with_a_way_out(url: str, reason: str) -> None:
    with pytest.raises(que.ConfigurationError, match=re.escape(reason)):
        que.Que(url)


@in_loop
async def test_a_relative_path_is_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with que.Que("sqlite:///jobs.db"):
        assert (tmp_path / "jobs.db").exists()


@in_loop
async def test_nobody_else_may_read_the_files(url: str, path: Path) -> None:
    before = os.umask(0)
    try:
        async with opened(url) as (driver, _):
            await driver.submit([Envelope("a", "f", b"", background=True)])
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {
        "jobs.db": 0o600,
        "jobs.db-wal": 0o600,
        "jobs.db-shm": 0o600,
        "jobs.db-lock": 0o600,
        "jobs.db-peers": 0o700,
    }


@in_loop
async def test_a_directory_that_is_not_there_is_a_connect_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(que.ConnectError, match=r"missing/jobs\.db"):
        await que.Que(f"sqlite:///{tmp_path}/missing/jobs.db").connect()


def test_a_file_that_is_no_database_is_left_as_it_is(path: Path, url: str) -> None:
    path.write_bytes(b"dear diary, " * 100)
    with pytest.raises(que.ConnectError, match="not a database"):
        asyncio.run(que.Que(url).connect())
    assert path.read_bytes() == b"dear diary, " * 100


@in_loop
async def test_a_file_of_a_newer_que_is_refused(path: Path, url: str) -> None:
    async with que.Que(url):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE que_schema SET version = version + 1")
    connection.close()
    with pytest.raises(que.ConnectError, match="update que"):
        await que.Que(url).connect()


@in_loop
async def test_the_users_own_tables_stay(path: Path, url: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE jobs (name TEXT)")
        connection.execute("INSERT INTO jobs VALUES ('mine')")
    async with que.Que(url) as app:
        await app.send(que.Job("f", int, int), 1)
    assert connection.execute("SELECT name FROM jobs").fetchall() == [("mine",)]
    connection.close()


def test_many_processes_may_make_the_file_at_once(url: str) -> None:
    program = "import asyncio, que, sys; asyncio.run(que.Que(sys.argv[1]).connect())"
    started = [
        subprocess.Popen([sys.executable, "-c", program, url], stderr=subprocess.PIPE, text=True) for _ in range(6)
    ]
    for process in started:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors


LOOK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(*connection.execute("SELECT count(*) FROM que_jobs").fetchone())
connection.close()
"""


@in_loop
async def test_one_who_opens_and_closes_the_file_takes_no_lock_from_the_others_of_its_process(
    url: str, path: Path
) -> None:
    async with opened(url) as (driver, told):
        async with opened(url):
            pass
        # Another process that took itself for the last one would remove the -wal when it closes the file.
        assert jobs_that_another_process_sees(path) == 0
        assert path.with_name(f"{path.name}-wal").exists()
        await driver.submit([Envelope("1", "f", b"x", background=True)])
        await until(lambda: "1" in told.receipts)
        assert jobs_that_another_process_sees(path) == 1


def jobs_that_another_process_sees(path: Path) -> int:
    words = [sys.executable, "-c", LOOK, str(path)]
    return int(subprocess.run(words, capture_output=True, check=True, timeout=60).stdout)


@in_loop
async def test_a_job_that_finds_the_disk_full_is_rejected_and_the_others_are_safe(url: str) -> None:
    async with opened(url) as (driver, told):
        await driver.submit([Envelope("small", "f", b"x", background=True)])
        session = driver._opened()  # pyright: ignore[reportPrivateUsage] - only SQLite itself can be told to be full
        await session.database.run(lambda turn: turn.connection.execute("PRAGMA max_page_count = 60").fetchall())
        with pytest.raises(que.Rejected, match="full"):
            await driver.submit([Envelope("large", "f", bytes(1_000_000), background=True)])
        await driver.submit([Envelope("small too", "f", b"x", background=True)])
        taken = await (await driver.register(["f"], 10, Notices())).reserve(10)
        assert [delivery.id for delivery in taken] == ["small", "small too"]
        assert told.ends == {}


@in_loop
async def test_one_batch_that_cannot_be_written_does_not_take_another_with_it(url: str) -> None:
    async with opened(url) as (driver, told):
        session = driver._opened()  # pyright: ignore[reportPrivateUsage] - only SQLite itself can be told to be full
        await session.database.run(lambda turn: turn.connection.execute("PRAGMA max_page_count = 60").fetchall())
        good = [Envelope("good", "f", b"x", background=True)]
        bad = [Envelope("bad", "f", bytes(1_000_000), background=True)]
        ends = await asyncio.gather(driver.submit(bad), driver.submit(good), return_exceptions=True)
        assert isinstance(ends[0], que.Rejected)
        assert ends[1] is None
        assert list(told.receipts) == ["good"]


@in_loop
async def test_a_file_that_another_program_keeps_locked_refuses_jobs_in_time_and_loses_none(
    url: str, path: Path
) -> None:
    async with opened(f"{url}?busy_timeout=0.05") as (driver, told):
        await driver.submit([Envelope("a", "f", b"", background=True)])
        taker = await driver.register(["f"], 10, Notices())
        (held,) = await taker.reserve(1)
        rude = sqlite3.connect(path, isolation_level=None)
        rude.execute("BEGIN EXCLUSIVE")
        with pytest.raises(que.NotSent, match="locked"):
            await driver.submit([Envelope("b", "f", b"")])
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await taker.settle([(held, Completed(b""))])
        with pytest.raises(que.ConnectError, match="locked"):
            await driver.depths()
        rude.execute("COMMIT")
        rude.close()
        assert await taker.settle([(held, Completed(b""))]) == [Settled.CONFIRMED]
        assert told.ends == {}


@in_loop
async def test_a_file_that_may_only_be_read_is_a_connect_error(url: str, path: Path) -> None:
    async with que.Que(url):
        pass
    driver = open_driver(Address.parse(url))
    # Root may write whatever its mode says: the answer to opening it is what counts.
    real = os.open

    def refuse(target: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR and os.fspath(target).startswith(str(path)):
            raise PermissionError(13, "Permission denied", os.fspath(target))
        return real(target, flags, mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(que.ConnectError, match="Permission denied"):
            await driver.connect(Told())


@in_loop
async def test_a_path_too_long_for_a_socket_works_all_the_same(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    url = f"sqlite:///{deep}/jobs.db"
    async with opened(url) as (client, told), opened(url) as (worker, _):
        taker = await worker.register(["f"], 1, Notices())
        reserving = asyncio.create_task(taker.reserve(1))
        await client.submit([Envelope("a", "f", b"")])
        (delivery,) = await reserving
        await taker.settle([(delivery, Completed(b"done"))])
        await until(lambda: told.ends)


QUERIES: dict[str, tuple[str, tuple[str | float, ...] | dict[str, str | float]]] = {
    "take": (working._TAKE, {"token": 1, "peer": "", "until": 0.0, "function": "f", "limit": 1}),  # pyright: ignore[reportPrivateUsage] - the plan is the point
    "ripen": (turn._RIPEN, (0.0, 1)),  # pyright: ignore[reportPrivateUsage] - the plan is the point
    "reclaim": (turn._RECLAIM, (0.0, 1)),  # pyright: ignore[reportPrivateUsage] - the plan is the point
    "expire": (turn._EXPIRE, (0.0, 1)),  # pyright: ignore[reportPrivateUsage] - the plan is the point
    "look": (turn._LOOK, {"peer": ""}),  # pyright: ignore[reportPrivateUsage] - the plan is the point
    "settle": (working._END, (1, 1)),  # pyright: ignore[reportPrivateUsage] - the plan is the point
    "coalesce": (submitting._SAME, ("f", "k")),  # pyright: ignore[reportPrivateUsage] - the plan is the point
}


@in_loop
@pytest.mark.parametrize("name", QUERIES)
async def test_no_statement_of_the_main_path_looks_at_all_jobs(name: str, url: str, path: Path) -> None:
    async with que.Que(url):
        query, parameters = QUERIES[name]
        connection = sqlite3.connect(path)
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", parameters)]
        connection.close()
    assert plan
    # "SCAN que_jobs USING COVERING INDEX" of a partial index for a min() reads one entry of what is due.
    assert not [step for step in plan if step.startswith("SCAN que_") and "INDEX" not in step], plan
    assert not [step for step in plan if "TEMP B-TREE" in step], plan
