"""The client's half of a Gearman connection, sans I/O: submits and questions in, bytes out; bytes in, events out.

The law: the server answers in order, so the oldest request that has left owns the next JOB_CREATED, status, option,
echo or ERROR. A JOB_CREATED precedes every WORK_* of its handle. Each submit that met a handle gets a copy of its own
of each WORK_*, also where one connection submitted them all; copies come together, and the first terminal packet
counts.
Source: gearmand PROTOCOL, "Client Requests", "Client Responses"; gearmand 1.1.20 (tests/gearman/test_server_facts.py).
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

from que.errors import ProtocolError, QueueFull, Rejected
from que.gearman.outbox import Outbox
from que.gearman.packets import LAYOUTS, Magic, PacketType
from que.gearman.wire import DEFAULT_MAX_PAYLOAD, Packet, Parser
from que.model import JobStatus

TokenT = TypeVar("TokenT")
_TokenT_contra = TypeVar("_TokenT_contra", contravariant=True)
Args = tuple[bytes, ...]


class ClientSink(Protocol[_TokenT_contra]):
    """What became of submits, by the token that each was submitted with."""

    def accepted(self, token: _TokenT_contra, handle: bytes) -> None: ...
    def refused(self, token: _TokenT_contra, error: Rejected) -> None: ...
    def progress(self, token: _TokenT_contra, done: int, total: int) -> None: ...
    def chunk(self, token: _TokenT_contra, data: bytes) -> None: ...
    def warned(self, token: _TokenT_contra, data: bytes) -> None: ...
    def completed(self, token: _TokenT_contra, payload: bytes) -> None: ...
    def failed(self, token: _TokenT_contra) -> None:
        """The worker failed without a word (WORK_FAIL)."""
        ...

    def excepted(self, token: _TokenT_contra, data: bytes) -> None:
        """The worker failed and said why (WORK_EXCEPTION); only where the option `exceptions` is set."""
        ...


class Asker(Protocol):
    """Whoever asked a question; exactly one of these comes."""

    def answered(self, args: Args) -> None: ...
    def refused(self, error: Rejected) -> None: ...
    def lost(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Lost(Generic[TokenT]):
    """What a lost connection leaves: tokens that never left, that left without an answer, and that were watched."""

    unsent: list[TokenT]
    unanswered: list[TokenT]
    watched: list[TokenT]


class _Question:
    __slots__ = ("asker", "reply", "subject")

    def __init__(self, reply: PacketType, subject: bytes, asker: Asker) -> None:
        self.reply = reply
        self.subject = subject
        self.asker = asker


class _Company(Generic[TokenT]):
    """All tokens of a handle that several submits met; each copy of an event is the next one's."""

    __slots__ = ("tokens", "turn")

    def __init__(self, first: TokenT) -> None:
        self.tokens = [first]
        self.turn = 0


