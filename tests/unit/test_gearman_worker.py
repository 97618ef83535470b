"""The worker machine, byte by byte: credits, naps and reports, and no socket or clock anywhere."""

import struct
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from que.errors import PacketError, ProtocolError, Rejected
from que.gearman.packets import Magic, PacketType
from que.gearman.wire import Parser, pack
from que.gearman.worker import LONGEST_REST_SECONDS, MAX_FIGURE, Phase, Worker

GRAB, PRE_SLEEP = struct.pack(">4sII", b"\0REQ", 30, 0), struct.pack(">4sII", b"\0REQ", 4, 0)
NOOP, NO_JOB = struct.pack(">4sII", b"\0RES", 6, 0), struct.pack(">4sII", b"\0RES", 10, 0)


class Sink:
    """Takes jobs; a job's token is its handle as text."""

    def __init__(self) -> None:
        self.jobs: list[tuple[bytes, bytes, bytes, bytes]] = []

    def assigned(self, handle: bytes, function: bytes, unique: bytes, payload: bytes) -> str:
        self.jobs.append((handle, function, unique, payload))
        return handle.decode()


class Asked:
    def __init__(self) -> None:
        self.log: list[object] = []

    def answered(self, args: tuple[bytes, ...]) -> None:
        self.log.append(args)

    def refused(self, error: Rejected) -> None:
        self.log.append(error)

    def lost(self) -> None:
        self.log.append("lost")


def request(kind: int, *args: bytes) -> bytes:
    body = b"\0".join(args)
    return struct.pack(">4sII", b"\0REQ", kind, len(body)) + body


def assign(handle: bytes, function: bytes = b"f") -> bytes:
    return pack(Magic.RESPONSE, PacketType.JOB_ASSIGN_UNIQ, (handle, function, b"u", b"data"))


def sent(worker: Worker[str]) -> bytes:
    return b"".join(map(bytes, iter(worker.take, b"")))


def hear(worker: Worker[str], data: bytes, now: float = 100.0) -> None:
    """`data` has arrived, through the receive buffer."""
    worker.get_buffer(len(data))[: len(data)] = data
    worker.buffer_updated(len(data), now)


def holding(worker: Worker[str], *handles: bytes) -> None:
    """The worker holds these jobs."""
    for handle in handles:
        worker.grab(1)
        hear(worker, assign(handle))
    sent(worker)


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def worker(sink: Sink) -> Worker[str]:
    worker: Worker[str] = Worker(sink, [b"f"])
    sent(worker)
    return worker


def test_the_registration_leaves_first(sink: Sink) -> None:
    worker: Worker[str] = Worker(sink, [b"f", b"g"], client_id=b"me")
    worker.grab(1)
    assert sent(worker) == request(22, b"me") + request(1, b"f") + request(1, b"g") + GRAB


def test_no_client_id_is_sent_where_none_is_set(sink: Sink) -> None:
    assert sent(Worker(sink, [b"f"])) == request(1, b"f")


def test_an_assigned_job_reaches_the_sink_and_is_held(worker: Worker[str], sink: Sink) -> None:
    worker.grab(1)
    hear(worker, pack(Magic.RESPONSE, 31, (b"H:1", b"f", b"unique", b"da\0ta")))
    assert sink.jobs == [(b"H:1", b"f", b"unique", b"da\0ta")]
    assert worker.held == {b"H:1": "H:1"}


def test_the_grabs_double_with_each_round_while_jobs_come(worker: Worker[str]) -> None:
    rooms: list[int] = []
    handle = 0
    for _ in range(6):
        rooms.append(worker.room)
        worker.grab(worker.room)
        assert sent(worker) == GRAB * rooms[-1]
        for _ in range(rooms[-1]):
            handle += 1
            hear(worker, assign(b"H:%d" % handle))
    assert rooms == [1, 2, 4, 8, 16, 32]


def test_it_sleeps_after_the_last_no_job_and_not_before(worker: Worker[str]) -> None:
    holding(worker, b"H:1", b"H:2")
    worker.grab(3)
    sent(worker)
    hear(worker, NO_JOB + NO_JOB)
    assert (sent(worker), worker.room) == (b"", 0)
    hear(worker, NO_JOB)
    assert sent(worker) == PRE_SLEEP
    assert (worker.phase, worker.room) == (Phase.ASLEEP, 0)


