"""The worker's half of a Gearman connection, sans I/O: grabs, reports and naps out; jobs in.

The law: each GRAB_JOB_UNIQ gets one answer, in order, NO_JOB or a job. Only NO_JOB is followed by PRE_SLEEP, and only
when no grab is outstanding: a NOOP that no grab follows is never repeated. After a wake-up one grab may be outstanding,
and one more for each job that comes, so that their number doubles with every round. Where the last wake-up brought a
job it may be two at once: the second learns that there is no more while the first one's job runs, in one packet less
each way. A job is held until its one terminal packet. While a future epoch job waits, gearmand 1.1.20 answers PRE_SLEEP
with NOOP and the grab with NO_JOB without end: naps that were cut short for nothing are followed by rests that double.
Source: gearmand PROTOCOL, "Worker Requests"; gearmand 1.1.20 (tests/gearman/test_server_facts.py).
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum, auto
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

from que.errors import ProtocolError
from que.gearman.client import Asker
from que.gearman.outbox import Outbox
from que.gearman.packets import LAYOUTS, Magic, PacketType
from que.gearman.wire import DEFAULT_MAX_PAYLOAD, Packet, Parser, pack

TokenT = TypeVar("TokenT")
_TokenT_co = TypeVar("_TokenT_co", covariant=True)
Args = tuple[bytes, ...]

# gearmand keeps progress through atoi; 15 digits closed the worker's connection.
MAX_FIGURE: Final = 2**31 - 1
# A nap that a NOOP ends sooner than this and for nothing was no nap: the server spins.
SHORT_NAP_SECONDS: Final = 0.02
FIRST_REST_SECONDS: Final = 0.001
LONGEST_REST_SECONDS: Final = 0.1

_GRAB: Final = pack(Magic.REQUEST, PacketType.GRAB_JOB_UNIQ, ())
_WORK_COMPLETE: Final = int(PacketType.WORK_COMPLETE)
_PRE_SLEEP: Final = pack(Magic.REQUEST, PacketType.PRE_SLEEP, ())


class WorkerSink(Protocol[_TokenT_co]):
    """Who takes the jobs."""

    def assigned(self, handle: bytes, function: bytes, unique: bytes, payload: bytes) -> _TokenT_co:
        """Take a job; the token returned stands for it while it is held."""
        ...


class Phase(Enum):
    """AWAKE: may grab. ASLEEP: a NOOP or poll() will wake it. RESTING: asks nothing until `rest_until`."""

    AWAKE = auto()
    ASLEEP = auto()
    RESTING = auto()


class Worker(Generic[TokenT]):
    """One worker connection that can do `functions`; the registration is the first thing it has to send.

    `held` are the jobs without a terminal packet, by handle. Bytes in raise ProtocolError for what breaks the law. A
    report on a handle that is not held sends nothing and returns False.
    """

    __slots__ = (
        "_dry", "_echoes", "_first_window", "_functions", "_handlers", "_nap", "_now", "_out", "_parser", "_short_naps",
        "_sink", "_slept_at", "_stopped", "_window", "_woken", "held", "outstanding", "phase", "rest_until",
    )  # fmt: skip

    def __init__(
        self,
        sink: WorkerSink[TokenT],
        functions: Collection[bytes],
        client_id: bytes = b"",
        max_payload: int = DEFAULT_MAX_PAYLOAD,
    ) -> None:
        self.held: dict[bytes, TokenT] = {}
        self.outstanding: int = 0
        self.phase: Phase = Phase.AWAKE
        self.rest_until: float = 0.0
        self._sink = sink
        self._functions = frozenset(functions)
        self._parser = Parser(Magic.RESPONSE, max_payload)
        self._out = Outbox(max_payload)
        self._echoes: deque[tuple[bytes, Asker]] = deque()
        self._window = self._first_window = 1
        self._dry = False
        self._stopped = False
        self._now = self._slept_at = self._nap = 0.0
        self._woken = False
        self._short_naps = 0
        self._handlers = self._table()
        if client_id:
            self._out.add_plain(PacketType.SET_CLIENT_ID, (client_id,))
        for function in functions:
            self._out.add_plain(PacketType.CAN_DO, (function,))

    def _table(self) -> Mapping[int, Callable[[Args], None]]:
        known: dict[PacketType, Callable[[Args], None]] = {
            PacketType.JOB_ASSIGN_UNIQ: self._job_assign,
            PacketType.NO_JOB: self._no_job,
            PacketType.NOOP: self._noop,
            PacketType.ECHO_RES: self._echoed,
            PacketType.ERROR: _error,
        }
        # Keyed by plain int, as packets are: an IntEnum's equality costs twice as much.
        return {int(kind): known.get(kind, partial(_unexpected, kind)) for kind in LAYOUTS}

    # Jobs in

    @property
    def room(self) -> int:
        """How many grabs it may send now."""
        if self.phase is not Phase.AWAKE or self._dry or self._stopped:
            return 0
        return self._window - self.outstanding

    def grab(self, count: int) -> None:
        """`count` grabs wait to leave; the caller has credit for as many jobs, and `room` allows them."""
        self._out.add_packed(_GRAB * count)
        self.outstanding += count

    def poll(self) -> None:
        """If it is asleep it is awake, without a NOOP: the next grab looks for what the server wakes nobody for."""
        if self.phase is Phase.ASLEEP:
            self._wake()
            self._woken = False

    def tick(self, now: float) -> None:
        """If it rests and `rest_until` has come, it sleeps: the server says at once whether there is work."""
        if self.phase is Phase.RESTING and now >= self.rest_until:
            self._sleep(now)

    def stop(self) -> None:
        """It grabs no more; what is outstanding may still bring jobs."""
        self._stopped = True

    def farewell(self) -> None:
        """CANT_DO for each function waits to leave; only once nothing is held, for gearmand requeues what runs."""
        if self.held or self.outstanding:
            raise ValueError(f"{len(self.held)} jobs and {self.outstanding} grabs are under way: CANT_DO requeues them")
        for function in self._functions:
            self._out.add_plain(PacketType.CANT_DO, (function,))

    # Reports out

    def complete(self, handle: bytes, payload: bytes) -> bool:
        """WORK_COMPLETE, the job's terminal packet, waits to leave."""
        if handle not in self.held:
            return False
        # What cannot be packed raises here: the job is still held then, and can still fail.
        self._out.add(_WORK_COMPLETE, (handle,), payload)
        del self.held[handle]
        return True

    def fail(self, handle: bytes, reason: bytes) -> bool:
        """WORK_WARNING with the reason and WORK_FAIL, the job's terminal packet, wait to leave.

        WORK_EXCEPTION would be terminal too, but gearmand 1.1.20 makes of it, for a client that has not set the option
        `exceptions`, a WORK_FAIL whose handle ends in a NUL, which libgearman's tools and gearman3 do not recognise.
        """
        return self.warn(handle, reason) and self.fail_silently(handle)

    def fail_silently(self, handle: bytes) -> bool:
        """WORK_FAIL, the job's terminal packet, waits to leave."""
        if handle not in self.held:
            return False
        self._out.add_plain(PacketType.WORK_FAIL, (handle,))
        del self.held[handle]
        return True

    def release(self, handle: bytes) -> bool:
        """The job gets no terminal packet: the server gives it to another once the connection is closed."""
        return self.held.pop(handle, None) is not None

    def progress(self, handle: bytes, done: int, total: int) -> bool:
        """WORK_STATUS waits to leave, both figures brought within 0 and MAX_FIGURE."""
        if handle not in self.held:
            return False
        figures = (b"%d" % max(0, min(figure, MAX_FIGURE)) for figure in (done, total))
        self._out.add_plain(PacketType.WORK_STATUS, (handle, *figures))
        return True

    def chunk(self, handle: bytes, data: bytes) -> bool:
        """WORK_DATA waits to leave."""
        return self._report(PacketType.WORK_DATA, handle, data)

    def warn(self, handle: bytes, data: bytes) -> bool:
        """WORK_WARNING waits to leave."""
        return self._report(PacketType.WORK_WARNING, handle, data)

    def _report(self, kind: PacketType, handle: bytes, data: bytes) -> bool:
        if handle not in self.held:
            return False
        self._out.add(kind, (handle,), data)
        return True

    def echo(self, data: bytes, asker: Asker) -> None:
        """Ask the server for `data` back: whatever was sent before has then been read."""
        self._out.add_plain(PacketType.ECHO_REQ, (data,))
        self._echoes.append((data, asker))

    def __len__(self) -> int:
        """The packets that have not begun to leave."""
        return len(self._out)

    def take(self) -> bytes | memoryview:
        """Return what to write next, b"" if there is nothing."""
        return self._out.take()

    # Bytes in

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to write what arrives next; buffer_updated() then says how much was written."""
        return self._parser.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int, now: float) -> None:
        """Tell the sink what `nbytes` more bytes in the buffer mean; `now` is any clock's seconds."""
        try:
            packets = self._parser.buffer_updated(nbytes)
        except ProtocolError:
            self.receive(self._parser.salvaged, now)
            raise
        self.receive(packets, now)

    def receive(self, packets: Iterable[Packet], now: float) -> None:
        """Tell the sink what these packets mean; `now` is any clock's seconds."""
        self._now = now
        handlers = self._handlers
        for kind, args in packets:
            handlers[kind](args)

    def _job_assign(self, args: Args) -> None:
        handle, function, unique, payload = args
        if not self.outstanding:
            raise ProtocolError("JOB_ASSIGN_UNIQ answers no grab")
        self.outstanding -= 1
        if function not in self._functions or handle in self.held:
            raise ProtocolError(f"the server assigned {function[:80]!r} as {handle[:80]!r}, which nobody could ask for")
        self._window += 1
        self._first_window = 2
        self._dry = False
        self._woken = False
        self._short_naps = 0
        self.held[handle] = self._sink.assigned(handle, function, unique, payload)

    def _no_job(self, args: Args) -> None:
        if not self.outstanding:
            raise ProtocolError("NO_JOB answers no grab")
        self.outstanding -= 1
        self._dry = True
        if not self.outstanding and not self._stopped:
            self._lie_down()

    def _noop(self, args: Args) -> None:
        # One that comes while awake was overtaken by a poll, whose grab comes after it at the server as well.
        if self.phase is Phase.ASLEEP:
            self._nap = self._now - self._slept_at
            self._wake()
            self._woken = True
            self._window, self._first_window = self._first_window, 1

    def _wake(self) -> None:
        self.phase = Phase.AWAKE
        self._window = 1
        self._dry = False

    def _lie_down(self) -> None:
        if not self._woken or self._nap >= SHORT_NAP_SECONDS:
            self._short_naps = 0
            self._sleep(self._now)
            return
        self.phase = Phase.RESTING
        self.rest_until = self._now + min(FIRST_REST_SECONDS * 2.0**self._short_naps, LONGEST_REST_SECONDS)
        self._short_naps = min(self._short_naps + 1, 16)

    def _sleep(self, now: float) -> None:
        self._out.add_packed(_PRE_SLEEP)
        self.phase = Phase.ASLEEP
        self._slept_at = now

    def _echoed(self, args: Args) -> None:
        if not self._echoes or self._echoes[0][0] != args[0]:
            raise ProtocolError(f"ECHO_RES {args[0][:80]!r} answers nothing that was asked")
        self._echoes.popleft()[1].answered(args)

    def lost(self) -> list[TokenT]:
        """Return the tokens of the held jobs, which the lost connection has taken along, and tell askers."""
        tokens = list(self.held.values())
        self.held.clear()
        self.outstanding = 0
        self._stopped = True
        while self._echoes:
            self._echoes.popleft()[1].lost()
        return tokens


def _error(args: Args) -> None:
    # A job that was cancelled is unknown to the server by the time its worker reports: nothing is wrong with either.
    if args[0] != b"JOB_NOT_FOUND":
        code, text = (arg[:200].decode("utf-8", "replace") for arg in args)
        raise ProtocolError(f"the server complains: {code}: {text}")


def _unexpected(kind: PacketType, args: Args) -> None:
    raise ProtocolError(f"{kind.name} has no place on a worker's connection")
