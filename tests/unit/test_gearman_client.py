"""The client machine, byte by byte: bytes in, events out, and no socket anywhere."""

import itertools
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from que.errors import PacketError, ProtocolError, QueueFull, Rejected
from que.gearman.client import Client, job_status
from que.gearman.packets import Magic, PacketType
from que.gearman.wire import LARGE_PAYLOAD_BYTES, SLICE_BYTES, pack
from que.model import JobStatus

Log = list[tuple[object, ...]]


class Sink:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.log: Log = []

    def accepted(self, token: str, handle: bytes) -> None:
        self.log.append(("accepted", token, handle))

    def refused(self, token: str, error: Rejected) -> None:
        self.log.append(("refused", token, type(error), str(error)))

    def progress(self, token: str, done: int, total: int) -> None:
        self.log.append(("progress", token, done, total))

    def chunk(self, token: str, data: bytes) -> None:
        self.log.append(("chunk", token, data))

    def warned(self, token: str, data: bytes) -> None:
        self.log.append(("warned", token, data))

    def completed(self, token: str, payload: bytes) -> None:
        self.log.append(("completed", token, payload))

    def failed(self, token: str) -> None:
        self.log.append(("failed", token))

    def excepted(self, token: str, data: bytes) -> None:
        self.log.append(("excepted", token, data))


class Asked:
    """An asker that writes down its answer."""

    def __init__(self) -> None:
        self.log: Log = []

    def answered(self, args: tuple[bytes, ...]) -> None:
        self.log.append(args)

    def refused(self, error: Rejected) -> None:
        self.log.append((type(error),))

    def lost(self) -> None:
        self.log.append(("lost",))


def request(kind: int, *args: bytes) -> bytes:
    body = b"\0".join(args)
    return struct.pack(">4sII", b"\0REQ", kind, len(body)) + body


def response(kind: int, *args: bytes) -> bytes:
    return pack(Magic.RESPONSE, kind, args)


def created(handle: bytes) -> bytes:
    return response(PacketType.JOB_CREATED, handle)


def sent(client: Client[str]) -> bytes:
    """Everything that the machine has to send has left."""
    return b"".join(map(bytes, iter(client.take, b"")))


def watch(client: Client[str], token: str, handle: bytes) -> None:
    """`token` watches `handle`: its submit has left and was accepted."""
    client.submit(token, PacketType.SUBMIT_JOB, (b"f", b"u"), b"data", watched=True)
    sent(client)
    client.feed(created(handle))


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def client(sink: Sink) -> Client[str]:
    return Client(sink)


@pytest.mark.parametrize(
    ("kind", "leading"),
    [
        pytest.param(7, (b"f", b"u"), id="SUBMIT_JOB"),
        pytest.param(21, (b"f", b"u"), id="SUBMIT_JOB_HIGH"),
        pytest.param(33, (b"f", b"u"), id="SUBMIT_JOB_LOW"),
        pytest.param(18, (b"f", b"u"), id="SUBMIT_JOB_BG"),
        pytest.param(32, (b"f", b"u"), id="SUBMIT_JOB_HIGH_BG"),
        pytest.param(34, (b"f", b"u"), id="SUBMIT_JOB_LOW_BG"),
        pytest.param(36, (b"f", b"u", b"4102444800"), id="SUBMIT_JOB_EPOCH"),
    ],
)
def test_a_submit_is_one_packet_of_its_type(client: Client[str], kind: int, leading: tuple[bytes, ...]) -> None:
    client.submit("a", kind, leading, b"da\0ta", watched=False)
    assert sent(client) == request(kind, *leading, b"da\0ta")


def test_questions_are_one_packet_each(client: Client[str]) -> None:
    asked = Asked()
    client.option(b"exceptions", asked)
    client.status(b"H:1", asked)
    client.status_unique(b"u", asked)
    client.echo(b"hello", asked)
    assert sent(client) == (
        request(26, b"exceptions") + request(15, b"H:1") + request(41, b"u") + request(16, b"hello")
    )


