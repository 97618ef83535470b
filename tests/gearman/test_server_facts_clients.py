"""What gearmand does for clients: replies, uniques, jobs that are due later, queues; measured on 1.1.20.

A difference on another version of the server shows here. Nothing that crashes or wedges a server is sent.
"""

import sqlite3
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.gearman.conftest import Connect
from tests.gearman.raw import (
    ECHO_REQ,
    ECHO_RES,
    ERROR,
    GET_STATUS,
    GET_STATUS_UNIQUE,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN_UNIQ,
    JOB_CREATED,
    NO_JOB,
    NOOP,
    OPTION_REQ,
    OPTION_RES,
    PRE_SLEEP,
    STATUS_RES,
    STATUS_RES_UNIQUE,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_EPOCH,
    SUBMIT_JOB_HIGH,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW_BG,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_STATUS,
    Packet,
    Raw,
    grab,
    grabs,
    request,
    worker,
)
from tests.servers import StartGearmand, wait_until

FULL = Packet(ERROR, [b"QUEUE_ERROR", b"Job queue is full"])


def waiting_clients(raw: Raw, unique: bytes) -> bytes:
    """Return how many clients wait for the job of this unique, as the server writes it."""
    return raw.ask(GET_STATUS_UNIQUE, unique).args[5]


def hang_up(client: Raw, watcher: Raw, unique: bytes) -> None:
    """`client`, who waits for the job of this unique, has gone, and the server knows it."""
    before = waiting_clients(watcher, unique)
    client.close()
    wait_until(lambda: waiting_clients(watcher, unique) != before, "the server has seen the client go")


# Replies.


def test_replies_keep_the_order_of_a_mix_of_requests(connect: Connect, function: bytes) -> None:
    client = connect()
    stream, expected = b"", list[int]()
    for n in range(500):
        unique = b"%d" % n
        for kind, args, reply in (
            (SUBMIT_JOB_BG, (function, unique, b"data"), JOB_CREATED),
            (SUBMIT_JOB, (function, b"fg-" + unique, b"data"), JOB_CREATED),
            (GET_STATUS, (b"H:nowhere:1",), STATUS_RES),
            (GET_STATUS_UNIQUE, (unique,), STATUS_RES_UNIQUE),
            (OPTION_REQ, (b"nope",), ERROR),
            (OPTION_REQ, (b"exceptions",), OPTION_RES),
            (ECHO_REQ, (unique,), ECHO_RES),
        ):
            stream += request(kind, *args)
            expected.append(reply)
    client.send_bytes(stream)
    assert [client.receive().kind for _ in expected] == expected


def test_a_result_never_comes_before_its_job_created(connect: Connect, function: bytes) -> None:
    client, raw = connect(), connect(function)
    client.send_bytes(b"".join(request(SUBMIT_JOB, function, b"%d" % n, b"") for n in range(200)))
    created = list[bytes]()
    completed = list[bytes]()
    for _ in range(200):
        kind, args = raw.ask(GRAB_JOB_UNIQ)
        if kind == JOB_ASSIGN_UNIQ:
            raw.send(WORK_COMPLETE, args[0], b"")
    while len(created) < 200 or len(completed) < 200:
        kind, args = client.receive()
        (created if kind == JOB_CREATED else completed).append(args[0])
        assert set(completed) <= set(created)
        if len(created) == 200:
            for handle in (args[0] for kind, args in [raw.ask(GRAB_JOB_UNIQ)] if kind == JOB_ASSIGN_UNIQ):
                raw.send(WORK_COMPLETE, handle, b"")


