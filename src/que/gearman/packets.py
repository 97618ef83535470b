"""The packets of Gearman: their types, the arguments of each, and the limits; both codecs read these tables.

A packet is a header of 12 bytes (magic, u32 type, u32 size, big-endian) and `size` bytes of arguments joined by NUL.
The last argument runs to the end of the packet, so it may hold NULs where it is a data argument.
Source: gearmand PROTOCOL, "Binary Packet"; where the document and gearmand 1.1.20 differ, the server's behaviour.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from que.errors import PacketError, ProtocolError

__all__ = [
    "DEFAULT_MAX_PAYLOAD",
    "HEADER_BYTES",
    "KEPT_BUFFER_BYTES",
    "LARGE_PAYLOAD_BYTES",
    "LAYOUTS",
    "MAX_BODY_BYTES",
    "MAX_CLIENT_ID_BYTES",
    "MAX_FUNCTION_BYTES",
    "MAX_LEADING_BYTES",
    "MAX_UNIQUE_BYTES",
    "RECEIVE_BUFFER_BYTES",
    "Argument",
    "Magic",
    "PacketType",
    "arrival_fault",
    "header_fault",
    "refusal",
]

HEADER_BYTES: Final = 12
MAX_BODY_BYTES: Final = 0xFFFF_FFFF
DEFAULT_MAX_PAYLOAD: Final = 64 * 1024 * 1024
# gearmand closes every worker that grabs a job whose arguments before the data are longer than this.
MAX_LEADING_BYTES: Final = 8192
MAX_FUNCTION_BYTES: Final = 512
# gearmand 1.1.20 accepts 64 and corrupts the packet; a status request for 64 or more is never answered.
MAX_UNIQUE_BYTES: Final = 63
MAX_CLIENT_ID_BYTES: Final = 127
# From this size on a payload that others follow is not joined with its header: it leaves as views. On a loopback pair
# views took 1.55 times as long as joining at 8 KiB, 1.18 at 16, 0.95 at 24, 0.88 at 32, 0.75 at 64.
LARGE_PAYLOAD_BYTES: Final = 24 * 1024
# As much as asyncio reads at once.
RECEIVE_BUFFER_BYTES: Final = 256 * 1024
# A buffer for a large packet is used again up to this size: fresh pages for each took half of the time of 1 MiB.
KEPT_BUFFER_BYTES: Final = 4 * 1024 * 1024


class Magic:
    """The first four bytes of a packet say which way it goes."""

    REQUEST: Final = b"\0REQ"
    RESPONSE: Final = b"\0RES"


class PacketType(IntEnum):
    """The 41 packet types, numbered as on the wire; 5 is unused."""

    CAN_DO = 1
    CANT_DO = 2
    RESET_ABILITIES = 3
    PRE_SLEEP = 4
    NOOP = 6
    SUBMIT_JOB = 7
    JOB_CREATED = 8
    GRAB_JOB = 9
    NO_JOB = 10
    JOB_ASSIGN = 11
    WORK_STATUS = 12
    WORK_COMPLETE = 13
    WORK_FAIL = 14
    GET_STATUS = 15
    ECHO_REQ = 16
    ECHO_RES = 17
    SUBMIT_JOB_BG = 18
    ERROR = 19
    STATUS_RES = 20
    SUBMIT_JOB_HIGH = 21
    SET_CLIENT_ID = 22
    CAN_DO_TIMEOUT = 23
    ALL_YOURS = 24
    WORK_EXCEPTION = 25
    OPTION_REQ = 26
    OPTION_RES = 27
    WORK_DATA = 28
    WORK_WARNING = 29
    GRAB_JOB_UNIQ = 30
    JOB_ASSIGN_UNIQ = 31
    SUBMIT_JOB_HIGH_BG = 32
    SUBMIT_JOB_LOW = 33
    SUBMIT_JOB_LOW_BG = 34
    SUBMIT_JOB_SCHED = 35
    SUBMIT_JOB_EPOCH = 36
    SUBMIT_REDUCE_JOB = 37
    SUBMIT_REDUCE_JOB_BACKGROUND = 38
    GRAB_JOB_ALL = 39
    JOB_ASSIGN_ALL = 40
    GET_STATUS_UNIQUE = 41
    STATUS_RES_UNIQUE = 42


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a packet type: `data` may hold NULs and is limited by max_payload, others by `max_bytes`."""

    name: str
    max_bytes: int
    data: bool