def test_the_oldest_submit_owns_the_next_handle(client: Client[str], sink: Sink) -> None:
    for token in "abc":
        client.submit(token, PacketType.SUBMIT_JOB, (b"f", token.encode()), b"", watched=True)
    sent(client)
    client.feed(created(b"H:9") + created(b"H:7") + created(b"H:8"))
    assert sink.log == [("accepted", "a", b"H:9"), ("accepted", "b", b"H:7"), ("accepted", "c", b"H:8")]


def test_answers_reach_their_askers_in_between_submits(client: Client[str], sink: Sink) -> None:
    status, unique, option, echo = Asked(), Asked(), Asked(), Asked()
    client.submit("a", PacketType.SUBMIT_JOB, (b"f", b"u"), b"", watched=True)
    client.status(b"H:1", status)
    client.status_unique(b"u", unique)
    client.option(b"exceptions", option)
    client.echo(b"x\0y", echo)
    client.submit("b", PacketType.SUBMIT_JOB_BG, (b"f", b"v"), b"x", watched=False)
    sent(client)
    client.feed(created(b"H:1") + response(20, b"H:1", b"1", b"0", b"3", b"4"))
    client.feed(response(42, b"u", b"1", b"1", b"5", b"6", b"2") + response(27, b"exceptions"))
    client.feed(response(17, b"x\0y") + created(b"H:2"))
    assert sink.log == [("accepted", "a", b"H:1"), ("accepted", "b", b"H:2")]
    assert status.log == [(b"H:1", b"1", b"0", b"3", b"4")]
    assert unique.log == [(b"u", b"1", b"1", b"5", b"6", b"2")]
    assert option.log == [(b"exceptions",)]
    assert echo.log == [(b"x\0y",)]


@pytest.mark.parametrize(
    ("code", "text", "error"),
    [
        pytest.param(b"QUEUE_ERROR", b"Job queue is full", QueueFull, id="full"),
        pytest.param(b"QUEUE_ERROR", b"disk error", Rejected, id="queue"),
        pytest.param(b"INVALID_COMMAND", b"Command not expected", Rejected, id="command"),
    ],
)
def test_an_error_takes_the_place_of_the_answer_that_it_refuses(
    client: Client[str], sink: Sink, code: bytes, text: bytes, error: type[Rejected]
) -> None:
    for token in "abc":
        client.submit(token, PacketType.SUBMIT_JOB, (b"f", token.encode()), b"", watched=True)
    sent(client)
    client.feed(created(b"H:1") + response(19, code, text) + created(b"H:2"))
    assert [entry[:3] for entry in sink.log] == [
        ("accepted", "a", b"H:1"),
        ("refused", "b", error),
        ("accepted", "c", b"H:2"),
    ]
    assert text.decode() in str(sink.log[1][3])


def test_an_error_in_place_of_an_answer_reaches_its_asker(client: Client[str], sink: Sink) -> None:
    asked = Asked()
    client.option(b"nonsense", asked)
    client.submit("a", PacketType.SUBMIT_JOB, (b"f", b"u"), b"", watched=True)
    sent(client)
    client.feed(response(19, b"UNKNOWN_OPTION", b"no such") + created(b"H:1"))
    assert asked.log == [(Rejected,)]
    assert sink.log == [("accepted", "a", b"H:1")]


