"""Behind pgbouncer that hands each transaction to another session: it is found out, and polling works."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import que
from tests.engines.jobs import declared, doubling, working
from tests.postgres.server import Postgres, as_somebody
from tests.servers import end, free_port, require, spawn, wait_until
from tests.unit.loops import in_loop

_CONFIG = """
[databases]
* = host=127.0.0.1 port={server_port} user=que
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 5
"""


@pytest.fixture
def pooler(postgres: Postgres, database: str, tmp_path: Path) -> Iterator[str]:
    """The URL of the database behind a pgbouncer of our own."""
    port = free_port()
    configuration = tmp_path / "pgbouncer.ini"
    configuration.write_text(_CONFIG.format(port=port, server_port=postgres.port))
    # It drops to a user who may not look into this directory.
    with configuration.open("rb") as file:
        process = spawn(as_somebody([require("pgbouncer"), "/dev/stdin"]), stdin=file, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _listens(port), "pgbouncer to listen")
        yield f"postgresql://que@127.0.0.1:{port}/{database}"
    finally:
        end(process)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@in_loop
async def test_a_pooler_that_loses_notifications_is_found_out_and_the_way_out_is_named(pooler: str) -> None:
    with pytest.raises(que.ConnectError, match=r"LISTEN has no effect here.*pooler.*listen=0"):
        await que.Que(f"{pooler}?timeout=1").connect()


@in_loop
async def test_jobs_and_results_cross_a_pooler_by_polling(pooler: str) -> None:
    url = f"{pooler}?listen=0&poll=0.02"
    async with que.Que(url) as client, working(url, doubling()):
        job = declared(client)
        # More calls at once than the pooler has sessions, again and again: no statement may be left behind in one.
        for _ in range(10):
            assert await que.gather(*job.submit_many(range(20))) == tuple(range(0, 40, 2))