@pytest.mark.parametrize("size", [0, 1, 1 << 20, 16 << 20], ids=["0 B", "1 B", "1 MiB", "16 MiB"])
def test_payloads_pass_unchanged_in_both_directions(connect: Connect, function: bytes, size: int) -> None:
    client, raw = connect(), connect(function)
    payload = b"\n.\xff" * (size // 3) + b"x" * (size % 3)
    handle = client.submit(SUBMIT_JOB, function, b"", payload)
    assert grab(raw)[3] == payload
    raw.send(WORK_COMPLETE, handle, payload)
    assert client.receive() == Packet(WORK_COMPLETE, [handle, payload])


@pytest.mark.parametrize(
    "submit",
    [(SUBMIT_JOB_BG, ()), (SUBMIT_JOB_HIGH_BG, ()), (SUBMIT_JOB, ()), (SUBMIT_JOB_EPOCH, (b"4000000000",))],
    ids=["BG", "HIGH_BG", "foreground", "EPOCH"],
)
def test_a_full_queue_answers_queue_error_in_place_of_job_created(
    connect: Connect, function: bytes, submit: tuple[int, tuple[bytes, ...]]
) -> None:
    client = connect(function)
    assert client.text(f"maxqueue {function.decode()} 1") == "OK\r\n"
    handle = client.submit(SUBMIT_JOB_BG, function, b"first", b"data")
    kind, extra = submit
    assert client.ask(kind, function, b"second", *extra, b"data") == FULL
    assert client.submit(SUBMIT_JOB_BG, function, b"first", b"coalesced") == handle
    assert client.text(f"maxqueue {function.decode()} 0") == "OK\r\n"
    client.submit(kind, function, b"second", *extra, b"data")


def test_a_queue_limit_of_one_priority_counts_the_jobs_of_all(connect: Connect, function: bytes) -> None:
    client = connect(function)
    assert client.text(f"maxqueue {function.decode()} 1 0 3") == "OK\r\n"
    for n in range(3):
        client.submit(SUBMIT_JOB_BG, function, b"%d" % n, b"data")
    assert client.ask(SUBMIT_JOB_HIGH_BG, function, b"high", b"data") == FULL
    assert client.ask(SUBMIT_JOB_LOW_BG, function, b"low", b"data") == FULL
    client.submit(SUBMIT_JOB_BG, function, b"normal", b"data")


def test_a_queue_limit_counts_running_jobs(connect: Connect, function: bytes) -> None:
    client = connect(function)
    client.text(f"maxqueue {function.decode()} 1")
    client.submit(SUBMIT_JOB_BG, function, b"first", b"data")
    grab(client)
    assert client.ask(SUBMIT_JOB_BG, function, b"second", b"data") == FULL


# Uniques.


@pytest.mark.parametrize("first", [SUBMIT_JOB, SUBMIT_JOB_BG], ids=["foreground", "background"])
@pytest.mark.parametrize("second", [SUBMIT_JOB, SUBMIT_JOB_BG, SUBMIT_JOB_HIGH], ids=["fg", "bg", "fg high"])
def test_the_same_function_and_unique_are_one_job_with_the_first_payload(
    connect: Connect, function: bytes, first: int, second: int
) -> None:
    client, raw = connect(), connect(function)
    handle = client.submit(first, function, b"same", b"first")
    assert client.submit(second, function, b"same", b"second") == handle
    assert grabs(raw, 2) == [b"first"]


def test_the_same_unique_of_another_function_is_another_job(connect: Connect, function: bytes) -> None:
    client = connect()
    assert client.submit(SUBMIT_JOB_BG, function, b"same", b"") != client.submit(
        SUBMIT_JOB_BG, function + b"-other", b"same", b""
    )


def test_a_connection_that_submits_a_unique_twice_gets_each_work_packet_twice(
    connect: Connect, function: bytes
) -> None:
    client, raw = connect(), connect(function)
    handle = client.submit(SUBMIT_JOB, function, b"same", b"data")
    client.submit(SUBMIT_JOB, function, b"same", b"data")
    grab(raw)
    raw.send(WORK_DATA, handle, b"chunk")
    raw.send(WORK_COMPLETE, handle, b"done")
    assert [client.receive().kind for _ in range(4)] == [WORK_DATA, WORK_DATA, WORK_COMPLETE, WORK_COMPLETE]


def test_a_late_joiner_misses_earlier_data(connect: Connect, function: bytes) -> None:
    client, late, raw = connect(), connect(), connect(function)
    handle = client.submit(SUBMIT_JOB, function, b"same", b"data")
    grab(raw)
    raw.send(WORK_DATA, handle, b"early")
    assert client.receive().kind == WORK_DATA
    assert late.submit(SUBMIT_JOB, function, b"same", b"data") == handle
    raw.send(WORK_COMPLETE, handle, b"done")
    assert late.receive() == Packet(WORK_COMPLETE, [handle, b"done"])


@pytest.mark.parametrize("kind", [SUBMIT_JOB, SUBMIT_JOB_BG], ids=["foreground", "background"])
def test_an_empty_unique_never_coalesces_and_is_assigned_as_empty(connect: Connect, function: bytes, kind: int) -> None:
    client, raw = connect(), connect(function)
    handles = [client.submit(kind, function, b"", b"data") for _ in range(2)]
    assert handles[0] != handles[1]
    assert [grab(raw) for _ in range(2)] == [[handle, function, b"", b"data"] for handle in handles]


def test_the_unique_dash_coalesces_by_equal_payload(connect: Connect, function: bytes) -> None:
    client, raw = connect(), connect(function)
    for payload in (b"one", b"one", b"two"):
        client.submit(SUBMIT_JOB_BG, function, b"-", payload)
    assert grabs(raw, 3) == [b"one", b"two"]


def test_a_unique_may_have_63_bytes(connect: Connect, function: bytes) -> None:
    client, raw, unique = connect(), connect(function), b"u" * 63
    handle = client.submit(SUBMIT_JOB_BG, function, unique, b"data")
    assert client.submit(SUBMIT_JOB_BG, function, unique, b"data") == handle
    assert client.ask(GET_STATUS_UNIQUE, unique).args[:2] == [unique, b"1"]
    assert grab(raw)[2:] == [unique, b"data"]


def test_a_unique_of_64_bytes_is_accepted_and_breaks_its_job(connect: Connect, function: bytes) -> None:
    client, raw, unique = connect(), connect(function), b"u" * 64
    handle = client.submit(SUBMIT_JOB_BG, function, unique, b"data")
    assert client.submit(SUBMIT_JOB_BG, function, unique, b"data") != handle
    assert grab(raw) != [handle, function, unique, b"data"]


def test_a_unique_of_65_bytes_is_refused(connect: Connect, function: bytes) -> None:
    client = connect()
    assert client.ask(SUBMIT_JOB_BG, function, b"u" * 65, b"data").kind == ERROR
    assert client.barrier() == []


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        (GET_STATUS_UNIQUE, (b"u" * 64,)),
        (GET_STATUS, (b"H" * 64,)),
        (SUBMIT_JOB_EPOCH, (b"never", b"u", b"9" * 40, b"data")),
    ],
    ids=["GET_STATUS_UNIQUE of 64", "GET_STATUS of 64", "an overflowing epoch"],
)
def test_what_the_server_cannot_store_is_never_answered_and_may_close_the_connection(
    connect: Connect, kind: int, args: tuple[bytes, ...]
) -> None:
    client = connect()
    client.send(kind, *args)
    # gearmand closes about one in ten such connections, by a race of its threads.
    with suppress(EOFError, ConnectionError):
        assert client.barrier() == []


