"""What gearmand does with packets and with workers, as que relies on it; measured on 1.1.20, with raw sockets.

A difference on another version of the server shows here. Nothing that crashes or wedges a server is sent.
"""

import struct
from functools import partial

import pytest

from tests.gearman.conftest import Connect
from tests.gearman.raw import (
    ALL_YOURS,
    CAN_DO,
    CANT_DO,
    ERROR,
    GET_STATUS,
    GRAB_JOB,
    GRAB_JOB_ALL,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN,
    JOB_ASSIGN_UNIQ,
    JOB_CREATED,
    NO_JOB,
    NOOP,
    OPTION_REQ,
    OPTION_RES,
    PRE_SLEEP,
    RESET_ABILITIES,
    SET_CLIENT_ID,
    STATUS_RES,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_HIGH,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW_BG,
    SUBMIT_JOB_SCHED,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    Packet,
    Raw,
    grab,
    grabs,
    request,
    worker,
)
from tests.servers import Gearmand, StartGearmand, wait_until

NOT_YOURS = (ERROR, b"JOB_NOT_FOUND")


def verdict(raw: Raw, kind: int, *args: bytes) -> tuple[int, bytes]:
    """Return the type and the first argument of the answer to a worker's report, which must get one."""
    answer = raw.ask(kind, *args)
    return answer.kind, answer.args[0]


def grabs_a_job(raw: Raw) -> bool:
    """Tell whether a grab gives a job."""
    return raw.ask(GRAB_JOB_UNIQ).kind == JOB_ASSIGN_UNIQ


# What the packets are.


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        (5, ()),
        (ALL_YOURS, ()),
        (SUBMIT_JOB_SCHED, (b"f", b"u", b"0", b"0", b"1", b"1", b"0", b"data")),
        (JOB_CREATED, (b"H:vm:1",)),
        (NOOP, ()),
        (STATUS_RES, (b"H:vm:1", b"1", b"1", b"0", b"0")),
    ],
    ids=["5", "ALL_YOURS", "SUBMIT_JOB_SCHED", "JOB_CREATED", "NOOP", "STATUS_RES"],
)
def test_a_rejected_type_gets_an_error_and_the_connection_lives(
    connect: Connect, kind: int, args: tuple[bytes, ...]
) -> None:
    raw = connect()
    answer = raw.ask(kind, *args)
    assert (answer.kind, answer.args[0]) == (ERROR, b"INVALID_COMMAND")
    assert raw.barrier() == []


@pytest.mark.parametrize(
    ("magic", "kind"),
    [(b"\0REQ", 0), (b"\0REQ", 43), (b"\0ABC", 16)],
    ids=["type 0", "type 43", "bad magic"],
)
def test_an_unknown_type_or_magic_closes_the_connection(connect: Connect, magic: bytes, kind: int) -> None:
    raw = connect()
    raw.send_bytes(struct.pack(">4sII", magic, kind, 0))
    assert raw.closed()


def test_the_magic_of_a_response_gets_an_error_and_the_connection_lives(connect: Connect) -> None:
    raw = connect()
    raw.send_bytes(struct.pack(">4sII", b"\0RES", 16, 0))
    assert raw.receive() == Packet(ERROR, [b"INVALID_MAGIC", b"Request magic expected"])
    assert raw.barrier() == []


def test_the_only_option_is_exceptions(connect: Connect) -> None:
    raw = connect()
    assert raw.ask(OPTION_REQ, b"exceptions") == Packet(OPTION_RES, [b"exceptions"])
    assert raw.ask(OPTION_REQ, b"other") == Packet(
        ERROR, [b"UNKNOWN_OPTION", b"Server does not recognize given option"]
    )


def test_a_size_field_larger_than_what_follows_is_waited_for(connect: Connect, function: bytes) -> None:
    raw = connect()
    whole = request(SUBMIT_JOB_BG, function, b"", b"payload")
    raw.send_bytes(whole[:-1])
    assert connect().barrier() == []
    raw.send_bytes(whole[-1:])
    assert raw.receive().kind == JOB_CREATED


# Worker rules.


