"""gear, from PyPI: `gear_pair worker|client PORT FUNCTION MODE`."""

import sys
import threading
from collections.abc import Callable

import gear

from benchmarks.player import IN_FLIGHT, TEXT, play, say

PAYLOAD = b'{"number":1000000,"text":"%b"}' % TEXT.encode()
ANSWER_SECONDS = 60.0


class Client(gear.Client):
    """Lets `limit` jobs be under way: submitJob itself waits until the server has taken the job."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.room = threading.Semaphore(limit)

    def handleWorkComplete(self, packet: object) -> gear.Job:
        job = super().handleWorkComplete(packet)
        self.room.release()
        return job

    def submit(self, function: str, count: int) -> None:
        for _ in range(count):
            assert self.room.acquire(timeout=ANSWER_SECONDS)
            self.submitJob(gear.Job(function.encode(), PAYLOAD))
        for _ in range(self.limit):
            assert self.room.acquire(timeout=ANSWER_SECONDS)
        self.room.release(self.limit)

    def send(self, function: str, count: int) -> None:
        for number in range(count):
            self.submitJob(gear.Job(function.encode(), PAYLOAD, unique=b"%d" % number), background=True)


def client(port: str, function: str, mode: str) -> None:
    connected = Client(1 if mode == "lone" else IN_FLIGHT)
    connected.addServer("127.0.0.1", int(port))
    connected.waitForServer()
    play(lambda count: (connected.send if mode == "send" else connected.submit)(function, count))


def worker(port: str, function: str, _: str) -> None:
    connected = gear.Worker("benchmark")
    connected.addServer("127.0.0.1", int(port))
    connected.waitForServer()
    connected.registerFunction(function.encode())
    say("ready")
    while True:
        job = connected.getJob()
        job.sendWorkComplete(job.arguments)


ROLES: dict[str, Callable[..., None]] = {"client": client, "worker": worker}

if __name__ == "__main__":
    ROLES[sys.argv[1]](*sys.argv[2:])