# Clients that go away.


def test_a_resubmit_that_meets_an_abandoned_job_is_accepted_and_never_run(connect: Connect, function: bytes) -> None:
    first, client, watcher, raw = connect(), connect(), connect(), connect(function)
    unique = function + b"-abandoned"
    handle = first.submit(SUBMIT_JOB, function, unique, b"first")
    hang_up(first, watcher, unique)
    assert client.submit(SUBMIT_JOB, function, unique, b"second") == handle
    assert client.submit(SUBMIT_JOB_BG, function, unique, b"third") == handle
    assert client.ask(GET_STATUS, handle).args[1] == b"1"
    assert raw.ask(GRAB_JOB_UNIQ).kind == NO_JOB
    assert client.barrier() == []
    # The grab has swept the abandoned job away, and its unique is free again.
    assert client.ask(GET_STATUS, handle).args[1] == b"0"
    assert client.submit(SUBMIT_JOB, function, unique, b"fourth") != handle
    assert grabs(raw, 1) == [b"fourth"]


def test_a_worker_that_goes_to_sleep_sweeps_abandoned_jobs_away(connect: Connect, function: bytes) -> None:
    first, client, watcher, raw = connect(), connect(), connect(), connect(function)
    unique = function + b"-abandoned"
    handle = first.submit(SUBMIT_JOB, function, unique, b"first")
    hang_up(first, watcher, unique)
    raw.send(PRE_SLEEP)
    assert raw.barrier() == []
    assert client.submit(SUBMIT_JOB, function, unique, b"second") != handle
    assert raw.receive().kind == NOOP
    assert grabs(raw, 1) == [b"second"]


