"""The text protocol of gearmand, typed: a command is one line and a way to read its answer.

A caller sends `command.line` over a connection of its own and feeds what comes back to `Reply(command)` until it is
complete. An answer is one line, or a listing that a line "." ends.

What crashes a server or loses jobs is never built: names are checked before a byte leaves, every line ends in CRLF, and
there is no `shutdown`. Source: gearmand PROTOCOL, "Administrative Protocol"; measured on gearmand 1.1.20.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar
from urllib.parse import unquote_plus

from que.errors import InvalidName, ProtocolError, QueError

MAX_LINE_BYTES = 8191
MAX_WORDS = 5
# Longer names fit into a line, but a job of theirs may then overflow the buffer in which gearmand assigns it.
MAX_FUNCTION_BYTES = 512
MAX_QUEUE_LIMIT = 2**31 - 1
MAX_REPLY_BYTES = 64 * 1024 * 1024

# Blanks and control characters: gearmand splits at any of them, and NUL opens a binary packet.
_UNFIT = re.compile(rb"[\x00-\x20\x7f]")
_ERROR_CODE = re.compile(r"([A-Z]+(?:_[A-Z]+)+)(?: (.*))?")

Reply_co = TypeVar("Reply_co", covariant=True)
RowT = TypeVar("RowT")
# Takes the lines of one answer, without their ends; gives the answer with the line that completes it, None before.
LineReader: TypeAlias = Callable[[str], Reply_co | None]


class CommandRefused(QueError):
    """The server refused the line `command`; `code` is its error code, or "" where it gave none, `text` its words."""

    def __init__(self, command: str, code: str, text: str) -> None:
        super().__init__(f"gearmand refused {command!r}: {': '.join(part for part in (code, text) if part)}")
        self.command = command
        self.code = code
        self.text = text


class FunctionBusy(QueError):
    """`function` was not dropped because `queued` jobs of it wait or run: gearmand would drop it and orphan them."""

    def __init__(self, function: str, queued: int) -> None:
        super().__init__(f"function {function!r} was not dropped: {queued} jobs would be lost; work or cancel them")
        self.function = function
        self.queued = queued


@dataclass(frozen=True, slots=True)
class FunctionStatus:
    """A function, its jobs (`queued` counts all of them, the `running` ones too) and the workers that can do it."""

    function: str
    queued: int
    running: int
    workers: int


@dataclass(frozen=True, slots=True)
class PriorityStatus:
    """A function, its waiting jobs by priority and the workers that can do it."""

    function: str
    high: int
    normal: int
    low: int
    workers: int


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A connection of the server (clients and admins too): `client_id` is "-" where none was set."""

    fd: int
    address: str
    client_id: str
    functions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job that the server holds: `retries` is how many workers it lost, `ignored` that nobody will run it any more.

    A job is ignored once it was cancelled or its last client hung up. `queued` is the server's mark of background jobs,
    waiting or running; a foreground job never has it.
    """

    handle: str
    retries: int
    ignored: bool
    queued: bool


@dataclass(frozen=True, slots=True)
class Command(Generic[Reply_co]):
    """A text command ready to be sent, CRLF included, and how its answer is read.

    `answers` are the errors that are answers, by code or text. A `spoofable` answer holds text that clients chose and
    that may imitate its end: nothing else may be read from its connection.
    """

    line: bytes
    reader: Callable[[], LineReader[Reply_co]]
    answers: Mapping[str, Reply_co]
    spoofable: bool = False


class Reply(Generic[Reply_co]):
    """The answer to one command, read from bytes in any chunks; at most `max_bytes` are kept.

    `complete` tells that `value` can be taken; `leftover` holds the bytes that came after the answer.
    """

    def __init__(self, command: Command[Reply_co], max_bytes: int = MAX_REPLY_BYTES) -> None:
        self._command = command
        self._read = command.reader()
        self._max_bytes = max_bytes
        self._seen_bytes = 0
        self._partial = bytearray()
        self._first = True
        self._value: Reply_co | None = None

    @property
    def complete(self) -> bool:
        """Whether the whole answer is here."""
        return self._value is not None

    @property
    def value(self) -> Reply_co:
        """The answer; ValueError before it is complete."""
        if self._value is None:
            raise ValueError("the answer is not complete yet")
        return self._value

    @property
    def leftover(self) -> bytes:
        """The bytes that followed the answer: none, if the server keeps to one answer a command."""
        return bytes(self._partial) if self.complete else b""

    def feed(self, data: bytes) -> bool:
        """Return whether the answer is complete, after taking `data`.

        Raises CommandRefused when the server refused the command (the connection may go on), and ProtocolError for what
        no gearmand answers or an answer over `max_bytes` (the connection may not).
        """
        self._seen_bytes += len(data)
        if self._seen_bytes > self._max_bytes:
            raise ProtocolError(f"the answer to {self._shown()} is longer than {self._max_bytes} bytes")
        # The bytes before this point are known to hold no line end: a line is searched once, however it is cut.
        searched = len(self._partial)
        self._partial += data
        start = 0
        while not self.complete and (end := self._partial.find(b"\n", max(searched, start))) >= 0:
            line = bytes(self._partial[start : end + 1])
            start = end + 1
            self._take(line)
        del self._partial[:start]
        return self.complete

    def _take(self, line: bytes) -> None:
        text = _decoded(line)
        # Rows end in LF alone, so a function called "ERR x" is no error.
        if self._first and text.startswith("ERR ") and text.endswith("\r\n"):
            self._value = self._refused(text[4:-2])
        else:
            self._value = self._read(text[:-1].removesuffix("\r"))
        self._first = False

    def _refused(self, text: str) -> Reply_co:
        coded = _ERROR_CODE.fullmatch(text)
        code, words = (coded[1], unquote_plus(coded[2] or "")) if coded else ("", text)
        answer = self._command.answers.get(code or words)
        if answer is None:
            raise CommandRefused(self._shown(), code, words)
        return answer

    def _shown(self) -> str:
        return _decoded(self._command.line.rstrip())


def status() -> Command[list[FunctionStatus]]:
    """Return the command that lists every function with its jobs and workers."""
    return _listing("status", row=_function_status)


def priority_status() -> Command[list[PriorityStatus]]:
    """Return the command that lists every function with its waiting jobs by priority."""
    return _listing("prioritystatus", row=_priority_status)


def workers() -> Command[list[WorkerInfo]]:
    """Return the command that lists every connection of the server, the asking one too."""
    return _listing("workers", row=_worker_info, spoofable=True)


def show_jobs() -> Command[list[JobInfo]]:
    """Return the command that lists every job of the server."""
    return _listing("show", "jobs", row=_job_info)


def show_unique_jobs() -> Command[list[str]]:
    """Return the command that lists the unique of every job of the server."""
    return _listing("show", "unique", "jobs", row=str, spoofable=True)


def version() -> Command[str]:
    """Return the command that asks for the server's version, such as "1.1.20+ds"."""
    return _single("version", read=_ok_text)


