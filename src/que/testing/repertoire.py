"""The jobs of worker processes: what they do is written into the ledger before and after."""

import asyncio
import os
import signal
from dataclasses import dataclass

import que
from que.testing.ledger import Ledger

# Where nobody counts the attempts, a poison job is no poison any more after so many deaths, or it would never end.
MOST_DEATHS = 6
POISON_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Work:
    """`key`: the job's name in the ledger. `seconds`: how long it takes. `ballast`: what only has to be carried."""

    key: str
    seconds: float = 0.0
    ballast: str = ""


def work_job(prefix: str) -> que.Job[Work, int]:
    """Return the declaration of the job that takes its time and returns the process that ran it."""
    return que.Job(f"{prefix}work", Work, int)


def poison_job(prefix: str) -> que.Job[Work, None]:
    """Return the declaration of the job that kills its worker."""
    return que.Job(f"{prefix}poison", Work, None, retry=que.Retry(attempts=POISON_ATTEMPTS))


def stuck_job(prefix: str) -> que.Job[Work, None]:
    """Return the declaration of the job that holds its slot for ever."""
    return que.Job(f"{prefix}stuck", Work, None)


def repertoire(app: que.Que[None], prefix: str, ledger: Ledger) -> None:
    """The jobs are `app`'s, with their handlers."""
    work, poison, stuck = work_job(prefix), poison_job(prefix), stuck_job(prefix)

    @work.handler
    async def do_work(params: Work) -> int:
        ledger.write("began", params.key)
        if params.seconds:
            await asyncio.sleep(params.seconds)
        ledger.write("done", params.key)
        return os.getpid()

    @poison.handler
    async def die(params: Work) -> None:
        deaths = sum(entry[:2] == ("began", params.key) for entry in ledger.entries())
        ledger.write("began", params.key)
        if deaths < MOST_DEATHS:
            os.kill(os.getpid(), signal.SIGKILL)
        ledger.write("done", params.key)

    @stuck.handler
    async def hold(params: Work) -> None:
        ledger.write("began", params.key)
        await asyncio.get_running_loop().create_future()

    for job in (do_work, die, hold):
        app.add(job)