@pytest.mark.parametrize("running", [False, True], ids=["queued", "running"])
def test_the_second_waiter_gets_the_result_when_the_first_has_gone(
    connect: Connect, function: bytes, running: bool
) -> None:
    first, second, watcher, raw = connect(), connect(), connect(), connect(function)
    unique = function + b"-shared"
    handle = first.submit(SUBMIT_JOB, function, unique, b"data")
    if running:
        grab(raw)
    assert second.submit(SUBMIT_JOB, function, unique, b"data") == handle
    hang_up(first, watcher, unique)
    if not running:
        grab(raw)
    raw.send(WORK_COMPLETE, handle, b"done")
    assert second.receive() == Packet(WORK_COMPLETE, [handle, b"done"])


@pytest.mark.parametrize("order", [(SUBMIT_JOB_BG, SUBMIT_JOB), (SUBMIT_JOB, SUBMIT_JOB_BG)], ids=["bg-fg", "fg-bg"])
def test_a_foreground_waiter_that_leaves_kills_the_queued_background_job(
    connect: Connect, function: bytes, order: tuple[int, int]
) -> None:
    clients, watcher, raw = {SUBMIT_JOB: connect(), SUBMIT_JOB_BG: connect()}, connect(), connect(function)
    unique = function + b"-mixed"
    handles = [clients[kind].submit(kind, function, unique, b"data") for kind in order]
    assert handles[0] == handles[1]
    hang_up(clients[SUBMIT_JOB], watcher, unique)
    assert raw.ask(GRAB_JOB_UNIQ).kind == NO_JOB


def test_a_running_job_whose_client_has_gone_still_takes_the_workers_verdict(connect: Connect, function: bytes) -> None:
    client, watcher, raw = connect(), connect(), connect(function)
    unique = function + b"-lone"
    handle = client.submit(SUBMIT_JOB, function, unique, b"data")
    grab(raw)
    hang_up(client, watcher, unique)
    raw.send(WORK_COMPLETE, handle, b"done")
    assert raw.barrier() == []
    assert watcher.ask(GET_STATUS, handle).args[1] == b"0"


# Background jobs.


def test_a_background_job_keeps_its_progress_and_drops_its_result(connect: Connect, function: bytes) -> None:
    client, raw = connect(), connect(function)
    handle = client.submit(SUBMIT_JOB_BG, function, b"", b"data")
    assert client.ask(GET_STATUS, handle) == Packet(STATUS_RES, [handle, b"1", b"0", b"0", b"0"])
    grab(raw)
    raw.send(WORK_STATUS, handle, b"1", b"2")
    raw.send(WORK_DATA, handle, b"chunk")
    assert raw.barrier() == []
    assert client.ask(GET_STATUS, handle) == Packet(STATUS_RES, [handle, b"1", b"1", b"1", b"2"])
    raw.send(WORK_COMPLETE, handle, b"done")
    assert raw.barrier() == []
    assert client.ask(GET_STATUS, handle) == Packet(STATUS_RES, [handle, b"0", b"0", b"0", b"0"])


def test_the_status_by_unique_names_the_unique_and_counts_the_waiting_clients(
    connect: Connect, function: bytes
) -> None:
    client, unique = connect(), function + b"-u"
    client.submit(SUBMIT_JOB, function, unique, b"data")
    connect().submit(SUBMIT_JOB, function, unique, b"data")
    assert client.ask(GET_STATUS_UNIQUE, unique) == Packet(STATUS_RES_UNIQUE, [unique, b"1", b"0", b"0", b"0", b"2"])


def _sqlite(folder: Path) -> tuple[str, str]:
    return "--queue-type=libsqlite3", f"--libsqlite3-db={folder / 'queue.db'}"


def test_the_sqlite_queue_survives_a_kill_with_distinct_uniques(own_gearmand: StartGearmand, tmp_path: Path) -> None:
    server = own_gearmand(*_sqlite(tmp_path))
    with Raw(server.port) as client, worker(server.port, b"f") as raw:
        for n in range(3):
            client.submit(SUBMIT_JOB_BG, b"f", b"%d" % n, b"data %d" % n)
        client.submit(SUBMIT_JOB, b"f", b"foreground", b"foreground")
        assert grabs(raw, 1) == [b"data 0"]
        server.kill()
    server.restart()
    with Raw(server.port) as client, worker(server.port, b"f") as raw:
        assert sorted(grabs(raw, 5)) == [b"data 0", b"data 1", b"data 2"]
        assert client.submit(SUBMIT_JOB_BG, b"f", b"next", b"x").rpartition(b":")[2] == b"4"