def pid() -> Command[int]:
    """Return the command that asks for the server's process id."""
    return _single("getpid", read=_ok_number)


def cancel(handle: str) -> Command[bool]:
    """Return the command that keeps the job `handle` from being run; its answer is False where there is no such job.

    Its clients get WORK_FAIL at once. A running job goes on, and its result still reaches them; a waiting one keeps its
    unique until a worker asks for jobs (or it is due), and what is submitted with that unique in the meantime is lost.
    """
    return _single("cancel", "job", _word("job handle", handle), read=_ok, answers={"UNKNOWN_JOB": False})


def max_queue(function: str, limit: int) -> Command[bool]:
    """Return the command that refuses new jobs of `function` while it has `limit` or more; 0 is without limit.

    Waiting and running jobs of all priorities count; a job that coalesces is never refused. Without effect, and
    answered with OK all the same, where the server does not know `function` yet.
    """
    return _single("maxqueue", _function(function), _limit(limit), read=_ok)


def max_queue_by_priority(function: str, *, high: int, normal: int, low: int) -> Command[bool]:
    """Return the command that refuses new jobs of `function` by priority; 0 is without limit.

    A job is refused while `function` has as many jobs, of all priorities together, as the limit of its own priority.
    """
    limits = (_limit(limit) for limit in (high, normal, low))
    return _single("maxqueue", _function(function), *limits, read=_ok)


def create_function(function: str) -> Command[bool]:
    """Return the command that makes the server know `function`."""
    return _single("create", "function", _function(function), read=_ok)


