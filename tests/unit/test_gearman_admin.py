"""The text protocol of gearmand, byte by byte."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from que.errors import InvalidName, ProtocolError
from que.gearman import admin
from que.gearman.admin import (
    Command,
    CommandRefused,
    FunctionStatus,
    JobInfo,
    PriorityStatus,
    Reply,
    WorkerInfo,
)

LINES = {
    "status": (admin.status(), b"status\r\n"),
    "priority status": (admin.priority_status(), b"prioritystatus\r\n"),
    "workers": (admin.workers(), b"workers\r\n"),
    "show jobs": (admin.show_jobs(), b"show jobs\r\n"),
    "show unique jobs": (admin.show_unique_jobs(), b"show unique jobs\r\n"),
    "version": (admin.version(), b"version\r\n"),
    "pid": (admin.pid(), b"getpid\r\n"),
    "cancel": (admin.cancel("H:vm:1"), b"cancel job H:vm:1\r\n"),
    "max queue": (admin.max_queue("resize", 7), b"maxqueue resize 7\r\n"),
    "max queue by priority": (
        admin.max_queue_by_priority("resize", high=3, normal=2, low=1),
        b"maxqueue resize 3 2 1\r\n",
    ),
    "create function": (admin.create_function("größe"), "create function größe\r\n".encode()),
    "drop function": (admin.drop_function("resize"), b"drop function resize\r\n"),
}

ANSWERS: dict[str, tuple[Command[object], bytes, object]] = {
    "no function": (admin.status(), b".\n", []),
    "functions": (
        admin.status(),
        b"g\t0\t0\t2\nf\t3\t1\t1\n.\n",
        [FunctionStatus("g", 0, 0, 2), FunctionStatus("f", 3, 1, 1)],
    ),
    "a function called ERR x": (admin.status(), b"ERR x\t3\t1\t1\n.\n", [FunctionStatus("ERR x", 3, 1, 1)]),
    "a function with a tab": (admin.status(), b"a\tb\t3\t1\t1\n.\n", [FunctionStatus("a\tb", 3, 1, 1)]),
    "a function called dot": (admin.status(), b".\t3\t1\t1\n.\n", [FunctionStatus(".", 3, 1, 1)]),
    "a function that is not UTF-8": (admin.status(), b"\xff\t3\t1\t1\n.\n", [FunctionStatus("\udcff", 3, 1, 1)]),
    "priorities": (admin.priority_status(), b"f\t4\t3\t2\t1\n.\n", [PriorityStatus("f", 4, 3, 2, 1)]),
    "workers": (
        admin.workers(),
        b"38 127.0.0.1 wid-1 : g f\n39 ::1 - :\n.\n",
        [WorkerInfo(38, "127.0.0.1", "wid-1", ("g", "f")), WorkerInfo(39, "::1", "-", ())],
    ),
    "jobs": (
        admin.show_jobs(),
        b"H:vm:1\t2\t0\t1\nH:vm:2\t0\t1\t0\n.\n",
        [JobInfo("H:vm:1", 2, False, True), JobInfo("H:vm:2", 0, True, False)],
    ),
    "uniques": (admin.show_unique_jobs(), b"one\ntwo words\n.\n", ["one", "two words"]),
    "version": (admin.version(), b"OK 1.1.20+ds\n", "1.1.20+ds"),
    "pid": (admin.pid(), b"OK 7430\n", 7430),
    "cancelled": (admin.cancel("H:vm:1"), b"OK\r\n", True),
    "nothing to cancel": (admin.cancel("H:vm:1"), b"ERR UNKNOWN_JOB\r\n", False),
    "limited": (admin.max_queue("f", 1), b"OK\r\n", True),
    "created": (admin.create_function("f"), b"OK\r\n", True),
    "dropped": (admin.drop_function("f"), b"OK\r\n", True),
    "nothing to drop": (admin.drop_function("f"), b"ERR function not found\r\n", False),
}

TAKES_A_NAME: dict[str, Callable[[str], Command[bool]]] = {
    "cancel": admin.cancel,
    "max queue": lambda name: admin.max_queue(name, 1),
    "max queue by priority": lambda name: admin.max_queue_by_priority(name, high=1, normal=1, low=1),
    "create function": admin.create_function,
    "drop function": admin.drop_function,
}

UNFIT = {
    "empty": "",
    "blank": "a b",
    "only a blank": " ",
    "tab": "a\tb",
    "CR": "a\r",
    "LF": "a\nversion",
    "NUL": "\0REQ",
    "escape": "a\x1b[2J",
    "delete": "a\x7f",
    "a lone surrogate": "\ud800",
}


def answered(command: Command[object], *chunks: bytes) -> Reply[object]:
    reply = Reply(command)
    for chunk in chunks:
        reply.feed(chunk)
    return reply


@pytest.mark.parametrize(("command", "line"), LINES.values(), ids=LINES)
def test_a_command_is_one_line_that_ends_in_crlf(command: Command[object], line: bytes) -> None:
    assert command.line == line


@pytest.mark.parametrize(("command", "answer", "value"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_has_its_typed_value(command: Command[object], answer: bytes, value: object) -> None:
    assert answered(command, answer).value == value


@pytest.mark.parametrize(("command", "answer", "value"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_complete_with_its_last_byte_and_not_before(
    command: Command[object], answer: bytes, value: object
) -> None:
    reply = Reply(command)
    for place in range(len(answer) - 1):
        assert not reply.feed(answer[place : place + 1])
    with pytest.raises(ValueError, match="not complete"):
        _ = reply.value
    assert reply.feed(answer[-1:])
    assert reply.value == value


@given(answer=st.sampled_from(sorted(ANSWERS)), after=st.binary(max_size=20), data=st.data())
def test_any_chunking_gives_the_same_value_and_the_same_leftover(
    answer: str, after: bytes, data: st.DataObject
) -> None:
    command, whole, value = ANSWERS[answer]
    stream = whole + after
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    reply = answered(command, *(stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)))
    assert (reply.value, reply.leftover) == (value, after)


@given(st.lists(st.tuples(st.text(min_size=1), st.integers(0, 2**32), st.integers(0, 2**32), st.integers(0, 999))))
def test_status_rows_come_back_as_they_were_written(rows: list[tuple[str, int, int, int]]) -> None:
    expected = [FunctionStatus(name.replace("\n", ""), *counts) for name, *counts in rows]
    body = "".join(f"{row.function}\t{row.queued}\t{row.running}\t{row.workers}\n" for row in expected) + ".\n"
    assert answered(admin.status(), body.encode("utf-8", "surrogateescape")).value == expected


@pytest.mark.parametrize("build", TAKES_A_NAME.values(), ids=TAKES_A_NAME)
@pytest.mark.parametrize("name", UNFIT.values(), ids=UNFIT)
def test_a_name_that_breaks_the_line_is_refused(build: Callable[[str], Command[bool]], name: str) -> None:
    with pytest.raises(InvalidName):
        build(name)


@given(st.text())
def test_a_name_is_refused_or_stays_one_word_of_one_line(name: str) -> None:
    try:
        line = admin.create_function(name).line
    except InvalidName:
        return
    assert line.endswith(b"\r\n")
    assert line.split() == [b"create", b"function", name.encode()]


def test_a_function_name_of_512_bytes_passes_and_one_of_513_is_refused() -> None:
    assert admin.create_function("é" * 256).line
    with pytest.raises(InvalidName, match="513"):
        admin.create_function("é" * 256 + "x")


def test_a_line_of_8191_bytes_passes_and_one_of_8192_is_refused() -> None:
    around = len(b"cancel job \r\n")
    assert len(admin.cancel("H" * (8191 - around)).line) == 8191
    with pytest.raises(InvalidName, match="8192"):
        admin.cancel("H" * (8192 - around))


@pytest.mark.parametrize("words", [(), ("a", "b", "c", "d", "e", "f")], ids=["none", "six"])
def test_a_line_has_one_to_five_words(words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidName):
        admin.command_line(*words)
    assert admin.command_line("a", "b", "c", "d", "e") == b"a b c d e\r\n"


@pytest.mark.parametrize("limit", [-1, 2**31], ids=["negative", "over an int"])
def test_a_queue_limit_that_the_server_would_misread_is_refused(limit: int) -> None:
    with pytest.raises(InvalidName):
        admin.max_queue("f", limit)
    with pytest.raises(InvalidName):
        admin.max_queue_by_priority("f", high=1, normal=limit, low=1)


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (b"ERR UNKNOWN_COMMAND Unknown+server+commandstatus\r\n", "UNKNOWN_COMMAND", "Unknown server commandstatus"),
        (b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n", "UNKNOWN_SHOW_ARGUMENTS", ""),
        (b"ERR there are still connected workers\r\n", "", "there are still connected workers"),
        (b"ERR UNKNOWN_JOB\r\n", "UNKNOWN_JOB", ""),
    ],
    ids=["code and text", "code", "text", "an answer elsewhere"],
)
@pytest.mark.parametrize("command", [admin.status(), admin.drop_function("f"), admin.pid()], ids=["list", "ok", "pid"])
def test_an_err_line_is_a_refusal_with_its_facts(command: Command[object], answer: bytes, code: str, text: str) -> None:
    with pytest.raises(CommandRefused) as caught:
        answered(command, answer)
    assert (caught.value.command, caught.value.code, caught.value.text) == (
        command.line.decode().strip(),
        code,
        text,
    )


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (admin.version(), b"HTTP/1.1 400 Bad Request\r\n"),
        (admin.pid(), b"OK one\n"),
        (admin.pid(), "OK ³\n".encode()),
        (admin.pid(), b"OK " + b"9" * 21 + b"\n"),
        (admin.cancel("H:vm:1"), b"OK 1\r\n"),
        (admin.cancel("H:vm:1"), b"\n"),
        (admin.status(), b"f\t1\t2\n"),
        (admin.status(), b"f\t1\t2\t-3\n"),
        (admin.status(), b"f\n"),
        (admin.priority_status(), b"f\t1\t2\t3\n"),
        (admin.show_jobs(), b"H:vm:1\t0\t0\n"),
        (admin.workers(), b"38 127.0.0.1\n"),
        (admin.workers(), b"38 127.0.0.1 - f\n"),
        (admin.workers(), b"x 127.0.0.1 - : f\n"),
    ],
    ids=repr,
)
def test_garbage_is_a_protocol_error_as_soon_as_its_line_is_here(command: Command[object], answer: bytes) -> None:
    with pytest.raises(ProtocolError):
        answered(command, answer)


def test_an_answer_without_end_is_refused_at_the_limit() -> None:
    reply = Reply(admin.status(), max_bytes=100)
    reply.feed(b"f\t1\t1\t1\n" * 12 + b"xxxx")
    with pytest.raises(ProtocolError, match="100 bytes"):
        reply.feed(b"x")
    line = Reply(admin.version(), max_bytes=100)
    line.feed(b"O" * 100)
    with pytest.raises(ProtocolError, match="100 bytes"):
        line.feed(b"K")


def test_an_err_row_after_the_first_line_is_not_a_refusal() -> None:
    assert answered(admin.show_unique_jobs(), b"one\nERR two\r\n.\n").value == ["one", "ERR two"]


def test_only_listings_of_text_that_clients_chose_are_spoofable() -> None:
    assert {name for name, (command, _) in LINES.items() if command.spoofable} == {"workers", "show unique jobs"}
