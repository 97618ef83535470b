"""What a job goes through in a file, and what it leaves there."""

import sqlite3
from pathlib import Path

import que
from tests.engines.jobs import *
from tests.unit.loops import in_loop


@in_loop
async def test_settled_jobs_leave_nothing_behind(url: str, path: Path) -> None:
    async with que.Que(url) as client, working(url, doubling()):
        await que.gather(*declared(client).submit_many(range(50)))
    with sqlite3.connect(path) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        left = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}
    connection.close()
    assert {name for name, count in left.items() if count} == {"que_schema", "que_counter"}
    assert list(path.with_name("jobs.db-peers").iterdir()) == []