class Client(Generic[TokenT]):
    """One client connection. Tokens are opaque and never None.

    What arrives goes straight to `sink`. Every method that takes bytes raises ProtocolError for what breaks the law:
    the connection cannot go on then, and `lost` says what it leaves. Submits and questions raise PacketError, before a
    byte has left, for arguments that no packet can carry.
    """

    __slots__ = ("_company", "_expected", "_handlers", "_out", "_parser", "_sink", "_waiting", "_watched")

    def __init__(self, sink: ClientSink[TokenT], max_payload: int = DEFAULT_MAX_PAYLOAD) -> None:
        self._sink = sink
        self._parser = Parser(Magic.RESPONSE, max_payload)
        self._out = Outbox(max_payload)
        # One entry for each packet of the outbox, in its order; they move to _expected as they leave.
        self._waiting: deque[tuple[TokenT, bool] | _Question] = deque()
        self._expected: deque[tuple[TokenT, bool] | _Question] = deque()
        self._watched: dict[bytes, TokenT] = {}
        self._company: dict[bytes, _Company[TokenT]] = {}
        self._handlers = self._table()

    def _table(self) -> Mapping[int, Callable[[Args], None]]:
        known: dict[PacketType, Callable[[Args], None]] = {
            PacketType.JOB_CREATED: self._job_created,
            PacketType.WORK_COMPLETE: self._work_complete,
            PacketType.WORK_FAIL: self._work_fail,
            PacketType.WORK_EXCEPTION: self._work_exception,
            PacketType.WORK_DATA: self._work_data,
            PacketType.WORK_WARNING: self._work_warning,
            PacketType.WORK_STATUS: self._work_status,
            PacketType.ERROR: self._error,
            **{reply: partial(self._answer, reply) for reply in _REPLIES},
        }
        # Keyed by plain int, as packets are: an IntEnum's equality costs twice as much.
        return {int(kind): known.get(kind, partial(_unexpected, kind)) for kind in LAYOUTS}

    # What is asked of the server

    def submit(self, token: TokenT, kind: int, leading: Sequence[bytes], data: bytes, watched: bool) -> None:
        """A submit packet of `kind` waits to leave; `leading` are its arguments before the data.

        `watched`: its WORK_* packets go to `token` (a foreground job). Otherwise nothing follows its acceptance.
        """
        self._out.add(kind, leading, data)
        self._waiting.append((token, watched))

    def status(self, handle: bytes, asker: Asker) -> None:
        """Ask what the server knows of a job; job_status() reads the answer."""
        self._ask(PacketType.GET_STATUS, PacketType.STATUS_RES, handle, asker)

    def status_unique(self, unique: bytes, asker: Asker) -> None:
        """Ask what the server knows of a job, by its unique; job_status() reads the answer."""
        self._ask(PacketType.GET_STATUS_UNIQUE, PacketType.STATUS_RES_UNIQUE, unique, asker)

    def option(self, name: bytes, asker: Asker) -> None:
        """Ask the server to set an option of this connection; it knows `exceptions` only."""
        self._ask(PacketType.OPTION_REQ, PacketType.OPTION_RES, name, asker)

    def echo(self, data: bytes, asker: Asker) -> None:
        """Ask the server for `data` back: whatever was asked before has then been answered."""
        self._ask(PacketType.ECHO_REQ, PacketType.ECHO_RES, data, asker)

    def _ask(self, kind: PacketType, reply: PacketType, subject: bytes, asker: Asker) -> None:
        self._out.add_plain(kind, (subject,))
        self._waiting.append(_Question(reply, subject, asker))

    # Bytes out

    def __len__(self) -> int:
        """The requests that have not begun to leave."""
        return len(self._waiting)

    def take(self) -> bytes | memoryview:
        """Return what to write next, b"" if there is nothing. From now on its requests count as sent."""
        data = self._out.take()
        begun = len(self._waiting) - len(self._out)
        if begun == len(self._waiting):
            self._expected.extend(self._waiting)
            self._waiting.clear()
        else:
            for _ in range(begun):
                self._expected.append(self._waiting.popleft())
        return data

    # Bytes in

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to write what arrives next; buffer_updated() then says how much was written."""
        return self._parser.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        """Tell the sink what `nbytes` more bytes in the buffer mean."""
        try:
            packets = self._parser.buffer_updated(nbytes)
        except ProtocolError:
            self.receive(self._parser.salvaged)
            raise
        self.receive(packets)

    def feed(self, data: bytes) -> None:
        """Tell the sink what `data` means."""
        try:
            packets = self._parser.feed(data)
        except ProtocolError:
            self.receive(self._parser.salvaged)
            raise
        self.receive(packets)

    def receive(self, packets: Iterable[Packet]) -> None:
        """Tell the sink what these packets mean."""
        handlers = self._handlers
        for kind, args in packets:
            handlers[kind](args)

    def _job_created(self, args: Args) -> None:
        if not self._expected:
            raise ProtocolError("JOB_CREATED answers nothing that was asked")
        request = self._expected.popleft()
        if isinstance(request, _Question):
            raise ProtocolError(f"JOB_CREATED came where {request.reply.name} was due")
        token, watched = request
        handle = args[0]
        if watched:
            first = self._watched.setdefault(handle, token)
            if first is not token:
                self._company.setdefault(handle, _Company(first)).tokens.append(token)
        self._sink.accepted(token, handle)

    def _error(self, args: Args) -> None:
        code, text = args
        if not self._expected:
            raise ProtocolError(f"the server complains: {_shown(code)}: {_shown(text)}")
        request = self._expected.popleft()
        error = _rejection(code, text)
        if isinstance(request, _Question):
            request.asker.refused(error)
        else:
            self._sink.refused(request[0], error)

    def _answer(self, kind: PacketType, args: Args) -> None:
        if not self._expected:
            raise ProtocolError(f"{kind.name} answers nothing that was asked")
        request = self._expected.popleft()
        if not isinstance(request, _Question):
            raise ProtocolError(f"{kind.name} came where JOB_CREATED was due")
        if request.reply is not kind or request.subject != args[0]:
            raise ProtocolError(f"{kind.name} of {args[0][:80]!r} came where {request.reply.name} was due")
        request.asker.answered(args)

    def _work_complete(self, args: Args) -> None:
        handle, payload = args
        # A handle that nobody watches has ended before (a cancelled job's worker goes on), or this is another's copy.
        token = self._watched.pop(handle, None)
        if token is None:
            return
        if self._company:
            for other in self._others(handle):
                self._sink.completed(other, payload)
        self._sink.completed(token, payload)

    def _work_fail(self, args: Args) -> None:
        # A trailing NUL stands in for an exception that this connection has not asked to see.
        for token in self.forget(args[0].rstrip(b"\0")):
            self._sink.failed(token)

    def _work_exception(self, args: Args) -> None:
        handle, data = args
        for token in self.forget(handle):
            self._sink.excepted(token, data)

    def _work_data(self, args: Args) -> None:
        handle, data = args
        token = self._whose(handle)
        if token is not None:
            self._sink.chunk(token, data)

    def _work_warning(self, args: Args) -> None:
        handle, data = args
        token = self._whose(handle)
        if token is not None:
            self._sink.warned(token, data)

    def _work_status(self, args: Args) -> None:
        handle, done, total = args
        token = self._whose(handle)
        if token is not None:
            self._sink.progress(token, _figure(done), _figure(total))

    def _whose(self, handle: bytes) -> TokenT | None:
        company = self._company.get(handle)
        if company is None:
            return self._watched.get(handle)
        company.turn = (company.turn + 1) % len(company.tokens)
        return company.tokens[company.turn - 1]

    def _others(self, handle: bytes) -> list[TokenT]:
        company = self._company.pop(handle, None)
        return company.tokens[1:] if company else []

    # What is watched

    def handles(self) -> Iterable[bytes]:
        """The handles that are watched, the oldest first."""
        return self._watched.keys()

    def watchers(self, handle: bytes) -> list[TokenT]:
        """Return the tokens that watch `handle`."""
        token = self._watched.get(handle)
        if token is None:
            return []
        company = self._company.get(handle)
        return list(company.tokens) if company else [token]

    def forget(self, handle: bytes) -> list[TokenT]:
        """Watch `handle` no longer; return the tokens that did."""
        token = self._watched.pop(handle, None)
        return [] if token is None else [token, *self._others(handle)]

    def lost(self) -> Lost[TokenT]:
        """Return what the lost connection leaves, and tell askers; the machine is empty then."""
        watched = [token for handle in list(self._watched) for token in self.forget(handle)]
        requests = [*self._expected], [*self._waiting]
        self._expected.clear()
        self._waiting.clear()
        for request in (*requests[0], *requests[1]):
            if isinstance(request, _Question):
                request.asker.lost()
        unanswered, unsent = (
            [request[0] for request in group if not isinstance(request, _Question)] for group in requests
        )
        return Lost(unsent, unanswered, watched)


_REPLIES: Final = (PacketType.STATUS_RES, PacketType.STATUS_RES_UNIQUE, PacketType.OPTION_RES, PacketType.ECHO_RES)


def job_status(args: Sequence[bytes]) -> JobStatus:
    """Return what the arguments of a STATUS_RES or STATUS_RES_UNIQUE say; `waiting` is None for the first."""
    waiting = _figure(args[5]) if len(args) > 5 else None
    return JobStatus(args[1] == b"1", args[2] == b"1", _figure(args[3]), _figure(args[4]), waiting)


def _figure(text: bytes) -> int:
    """Return the number that a peer wrote, 0 for what is none: the server forwards a worker's words as they are."""
    return int(text) if text.isdigit() and len(text) < 20 else 0


def _rejection(code: bytes, text: bytes) -> Rejected:
    kind = QueueFull if code == b"QUEUE_ERROR" and b"full" in text else Rejected
    return kind(f"the server refused: {_shown(code)}: {_shown(text)}")


def _shown(text: bytes) -> str:
    return text[:200].decode("utf-8", "replace")


def _unexpected(kind: PacketType, args: Args) -> None:
    raise ProtocolError(f"{kind.name} has no place on a client's connection")
