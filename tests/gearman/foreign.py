"""Gearman software that is not ours, driven over a private server: the command-line tools, and the package gearman3.

Every wait has a deadline, and every process and thread ends with the block that started it.
"""

import subprocess
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Self

import gearman
from gearman.connection import GearmanConnection
from gearman.job import GearmanJob, GearmanJobRequest

from tests.gearman.raw import Raw
from tests.servers import end, require, spawn, wait_until

ANSWER_SECONDS = 20.0
# gearman3's worker looks this often whether it shall stop.
_POLL_SECONDS = 0.02


def workers_of(port: int, function: str) -> int:
    """Return how many workers the server has for `function`."""
    with Raw(port) as raw:
        rows = (row.rsplit("\t", 3) for row in raw.listing("status"))
        return sum(int(row[3]) for row in rows if row[0] == function)


def run_gearman_client(port: int, function: str, data: bytes, *options: str) -> bytes:
    """Return what the `gearman` tool prints for one job whose payload is its argument, as a user types it.

    `options` are the tool's own, such as "-b" or "-u", "unique". Raises subprocess.CalledProcessError when it fails.
    """
    return _run("gearman", *_at(port), "-f", function, *options, "--", data)


def pipe_gearman_client(port: int, function: str, data: bytes, *options: str) -> bytes:
    """Return what the `gearman` tool prints for the payload that it reads from its standard input, with any bytes."""
    return _run("gearman", *_at(port), "-f", function, *options, stdin=data)


def run_gearadmin(port: int, *arguments: str) -> str:
    """Return what the `gearadmin` tool prints; subprocess.CalledProcessError when it fails."""
    return _run("gearadmin", "--host=127.0.0.1", f"--port={port}", *arguments).decode()


@contextmanager
def gearman_cli_worker(port: int, function: str, command: str, *arguments: str) -> Generator[int]:
    """Give the process id of a `gearman -w` that works `function` until the block ends.

    For each job it runs `command` with the payload on standard input; what that prints is the result, and an exit
    status other than 0 fails the job.
    """
    before = workers_of(port, function)
    process = spawn(["gearman", *_at(port), "-w", "-f", function, "--", command, *arguments])
    try:
        wait_until(lambda: workers_of(port, function) > before, f"gearman -w serves {function}")
        yield process.pid
    finally:
        end(process)


def _at(port: int) -> tuple[str, ...]:
    return "-h", "127.0.0.1", "-p", str(port)


def _run(program: str, *arguments: str | bytes, stdin: bytes = b"") -> bytes:
    command = [require(program), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=ANSWER_SECONDS, check=True).stdout


class Gearman3Failed(Exception):
    """A job that gearman3 submitted was failed by its worker; `exception` is what the worker said, if anything."""

    def __init__(self, exception: bytes | None) -> None:
        super().__init__(f"the worker failed the job: {exception!r}")
        self.exception = exception


class _Connection(GearmanConnection):
    """gearman3 reads with array.fromstring, which Python 3.9 dropped."""

    def read_data_from_socket(self, bytes_to_read: int = 4096) -> int:
        try:
            data = self.gearman_socket.recv(bytes_to_read)
        except OSError as error:
            self.throw_exception(exception=error)
        if not data:
            self.throw_exception(message="remote disconnected")
        self._incoming_buffer.frombytes(data)
        return len(self._incoming_buffer)


class _Client(gearman.GearmanClient):
    connection_class = _Connection


class _Worker(gearman.GearmanWorker):
    connection_class = _Connection

    def __init__(self, port: int, stopping: threading.Event) -> None:
        super().__init__([("127.0.0.1", port)])
        self._stopping = stopping

    def after_poll(self, any_activity: bool) -> bool:
        return not self._stopping.is_set()


@contextmanager
def _client(port: int) -> Generator[_Client]:
    client = _Client([("127.0.0.1", port)])
    try:
        yield client
    finally:
        client.shutdown()


def gearman3_request(port: int, function: str, data: bytes, *, unique: bytes | None = None) -> GearmanJobRequest:
    """Return gearman3's own record of a foreground job that ended; TimeoutError when it has not ended in time.

    It holds state, result, data_updates, warning_updates and status.
    """
    with _client(port) as client:
        request = client.submit_job(function.encode(), data, unique, poll_timeout=ANSWER_SECONDS)
    if request.timed_out:
        raise TimeoutError(f"gearman3 has no result of {function} within {ANSWER_SECONDS} s")
    return request


def gearman3_submit(port: int, function: str, data: bytes, *, unique: bytes | None = None) -> bytes:
    """Return the result of a foreground job that gearman3 submitted; Gearman3Failed when its worker failed it."""
    request = gearman3_request(port, function, data, unique=unique)
    if request.state != gearman.JOB_COMPLETE or request.result is None:
        raise Gearman3Failed(request.exception)
    return request.result


def gearman3_send(port: int, function: str, data: bytes, *, unique: bytes | None = None) -> bytes:
    """Return the handle of a background job that the server accepted from gearman3."""
    with _client(port) as client:
        request = client.submit_job(
            function.encode(), data, unique, background=True, wait_until_complete=False, poll_timeout=ANSWER_SECONDS
        )
    if request.state != gearman.JOB_CREATED:
        raise TimeoutError(f"gearman3's job for {function} was not accepted within {ANSWER_SECONDS} s")
    return request.job.handle


class Gearman3Job:
    """A job in the hands of a gearman3 worker."""

    def __init__(self, worker: gearman.GearmanWorker, job: GearmanJob) -> None:
        self._worker = worker
        self._job = job
        self.data = job.data
        self.handle = job.handle
        self.unique = job.unique

    def progress(self, done: int, total: int) -> None:
        """The job's clients hear of its progress."""
        self._worker.send_job_status(self._job, done, total)

    def send_chunk(self, data: bytes) -> None:
        """The job's clients get a part of its result."""
        self._worker.send_job_data(self._job, data)

    def warn(self, text: bytes) -> None:
        """The job's clients get a warning."""
        self._worker.send_job_warning(self._job, text)


class Gearman3Worker:
    """A gearman3 worker in a thread, known to the server inside the `with` block; a handler that raises fails its job.

    `errors` holds what handlers raised.
    """

    def __init__(self, port: int, handlers: Mapping[str, Callable[[Gearman3Job], bytes]]) -> None:
        self.errors: list[Exception] = []
        self._port = port
        self._handlers = handlers
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="gearman3 worker", daemon=True)

    def __enter__(self) -> Self:
        before = {function: workers_of(self._port, function) for function in self._handlers}
        self._thread.start()
        for function, count in before.items():
            wait_until(partial(self._serves_more, function, count), f"gearman3 serves {function}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(ANSWER_SECONDS)
        assert not self._thread.is_alive()

    def _serves_more(self, function: str, count: int) -> bool:
        return workers_of(self._port, function) > count

    def _work(self) -> None:
        worker = _Worker(self._port, self._stopping)
        for function, handler in self._handlers.items():
            worker.register_task(function.encode(), self._task(handler))
        try:
            worker.work(poll_timeout=_POLL_SECONDS)
        finally:
            with suppress(OSError):
                worker.shutdown()

    def _task(self, handler: Callable[[Gearman3Job], bytes]) -> Callable[[gearman.GearmanWorker, GearmanJob], bytes]:
        def task(worker: gearman.GearmanWorker, job: GearmanJob) -> bytes:
            try:
                return handler(Gearman3Job(worker, job))
            except Exception as error:
                self.errors.append(error)
                raise

        return task