_LIMITS: Final = {
    "function": MAX_FUNCTION_BYTES,
    "unique": MAX_UNIQUE_BYTES,
    "client_id": MAX_CLIENT_ID_BYTES,
}


def _layout(names: str) -> tuple[Argument, ...]:
    return tuple(
        Argument(name, _LIMITS.get(name, MAX_LEADING_BYTES), data=name in ("data", "text")) for name in names.split()
    )


_SUBMIT: Final = _layout("function unique data")
# PROTOCOL knows no aggregator. gearmand 1.1.20 waits for one: libgearman writes its number, 0 where it has none.
_REDUCE: Final = _layout("function unique reducer aggregator data")
_REPORT: Final = _layout("handle data")

LAYOUTS: Final[Mapping[PacketType, tuple[Argument, ...]]] = MappingProxyType(
    {
        PacketType.CAN_DO: _layout("function"),
        PacketType.CANT_DO: _layout("function"),
        PacketType.RESET_ABILITIES: (),
        PacketType.PRE_SLEEP: (),
        PacketType.NOOP: (),
        PacketType.SUBMIT_JOB: _SUBMIT,
        PacketType.JOB_CREATED: _layout("handle"),
        PacketType.GRAB_JOB: (),
        PacketType.NO_JOB: (),
        PacketType.JOB_ASSIGN: _layout("handle function data"),
        PacketType.WORK_STATUS: _layout("handle numerator denominator"),
        PacketType.WORK_COMPLETE: _REPORT,
        PacketType.WORK_FAIL: _layout("handle"),
        PacketType.GET_STATUS: _layout("handle"),
        PacketType.ECHO_REQ: _layout("data"),
        PacketType.ECHO_RES: _layout("data"),
        PacketType.SUBMIT_JOB_BG: _SUBMIT,
        PacketType.ERROR: _layout("code text"),
        PacketType.STATUS_RES: _layout("handle known running numerator denominator"),
        PacketType.SUBMIT_JOB_HIGH: _SUBMIT,
        PacketType.SET_CLIENT_ID: _layout("client_id"),
        PacketType.CAN_DO_TIMEOUT: _layout("function milliseconds"),
        PacketType.ALL_YOURS: (),
        PacketType.WORK_EXCEPTION: _REPORT,
        PacketType.OPTION_REQ: _layout("option"),
        PacketType.OPTION_RES: _layout("option"),
        PacketType.WORK_DATA: _REPORT,
        PacketType.WORK_WARNING: _REPORT,
        PacketType.GRAB_JOB_UNIQ: (),
        PacketType.JOB_ASSIGN_UNIQ: _layout("handle function unique data"),
        PacketType.SUBMIT_JOB_HIGH_BG: _SUBMIT,
        PacketType.SUBMIT_JOB_LOW: _SUBMIT,
        PacketType.SUBMIT_JOB_LOW_BG: _SUBMIT,
        PacketType.SUBMIT_JOB_SCHED: _layout("function unique minute hour day_of_month month day_of_week data"),
        PacketType.SUBMIT_JOB_EPOCH: _layout("function unique epoch data"),
        PacketType.SUBMIT_REDUCE_JOB: _REDUCE,
        PacketType.SUBMIT_REDUCE_JOB_BACKGROUND: _REDUCE,
        PacketType.GRAB_JOB_ALL: (),
        PacketType.JOB_ASSIGN_ALL: _layout("handle function unique reducer data"),
        PacketType.GET_STATUS_UNIQUE: _layout("unique"),
        PacketType.STATUS_RES_UNIQUE: _layout("unique known running numerator denominator waiting"),
    }
)


def refusal(
    magic: bytes, kind: int, args: Sequence[bytes], data_bytes: int | None, max_payload: int
) -> PacketError | TypeError:
    """Return the error that says why a packet cannot be packed, and the way out; the codecs only find that it cannot.

    `data_bytes` is the size of a data argument that follows `args`, None where `args` are all there are.
    """
    try:
        return PacketError(next(_faults(magic, kind, args, data_bytes, max_payload)))
    except TypeError as error:
        return error