ANSWERS = [
    pytest.param(response(8, b"H:1"), id="JOB_CREATED"),
    pytest.param(response(20, b"H:1", b"0", b"0", b"0", b"0"), id="STATUS_RES"),
    pytest.param(response(42, b"u", b"0", b"0", b"0", b"0", b"0"), id="STATUS_RES_UNIQUE"),
    pytest.param(response(27, b"exceptions"), id="OPTION_RES"),
    pytest.param(response(17, b"x"), id="ECHO_RES"),
    pytest.param(response(19, b"CODE", b"text"), id="ERROR"),
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_nobody_asked_for_breaks_the_protocol(client: Client[str], answer: bytes) -> None:
    with pytest.raises(ProtocolError):
        client.feed(answer)


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_to_what_has_not_left_breaks_the_protocol(client: Client[str], answer: bytes) -> None:
    client.submit("a", PacketType.SUBMIT_JOB, (b"f", b"u"), b"", watched=True)
    with pytest.raises(ProtocolError):
        client.feed(answer)
    assert client.lost().unsent == ["a"]


def ask_submit(client: Client[str]) -> None:
    client.submit("a", PacketType.SUBMIT_JOB, (b"f", b"u"), b"", watched=True)


def ask_status(client: Client[str]) -> None:
    client.status(b"H:1", Asked())


def ask_echo(client: Client[str]) -> None:
    client.echo(b"x", Asked())


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        pytest.param(ask_submit, response(17, b"x"), id="ECHO_RES for a submit"),
        pytest.param(ask_status, created(b"H:1"), id="JOB_CREATED for a status"),
        pytest.param(ask_status, response(20, b"H:2", b"0", b"0", b"0", b"0"), id="the status of another handle"),
        pytest.param(ask_status, response(42, b"H:1", b"0", b"0", b"0", b"0", b"0"), id="the other status"),
        pytest.param(ask_echo, response(17, b"y"), id="another echo"),
    ],
)
def test_an_answer_to_another_question_breaks_the_protocol(
    client: Client[str], ask: Callable[[Client[str]], None], answer: bytes
) -> None:
    ask(client)
    sent(client)
    with pytest.raises(ProtocolError):
        client.feed(answer)


@pytest.mark.parametrize("kind", [6, 10], ids=["NOOP", "NO_JOB"])
def test_a_packet_for_workers_breaks_the_protocol(client: Client[str], kind: int) -> None:
    with pytest.raises(ProtocolError):
        client.feed(response(kind))


def test_what_came_before_a_bad_packet_still_counts(client: Client[str], sink: Sink) -> None:
    watch(client, "a", b"H:1")
    with pytest.raises(ProtocolError):
        client.feed(response(13, b"H:1", b"result") + b"garbage that is no header")
    assert sink.log[-1] == ("completed", "a", b"result")


def test_a_watched_job_reports_until_its_end(client: Client[str], sink: Sink) -> None:
    watch(client, "a", b"H:1")
    client.feed(response(12, b"H:1", b"1", b"2") + response(28, b"H:1", b"d") + response(29, b"H:1", b"w"))
    client.feed(response(13, b"H:1", b"re\0sult"))
    assert sink.log[1:] == [
        ("progress", "a", 1, 2),
        ("chunk", "a", b"d"),
        ("warned", "a", b"w"),
        ("completed", "a", b"re\0sult"),
    ]


@pytest.mark.parametrize(
    ("packet", "event"),
    [
        pytest.param(response(14, b"H:1"), ("failed", "a"), id="WORK_FAIL"),
        pytest.param(request(14, b"H:1\0").replace(b"REQ", b"RES"),
                     ("failed", "a"), id="WORK_FAIL with the trailing NUL"),
        pytest.param(response(25, b"H:1", b"why"), ("excepted", "a", b"why"), id="WORK_EXCEPTION"),
        pytest.param(response(13, b"H:1", b""), ("completed", "a", b""), id="WORK_COMPLETE"),
    ],
)  # fmt: skip
def test_the_first_terminal_packet_counts_and_nothing_after_it(
    client: Client[str], sink: Sink, packet: bytes, event: tuple[object, ...]
) -> None:
    watch(client, "a", b"H:1")
    client.feed(packet)
    client.feed(response(28, b"H:1", b"late") + response(12, b"H:1", b"1", b"1") + response(13, b"H:1", b"late"))
    assert sink.log[1:] == [event]


def test_a_background_job_is_not_watched(client: Client[str], sink: Sink) -> None:
    client.submit("a", PacketType.SUBMIT_JOB_BG, (b"f", b"u"), b"x", watched=False)
    sent(client)
    client.feed(created(b"H:1") + response(13, b"H:1", b"result"))
    assert sink.log == [("accepted", "a", b"H:1")]
    assert client.lost().watched == []