def test_pipelined_grabs_get_one_reply_each_in_order_and_verdicts_come_in_any_order(
    connect: Connect, function: bytes
) -> None:
    client, raw = connect(), connect(function)
    handles = [client.submit(SUBMIT_JOB, function, b"%d" % n, b"data %d" % n) for n in range(3)]
    raw.send_bytes(request(GRAB_JOB_UNIQ) * 5)
    assert raw.barrier() == [
        *(Packet(JOB_ASSIGN_UNIQ, [handles[n], function, b"%d" % n, b"data %d" % n]) for n in range(3)),
        Packet(NO_JOB, []),
        Packet(NO_JOB, []),
    ]
    for handle in (handles[2], handles[0], handles[1]):
        raw.send(WORK_COMPLETE, handle, b"done")
        assert client.receive() == Packet(WORK_COMPLETE, [handle, b"done"])


@pytest.mark.parametrize(
    ("kind", "answer", "has_unique"),
    [(GRAB_JOB, JOB_ASSIGN, False), (GRAB_JOB_UNIQ, JOB_ASSIGN_UNIQ, True), (GRAB_JOB_ALL, JOB_ASSIGN_UNIQ, True)],
    ids=["GRAB_JOB", "GRAB_JOB_UNIQ", "GRAB_JOB_ALL"],
)
def test_a_grab_of_each_kind_has_its_own_assignment(
    connect: Connect, function: bytes, kind: int, answer: int, has_unique: bool
) -> None:
    handle = connect().submit(SUBMIT_JOB_BG, function, b"u", b"data")
    unique = [b"u"] if has_unique else []
    assert connect(function).ask(kind) == Packet(answer, [handle, function, *unique, b"data"])


def test_only_the_connection_that_was_assigned_a_job_may_report_on_it(connect: Connect, function: bytes) -> None:
    client, owner, other = connect(), connect(function), connect(function)
    handle = client.submit(SUBMIT_JOB, function, b"", b"data")
    grab(owner)
    assert verdict(other, WORK_FAIL, handle) == NOT_YOURS
    assert verdict(other, WORK_STATUS, handle, b"1", b"2") == NOT_YOURS
    for kind in (WORK_DATA, WORK_WARNING, WORK_COMPLETE, WORK_EXCEPTION):
        assert verdict(other, kind, handle, b"x") == NOT_YOURS
    owner.send(WORK_COMPLETE, handle, b"mine")
    assert owner.barrier() == []
    assert client.receive() == Packet(WORK_COMPLETE, [handle, b"mine"])
    assert verdict(owner, WORK_COMPLETE, handle, b"again") == NOT_YOURS
    assert client.barrier() == []


def test_pre_sleep_with_runnable_work_answers_noop_each_time(connect: Connect, function: bytes) -> None:
    raw = connect(function)
    raw.send(PRE_SLEEP)
    assert raw.barrier() == []
    connect().submit(SUBMIT_JOB_BG, function, b"", b"data")
    assert raw.receive().kind == NOOP
    for _ in range(3):
        assert raw.ask(PRE_SLEEP).kind == NOOP
    assert grabs(raw, 1) == [b"data"]
    raw.send(PRE_SLEEP)
    assert raw.barrier() == []


def test_several_submits_give_one_noop_and_it_is_not_repeated_before_a_grab(connect: Connect, function: bytes) -> None:
    client, raw = connect(), connect(function)
    raw.send(PRE_SLEEP)
    assert raw.barrier() == []
    for n in range(3):
        client.submit(SUBMIT_JOB_BG, function, b"%d" % n, b"data %d" % n)
    assert raw.receive().kind == NOOP
    client.submit(SUBMIT_JOB_BG, function, b"3", b"data 3")
    assert raw.barrier() == []
    assert grabs(raw, 5) == [b"data 0", b"data 1", b"data 2", b"data 3"]


