"""Many producers, many workers: nothing is lost, nothing runs twice."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import que
from que.testing.crew import crew
from que.testing.ledger import Ledger, Tally, tally
from que.testing.repertoire import Work, stuck_job, work_job
from que.testing.scenario import Scenario, needs_processes
from que.testing.subject import Subject, expect, until

_PRODUCERS = 20
_WORKERS = 4
_SLOTS = 8
_BALLAST = 128 * 2**10


async def of_many_producers_and_worker_processes_no_job_is_lost_or_run_twice(subject: Subject) -> None:
    """20 producers, each with a connection of its own, send to 4 worker processes of 8 slots."""
    ledger = subject.new_ledger("crowd")
    keys = [f"job-{number}" for number in range(subject.sizes.crowd)]
    async with crew(subject, ledger, _WORKERS, _SLOTS) as workers:
        await produce(subject, keys)
        await until_done(ledger, keys, subject.sizes.patience)
        await workers.stop()
    sums = close_books(subject, ledger, keys)
    expect(
        sums.runs == len(keys), f"without a fault each job begins once, but {len(keys)} jobs began {sums.runs} times"
    )


async def produce(subject: Subject, keys: Sequence[str], seconds: float = 0.0) -> None:
    """Each of `keys` is a job that the engine has accepted, from producers that work at once."""
    async with AsyncExitStack() as stack:
        apps = [await stack.enter_async_context(subject.app()) for _ in range(min(_PRODUCERS, len(keys)))]
        shares = [keys[number :: len(apps)] for number in range(len(apps))]
        await asyncio.gather(*[_send(subject, app, share, seconds) for app, share in zip(apps, shares, strict=True)])


async def _send(subject: Subject, app: que.Que[None], keys: Sequence[str], seconds: float) -> None:
    job = app.add(work_job(subject.prefix))
    sent = await job.send_many(Work(key, seconds) for key in keys)
    expect(not sent.refused, f"the engine refused jobs, such as {sent.refused[:1]}")


async def until_done(ledger: Ledger, keys: Sequence[str], patience_seconds: float) -> None:
    """Return once each of `keys` has ended at least once, or none of them has for so long."""
    waiting = set(keys)
    loop = asyncio.get_running_loop()
    changed = loop.time()
    while waiting and loop.time() < changed + patience_seconds:
        before = len(waiting)
        waiting.difference_update(entry.key for entry in ledger.entries() if entry.event == "done")
        if len(waiting) < before:
            changed = loop.time()
        await asyncio.sleep(0.05)


def close_books(
    subject: Subject,
    ledger: Ledger,
    keys: Sequence[str],
    *,
    doubtful: Sequence[str] = (),
    most_twice: int = 0,
    faults: dict[str, int] | None = None,
) -> Tally:
    """Show the sums and return them; raises PromiseBroken for what is lost, phantoms, and too many duplicates."""
    sums = tally(ledger.entries(), keys, doubtful=doubtful, faults=faults)
    ledger.close()
    subject.show(sums)
    expect(not sums.lost, f"jobs are lost, such as {sums.lost[:5]}: {sums}")
    expect(not sums.phantoms, f"jobs ran that nobody had sent, such as {sums.phantoms[:5]}: {sums}")
    expect(sums.duplicates <= most_twice, f"at most {most_twice} jobs may run twice: {sums}")
    return sums


async def jobs_outlive_those_who_sent_them(subject: Subject) -> None:
    """In this process: what was sent before is worked by an app that connects later."""
    job = work_job(subject.prefix)
    async with subject.app() as sender:
        sender.add(job)
        await asyncio.gather(*[job.send(Work(f"old-{number}")) for number in range(20)])
    seen: list[str] = []
    later = subject.app()

    @later.job(job.name)
    async def record(params: Work) -> int:
        seen.append(params.key)
        return 0

    async with later, later.worker(concurrency=4):
        await until(lambda: len(seen) >= 20, "what was sent before to run")
    expect(sorted(seen) == sorted(f"old-{number}" for number in range(20)), f"20 jobs once each, not {seen}")


async def a_stalled_worker_takes_no_more_memory_however_much_waits(subject: Subject) -> None:
    """2 slots that never come free, and a queue of many megabytes: the worker process does not grow with it."""
    ledger = subject.new_ledger("stalled")
    ballast, count = "x" * _BALLAST, subject.sizes.most_queued // _BALLAST
    async with subject.app() as app, crew(subject, ledger, 1, 2) as workers:
        stuck = app.add(stuck_job(subject.prefix))
        for number in range(2):
            await stuck.send(Work(f"stuck-{number}"))
        await until(lambda: len(ledger.entries()) == 2, "2 jobs to run")
        before = _resident(workers.members[0].pid)
        sent = await stuck.send_many(Work(f"waiting-{number}", ballast=ballast) for number in range(count))
        expect(sent.accepted == count, f"the engine took {sent.accepted} of {count} jobs")
        grown = _resident(workers.members[0].pid) - before
        began = len(ledger.entries())
    await _clean_up(subject, stuck, 2 + count)
    ledger.close()
    expect(began == 2, f"a worker of 2 slots began {began} jobs")
    queued = count * _BALLAST
    subject.note(f"a stalled worker grew by {grown / 2**20:.1f} MiB while {queued / 2**20:.0f} MiB waited")
    expect(grown < queued / 2, f"a stalled worker grew by {grown} bytes while {queued} waited")


def _resident(pid: int) -> int:
    """Return the bytes of memory that a process holds; 0 where the system has no /proc."""
    statm = Path(f"/proc/{pid}/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


async def _clean_up(subject: Subject, job: que.Job[Work, None], count: int) -> None:
    """Work what a scenario has left on the engine; raises PromiseBroken if it is not all there."""
    seen: set[str] = set()
    app = subject.app()

    @app.job(job.name)
    async def forget(params: Work) -> None:
        seen.add(params.key)

    async with app, app.worker(concurrency=8):
        await until(lambda: len(seen) == count, f"{count} jobs that waited", subject.sizes.deadline / 2)


SCENARIOS = (
    Scenario(jobs_outlive_those_who_sent_them, (needs_processes,)),
    Scenario(of_many_producers_and_worker_processes_no_job_is_lost_or_run_twice, (needs_processes,)),
    Scenario(a_stalled_worker_takes_no_more_memory_however_much_waits, (needs_processes,)),
)