def test_a_job_after_a_no_job_means_that_it_grabs_on(worker: Worker[str]) -> None:
    holding(worker, b"H:1")
    worker.grab(2)
    hear(worker, NO_JOB + assign(b"H:2"))
    assert worker.phase is Phase.AWAKE
    assert worker.room > 0
    assert PRE_SLEEP not in sent(worker)


def test_a_noop_wakes_it_for_two_grabs_where_the_last_one_brought_a_job_and_else_for_one(worker: Worker[str]) -> None:
    worker.grab(1)
    hear(worker, NO_JOB)
    rooms: list[int] = []
    for number, jobs in enumerate((0, 20, 1, 0, 0)):
        hear(worker, NOOP, 200.0 + number)
        rooms.append(worker.room)
        worker.grab(worker.room)
        for job in range(jobs):
            hear(worker, assign(b"H:%d-%d" % (number, job)), 200.0 + number)
            worker.grab(worker.room)
        hear(worker, NO_JOB * worker.outstanding, 200.0 + number)
    assert rooms == [1, 1, 2, 2, 1]


def test_a_stray_noop_changes_nothing(worker: Worker[str]) -> None:
    worker.grab(1)
    sent(worker)
    hear(worker, NOOP + NO_JOB)
    assert sent(worker) == PRE_SLEEP
    assert worker.phase is Phase.ASLEEP


def spin(worker: Worker[str], now: float) -> float:
    """A NOOP came right after PRE_SLEEP and brought nothing: return the rest that follows."""
    hear(worker, NOOP, now)
    worker.grab(worker.room)
    hear(worker, NO_JOB * worker.outstanding, now)
    return worker.rest_until - now if worker.phase is Phase.RESTING else 0.0


def test_rests_double_while_the_server_cuts_naps_short_for_nothing(worker: Worker[str]) -> None:
    worker.grab(1)
    hear(worker, NO_JOB, now := 100.0)
    rests: list[float] = []
    for _ in range(12):
        rests.append(spin(worker, now))
        assert sent(worker).endswith(GRAB), "it does not sleep before its rest is over"
        now = worker.rest_until
        worker.tick(now - 1e-6)
        assert worker.phase is Phase.RESTING
        worker.tick(now)
        assert sent(worker) == PRE_SLEEP
    assert rests[:4] == pytest.approx([0.001, 0.002, 0.004, 0.008])
    assert rests[-1] == pytest.approx(LONGEST_REST_SECONDS)
    assert rests == sorted(rests)


def test_a_job_ends_the_doubling_of_rests(worker: Worker[str]) -> None:
    worker.grab(1)
    hear(worker, NO_JOB, 100.0)
    for _ in range(5):
        spin(worker, 100.0)
        worker.tick(worker.rest_until)
    hear(worker, NOOP, 100.0)
    worker.grab(1)
    hear(worker, assign(b"H:1"), 100.0)
    worker.grab(2)
    hear(worker, NO_JOB + NO_JOB, 100.0)
    assert worker.phase is Phase.ASLEEP
    assert spin(worker, 100.0) == pytest.approx(0.001)


def test_a_worker_that_lost_the_race_after_a_long_nap_does_not_rest(worker: Worker[str]) -> None:
    worker.grab(1)
    hear(worker, NO_JOB, 100.0)
    assert spin(worker, 130.0) == 0.0
    assert worker.phase is Phase.ASLEEP


def test_a_poll_looks_without_a_noop_and_never_leads_to_a_rest(worker: Worker[str]) -> None:
    worker.grab(1)
    hear(worker, NO_JOB)
    sent(worker)
    worker.poll()
    assert worker.room == 1
    worker.grab(1)
    hear(worker, NO_JOB)
    assert sent(worker) == GRAB + PRE_SLEEP
    assert worker.phase is Phase.ASLEEP


def test_a_stopped_worker_grabs_no_more_and_does_not_sleep(worker: Worker[str]) -> None:
    holding(worker, b"H:1")
    worker.grab(2)
    worker.stop()
    hear(worker, assign(b"H:2") + NO_JOB)
    assert worker.room == 0
    assert PRE_SLEEP not in sent(worker)
    assert list(worker.held) == [b"H:1", b"H:2"]


