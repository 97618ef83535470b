"""A driver of one's own: a folder is the queue, a file is a job, and a lock on the file is its lease.

It is durable and at-least-once without a server: a job's file goes only after its result has been written, and when a
worker dies, the kernel lets go of its locks, so that another one takes its jobs. It looks at the folder 50 times a
second and opens every job in it: for hundreds of jobs, on one machine (locks on a network's file system are another
matter). The result of a job whose submitter has gone stays in the folder.

python folder_driver.py /tmp/spool
"""

import asyncio
import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

import que
from que.address import Address
from que.driver import ConsumerSink, EventSink
from que.model import Completed, Delivery, Envelope, Failed, Settled, Settlement, Support, Verdict

LOOK_SECONDS = 0.02
_envelopes = msgspec.json.Decoder(Envelope)
_failures = msgspec.json.Decoder(Failed)


def write(path: Path, data: bytes) -> None:
    """Whoever sees `path` sees all of `data`, whatever crashes when."""
    draft = path.with_suffix(".draft")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


class FolderDriver:
    """folder:///path"""

    calls_in_flight: int | None = 1
    capabilities = que.Capabilities(lease=que.Lease.CONNECTION, durable=Support.NATIVE, results_pushed=Support.EMULATED)

    def __init__(self, address: Address) -> None:
        address.refuse_other_options(())
        self.jobs = Path(address.path) / "jobs"
        self.results = Path(address.path) / "results"
        self.watched: set[str] = set()
        self.consumers: list[FolderConsumer] = []
        self.looking: asyncio.Task[None] | None = None

    async def connect(self, events: EventSink) -> None:
        try:
            self.jobs.mkdir(parents=True, exist_ok=True)
            self.results.mkdir(exist_ok=True)
        except OSError as error:
            raise que.ConnectError(str(self.jobs), str(error)) from error
        self.events = events
        self.looking = asyncio.create_task(self.look())

    async def disconnect(self) -> None:
        if self.looking is not None:
            self.looking.cancel()
        while self.consumers:
            await self.consumers.pop().give_up()
        while self.watched:
            self.events.lost(self.watched.pop(), que.ConnectionLost("the folder is watched no longer"))

    async def submit(self, envelopes: Sequence[Envelope]) -> None:
        for envelope in envelopes:
            # The time first, so that names sort by age.
            path = self.jobs / f"{time.time_ns()}-{envelope.id}.job"
            try:
                write(path, msgspec.json.encode(envelope))
            except OSError as error:
                self.events.refused(envelope.id, que.NotSent(f"{path} cannot be written: {error}"))
                continue
            if not envelope.background:
                self.watched.add(envelope.id)
            self.events.accepted(envelope.id, path.name)

    async def look(self) -> None:
        """Tell of each result that has appeared, for as long as the driver is connected."""
        while True:
            for path in self.results.iterdir():
                if path.stem in self.watched and path.suffix != ".draft":
                    self.watched.discard(path.stem)
                    self.tell(path.stem, path.suffix, path.read_bytes())
                    path.unlink()
            await asyncio.sleep(LOOK_SECONDS)

    def tell(self, id: str, kind: str, data: bytes) -> None:
        if kind == ".completed":
            self.events.completed(id, data)
        else:
            self.events.failed(id, _failures.decode(data))

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> "FolderConsumer":
        consumer = FolderConsumer(self.jobs, self.results, functions, notices)
        self.consumers.append(consumer)
        return consumer


class FolderConsumer:
    def __init__(self, jobs: Path, results: Path, functions: Collection[str], notices: ConsumerSink) -> None:
        self.jobs, self.results, self.functions, self.notices = jobs, results, functions, notices
        self.held: dict[Delivery, tuple[Envelope, BinaryIO]] = {}
        self.closed = False

    async def reserve(self, limit: int) -> Sequence[Delivery]:
        while not self.closed:
            if taken := self.take(limit):
                return taken
            await asyncio.sleep(LOOK_SECONDS)
        return ()

    def take(self, limit: int) -> list[Delivery]:
        taken: list[Delivery] = []
        for path in sorted(self.jobs.glob("*.job")):
            if len(taken) == limit:
                break
            if (file := lock(path)) is None:
                continue
            job = _envelopes.decode(file.read())
            if job.function in self.functions:
                taken.append(Delivery(job.function, job.payload, job.id))
                self.held[taken[-1]] = job, file
            else:
                file.close()
        return taken

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        return [self.settle_one(*settlement) for settlement in settlements]

    def settle_one(self, delivery: Delivery, verdict: Verdict) -> Settled:
        if delivery not in self.held:
            return Settled.LOST
        job, file = self.held.pop(delivery)
        # Closing the file unlocks it: a job that is still there is another worker's.
        with file:
            if isinstance(verdict, Completed | Failed):
                self.finish(job, Path(file.name), verdict)
        return Settled.CONFIRMED

    def finish(self, job: Envelope, path: Path, verdict: Completed | Failed) -> None:
        """The result first, then the end of the job: a crash in between lets it run again, and loses nothing."""
        if not job.background and isinstance(verdict, Completed):
            write(self.results / f"{job.id}.completed", verdict.payload)
        elif not job.background:
            write(self.results / f"{job.id}.failed", msgspec.json.encode(verdict))
        path.unlink()

    async def close(self) -> None:
        self.closed = True

    async def give_up(self) -> None:
        """Unlock what is still held: it is another worker's now."""
        await self.close()
        for delivery, (_, file) in self.held.items():
            file.close()
            self.notices.lost(delivery)
        self.held.clear()


def lock(path: Path) -> BinaryIO | None:
    """Return the open file if its job is now ours, None if it is another's or done."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    if os.fstat(file.fileno()).st_nlink == 0:
        file.close()
        return None
    return file


que.register_driver("folder", FolderDriver)


async def main(folder: str) -> None:
    app = que.Que(f"folder://{folder}")

    @app.job("length")
    async def length(params: str) -> int:
        return len(params)

    async with app:
        receipt = await length.send("this one waits for a worker")
        print("a file:", receipt.reference)
        async with app.worker(concurrency=10):
            print(await que.gather(length.submit("one"), length.submit("three")))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