def test_after_a_noop_only_a_grab_arms_the_next_one(connect: Connect, function: bytes) -> None:
    client, raw, thief = connect(), connect(function), connect(function)
    raw.send(PRE_SLEEP)
    assert raw.barrier() == []
    client.submit(SUBMIT_JOB_BG, function, b"1", b"1")
    assert raw.receive().kind == NOOP
    assert grabs(thief, 1) == [b"1"]
    raw.send(PRE_SLEEP)
    assert raw.barrier() == []
    client.submit(SUBMIT_JOB_BG, function, b"2", b"2")
    assert raw.barrier() == []
    assert grabs(thief, 1) == [b"2"]
    assert raw.ask(GRAB_JOB_UNIQ).kind == NO_JOB
    raw.send(PRE_SLEEP)
    assert raw.barrier() == []
    client.submit(SUBMIT_JOB_BG, function, b"3", b"3")
    assert raw.receive().kind == NOOP


def test_every_sleeping_worker_of_a_function_is_woken_for_one_job(connect: Connect, function: bytes) -> None:
    sleepers = [connect(function) for _ in range(3)]
    for raw in sleepers:
        raw.send(PRE_SLEEP)
        assert raw.barrier() == []
    connect().submit(SUBMIT_JOB_BG, function, b"", b"data")
    assert [raw.receive().kind for raw in sleepers] == [NOOP] * 3
    assert [raw.ask(GRAB_JOB_UNIQ).kind for raw in sleepers] == [JOB_ASSIGN_UNIQ, NO_JOB, NO_JOB]


def test_a_grab_after_pre_sleep_cancels_the_sleep(connect: Connect, function: bytes) -> None:
    client, raw = connect(), connect(function)
    raw.send(PRE_SLEEP)
    assert raw.ask(GRAB_JOB_UNIQ).kind == NO_JOB
    client.submit(SUBMIT_JOB_BG, function, b"", b"data")
    assert raw.barrier() == []


def test_can_do_while_asleep_with_a_job_queued_gives_no_noop(connect: Connect, function: bytes) -> None:
    connect().submit(SUBMIT_JOB_BG, function, b"", b"data")
    raw = connect(function + b"-other")
    raw.send(PRE_SLEEP)
    raw.send(CAN_DO, function)
    assert raw.barrier() == []
    assert grabs(raw, 1) == [b"data"]


def _two_functions(raw: Raw, client: Raw) -> list[bytes]:
    for kind, function, data in (
        (SUBMIT_JOB_HIGH_BG, b"first", b"first high"),
        (SUBMIT_JOB_BG, b"first", b"first normal"),
        (SUBMIT_JOB_LOW_BG, b"last", b"last low"),
        (SUBMIT_JOB_BG, b"last", b"last normal"),
        (SUBMIT_JOB_BG, b"last", b"last normal 2"),
    ):
        client.submit(kind, function, data.replace(b" ", b"-"), data)
    return grabs(raw, 6)


def test_the_last_can_do_is_served_first_and_drained_whatever_the_priorities(own_gearmand: StartGearmand) -> None:
    port = own_gearmand().port
    with worker(port, b"first", b"last") as raw, Raw(port) as client:
        expected = [b"last normal", b"last normal 2", b"last low", b"first high", b"first normal"]
        assert _two_functions(raw, client) == expected


def test_round_robin_alternates_between_functions(own_gearmand: StartGearmand) -> None:
    port = own_gearmand("--round-robin").port
    with worker(port, b"first", b"last") as raw, Raw(port) as client:
        served = [data.split()[0] for data in _two_functions(raw, client)]
        assert sorted(served[:4]) == [b"first", b"first", b"last", b"last"]
        assert served[0] != served[1]


def test_within_a_function_priority_goes_first_and_then_age(connect: Connect, function: bytes) -> None:
    client, raw = connect(), connect(function)
    for n, kind in enumerate((SUBMIT_JOB_LOW_BG, SUBMIT_JOB_BG, SUBMIT_JOB_HIGH_BG) * 2):
        client.submit(kind, function, b"%d" % n, b"%d" % n)
    assert grabs(raw, 7) == [b"2", b"5", b"1", b"4", b"0", b"3"]


