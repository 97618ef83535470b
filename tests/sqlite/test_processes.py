"""Processes that die in the middle, on a file that they share."""

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import que
from tests.engines.processes import *
from tests.unit.loops import in_loop


@in_loop
async def test_a_killed_workers_job_goes_to_another_as_soon_as_somebody_notices_and_counts_as_a_run(url: str) -> None:
    async with que.Que(url) as client, children(WORKER, url) as (first,):
        await first.said("ready")
        job = pid_job(client)
        handle = job.submit(-1)
        await first.said("taken")
        async with children(WORKER, url) as (second,):
            await second.said("ready")
            await first.kill()
            # The lease is 30 s long; ringing in vain for a dead worker is what frees its jobs at once.
            pid, attempt = await job.submit(1)
            assert (pid, attempt) == (second.process.pid, 1)
            await second.said("taken")
            assert (await handle.status()).running


@in_loop
async def test_what_a_killed_submitter_had_sent_runs_and_nothing_waits_for_it(url: str, path: Path) -> None:
    async with children(SUBMITTER, url) as (submitter,):
        await submitter.said("accepted")
        await submitter.kill()
    async with que.Que(url) as app, children(WORKER, url) as (worker,):
        await worker.said("ready")
        async with asyncio.timeout(30):
            while any(depth.queued or depth.running for depth in (await app.depths())["sqlite"]):
                await asyncio.sleep(0.01)
        with closing(sqlite3.connect(path)) as connection:
            (mail,) = connection.execute("SELECT count(*) FROM que_mail").fetchone()
            (peers,) = connection.execute("SELECT count(*) FROM que_peers").fetchone()
        assert (mail, peers) == (0, 2)


@in_loop
async def test_a_forked_child_does_not_hold_its_parents_lock(url: str) -> None:
    async with que.Que(url) as app:
        job = pid_job(app)
        await job.send(1)
        child = os.fork()
        if child == 0:
            os._exit(0 if not [fd for fd in os.listdir("/proc/self/fd") if is_lock(fd)] else 1)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        await job.send(2)


def is_lock(descriptor: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").endswith("-lock")
    except OSError:
        return False
