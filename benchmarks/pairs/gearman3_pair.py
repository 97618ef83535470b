"""gearman3: `gearman3_pair worker|client PORT FUNCTION MODE`."""

import sys
from collections.abc import Callable

import gearman
from gearman.connection import GearmanConnection

from benchmarks.player import IN_FLIGHT, TEXT, play, say

PAYLOAD = b'{"number":1000000,"text":"%b"}' % TEXT.encode()


class Connection(GearmanConnection):
    """gearman3 reads with array.fromstring, which Python 3.9 dropped."""

    def read_data_from_socket(self, bytes_to_read: int = 4096) -> int:
        data = self.gearman_socket.recv(bytes_to_read)
        if not data:
            self.throw_exception(message="remote disconnected")
        self._incoming_buffer.frombytes(data)
        return len(self._incoming_buffer)


class Client(gearman.GearmanClient):
    connection_class = Connection


class Worker(gearman.GearmanWorker):
    connection_class = Connection


def submit(client: Client, function: str, count: int, background: bool = False) -> None:
    """Do IN_FLIGHT jobs at once, then the next ones: gearman3 waits for all of a list."""
    job: dict[str, str | bytes] = {"task": function.encode(), "data": PAYLOAD}
    for begun in range(0, count, IN_FLIGHT):
        jobs = [job] * min(IN_FLIGHT, count - begun)
        requests = client.submit_multiple_jobs(jobs, background=background, wait_until_complete=not background)
        state = gearman.JOB_CREATED if background else gearman.JOB_COMPLETE
        assert all(request.state == state for request in requests)


def send(client: Client, function: str, count: int) -> None:
    submit(client, function, count, background=True)


def call_alone(client: Client, function: str, count: int) -> None:
    for _ in range(count):
        assert client.submit_job(function.encode(), PAYLOAD).result == PAYLOAD


MODES: dict[str, Callable[[Client, str, int], None]] = {"submit": submit, "send": send, "lone": call_alone}


def client(port: str, function: str, mode: str) -> None:
    connected = Client([f"127.0.0.1:{port}"])
    play(lambda count: MODES[mode](connected, function, count))


def worker(port: str, function: str, _: str) -> None:
    connected = Worker([f"127.0.0.1:{port}"])
    connected.register_task(function.encode(), lambda _, job: job.data)
    say("ready")
    connected.work()


ROLES: dict[str, Callable[..., None]] = {"client": client, "worker": worker}

if __name__ == "__main__":
    ROLES[sys.argv[1]](*sys.argv[2:])