def complete(worker: Worker[str]) -> bool:
    return worker.complete(b"H:1", b"result")


def fail(worker: Worker[str]) -> bool:
    return worker.fail(b"H:1", b"why")


def fail_silently(worker: Worker[str]) -> bool:
    return worker.fail_silently(b"H:1")


def release(worker: Worker[str]) -> bool:
    return worker.release(b"H:1")


ENDS: dict[str, tuple[Callable[[Worker[str]], bool], bytes]] = {
    "complete": (complete, request(13, b"H:1", b"result")),
    "fail": (fail, request(29, b"H:1", b"why") + request(14, b"H:1")),
    "fail silently": (fail_silently, request(14, b"H:1")),
    "release": (release, b""),
}


@pytest.mark.parametrize("second", ENDS)
@pytest.mark.parametrize("first", ENDS)
def test_a_job_has_exactly_one_terminal_packet(worker: Worker[str], first: str, second: str) -> None:
    holding(worker, b"H:1")
    end, packet = ENDS[first]
    assert end(worker)
    assert sent(worker) == packet
    assert not ENDS[second][0](worker)
    assert sent(worker) == b""


def test_a_result_that_no_packet_can_carry_leaves_the_job_to_be_failed(sink: Sink) -> None:
    worker: Worker[str] = Worker(sink, [b"f"], max_payload=10)
    holding(worker, b"H:1")
    with pytest.raises(PacketError):
        worker.complete(b"H:1", b"x" * 11)
    assert worker.fail(b"H:1", b"too long")
    assert sent(worker) == request(29, b"H:1", b"too long") + request(14, b"H:1")


def test_reports_on_a_held_job_leave_in_order(worker: Worker[str]) -> None:
    holding(worker, b"H:1")
    assert worker.progress(b"H:1", 1, 2)
    assert worker.chunk(b"H:1", b"da\0ta")
    assert worker.warn(b"H:1", b"careful")
    assert sent(worker) == request(12, b"H:1", b"1", b"2") + request(28, b"H:1", b"da\0ta") + request(
        29, b"H:1", b"careful"
    )


def test_reports_on_a_job_that_is_not_held_send_nothing(worker: Worker[str]) -> None:
    assert not worker.progress(b"H:1", 1, 2)
    assert not worker.chunk(b"H:1", b"data")
    assert not worker.warn(b"H:1", b"careful")
    assert sent(worker) == b""


@pytest.mark.parametrize(
    ("figure", "shown"),
    [(-5, b"0"), (0, b"0"), (2**31 - 1, b"2147483647"), (2**31, b"2147483647"), (10**15, b"2147483647")],
)
def test_progress_stays_within_what_the_server_can_hold(worker: Worker[str], figure: int, shown: bytes) -> None:
    holding(worker, b"H:1")
    worker.progress(b"H:1", figure, MAX_FIGURE)
    assert sent(worker) == request(12, b"H:1", shown, b"2147483647")


def test_cant_do_is_never_said_while_a_job_is_held_or_may_come(worker: Worker[str]) -> None:
    worker.grab(1)
    with pytest.raises(ValueError, match="requeues"):
        worker.farewell()
    hear(worker, assign(b"H:1"))
    with pytest.raises(ValueError, match="requeues"):
        worker.farewell()
    worker.complete(b"H:1", b"")
    sent(worker)
    worker.farewell()
    assert sent(worker) == request(2, b"f")


def test_a_verdict_on_a_cancelled_job_is_forgiven(worker: Worker[str]) -> None:
    holding(worker, b"H:1")
    worker.complete(b"H:1", b"")
    hear(worker, pack(Magic.RESPONSE, 19, (b"JOB_NOT_FOUND", b"Job given in work result not found")))
    assert worker.room > 0


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(NO_JOB, id="NO_JOB without a grab"),
        pytest.param(assign(b"H:1"), id="a job without a grab"),
        pytest.param(pack(Magic.RESPONSE, 17, (b"x",)), id="an echo that nobody asked for"),
        pytest.param(pack(Magic.RESPONSE, 19, (b"INVALID_COMMAND", b"?")), id="another ERROR"),
        pytest.param(pack(Magic.RESPONSE, 8, (b"H:1",)), id="a client's packet"),
        pytest.param(pack(Magic.RESPONSE, 11, (b"H:1", b"f", b"data")), id="the answer to another grab"),
    ],
)
def test_what_breaks_the_law_ends_the_connection(worker: Worker[str], packet: bytes) -> None:
    with pytest.raises(ProtocolError):
        hear(worker, packet)