def _faults(magic: bytes, kind: int, args: Sequence[bytes], data_bytes: int | None, max_payload: int) -> Iterator[str]:
    if magic not in (Magic.REQUEST, Magic.RESPONSE):
        yield f"unknown magic {magic!r}: use Magic.REQUEST or Magic.RESPONSE"
    if kind not in LAYOUTS:
        yield f"unknown packet type {kind}: Gearman has 1 to 42 without 5"
    name, layout = PacketType(kind).name, LAYOUTS[PacketType(kind)]
    takes = ", ".join(argument.name for argument in layout) or "none"
    if data_bytes is not None and not (layout and layout[-1].data):
        yield f"{name} has no data argument: pack() it whole, its arguments are: {takes}"
    given = len(args) + (data_bytes is not None)
    if given != len(layout):
        yield f"{name} takes {len(layout)} arguments ({takes}), not {given}"
    for argument, value in zip(layout, args, strict=False):
        if not _is_bytes(value):
            raise TypeError(f"{name}: {argument.name} must be bytes, not {type(value).__name__}")
        yield from _argument_faults(name, argument, value)
    if data_bytes is None and layout[-1].data:
        args, data_bytes = args[:-1], len(args[-1])
    if len(b"\0".join(args)) + (data_bytes is not None and len(args) > 0) > MAX_LEADING_BYTES:
        yield f"{name}: the arguments but the data are over {MAX_LEADING_BYTES} bytes together: shorten them"
    yield from _size_faults(name, data_bytes or 0, max_payload)


def _is_bytes(value: object) -> bool:
    return isinstance(value, bytes)


def _argument_faults(name: str, argument: Argument, value: bytes) -> Iterator[str]:
    if argument.data:
        return
    if b"\0" in value:
        yield f"{name}: {argument.name} {value[:80]!r} holds a NUL, which ends an argument: remove or encode it"
    if len(value) > argument.max_bytes:
        limit = argument.max_bytes
        yield f"{name}: {argument.name} has {len(value)} bytes, over its limit of {limit}: shorten or hash it"


def _size_faults(name: str, data_bytes: int, max_payload: int) -> Iterator[str]:
    if data_bytes < 0:
        yield f"{name}: data cannot have {data_bytes} bytes"
    if data_bytes > max_payload:
        yield f"{name}: data has {data_bytes} bytes, over max_payload ({max_payload}): split it, or raise max_payload"
    yield f"{name}: a packet carries at most {MAX_BODY_BYTES} bytes: split the data ({data_bytes} bytes)"


def header_fault(expected: bytes, magic: bytes, kind: int, size: int, max_payload: int) -> ProtocolError:
    """Return the error that says why an arriving header cannot be right; it is known before the body is awaited."""
    if magic != expected:
        return ProtocolError(f"bad magic {magic!r}, not {expected!r}: the peer speaks no Gearman, or lost its place")
    if kind not in LAYOUTS:
        return ProtocolError(f"unknown packet type {kind}: Gearman has 1 to 42 without 5")
    name, layout = PacketType(kind).name, LAYOUTS[PacketType(kind)]
    if not layout:
        return ProtocolError(f"{name} announces {size} bytes and takes no arguments")
    if not layout[-1].data:
        return ProtocolError(f"{name} announces {size} bytes, over the {MAX_LEADING_BYTES} its arguments may have")
    return ProtocolError(
        f"{name} announces {size} bytes, over max_payload ({max_payload}) and {MAX_LEADING_BYTES} for what precedes"
        " the data: raise max_payload if the peer may send so much"
    )


def arrival_fault(kind: int, args: Sequence[bytes], max_payload: int) -> ProtocolError:
    """Return the error of a whole packet: its `args` are too few, or end in too long a data argument."""
    name, layout = PacketType(kind).name, LAYOUTS[PacketType(kind)]
    if len(args) < len(layout):
        takes = ", ".join(argument.name for argument in layout)
        return ProtocolError(
            f"{name} holds {len(args)} of its {len(layout)} arguments ({takes}): a NUL is missing,"
            f" or comes after {MAX_LEADING_BYTES} bytes"
        )
    return ProtocolError(
        f"{name}: data has {len(args[-1])} bytes, over max_payload ({max_payload}):"
        " raise max_payload if the peer may send so much"
    )
