"""Worker processes that can be killed, stopped and replaced."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from que.testing.ledger import Ledger
from que.testing.subject import PromiseBroken, Subject, expect

# An engine that is busy with what was sent may keep a newcomer waiting.
_START_SECONDS = 90.0
_STOP_SECONDS = 40.0


class Member:
    """One worker process."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @classmethod
    async def start(cls, subject: Subject, ledger: Ledger, slots: int, log: Path) -> "Member":
        """Return a process that is being started; `log` gets what it writes to its standard error."""
        path = os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "que.testing.worker"),
                *(subject.url, subject.prefix, str(ledger.path), str(slots), *subject.imports),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=os.environ | {"PYTHONPATH": path},
            )
        return cls(process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    async def ready(self) -> None:
        """Return once it works, or its first job has killed it; raises PromiseBroken, with what it wrote, else."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(_START_SECONDS):
                line = await self._process.stdout.readline()
                if line == b"ready\n" or await self._process.wait() == -signal.SIGKILL:
                    return
        except TimeoutError:
            await self.kill()
        raise PromiseBroken(f"a worker process did not start: {self.said()}")

    def said(self) -> str:
        """Return the end of what it wrote to its standard error."""
        return self._log.read_text(errors="replace")[-2000:]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        if self.is_alive:
            self._process.send_signal(number)

    async def kill(self) -> None:
        """It is dead, by SIGKILL."""
        self.signal(signal.SIGKILL)
        await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def stop(self) -> None:
        """It has ended by SIGTERM, with status 0; raises PromiseBroken if it does not."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                status = await self._process.wait()
        except TimeoutError:
            await self.kill()
            raise PromiseBroken(f"a worker did not end within {_STOP_SECONDS:g} s of SIGTERM: {self.said()}") from None
        expect(status == 0, f"a worker ended with status {status} after SIGTERM: {self.said()}")


class Crew:
    """Some members, each at a place where another one can stand in for it."""

    def __init__(self, subject: Subject, ledger: Ledger, slots: int) -> None:
        self.members: list[Member] = []
        self._subject = subject
        self._ledger = ledger
        self._slots = slots
        self._log = ledger.path.with_suffix(".log")

    async def hire(self) -> Member:
        """Return a new member, which works."""
        member = await Member.start(self._subject, self._ledger, self._slots, self._log)
        self.members.append(member)
        await member.ready()
        return member

    async def replace(self, member: Member) -> None:
        """Another one stands in for a member that has ended."""
        self.members.remove(member)
        await self.hire()

    async def stop(self) -> None:
        """All have ended by SIGTERM: what they ran is settled."""
        await asyncio.gather(*[member.stop() for member in self.members])


@asynccontextmanager
async def crew(subject: Subject, ledger: Ledger, count: int, slots: int) -> AsyncGenerator[Crew, None]:
    """Some worker processes that work; none of them is left when the block ends."""
    hired = Crew(subject, ledger, slots)
    try:
        await asyncio.gather(*[hired.hire() for _ in range(count)])
        yield hired
    finally:
        for member in hired.members:
            await member.kill()
