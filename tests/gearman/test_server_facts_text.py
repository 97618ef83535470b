"""What gearmand's text protocol answers, and what its options do; measured on 1.1.20, with raw sockets.

A difference on another version of the server shows here. Nothing that crashes or wedges a server is sent.
"""

import os
import signal
import socket
import ssl
import time

import pytest

from tests.gearman.conftest import Connect
from tests.gearman.raw import (
    ECHO_REQ,
    ECHO_RES,
    GET_STATUS,
    GRAB_JOB_UNIQ,
    JOB_CREATED,
    NO_JOB,
    SET_CLIENT_ID,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_EPOCH,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW_BG,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_FAIL,
    Packet,
    Raw,
    grab,
    grabs,
    request,
    worker,
)
from tests.servers import Gearmand, StartGearmand, wait_until

OK = "OK\r\n"
UNKNOWN_JOB = "ERR UNKNOWN_JOB\r\n"


@pytest.fixture
def admin(connect: Connect) -> Raw:
    """A connection that speaks text."""
    return connect()


def jobs(raw: Raw) -> dict[str, str]:
    """Return the row of each job by its handle."""
    rows = (row.partition("\t") for row in raw.listing("show jobs"))
    return {handle: rest for handle, _, rest in rows}


def test_status_counts_all_jobs_the_running_ones_and_the_workers(connect: Connect, admin: Raw, function: bytes) -> None:
    raw = connect(function)
    for n in range(3):
        admin.submit(SUBMIT_JOB_BG, function, b"%d" % n, b"data")
    grab(raw)
    assert f"{function.decode()}\t3\t1\t1" in admin.listing("status")


def test_priority_status_counts_waiting_jobs_by_priority(connect: Connect, admin: Raw, function: bytes) -> None:
    raw = connect(function)
    for kind, count in ((SUBMIT_JOB_HIGH_BG, 1), (SUBMIT_JOB_BG, 3), (SUBMIT_JOB_LOW_BG, 4)):
        for n in range(count):
            admin.submit(kind, function, b"%d-%d" % (kind, n), b"data")
    grab(raw)
    assert f"{function.decode()}\t0\t3\t4\t1" in admin.listing("prioritystatus")


def test_workers_lists_every_connection_with_its_functions_last_first(own_gearmand: StartGearmand, admin: Raw) -> None:
    port = own_gearmand().port
    with worker(port, b"f", b"g") as raw, Raw(port) as asking:
        raw.send(SET_CLIENT_ID, b"wid-1")
        assert raw.barrier() == []
        rows = sorted(row.partition(" ")[2] for row in asking.listing("workers"))
    assert rows == ["127.0.0.1 - :", "127.0.0.1 wid-1 : g f"]


def test_show_jobs_tells_whether_a_job_is_ignored_and_queued(connect: Connect, admin: Raw, function: bytes) -> None:
    raw = connect(function)
    handle = admin.submit(SUBMIT_JOB_BG, function, b"u", b"data")
    assert jobs(admin)[handle.decode()] == "0\t0\t1"
    assert admin.text(f"cancel job {handle.decode()}") == OK
    assert jobs(admin)[handle.decode()] == "0\t1\t0"
    assert raw.ask(GRAB_JOB_UNIQ).kind == NO_JOB
    assert handle.decode() not in jobs(admin)


def test_queued_means_background_and_alive_even_while_it_runs(connect: Connect, admin: Raw, function: bytes) -> None:
    raw = connect(function)
    foreground = admin.submit(SUBMIT_JOB, function, b"fg", b"data")
    background = admin.submit(SUBMIT_JOB_BG, function, b"bg", b"data")
    for _ in range(2):
        assert jobs(admin)[foreground.decode()] == "0\t0\t0"
        assert jobs(admin)[background.decode()] == "0\t0\t1"
        grab(raw)


def test_show_jobs_counts_the_retries_of_a_lost_workers_job(connect: Connect, admin: Raw, function: bytes) -> None:
    lost = connect(function)
    handle = admin.submit(SUBMIT_JOB_BG, function, b"u", b"data")
    grab(lost)
    lost.close()
    wait_until(lambda: jobs(admin)[handle.decode()].startswith("1\t"), "the lost execution is counted")


def test_show_unique_jobs_has_one_unique_a_line(admin: Raw, function: bytes) -> None:
    unique = function + b" with blanks"
    admin.submit(SUBMIT_JOB_BG, function, unique, b"data")
    assert unique.decode() in admin.listing("show unique jobs")