@pytest.mark.parametrize("goodbye", [CANT_DO, RESET_ABILITIES], ids=["CANT_DO", "RESET_ABILITIES"])
def test_giving_a_function_up_requeues_its_running_jobs_at_once(
    connect: Connect, function: bytes, goodbye: int
) -> None:
    client, raw, other = connect(), connect(function), connect(function)
    handle = client.submit(SUBMIT_JOB, function, b"", b"data")
    grab(raw)
    other.send(PRE_SLEEP)
    assert other.barrier() == []
    raw.send(goodbye, *([function] if goodbye == CANT_DO else []))
    assert other.receive().kind == NOOP
    assert grab(other)[0] == handle
    assert verdict(raw, WORK_COMPLETE, handle, b"late") == NOT_YOURS
    other.send(WORK_COMPLETE, handle, b"second")
    assert client.receive() == Packet(WORK_COMPLETE, [handle, b"second"])


def test_cant_do_leaves_the_jobs_of_other_functions_alone(connect: Connect, function: bytes) -> None:
    client, raw = connect(), connect(function, function + b"-kept")
    handle = client.submit(SUBMIT_JOB, function + b"-kept", b"", b"data")
    grab(raw)
    raw.send(CANT_DO, function)
    raw.send(WORK_COMPLETE, handle, b"done")
    assert client.receive() == Packet(WORK_COMPLETE, [handle, b"done"])


def test_three_can_do_for_one_function_count_as_three_workers(connect: Connect, function: bytes) -> None:
    raw = connect(function, function, function)
    assert f"{function.decode()}\t0\t0\t3" in raw.listing("status")


def test_a_lost_workers_jobs_are_requeued_at_the_tail(connect: Connect, function: bytes) -> None:
    client, lost, other = connect(), connect(function), connect(function)
    for n in range(3):
        client.submit(SUBMIT_JOB_BG, function, b"%d" % n, b"%d" % n)
    grab(lost)
    assert grabs(other, 1) == [b"1"]
    lost.close()
    wait_until(lambda: f"{function.decode()}\t3\t1\t1" in client.listing("status"), "the lost worker is known")
    assert grabs(other, 3) == [b"2", b"0"]


def test_a_lost_workers_job_wakes_a_sleeper(connect: Connect, function: bytes) -> None:
    client, lost, other = connect(), connect(function), connect(function)
    client.submit(SUBMIT_JOB_BG, function, b"", b"data")
    grab(lost)
    other.send(PRE_SLEEP)
    assert other.barrier() == []
    lost.close()
    assert other.receive().kind == NOOP
    assert grabs(other, 1) == [b"data"]


@pytest.mark.parametrize(("retries", "executions"), [(1, 1), (3, 3)], ids=["one", "three"])
def test_job_retries_counts_executions_and_ends_in_work_fail(
    own_gearmand: StartGearmand, retries: int, executions: int
) -> None:
    port = own_gearmand(f"--job-retries={retries}").port
    with Raw(port) as client:
        handle = client.submit(SUBMIT_JOB, b"f", b"", b"data")
        for _ in range(executions):
            with worker(port, b"f") as raw:
                wait_until(partial(grabs_a_job, raw), "the job is given out")
        assert client.receive() == Packet(WORK_FAIL, [handle])
        with worker(port, b"f") as raw:
            assert raw.ask(GRAB_JOB_UNIQ).kind == NO_JOB


def test_without_job_retries_a_job_outlives_any_number_of_workers(gearmand: Gearmand, connect: Connect) -> None:
    client = connect()
    handle = client.submit(SUBMIT_JOB, b"outlives", b"", b"data")
    for _ in range(20):
        with worker(gearmand.port, b"outlives") as raw:
            wait_until(partial(grabs_a_job, raw), "the job is given out")
    assert client.ask(GET_STATUS, handle).args[1] == b"1"


