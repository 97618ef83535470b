"""What goes wrong: workers that are killed, stopped or frozen, and jobs that kill."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

from que.testing.crew import Crew, crew
from que.testing.ledger import Ledger
from que.testing.repertoire import POISON_ATTEMPTS, Work, poison_job, work_job
from que.testing.scenario import Scenario, needs_processes, needs_pushed_results, needs_timed_leases
from que.testing.scenarios.crowds import close_books, produce, until_done
from que.testing.subject import Subject, expect, until

Fault = Callable[[Crew], Awaitable[None]]

_WORKERS = 4
_SLOTS = 8


async def no_job_is_lost_when_workers_are_killed(subject: Subject) -> None:
    """One of 4 workers dies by SIGKILL after each pause; a job runs twice only if a worker died with it."""
    ledger, keys = subject.new_ledger("killed"), _keys(subject.sizes.through_kills)
    seconds = _seconds_each(subject, len(keys))
    async with crew(subject, ledger, _WORKERS, _SLOTS) as workers:
        producing = asyncio.create_task(produce(subject, keys, seconds))
        kills = await _until_done_through(workers, ledger, keys, subject, _kill)
        await producing
        await workers.stop()
    close_books(subject, ledger, keys, most_twice=kills * _SLOTS, faults={"SIGKILL": kills})
    expect(kills > 0, "no worker was killed, so this shows nothing")


async def no_job_is_lost_or_run_twice_when_workers_are_stopped(subject: Subject) -> None:
    """Each of 4 workers in turn ends by SIGTERM: it finishes what runs, and gives back what does not."""
    ledger, keys = subject.new_ledger("stopped"), _keys(subject.sizes.through_stops)
    seconds = _seconds_each(subject, len(keys))
    async with crew(subject, ledger, _WORKERS, _SLOTS) as workers:
        producing = asyncio.create_task(produce(subject, keys, seconds))
        stops = await _until_done_through(workers, ledger, keys, subject, _stop)
        await producing
        await workers.stop()
    close_books(subject, ledger, keys, faults={"SIGTERM": stops})
    expect(stops > 0, "no worker was stopped, so this shows nothing")


def _keys(count: int) -> list[str]:
    return [f"job-{number}" for number in range(count)]


def _seconds_each(subject: Subject, count: int) -> float:
    """Return how long a job has to take so that several faults happen before the last one."""
    return 6 * subject.sizes.pause * _WORKERS * _SLOTS / count


async def _until_done_through(workers: Crew, ledger: Ledger, keys: list[str], subject: Subject, fault: Fault) -> int:
    """Return the number of faults until each of `keys` had ended; the oldest worker is always the next."""
    done = asyncio.create_task(until_done(ledger, keys, subject.sizes.patience))
    faults = 0
    try:
        while not done.done():
            await asyncio.wait([done], timeout=subject.sizes.pause)
            if not done.done():
                await fault(workers)
                faults += 1
    finally:
        done.cancel()
    return faults


async def _kill(workers: Crew) -> None:
    oldest = workers.members[0]
    await oldest.kill()
    await workers.replace(oldest)


async def _stop(workers: Crew) -> None:
    oldest = workers.members[0]
    await oldest.stop()
    await workers.replace(oldest)


async def a_frozen_worker_loses_its_job_to_another_for_good(subject: Subject) -> None:
    """SIGSTOP for three leases, then SIGCONT: the job's one completion is the second worker's."""
    assert subject.can.lease_seconds is not None
    lease = subject.can.lease_seconds
    ledger = subject.new_ledger("frozen")
    async with subject.app() as app, crew(subject, ledger, 1, 1) as workers:
        first = workers.members[0]
        job = app.add(work_job(subject.prefix))
        handle = job.submit(Work("frozen", 2 * lease))
        await until(ledger.entries, "the job to begin")
        first.signal(signal.SIGSTOP)
        second = await workers.hire()
        thawing = asyncio.get_running_loop().call_later(3 * lease, first.signal, signal.SIGCONT)
        completed_by = await handle.result(timeout=30 + 10 * lease)
        await asyncio.sleep(max(0.0, thawing.when() - asyncio.get_running_loop().time()))
        await workers.stop()
    begun = [entry.pid for entry in ledger.entries() if entry.event == "began"]
    expect(completed_by == second.pid, "the job's completion is the second worker's, whose lease it was")
    expect(begun == [first.pid, second.pid], f"the job begins once with each worker, not {len(begun)} times")
    close_books(subject, ledger, ["frozen"], most_twice=1, faults={"SIGSTOP": 1})


async def a_job_that_kills_its_workers_does_not_take_the_others_along(subject: Subject) -> None:
    """Healthy jobs end beside it. Where attempts are counted, so does it, after as many deaths as its policy allows."""
    ledger, keys = subject.new_ledger("poison"), _keys(subject.sizes.beside_poison)
    ends = [] if subject.can.attempts else ["poison"]
    deaths = 0
    async with subject.app() as app, crew(subject, ledger, 3, _SLOTS) as workers:
        poison = app.add(poison_job(subject.prefix))
        await poison.send(Work("poison"))
        await produce(subject, keys, 0.01)
        done = asyncio.create_task(until_done(ledger, [*keys, *ends], subject.sizes.patience))
        while not done.done() or (subject.can.attempts and deaths < POISON_ATTEMPTS):
            for member in list(workers.members):
                if not member.is_alive:
                    deaths += 1
                    await workers.replace(member)
            await asyncio.sleep(0.02)
        await workers.stop()
    runs = sum(entry[:2] == ("began", "poison") for entry in ledger.entries())
    subject.note(f"a job that kills its worker ran {runs} times")
    expect(deaths > 0, "no worker died, so this shows nothing")
    if subject.can.attempts:
        expect(runs == POISON_ATTEMPTS, f"a job of {POISON_ATTEMPTS} attempts killed {runs} workers")
    # Out of attempts, the poison has failed; where nobody counts them, it ends well after some deaths.
    endless = ["poison"] if subject.can.attempts else []
    close_books(
        subject, ledger, [*keys, *ends], doubtful=endless, most_twice=deaths * _SLOTS, faults={"deaths": deaths}
    )


SCENARIOS = (
    Scenario(no_job_is_lost_when_workers_are_killed, (needs_processes,)),
    Scenario(no_job_is_lost_or_run_twice_when_workers_are_stopped, (needs_processes,)),
    Scenario(a_frozen_worker_loses_its_job_to_another_for_good, (needs_timed_leases, needs_pushed_results)),
    Scenario(a_job_that_kills_its_workers_does_not_take_the_others_along, (needs_processes,)),
)