def test_version_pid_and_verbosity_are_one_line_that_ends_in_lf(gearmand: Gearmand, admin: Raw) -> None:
    assert admin.text("getpid") == f"OK {gearmand.pid}\n"
    assert admin.text("verbose") == "OK WARNING\n"
    version = admin.text("version")
    assert version.startswith("OK ")
    assert version.endswith("\n")
    assert "\r" not in version


@pytest.mark.parametrize("line", ["version\n", "version\r\n", "VERSION\n", "vErSiOn extra words\n"])
def test_lf_or_crlf_any_case_and_more_words_are_taken(admin: Raw, line: str) -> None:
    admin.send_bytes(line.encode())
    assert admin.line().startswith("OK ")


def test_text_and_packets_mix_on_one_connection_in_one_order(admin: Raw, function: bytes) -> None:
    admin.send_bytes(b"version\n" + request(ECHO_REQ, b"a") + b"getpid\n" + request(SUBMIT_JOB_BG, function, b"", b""))
    assert admin.line().startswith("OK ")
    assert admin.receive() == Packet(ECHO_RES, [b"a"])
    assert admin.line().startswith("OK ")
    assert admin.receive().kind == JOB_CREATED


def test_five_words_are_answered_and_six_close_the_connection(admin: Raw) -> None:
    assert admin.text("a b c d e").startswith("ERR UNKNOWN_COMMAND ")
    admin.send_bytes(b"a b c d e f\n")
    assert admin.closed()


def test_a_line_of_8191_bytes_is_answered_and_a_longer_one_closes_the_connection(admin: Raw) -> None:
    assert admin.text("a" * 8191).startswith("ERR UNKNOWN_COMMAND ")
    admin.send_bytes(b"a" * 9000 + b"\n")
    assert admin.closed()


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("nonsense", "ERR UNKNOWN_COMMAND "),
        ("", "ERR UNKNOWN_COMMAND "),
        ("show", "ERR UNKNOWN_COMMAND "),
        ("show unique", "ERR UNKNOWN_SHOW_ARGUMENTS\r\n"),
        ("cancel job", "ERR UNKNOWN_COMMAND "),
        ("cancel job H:nowhere:1", UNKNOWN_JOB),
        ("maxqueue", "ERR INVALID_ARGUMENTS "),
        ("create", "ERR INVALID_ARGUMENTS "),
        ("drop function", "ERR INVALID_ARGUMENTS "),
        ("drop function nowhere", "ERR function not found\r\n"),
    ],
    ids=lambda text: text.strip() or "empty",
)
def test_what_is_refused_is_one_err_line_that_ends_in_crlf(admin: Raw, line: str, answer: str) -> None:
    refusal = admin.text(line)
    assert refusal.startswith(answer)
    assert refusal.endswith("\r\n")
    assert admin.barrier() == []


# Functions and queue limits.


def test_a_limit_for_an_unknown_function_is_answered_with_ok_and_has_no_effect(admin: Raw, function: bytes) -> None:
    assert admin.text(f"maxqueue {function.decode()} 1") == OK
    for n in range(3):
        admin.submit(SUBMIT_JOB_BG, function, b"%d" % n, b"data")


def test_create_function_needs_crlf_or_loses_the_last_letter(admin: Raw, function: bytes) -> None:
    name = function.decode()
    assert admin.text(f"create function {name}-whole\r") == OK
    assert admin.text(f"create function {name}-cut") == OK
    known = {row.split("\t")[0] for row in admin.listing("status")}
    assert {f"{name}-whole", f"{name}-cu"} <= known
    assert f"{name}-cut" not in known


def test_a_function_with_a_worker_is_not_dropped(connect: Connect, admin: Raw, function: bytes) -> None:
    raw = connect(function)
    refused = "ERR there are still connected workers or executing clients\r\n"
    assert admin.text(f"drop function {function.decode()}") == refused
    raw.close()
    wait_until(lambda: admin.text(f"drop function {function.decode()}") == OK, "the worker has gone")
    assert not [row for row in admin.listing("status") if row.startswith(function.decode() + "\t")]


# Cancelling.


def test_a_cancelled_background_job_is_not_run(connect: Connect, admin: Raw, function: bytes) -> None:
    raw = connect(function)
    handle = admin.submit(SUBMIT_JOB_BG, function, b"u", b"data")
    assert admin.text(f"cancel job {handle.decode()}") == OK
    assert admin.text(f"cancel job {handle.decode()}") == OK
    assert admin.ask(GET_STATUS, handle).args[1] == b"1"
    assert grabs(raw, 1) == []
    assert admin.text(f"cancel job {handle.decode()}") == UNKNOWN_JOB
    assert admin.ask(GET_STATUS, handle).args[1] == b"0"