def test_a_work_exception_is_terminal_and_looks_like_a_fail_to_clients_without_the_option(
    connect: Connect, function: bytes
) -> None:
    plain, optioned, raw = connect(), connect(), connect(function)
    assert optioned.ask(OPTION_REQ, b"exceptions").kind == OPTION_RES
    handle = plain.submit(SUBMIT_JOB, function, b"same", b"data")
    assert optioned.submit(SUBMIT_JOB, function, b"same", b"data") == handle
    grab(raw)
    raw.send(WORK_EXCEPTION, handle, b"boom")
    assert raw.barrier() == []
    assert optioned.receive() == Packet(WORK_EXCEPTION, [handle, b"boom"])
    assert plain.receive() == Packet(WORK_FAIL, [handle, b""])  # the handle with a trailing NUL
    assert verdict(raw, WORK_FAIL, handle) == NOT_YOURS
    assert plain.barrier() == optioned.barrier() == []


def test_an_ordinary_work_fail_has_no_trailing_nul(connect: Connect, function: bytes) -> None:
    client, raw = connect(), connect(function)
    handle = client.submit(SUBMIT_JOB, function, b"", b"data")
    grab(raw)
    raw.send(WORK_FAIL, handle)
    assert client.receive() == Packet(WORK_FAIL, [handle])


def test_data_warnings_and_progress_reach_the_client_in_order_and_verbatim(connect: Connect, function: bytes) -> None:
    client, raw = connect(), connect(function)
    handle = client.submit(SUBMIT_JOB_HIGH, function, b"", b"data")
    grab(raw)
    sent = [
        Packet(WORK_DATA, [handle, b"chunk"]),
        Packet(WORK_WARNING, [handle, b"careful"]),
        Packet(WORK_STATUS, [handle, b"x", b"1.5"]),
        Packet(WORK_STATUS, [handle, b"4294967295", b"4294967295"]),
        Packet(WORK_COMPLETE, [handle, b""]),
    ]
    for kind, args in sent:
        raw.send(kind, *args)
    assert [client.receive() for _ in sent[:-1]] == sent[:-1]
    assert client.receive() == Packet(WORK_COMPLETE, [handle, b""])


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ((b"1", b"2"), [b"1", b"2"]),
        ((b"2147483647", b"2147483647"), [b"2147483647", b"2147483647"]),
        ((b"4294967295", b"4294967295"), [b"4294967295", b"4294967295"]),
        ((b"4294967296", b"1"), [b"0", b"1"]),
        ((b"-1", b"5"), [b"4294967295", b"5"]),
        ((b"1.9", b"x"), [b"1", b"0"]),
    ],
    ids=["small", "2^31-1", "2^32-1", "2^32 wraps", "negative wraps", "not a number"],
)
def test_progress_is_kept_as_two_unsigned_32_bit_numbers(
    connect: Connect, function: bytes, sent: tuple[bytes, bytes], kept: list[bytes]
) -> None:
    client, raw = connect(), connect(function)
    handle = client.submit(SUBMIT_JOB_BG, function, b"", b"data")
    grab(raw)
    raw.send(WORK_STATUS, handle, *sent)
    assert raw.barrier() == []
    assert client.ask(GET_STATUS, handle) == Packet(STATUS_RES, [handle, b"1", b"1", *kept])


def test_an_assignment_over_8192_bytes_of_arguments_closes_the_worker(own_gearmand: StartGearmand) -> None:
    port = own_gearmand().port
    long = b"f" * 8120
    with Raw(port) as client:
        client.submit(SUBMIT_JOB_BG, long, b"u" * 63, b"data")
        for _ in range(2):
            with worker(port, long) as raw:
                raw.send(GRAB_JOB_UNIQ)
                assert raw.closed()


def test_a_function_name_of_512_bytes_is_assigned_with_a_payload_of_any_size(connect: Connect) -> None:
    name = b"n" * 512
    connect().submit(SUBMIT_JOB_BG, name, b"u" * 63, b"d" * 100_000)
    assert grab(connect(name))[1:] == [name, b"u" * 63, b"d" * 100_000]


def test_a_client_id_is_cut_at_127_bytes(connect: Connect, function: bytes) -> None:
    raw = connect(function)
    raw.send(SET_CLIENT_ID, b"i" * 200)
    assert raw.barrier() == []
    ids = [row.split(" ")[2] for row in raw.listing("workers") if row.endswith(f" : {function.decode()}")]
    assert ids == ["i" * 127]