@pytest.mark.parametrize("packet", [assign(b"H:2", b"g"), assign(b"H:1")], ids=["another function", "a held job"])
def test_a_job_that_nobody_could_ask_for_ends_the_connection(worker: Worker[str], packet: bytes) -> None:
    holding(worker, b"H:1")
    worker.grab(1)
    with pytest.raises(ProtocolError):
        hear(worker, packet)


def test_what_came_before_a_bad_packet_still_counts(worker: Worker[str], sink: Sink) -> None:
    worker.grab(1)
    with pytest.raises(ProtocolError):
        hear(worker, assign(b"H:1") + b"garbage that is no header")
    assert len(sink.jobs) == 1


def test_an_echo_answers_its_asker(worker: Worker[str]) -> None:
    asked, other = Asked(), Asked()
    worker.echo(b"x", asked)
    assert sent(worker) == request(16, b"x")
    hear(worker, pack(Magic.RESPONSE, 17, (b"x",)))
    worker.echo(b"y", other)
    assert worker.lost() == []
    assert (asked.log, other.log) == ([(b"x",)], ["lost"])


def test_a_lost_connection_names_the_held_jobs_and_reports_nothing_more(worker: Worker[str]) -> None:
    holding(worker, b"H:1", b"H:2")
    assert worker.lost() == ["H:1", "H:2"]
    assert not worker.complete(b"H:1", b"")
    assert worker.room == 0


class Server:
    """A queue that keeps gearmand's rules for one worker: one NOOP for a sleeper, and never again until it grabs."""

    def __init__(self) -> None:
        self.parser = Parser(Magic.REQUEST)
        self.queue: deque[bytes] = deque()
        self.asleep = False
        self.out = b""
        self.made = 0

    def submit(self) -> None:
        self.made += 1
        self.queue.append(b"H:%d" % self.made)
        self._wake()

    def hear(self, data: bytes) -> None:
        for kind, _ in self.parser.feed(data):
            if kind == PacketType.GRAB_JOB_UNIQ:
                self.asleep = False
                self.out += assign(self.queue.popleft()) if self.queue else NO_JOB
            elif kind == PacketType.PRE_SLEEP:
                self.asleep = True
                if self.queue:
                    self._wake()

    def _wake(self) -> None:
        if self.asleep:
            self.asleep = False
            self.out += NOOP


@given(st.integers(1, 5), st.lists(st.sampled_from(["submit", "up", "down", "settle", "poll"]), max_size=60))
def test_no_job_waits_for_a_worker_with_credit_whatever_comes_when(slots: int, steps: list[str]) -> None:
    sink, server = Sink(), Server()
    worker: Worker[str] = Worker(sink, [b"f"])
    now = 100.0

    def pump() -> None:
        worker.tick(now)
        free = min(worker.room, slots - len(worker.held) - worker.outstanding)
        if free > 0:
            worker.grab(free)

    def up() -> None:
        server.hear(sent(worker))

    def down() -> None:
        data, server.out = server.out, b""
        hear(worker, data, now)

    def settle() -> None:
        for handle in list(worker.held)[:1]:
            worker.complete(handle, b"")

    moves: dict[str, Callable[[], None]] = {
        "submit": server.submit, "up": up, "down": down, "settle": settle, "poll": worker.poll,
    }  # fmt: skip
    for step in steps:
        moves[step]()
        pump()
        assert len(worker.held) + worker.outstanding <= slots
    for _ in range(40 + 4 * server.made):
        now += 1.0
        for move in (up, down, settle, pump):
            move()
    assert len(sink.jobs) == server.made
    assert not server.queue
    assert worker.phase is Phase.ASLEEP
