"""A raw Gearman client for tests: packets and text lines over one blocking socket, independent of que's own codec.

Replies are FIFO on a connection, so `barrier()` (an ECHO and its answer) proves that nothing else was owed before it.
"""

import socket
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

# Numbers of gearmand's PROTOCOL, "Types".
CAN_DO, CANT_DO, RESET_ABILITIES, PRE_SLEEP, NOOP, SUBMIT_JOB, JOB_CREATED, GRAB_JOB = 1, 2, 3, 4, 6, 7, 8, 9
NO_JOB, JOB_ASSIGN, WORK_STATUS, WORK_COMPLETE, WORK_FAIL, GET_STATUS, ECHO_REQ, ECHO_RES = range(10, 18)
SUBMIT_JOB_BG, ERROR, STATUS_RES, SUBMIT_JOB_HIGH, SET_CLIENT_ID, CAN_DO_TIMEOUT, ALL_YOURS = range(18, 25)
WORK_EXCEPTION, OPTION_REQ, OPTION_RES, WORK_DATA, WORK_WARNING, GRAB_JOB_UNIQ, JOB_ASSIGN_UNIQ = range(25, 32)
SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_LOW, SUBMIT_JOB_LOW_BG, SUBMIT_JOB_SCHED, SUBMIT_JOB_EPOCH = range(32, 37)
SUBMIT_REDUCE_JOB, SUBMIT_REDUCE_JOB_BACKGROUND, GRAB_JOB_ALL, JOB_ASSIGN_ALL = range(37, 41)
GET_STATUS_UNIQUE, STATUS_RES_UNIQUE = 41, 42

REPLY_SECONDS = 5.0


class Packet(NamedTuple):
    """One packet of the server: its type and its argument bytes, split at every NUL."""

    kind: int
    args: list[bytes]


class Raw:
    """One connection to a server of 127.0.0.1; every read ends within REPLY_SECONDS, with a TimeoutError at worst."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=REPLY_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._echoes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The connection is closed in both directions."""
        self._socket.close()

    def send_bytes(self, data: bytes) -> None:
        """`data` is on its way, as it is."""
        self._socket.sendall(data)

    def send(self, kind: int, *args: bytes) -> None:
        """One request packet is on its way."""
        self.send_bytes(request(kind, *args))

    def receive(self) -> Packet:
        """Return the next packet of the server; EOFError if it closed the connection."""
        magic, kind, size = struct.unpack(">4sII", self._read(12))
        assert magic == b"\0RES", magic
        body = self._read(size)
        return Packet(kind, body.split(b"\0") if body else [])

    def ask(self, kind: int, *args: bytes) -> Packet:
        """Return the next packet of the server after sending one."""
        self.send(kind, *args)
        return self.receive()

    def barrier(self) -> list[Packet]:
        """Return the packets that the server still owed before the answer to an echo of ours."""
        self._echoes += 1
        token = b"barrier-%d" % self._echoes
        self.send(ECHO_REQ, token)
        owed: list[Packet] = []
        while (packet := self.receive()) != Packet(ECHO_RES, [token]):
            owed.append(packet)
        return owed

    def text(self, line: str) -> str:
        """Return the single-line answer to a text command, with its line end; LF is what ends the command."""
        self.send_bytes(line.encode() + b"\n")
        return self.line()

    def listing(self, line: str) -> list[str]:
        """Return the lines of a text command's listing, without line ends and without the closing dot."""
        self.send_bytes(line.encode() + b"\n")
        return [row.removesuffix("\n") for row in iter(self.line, ".\n")]

    def line(self) -> str:
        """Return the next line of the server, with its line end."""
        line = b""
        while not line.endswith(b"\n"):
            line += self._read(1)
        return line.decode()

    def submit(self, kind: int, *args: bytes) -> bytes:
        """Return the handle that the server made for a submitted job."""
        created, (handle,) = self.ask(kind, *args)
        assert created == JOB_CREATED, created
        return handle

    def closed(self) -> bool:
        """Tell whether the server closes the connection, having sent nothing more."""
        try:
            return self._socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self._socket.recv(size - len(data))
            if not chunk:
                raise EOFError(f"closed after {len(data)} of {size} bytes: {data!r}")
            data += chunk
        return data


def request(kind: int, *args: bytes) -> bytes:
    """Return one request packet: magic, u32 type, u32 size, then the arguments joined by NUL."""
    body = b"\0".join(args)
    return struct.pack(">4sII", b"\0REQ", kind, len(body)) + body


def worker(port: int, *functions: bytes) -> Raw:
    """Return a connection that can do `functions`, known to the server by the time this returns."""
    raw = Raw(port)
    for function in functions:
        raw.send(CAN_DO, function)
    assert raw.barrier() == []
    return raw


def grab(raw: Raw) -> Sequence[bytes]:
    """Return handle, function, unique and data of a job that this worker grabs; there must be one."""
    kind, args = raw.ask(GRAB_JOB_UNIQ)
    assert kind == JOB_ASSIGN_UNIQ, (kind, args)
    return args


def grabs(raw: Raw, count: int) -> list[bytes]:
    """Return the data of the jobs that so many pipelined grabs give, in order."""
    raw.send_bytes(request(GRAB_JOB_UNIQ) * count)
    return [args[3] for kind, args in raw.barrier() if kind == JOB_ASSIGN_UNIQ]
