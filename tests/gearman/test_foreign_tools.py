"""The foreign tools work with each other, so that what fails between one of them and que is que's."""

import subprocess
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.gearman.conftest import Connect
from tests.gearman.foreign import (
    Gearman3Failed,
    Gearman3Job,
    Gearman3Worker,
    gearman3_request,
    gearman3_send,
    gearman3_submit,
    gearman_cli_worker,
    pipe_gearman_client,
    run_gearadmin,
    run_gearman_client,
    workers_of,
)
from tests.gearman.raw import (
    GET_STATUS,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN_UNIQ,
    NOOP,
    PRE_SLEEP,
    SUBMIT_JOB_BG,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_WARNING,
    Raw,
    grab,
)
from tests.servers import Gearmand, wait_until

MESSAGE = b'{"message":"2pac"}'
PAYLOADS = {
    "json": MESSAGE,
    "one byte": b"x",
    "every byte": bytes(range(256)),
    "NUL and magic": b"\0REQ\0\0\0\1\0",
    "lines": b"one\ntwo\r\n",
    "100 kB": b"0123456789" * 10_000,
}


@pytest.fixture
def name(function: bytes) -> str:
    return function.decode()


def reverse(job: Gearman3Job) -> bytes:
    return job.data[::-1]


@pytest.mark.parametrize("data", [MESSAGE, b"two words", "größe".encode()], ids=["json", "two words", "not ASCII"])
def test_the_gearman_tool_gets_its_argument_back_from_a_gearman3_worker(
    gearmand: Gearmand, name: str, data: bytes
) -> None:
    with Gearman3Worker(gearmand.port, {name: reverse}):
        assert run_gearman_client(gearmand.port, name, data) == data[::-1]


@pytest.mark.parametrize("data", PAYLOADS.values(), ids=PAYLOADS)
def test_the_gearman_tool_pipes_any_bytes_through_a_gearman3_worker(gearmand: Gearmand, name: str, data: bytes) -> None:
    with Gearman3Worker(gearmand.port, {name: reverse}):
        assert pipe_gearman_client(gearmand.port, name, data) == data[::-1]


@pytest.mark.parametrize("data", PAYLOADS.values(), ids=PAYLOADS)
def test_gearman3_gets_any_bytes_back_from_the_gearman_tools_worker(gearmand: Gearmand, name: str, data: bytes) -> None:
    with gearman_cli_worker(gearmand.port, name, "cat"):
        assert gearman3_submit(gearmand.port, name, data) == data


def test_the_gearman_tools_worker_runs_its_command_for_each_job(gearmand: Gearmand, name: str) -> None:
    with gearman_cli_worker(gearmand.port, name, "tr", "a-z", "A-Z"):
        assert [run_gearman_client(gearmand.port, name, data) for data in (b"one", b"two")] == [b"ONE", b"TWO"]


def test_a_failing_command_fails_the_job_for_both_clients(gearmand: Gearmand, name: str) -> None:
    with gearman_cli_worker(gearmand.port, name, "false"):
        with pytest.raises(Gearman3Failed):
            gearman3_submit(gearmand.port, name, MESSAGE)
        with pytest.raises(subprocess.CalledProcessError):
            run_gearman_client(gearmand.port, name, MESSAGE)


def test_a_gearman3_handler_that_raises_fails_the_job_for_both_clients(gearmand: Gearmand, name: str) -> None:
    def refuse(job: Gearman3Job) -> bytes:
        raise ValueError(job.data)

    with Gearman3Worker(gearmand.port, {name: refuse}) as worker:
        with pytest.raises(Gearman3Failed):
            gearman3_submit(gearmand.port, name, MESSAGE)
        with pytest.raises(subprocess.CalledProcessError):
            run_gearman_client(gearmand.port, name, MESSAGE)
    assert [error.args for error in worker.errors] == [(MESSAGE,), (MESSAGE,)]


def test_gearman3_sees_chunks_warnings_and_progress_in_order(gearmand: Gearmand, name: str) -> None:
    def report(job: Gearman3Job) -> bytes:
        job.send_chunk(b"one")
        job.send_chunk(b"two")
        job.warn(b"careful")
        job.progress(1, 2)
        return b"done"

    with Gearman3Worker(gearmand.port, {name: report}):
        request = gearman3_request(gearmand.port, name, MESSAGE)
    assert (request.result, list(request.data_updates), list(request.warning_updates)) == (
        b"done",
        [b"one", b"two"],
        [b"careful"],
    )
    assert (request.status["numerator"], request.status["denominator"]) == (1, 2)