def drop_function(function: str) -> Command[bool]:
    """Return the command that makes the server forget `function`; its answer is False where it knew none.

    Dangerous: with jobs queued gearmand 1.1.20 answers OK and orphans them, and later jobs of the same uniques never
    run. Ask `status` first and send this only where nothing is queued. Workers that can do it make the server refuse.
    """
    return _single("drop", "function", _function(function), read=_ok, answers={"function not found": False})


def command_line(*words: str) -> bytes:
    """Return one line of at most 5 words and 8191 bytes, its CRLF counted; InvalidName if it breaks a limit.

    CRLF rather than LF: gearmand 1.1.20 cuts the last letter off a created function's name without it.
    """
    if not 1 <= len(words) <= MAX_WORDS:
        raise InvalidName("text command", " ".join(words), f"a line has 1 to {MAX_WORDS} words")
    line = b" ".join(_encoded("word of a text command", word) for word in words) + b"\r\n"
    if len(line) > MAX_LINE_BYTES:
        raise InvalidName("text command", " ".join(words), f"a line may have {MAX_LINE_BYTES} bytes, not {len(line)}")
    return line


def _word(what: str, word: str) -> str:
    _encoded(what, word)
    return word


def _function(name: str) -> str:
    size = len(_encoded("function name", name))
    if size > MAX_FUNCTION_BYTES:
        raise InvalidName("function name", name, f"it may have {MAX_FUNCTION_BYTES} bytes, not {size}")
    return name


def _encoded(what: str, word: str) -> bytes:
    try:
        encoded = word.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidName(what, word, "it has no UTF-8 form") from error
    if not encoded or _UNFIT.search(encoded):
        raise InvalidName(what, word, "it may not be empty, nor hold blanks, line ends or control characters")
    return encoded


def _decoded(line: bytes) -> str:
    # Foreign peers name functions in any bytes; these come back unchanged when such a name is sent again.
    return line.decode("utf-8", "surrogateescape")


def _limit(limit: int) -> str:
    if not 0 <= limit <= MAX_QUEUE_LIMIT:
        raise InvalidName("queue limit", str(limit), f"a number from 0 to {MAX_QUEUE_LIMIT}")
    return str(limit)


def _listing(*words: str, row: Callable[[str], RowT], spoofable: bool = False) -> Command[list[RowT]]:
    def reader() -> LineReader[list[RowT]]:
        rows: list[RowT] = []

        def read(line: str) -> list[RowT] | None:
            if line == ".":
                return rows
            rows.append(row(line))
            return None

        return read

    return Command(command_line(*words), reader, {}, spoofable)


def _single(
    *words: str, read: Callable[[str], Reply_co], answers: Mapping[str, Reply_co] | None = None
) -> Command[Reply_co]:
    return Command(command_line(*words), lambda: read, answers or {})


def _ok(line: str) -> bool:
    if line != "OK":
        raise _garbage(line, "OK")
    return True


def _ok_text(line: str) -> str:
    if not line.startswith("OK "):
        raise _garbage(line, "OK and a text")
    return line[3:]


def _ok_number(line: str) -> int:
    return _number(_ok_text(line), line)


def _function_status(line: str) -> FunctionStatus:
    function, queued, running, able = _fields(line, 4)
    return FunctionStatus(function, _number(queued, line), _number(running, line), _number(able, line))


def _priority_status(line: str) -> PriorityStatus:
    function, *counts = _fields(line, 5)
    high, normal, low, able = (_number(count, line) for count in counts)
    return PriorityStatus(function, high, normal, low, able)


def _job_info(line: str) -> JobInfo:
    handle, retries, ignored, queued = _fields(line, 4)
    return JobInfo(handle, _number(retries, line), bool(_number(ignored, line)), bool(_number(queued, line)))


def _worker_info(line: str) -> WorkerInfo:
    words = line.split(" ")
    if len(words) < 4 or words[3] != ":":
        raise _garbage(line, "fd, address, client id, colon and functions")
    return WorkerInfo(_number(words[0], line), words[1], words[2], tuple(words[4:]))


def _fields(line: str, count: int) -> list[str]:
    # From the right: a foreign function's name may hold tabs, numbers do not.
    fields = line.rsplit("\t", count - 1)
    if len(fields) != count:
        raise _garbage(line, f"{count} fields between tabs")
    return fields


def _number(text: str, line: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise _garbage(line, "a number")
    return int(text)


def _garbage(line: str, expected: str) -> ProtocolError:
    return ProtocolError(f"gearmand answered {line[:100]!r} to a text command where {expected} was expected")