def test_a_resubmit_of_a_cancelled_jobs_unique_is_lost_until_a_worker_grabs(
    connect: Connect, admin: Raw, function: bytes
) -> None:
    raw = connect(function)
    handle = admin.submit(SUBMIT_JOB_BG, function, b"u", b"data")
    assert admin.text(f"cancel job {handle.decode()}") == OK
    assert admin.submit(SUBMIT_JOB_BG, function, b"u", b"again") == handle
    assert grabs(raw, 1) == []
    assert admin.submit(SUBMIT_JOB_BG, function, b"u", b"anew") != handle
    assert grabs(raw, 1) == [b"anew"]


def test_the_client_of_a_cancelled_queued_job_gets_work_fail_at_each_cancel(
    connect: Connect, admin: Raw, function: bytes
) -> None:
    client, raw = connect(), connect(function)
    handle = client.submit(SUBMIT_JOB, function, b"", b"data")
    for _ in range(2):
        assert admin.text(f"cancel job {handle.decode()}") == OK
        assert client.receive() == Packet(WORK_FAIL, [handle])
    assert grabs(raw, 1) == []
    assert client.barrier() == []


def test_a_cancelled_running_job_fails_and_its_later_data_and_result_still_arrive(
    connect: Connect, admin: Raw, function: bytes
) -> None:
    client, raw = connect(), connect(function)
    handle = client.submit(SUBMIT_JOB, function, b"", b"data")
    grab(raw)
    assert admin.text(f"cancel job {handle.decode()}") == OK
    assert client.receive() == Packet(WORK_FAIL, [handle])
    raw.send(WORK_DATA, handle, b"chunk")
    raw.send(WORK_COMPLETE, handle, b"done")
    assert raw.barrier() == []
    assert [client.receive() for _ in range(2)] == [
        Packet(WORK_DATA, [handle, b"chunk"]),
        Packet(WORK_COMPLETE, [handle, b"done"]),
    ]


def test_a_cancelled_running_job_is_not_run_again_when_its_worker_is_lost(
    connect: Connect, admin: Raw, function: bytes
) -> None:
    lost, other = connect(function), connect(function)
    handle = admin.submit(SUBMIT_JOB_BG, function, b"u", b"data")
    grab(lost)
    assert admin.text(f"cancel job {handle.decode()}") == OK
    lost.close()
    wait_until(lambda: jobs(admin)[handle.decode()].startswith("1\t"), "the lost worker is known")
    assert grabs(other, 1) == []


def test_a_job_that_is_due_later_can_be_cancelled_and_keeps_its_unique_until_it_is_due(
    connect: Connect, admin: Raw, function: bytes
) -> None:
    raw = connect(function)
    handle = admin.submit(SUBMIT_JOB_EPOCH, function, b"u", b"%d" % (time.time() + 2), b"data")
    assert admin.text(f"cancel job {handle.decode()}") == OK
    assert grabs(raw, 1) == []
    assert admin.submit(SUBMIT_JOB_BG, function, b"u", b"lost") == handle

    def swept() -> bool:
        assert grabs(raw, 1) == []
        return handle.decode() not in jobs(admin)

    wait_until(swept, "the due job is swept away")


# The process.


def test_sigusr1_lets_running_jobs_finish_and_then_ends_the_server(own_gearmand: StartGearmand) -> None:
    server = own_gearmand()
    with Raw(server.port) as client, worker(server.port, b"f") as raw:
        handle = client.submit(SUBMIT_JOB, b"f", b"", b"data")
        grab(raw)
        os.kill(server.pid, signal.SIGUSR1)
        wait_until(lambda: not _accepts(server.port), "new connections are refused")
        raw.send(WORK_COMPLETE, handle, b"done")
        assert client.receive() == Packet(WORK_COMPLETE, [handle, b"done"])


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def test_the_ssl_option_serves_plaintext_and_a_handshake_fails(own_gearmand: StartGearmand) -> None:
    server = own_gearmand("--ssl")
    with Raw(server.port) as raw:
        assert raw.barrier() == []
    context = ssl.create_default_context()
    with (
        socket.create_connection(server.address, timeout=5) as plain,
        pytest.raises((ssl.SSLError, TimeoutError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")