def test_a_background_job_of_gearman3_waits_for_the_gearman_tools_worker(
    gearmand: Gearmand, connect: Connect, name: str
) -> None:
    client = connect()
    handle = gearman3_send(gearmand.port, name, MESSAGE)
    assert client.ask(GET_STATUS, handle).args[1] == b"1"
    with gearman_cli_worker(gearmand.port, name, "cat"):
        wait_until(lambda: client.ask(GET_STATUS, handle).args[1] == b"0", "the job is done")


def test_a_background_job_of_the_gearman_tool_waits_for_a_gearman3_worker(gearmand: Gearmand, name: str) -> None:
    got = list[bytes]()

    def collect(job: Gearman3Job) -> bytes:
        got.append(job.data)
        return b""

    assert run_gearman_client(gearmand.port, name, MESSAGE, "-b") == b""
    with Gearman3Worker(gearmand.port, {name: collect}):
        wait_until(lambda: bool(got), "the job is done")
    assert got == [MESSAGE]


@contextmanager
def worker_that_reports(raw: Raw, *reports: tuple[int, tuple[bytes, ...]]) -> Generator[None]:
    """One job is taken within the block, and these packets are what the worker says of it."""

    def work() -> None:
        wait_until(lambda: raw.ask(PRE_SLEEP).kind == NOOP, "a job is there")
        handle = grab(raw)[0]
        for kind, args in reports:
            raw.send(kind, handle, *args)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        yield
        working.result()


def test_neither_client_understands_the_fail_that_gearmand_makes_of_an_exception(
    gearmand: Gearmand, connect: Connect, name: str
) -> None:
    exception = (WORK_EXCEPTION, (b"boom",))
    raw = connect(name.encode())
    with worker_that_reports(raw, exception), pytest.raises(KeyError, match=r"\\x00"):
        gearman3_submit(gearmand.port, name, MESSAGE)
    # A fail that the tool understands is exit status 1. This is its time limit (in ms); without one it waits for ever.
    with worker_that_reports(raw, exception):
        assert run_gearman_client(gearmand.port, name, MESSAGE, "-t", "500") == b""


def test_both_clients_understand_a_warning_and_a_fail(gearmand: Gearmand, connect: Connect, name: str) -> None:
    reports = (WORK_WARNING, (b"boom",)), (WORK_FAIL, ())
    raw = connect(name.encode())
    with worker_that_reports(raw, *reports):
        request = gearman3_request(gearmand.port, name, MESSAGE)
    assert (request.state, list(request.warning_updates)) == ("FAILED", [b"boom"])
    with worker_that_reports(raw, *reports), pytest.raises(subprocess.CalledProcessError) as caught:
        run_gearman_client(gearmand.port, name, MESSAGE)
    assert caught.value.stderr == b"boomJob failed\n"


def test_the_uniques_that_the_tools_are_given_reach_the_server(gearmand: Gearmand, connect: Connect, name: str) -> None:
    gearman3_send(gearmand.port, name, MESSAGE, unique=b"ours-3")
    run_gearman_client(gearmand.port, name, MESSAGE, "-b", "-u", "ours-cli")
    raw = connect(name.encode())
    assert [grab(raw)[1:] for _ in range(2)] == [
        [name.encode(), b"ours-3", MESSAGE],
        [name.encode(), b"ours-cli", MESSAGE],
    ]


def test_gearadmin_sees_what_the_server_tells(gearmand: Gearmand, connect: Connect, name: str) -> None:
    raw = connect(name.encode())
    handle = connect().submit(SUBMIT_JOB_BG, name.encode(), b"unique-" + name.encode(), MESSAGE).decode()
    assert f"{name}\t1\t0\t1\n" in run_gearadmin(gearmand.port, "--status")
    assert f" : {name}\n" in run_gearadmin(gearmand.port, "--workers")
    assert f"{handle}\t" in run_gearadmin(gearmand.port, "--show-jobs")
    assert f"unique-{name}\n" in run_gearadmin(gearmand.port, "--show-unique-jobs")
    assert run_gearadmin(gearmand.port, "--getpid") == f"{gearmand.pid}\n"
    run_gearadmin(gearmand.port, f"--cancel-job={handle}")
    assert raw.ask(GRAB_JOB_UNIQ).kind != JOB_ASSIGN_UNIQ


def test_foreign_workers_are_gone_with_their_block(gearmand: Gearmand, name: str) -> None:
    with gearman_cli_worker(gearmand.port, name, "cat"), Gearman3Worker(gearmand.port, {name: reverse}):
        assert workers_of(gearmand.port, name) == 2
    wait_until(lambda: workers_of(gearmand.port, name) == 0, "the server has seen them go")