def test_the_sqlite_queue_keeps_one_of_the_jobs_with_empty_uniques(own_gearmand: StartGearmand, tmp_path: Path) -> None:
    server = own_gearmand(*_sqlite(tmp_path))
    with Raw(server.port) as client:
        for n in range(5):
            client.submit(SUBMIT_JOB_BG, b"f", b"", b"data %d" % n)
    with sqlite3.connect(tmp_path / "queue.db") as db:
        assert db.execute("SELECT count(*) FROM gearman_queue").fetchone() == (1,)
    db.close()


def test_handles_start_again_at_one_after_a_restart(own_gearmand: StartGearmand) -> None:
    server = own_gearmand()
    handles = list[bytes]()
    for _ in range(2):
        with Raw(server.port) as client:
            handles.append(client.submit(SUBMIT_JOB_BG, b"f", b"u", b"data"))
        server.kill()
        server.restart()
    assert handles[0] == handles[1]


# Jobs that are due later.


def _after(seconds: int) -> int:
    return int(time.time()) + seconds


def _submit_at(client: Raw, function: bytes, due: int) -> bytes:
    return client.submit(SUBMIT_JOB_EPOCH, function, b"at-%d" % due, b"%d" % due, b"later")


def _first_grab(raw: Raw, deadline: float) -> float:
    while raw.ask(GRAB_JOB_UNIQ).kind != JOB_ASSIGN_UNIQ:
        assert time.time() < deadline, "the job was never given out"
    return time.time()


def test_an_epoch_job_is_not_given_out_before_its_second_and_is_given_to_a_poll_after_it(
    connect: Connect, function: bytes
) -> None:
    client, raw = connect(), connect(function)
    due = _after(2)
    _submit_at(client, function, due)
    assert due <= _first_grab(raw, deadline=due + 5)
    assert client.barrier() == []


def test_an_epoch_job_wakes_a_sleeper_when_it_is_submitted_and_not_when_it_is_due(
    connect: Connect, function: bytes
) -> None:
    client, raw, poller = connect(), connect(function), connect(function + b"-clock")
    raw.send(PRE_SLEEP)
    assert raw.barrier() == []
    due = _after(1)
    _submit_at(client, function, due)
    assert raw.receive().kind == NOOP
    assert raw.ask(GRAB_JOB_UNIQ).kind == NO_JOB
    raw.send(PRE_SLEEP)
    assert raw.barrier() == []
    # Another function's job of the same second is given out: the server's clock has passed it.
    _submit_at(client, function + b"-clock", due)
    _first_grab(poller, deadline=due + 5)
    assert raw.barrier() == []
    assert raw.ask(PRE_SLEEP).kind == NOOP
    assert grabs(raw, 1) == [b"later"]


def test_a_future_epoch_job_alone_lets_workers_sleep(connect: Connect, function: bytes) -> None:
    client, raw = connect(), connect(function)
    _submit_at(client, function, _after(3600))
    for _ in range(3):
        raw.send(PRE_SLEEP)
        assert raw.barrier() == []
        assert raw.ask(GRAB_JOB_UNIQ).kind == NO_JOB


def test_a_future_epoch_job_blocks_the_low_jobs_behind_it_and_makes_sleep_spin(
    connect: Connect, function: bytes
) -> None:
    client, raw = connect(), connect(function)
    _submit_at(client, function, _after(3600))
    for kind in (SUBMIT_JOB_LOW_BG, SUBMIT_JOB_BG, SUBMIT_JOB_HIGH_BG):
        client.submit(kind, function, b"%d" % kind, b"%d" % kind)
    assert grabs(raw, 4) == [b"%d" % SUBMIT_JOB_HIGH_BG, b"%d" % SUBMIT_JOB_BG]
    for _ in range(3):
        assert raw.ask(PRE_SLEEP).kind == NOOP
        assert raw.ask(GRAB_JOB_UNIQ).kind == NO_JOB