@pytest.mark.parametrize("waiters", [2, 3, 5])
def test_each_waiter_of_a_handle_gets_each_event_once_though_the_server_sends_as_many_copies(
    client: Client[str], sink: Sink, waiters: int
) -> None:
    tokens = [f"t{number}" for number in range(waiters)]
    watch(client, tokens[0], b"H:1")
    client.feed(response(28, b"H:1", b"early"))
    for token in tokens[1:]:
        watch(client, token, b"H:1")
    for packet in (response(28, b"H:1", b"d"), response(12, b"H:1", b"1", b"2"), response(13, b"H:1", b"r")):
        client.feed(packet * waiters)
    for number, token in enumerate(tokens):
        early = [("chunk", token, b"early")] if number == 0 else []
        assert [entry for entry in sink.log if entry[1] == token] == [
            ("accepted", token, b"H:1"),
            *early,
            ("chunk", token, b"d"),
            ("progress", token, 1, 2),
            ("completed", token, b"r"),
        ]


def test_a_single_copy_of_the_end_is_enough_for_all_waiters(client: Client[str], sink: Sink) -> None:
    watch(client, "a", b"H:1")
    watch(client, "b", b"H:1")
    client.feed(response(25, b"H:1", b"why"))
    assert sorted(sink.log[2:]) == [("excepted", "a", b"why"), ("excepted", "b", b"why")]


@pytest.mark.parametrize(
    ("text", "figure"),
    [(b"7", 7), (b"", 0), (b"-1", 0), (b"50%", 0), (b"9" * 5000, 0)],
    ids=["a number", "nothing", "negative", "per cent", "huge"],
)
def test_a_foreign_workers_progress_cannot_break_the_client(
    client: Client[str], sink: Sink, text: bytes, figure: int
) -> None:
    watch(client, "a", b"H:1")
    client.feed(response(12, b"H:1", text, b"9"))
    assert sink.log[-1] == ("progress", "a", figure, 9)


def test_a_lost_connection_leaves_three_groups_and_tells_askers(client: Client[str]) -> None:
    watch(client, "watched", b"H:1")
    watch(client, "company", b"H:1")
    answered, asked, unasked = Asked(), Asked(), Asked()
    client.submit("sent", PacketType.SUBMIT_JOB, (b"f", b"u"), b"", watched=True)
    client.submit("sent too", PacketType.SUBMIT_JOB_BG, (b"f", b"u"), b"x", watched=False)
    client.echo(b"x", asked)
    sent(client)
    client.submit("unsent", PacketType.SUBMIT_JOB, (b"f", b"u"), b"", watched=True)
    client.echo(b"y", unasked)
    lost = client.lost()
    assert lost.unsent == ["unsent"]
    assert lost.unanswered == ["sent", "sent too"]
    assert lost.watched == ["watched", "company"]
    assert asked.log == unasked.log == [("lost",)]
    assert answered.log == []
    again = client.lost()
    assert (again.unsent, again.unanswered, again.watched) == ([], [], [])


def test_a_large_payload_leaves_as_views_of_it_in_bounded_slices(client: Client[str]) -> None:
    payload = bytes(range(256)) * 4096
    client.submit("small", PacketType.SUBMIT_JOB, (b"f", b"u"), b"s", watched=True)
    client.submit("large", PacketType.SUBMIT_JOB, (b"f", b"v"), payload, watched=True)
    client.submit("behind", PacketType.SUBMIT_JOB, (b"f", b"w"), b"b", watched=True)
    first = bytes(client.take())
    assert first.endswith(b"f\0v\0")
    assert len(client) == 1, "what stands behind the large one has not left"
    pieces = list(iter(client.take, b""))
    views = [piece for piece in pieces if isinstance(piece, memoryview)]
    assert all(view.obj is payload for view in views)
    assert max(map(len, views)) <= SLICE_BYTES
    assert first + b"".join(pieces) == (
        request(7, b"f", b"u", b"s") + request(7, b"f", b"v", payload) + request(7, b"f", b"w", b"b")
    )


def test_a_lone_job_up_to_256_kib_leaves_in_one_piece(client: Client[str]) -> None:
    payload = bytes(SLICE_BYTES - 100)
    client.submit("lone", PacketType.SUBMIT_JOB, (b"f", b"u"), payload, watched=True)
    assert client.take() == request(7, b"f", b"u", payload)
    assert client.take() == b""
    assert client.lost().unanswered == ["lone"]


def test_a_large_job_counts_as_sent_from_its_first_byte_on(client: Client[str]) -> None:
    client.submit("large", PacketType.SUBMIT_JOB, (b"f", b"u"), bytes(LARGE_PAYLOAD_BYTES), watched=True)
    client.submit("behind", PacketType.SUBMIT_JOB, (b"f", b"v"), b"", watched=True)
    client.take()
    lost = client.lost()
    assert (lost.unanswered, lost.unsent) == (["large"], ["behind"])


def test_much_that_waits_leaves_in_bounded_pieces_and_in_order(client: Client[str]) -> None:
    payload = bytes(LARGE_PAYLOAD_BYTES - 1)
    for number in range(20):
        client.submit(str(number), PacketType.SUBMIT_JOB, (b"f", b"%d" % number), payload, watched=True)
    first = client.take()
    assert len(first) < 2 * SLICE_BYTES
    assert 0 < len(client) < 20
    rest = sent(client)
    assert bytes(first) + rest == b"".join(request(7, b"f", b"%d" % number, payload) for number in range(20))


@pytest.mark.parametrize(
    ("leading", "data"),
    [((b"f\0", b"u"), b""), ((b"f", b"u" * 64), b""), ((b"f",), b""), ((b"f", b"u"), b"x" * 11)],
    ids=["a NUL", "a long unique", "too few", "over max_payload"],
)
def test_what_no_packet_can_carry_is_refused_before_a_byte_waits(
    sink: Sink, leading: tuple[bytes, ...], data: bytes
) -> None:
    client: Client[str] = Client(sink, max_payload=10)
    with pytest.raises(PacketError):
        client.submit("a", PacketType.SUBMIT_JOB, leading, data, watched=True)
    assert sent(client) == b""
    assert client.lost().unsent == []


def test_a_forgotten_handle_is_silent(client: Client[str], sink: Sink) -> None:
    watch(client, "a", b"H:1")
    watch(client, "b", b"H:1")
    assert client.watchers(b"H:1") == ["a", "b"]
    assert client.forget(b"H:1") == ["a", "b"]
    client.feed(response(13, b"H:1", b"r"))
    assert [entry[0] for entry in sink.log] == ["accepted", "accepted"]
    assert (client.forget(b"H:1"), client.watchers(b"H:1")) == ([], [])


@pytest.mark.parametrize(
    ("args", "status"),
    [
        ((b"H:1", b"1", b"1", b"3", b"4"), JobStatus(True, True, 3, 4, None)),
        ((b"H:1", b"0", b"0", b"0", b"0"), JobStatus(False, False, 0, 0, None)),
        ((b"u", b"1", b"0", b"0", b"0", b"2"), JobStatus(True, False, 0, 0, 2)),
    ],
    ids=["running", "unknown", "by unique"],
)
def test_a_status_reads_as_it_was_written(args: tuple[bytes, ...], status: JobStatus) -> None:
    assert job_status(args) == status


SESSION = (
    created(b"H:1")
    + response(28, b"H:1", b"part")
    + response(19, b"QUEUE_ERROR", b"Job queue is full")
    + created(b"H:1")
    + response(28, b"H:1", b"both") * 2
    + response(13, b"H:1", bytes(300)) * 2
)


@given(st.lists(st.integers(0, len(SESSION)), max_size=30))
def test_any_chunking_of_the_bytes_gives_the_same_events(cuts: list[int]) -> None:
    def events(edges: list[int]) -> Log:
        sink = Sink()
        client: Client[str] = Client(sink)
        for token in "abc":
            client.submit(token, PacketType.SUBMIT_JOB, (b"f", b"u"), b"", watched=True)
        sent(client)
        for start, stop in itertools.pairwise(edges):
            client.feed(SESSION[start:stop])
        return sink.log

    assert events([0, *sorted(cuts), len(SESSION)]) == events([0, len(SESSION)])
