"""AMQP 0-9-1 without I/O: bytes in, events out, and frames made of values. It knows no state but half a frame.

A frame is u8 type, u16 channel, u32 size (big-endian), that many bytes, 0xCE. A method is u16 class, u16 method and its
arguments; one that carries content is followed by a header frame (size and properties) and body frames.
pamqp reads and writes the field tables only: its methods refuse queue names outside ASCII, and take ten times as long.
Source: AMQP 0-9-1 specification, sections 2.3 and 4.2; RabbitMQ's extensions (confirm, nack, blocked).
"""

import enum
import struct
from collections.abc import Callable
from typing import NamedTuple, cast

import msgspec
from pamqp import decode, encode
from pamqp.common import FieldTable

from que.errors import PacketError, ProtocolError

PREAMBLE = b"AMQP\x00\x00\x09\x01"
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
# What a peer may send in one frame before the limit has been negotiated.
MIN_FRAME_MAX = 4096
_FRAME_OVERHEAD = 8
_MOST_SHORT_STRING_BYTES = 255
_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_END = 0xCE

Value = int | str | bytes | bool | FieldTable


class Method(enum.IntEnum):
    """The methods that que sends or understands: class in the upper 16 bits, method in the lower."""

    CONNECTION_START = 10 << 16 | 10
    CONNECTION_START_OK = 10 << 16 | 11
    CONNECTION_TUNE = 10 << 16 | 30
    CONNECTION_TUNE_OK = 10 << 16 | 31
    CONNECTION_OPEN = 10 << 16 | 40
    CONNECTION_OPEN_OK = 10 << 16 | 41
    CONNECTION_CLOSE = 10 << 16 | 50
    CONNECTION_CLOSE_OK = 10 << 16 | 51
    CONNECTION_BLOCKED = 10 << 16 | 60
    CONNECTION_UNBLOCKED = 10 << 16 | 61
    CHANNEL_OPEN = 20 << 16 | 10
    CHANNEL_OPEN_OK = 20 << 16 | 11
    CHANNEL_FLOW = 20 << 16 | 20
    CHANNEL_FLOW_OK = 20 << 16 | 21
    CHANNEL_CLOSE = 20 << 16 | 40
    CHANNEL_CLOSE_OK = 20 << 16 | 41
    EXCHANGE_DECLARE = 40 << 16 | 10
    EXCHANGE_DECLARE_OK = 40 << 16 | 11
    EXCHANGE_BIND = 40 << 16 | 30
    EXCHANGE_BIND_OK = 40 << 16 | 31
    QUEUE_DECLARE = 50 << 16 | 10
    QUEUE_DECLARE_OK = 50 << 16 | 11
    QUEUE_BIND = 50 << 16 | 20
    QUEUE_BIND_OK = 50 << 16 | 21
    QUEUE_DELETE = 50 << 16 | 40
    QUEUE_DELETE_OK = 50 << 16 | 41
    BASIC_QOS = 60 << 16 | 10
    BASIC_QOS_OK = 60 << 16 | 11
    BASIC_CONSUME = 60 << 16 | 20
    BASIC_CONSUME_OK = 60 << 16 | 21
    BASIC_CANCEL = 60 << 16 | 30
    BASIC_CANCEL_OK = 60 << 16 | 31
    BASIC_PUBLISH = 60 << 16 | 40
    BASIC_RETURN = 60 << 16 | 50
    BASIC_DELIVER = 60 << 16 | 60
    BASIC_GET = 60 << 16 | 70
    BASIC_GET_OK = 60 << 16 | 71
    BASIC_GET_EMPTY = 60 << 16 | 72
    BASIC_ACK = 60 << 16 | 80
    BASIC_REJECT = 60 << 16 | 90
    BASIC_NACK = 60 << 16 | 120
    CONFIRM_SELECT = 85 << 16 | 10
    CONFIRM_SELECT_OK = 85 << 16 | 11


# The arguments of each: o u8, h u16, l u32, q u64, s short string, x long string (bytes), t table, b bit.
_ARGUMENTS: dict[Method, str] = {
    Method.CONNECTION_START: "ootxx",
    Method.CONNECTION_START_OK: "tsxs",
    Method.CONNECTION_TUNE: "hlh",
    Method.CONNECTION_TUNE_OK: "hlh",
    Method.CONNECTION_OPEN: "ssb",
    Method.CONNECTION_OPEN_OK: "s",
    Method.CONNECTION_CLOSE: "hshh",
    Method.CONNECTION_CLOSE_OK: "",
    Method.CONNECTION_BLOCKED: "s",
    Method.CONNECTION_UNBLOCKED: "",
    Method.CHANNEL_OPEN: "s",
    Method.CHANNEL_OPEN_OK: "x",
    Method.CHANNEL_FLOW: "b",
    Method.CHANNEL_FLOW_OK: "b",
    Method.CHANNEL_CLOSE: "hshh",
    Method.CHANNEL_CLOSE_OK: "",
    Method.EXCHANGE_DECLARE: "hssbbbbbt",
    Method.EXCHANGE_DECLARE_OK: "",
    Method.EXCHANGE_BIND: "hsssbt",
    Method.EXCHANGE_BIND_OK: "",
    Method.QUEUE_DECLARE: "hsbbbbbt",
    Method.QUEUE_DECLARE_OK: "sll",
    Method.QUEUE_BIND: "hsssbt",
    Method.QUEUE_BIND_OK: "",
    Method.QUEUE_DELETE: "hsbbb",
    Method.QUEUE_DELETE_OK: "l",
    Method.BASIC_QOS: "lhb",
    Method.BASIC_QOS_OK: "",
    Method.BASIC_CONSUME: "hssbbbbt",
    Method.BASIC_CONSUME_OK: "s",
    Method.BASIC_CANCEL: "sb",
    Method.BASIC_CANCEL_OK: "s",
    Method.BASIC_PUBLISH: "hssbb",
    Method.BASIC_RETURN: "hsss",
    Method.BASIC_DELIVER: "sqbss",
    Method.BASIC_GET: "hsb",
    Method.BASIC_GET_OK: "qbssl",
    Method.BASIC_GET_EMPTY: "s",
    Method.BASIC_ACK: "qb",
    Method.BASIC_REJECT: "qb",
    Method.BASIC_NACK: "qbb",
    Method.CONFIRM_SELECT: "b",
    Method.CONFIRM_SELECT_OK: "",
}
_WITH_CONTENT = frozenset({Method.BASIC_DELIVER, Method.BASIC_RETURN, Method.BASIC_GET_OK, Method.BASIC_PUBLISH})


class Properties(msgspec.Struct, frozen=True, gc=False):
    """A message's properties, in the order of the specification; None is left out."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: FieldTable | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    cluster_id: str | None = None


NO_PROPERTIES = Properties()


class Command(NamedTuple):
    """A method without content, as it came."""

    channel: int
    method: Method
    args: tuple[Value, ...]


class Message(NamedTuple):
    """A method with content. `method`: BASIC_DELIVER, BASIC_GET_OK, BASIC_RETURN, or BASIC_PUBLISH in a server."""

    channel: int
    method: Method
    args: tuple[Value, ...]
    properties: Properties
    body: bytes


class Heartbeat(NamedTuple):
    """The peer is alive."""


Event = Command | Message | Heartbeat

_frame_head = struct.Struct(">BHI")
_frame_head_and_method = struct.Struct(">BHII")
_method_index = struct.Struct(">I")
_tag_and_bits = struct.Struct(">QB")
_content_head = struct.Struct(">HHQH")
_INTEGERS = {"o": struct.Struct(">B"), "h": struct.Struct(">H"), "l": struct.Struct(">I"), "q": struct.Struct(">Q")}


# --- writing ----------------------------------------------------------------------------------------------------------


def short_string(text: str) -> bytes:
    """Return u8 length and UTF-8; raises PacketError for more than 255 bytes."""
    data = text.encode()
    if len(data) > _MOST_SHORT_STRING_BYTES:
        raise PacketError(f"{text[:40]!r}… has {len(data)} bytes: AMQP's short strings hold 255")
    return bytes((len(data),)) + data


def method_frame(channel: int, method: Method, *args: Value) -> bytes:
    """Return the frame of a method; raises PacketError for arguments that it does not have."""
    kinds = _ARGUMENTS[method]
    if len(args) != len(kinds):
        raise PacketError(f"{method.name} takes {len(kinds)} arguments, not {len(args)}")
    parts: list[bytes] = []
    bits = count = 0
    for kind, value in zip(kinds, args, strict=True):
        if kind == "b":
            bits |= bool(value) << count
            count += 1
            continue
        if count:
            parts.append(bytes((bits,)))
            bits = count = 0
        parts.append(_argument(kind, value))
    if count:
        parts.append(bytes((bits,)))
    payload = b"".join(parts)
    return _frame_head_and_method.pack(_METHOD, channel, len(payload) + 4, method) + payload + b"\xce"


def _argument(kind: str, value: Value) -> bytes:
    match kind:
        case "s":
            return short_string(cast(str, value))
        case "x":
            data = cast(bytes, value)
            return len(data).to_bytes(4, "big") + data
        case "t":
            return encode.field_table(cast(FieldTable, value))
        case _:
            return _INTEGERS[kind].pack(value)


def properties_bytes(properties: Properties) -> bytes:
    """Return u16 flags and the values of those that are set."""
    flags = 0
    parts: list[bytes] = []
    for name, flag, kind in _PROPERTIES:
        value: Value | None = getattr(properties, name)
        if value is not None:
            flags |= flag
            parts.append(_argument(kind, value))
    return flags.to_bytes(2, "big") + b"".join(parts)


# Name, flag and kind of each.
_PROPERTIES = tuple(
    (name, 1 << 15 - index, kind)
    for index, (name, kind) in enumerate(zip(Properties.__struct_fields__, "sstoossssqssss", strict=True))
)


def content_frames(channel: int, properties: bytes, body: bytes, frame_max: int) -> bytes:
    """Return the header frame and as many body frames as `body` takes; `frame_max` counts whole frames."""
    head = _frame_head.pack(_HEADER, channel, len(properties) + 12) + _content_size(len(body)) + properties + b"\xce"
    size = len(body)
    room = frame_max - _FRAME_OVERHEAD
    if not size:
        return head
    if size <= room:
        return b"".join((head, _frame_head.pack(_BODY, channel, size), body, b"\xce"))
    parts = [head]
    for start in range(0, size, room):
        part = body[start : start + room]
        parts += (_frame_head.pack(_BODY, channel, len(part)), part, b"\xce")
    return b"".join(parts)


def _content_size(size: int) -> bytes:
    return struct.pack(">HHQ", 60, 0, size)


# --- reading ----------------------------------------------------------------------------------------------------------


class _Content:
    """A message of which not all frames have come."""

    __slots__ = ("args", "method", "parts", "properties", "size")

    def __init__(self, method: Method, args: tuple[Value, ...]) -> None:
        self.method = method
        self.args = args
        self.properties: Properties | None = None
        self.size: int = 0
        self.parts: list[bytes] = []


class Reader:
    """Turns the peer's bytes into events, however they are cut. `frame_max`: whole frames above it are refused."""

    def __init__(self, frame_max: int = MIN_FRAME_MAX, max_content: int = 1 << 30) -> None:
        self.frame_max = frame_max
        self._max_content = max_content
        self._rest = b""
        self._contents: dict[int, _Content] = {}

    def feed(self, data: bytes) -> list[Event]:
        """Return what `data` completes; raises ProtocolError, after which the connection cannot go on."""
        if self._rest:
            data = self._rest + data
        events: list[Event] = []
        start, end = 0, len(data)
        # During the handshake the server may send its own, larger, property table.
        most = max(self.frame_max, MIN_FRAME_MAX * 4) - _FRAME_OVERHEAD
        while end - start >= _FRAME_OVERHEAD:
            kind, channel, size = _frame_head.unpack_from(data, start)
            if size > most:
                if data.startswith(b"AMQP", start):
                    raise ProtocolError(f"the server speaks another version of AMQP: {data[start : start + 8]!r}")
                raise ProtocolError(f"a frame of {size} bytes, more than the {self.frame_max} agreed upon")
            stop = start + 7 + size
            if stop >= end:
                break
            if data[stop] != _END:
                raise ProtocolError(f"a frame ends with {data[stop]:#x}, not {_END:#x}")
            self._frame(kind, channel, data, start + 7, stop, events)
            start = stop + 1
        self._rest = data[start:]
        return events

    def forget(self, channel: int) -> None:
        """The channel is closed: what had begun on it will not be completed."""
        self._contents.pop(channel, None)

    def _frame(self, kind: int, channel: int, data: bytes, start: int, stop: int, events: list[Event]) -> None:
        try:
            if kind == _METHOD:
                self._method(channel, data, start, stop, events)
            elif kind == _HEADER:
                self._header(channel, data, start, stop, events)
            elif kind == _BODY:
                self._body(channel, data[start:stop], events)
            elif kind == _HEARTBEAT:
                events.append(Heartbeat())
            else:
                raise ProtocolError(f"a frame of type {kind}")
        except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
            raise ProtocolError(f"a frame of type {kind} cannot be read: {error!r}") from error

    def _method(self, channel: int, data: bytes, start: int, stop: int, events: list[Event]) -> None:
        (index,) = _method_index.unpack_from(data, start)
        if index == Method.BASIC_DELIVER and channel not in self._contents:
            self._contents[channel] = _Content(Method.BASIC_DELIVER, _read_delivery(data, start + 4, stop))
            return
        method = _METHODS.get(index)
        if method is None:
            raise ProtocolError(f"method {index >> 16}.{index & 0xFFFF}, which que does not know")
        if channel in self._contents and method is not Method.CHANNEL_CLOSE:
            raise ProtocolError(f"{method.name} where the content of a message should go on")
        args = _read_arguments(_ARGUMENTS[method], data, start + 4, stop)
        if method in _WITH_CONTENT:
            self._contents[channel] = _Content(method, args)
        else:
            self._contents.pop(channel, None)
            events.append(Command(channel, method, args))

    def _header(self, channel: int, data: bytes, start: int, stop: int, events: list[Event]) -> None:
        content = self._contents.get(channel)
        if content is None or content.properties is not None:
            raise ProtocolError("a content header without a method")
        _, _, content.size, flags = _content_head.unpack_from(data, start)
        if content.size > self._max_content:
            raise ProtocolError(f"a message of {content.size} bytes")
        content.properties = _read_properties(flags, data, start + 14, stop)
        if not content.size:
            self._complete(channel, content, events)

    def _body(self, channel: int, part: bytes, events: list[Event]) -> None:
        content = self._contents.get(channel)
        if content is None or content.properties is None:
            raise ProtocolError("a body without a header")
        content.parts.append(part)
        content.size -= len(part)
        if content.size < 0:
            raise ProtocolError("a body longer than its header says")
        if not content.size:
            self._complete(channel, content, events)

    def _complete(self, channel: int, content: _Content, events: list[Event]) -> None:
        del self._contents[channel]
        assert content.properties is not None
        body = content.parts[0] if len(content.parts) == 1 else b"".join(content.parts)
        events.append(Message(channel, content.method, content.args, content.properties, body))


_METHODS: dict[int, Method] = {int(method): method for method in Method}


def _read_arguments(kinds: str, data: bytes, at: int, stop: int) -> tuple[Value, ...]:
    values: list[Value] = []
    bit = 0
    for kind in kinds:
        if kind == "b":
            values.append(data[at] >> bit & 1 == 1)
            bit += 1
            continue
        if bit:
            at += 1
            bit = 0
        value, at = _READ[kind](data, at)
        values.append(value)
    if at + (bit > 0) > stop:
        raise ProtocolError("a method longer than its frame")
    return tuple(values)


def _read_delivery(data: bytes, at: int, stop: int) -> tuple[Value, ...]:
    """Return the arguments of BASIC_DELIVER, which is most of what comes, in a third of the time."""
    middle = at + 1 + data[at]
    tag, redelivered = _tag_and_bits.unpack_from(data, middle)
    exchange = middle + 10 + data[middle + 9]
    key = exchange + 1 + data[exchange]
    if key > stop:
        raise ProtocolError("a method longer than its frame")
    return (
        str(data[at + 1 : middle], "utf-8"),
        tag,
        redelivered & 1 == 1,
        str(data[middle + 10 : exchange], "utf-8"),
        str(data[exchange + 1 : key], "utf-8"),
    )


def _read_properties(flags: int, data: bytes, at: int, stop: int) -> Properties:
    known = _SHAPES.get(flags)
    if known is None:
        if flags & 1:
            raise ProtocolError("more properties than the specification has")
        if len(_SHAPES) > _MOST_SHAPES:
            _SHAPES.clear()
        known = _SHAPES[flags] = [(name, _READ[kind]) for name, flag, kind in _PROPERTIES if flags & flag]
    values: dict[str, Value] = {}
    for name, read in known:
        values[name], at = read(data, at)
    if at > stop:
        raise ProtocolError("properties longer than their frame")
    return cast(Callable[..., Properties], Properties)(**values)


_Read = Callable[[bytes, int], tuple[Value, int]]
_MOST_SHAPES = 256
# How to read the properties that a flag word names; few combinations ever occur.
_SHAPES: dict[int, list[tuple[str, _Read]]] = {}


def _read_short_string(data: bytes, at: int) -> tuple[str, int]:
    stop = at + 1 + data[at]
    return str(data[at + 1 : stop], "utf-8"), stop


def _read_long_string(data: bytes, at: int) -> tuple[bytes, int]:
    stop = at + 4 + int.from_bytes(data[at : at + 4], "big")
    return data[at + 4 : stop], stop


def _read_table(data: bytes, at: int) -> tuple[FieldTable, int]:
    stop = at + 4 + int.from_bytes(data[at : at + 4], "big")
    return decode.field_table(data[at:stop])[1], stop


def _read_octet(data: bytes, at: int) -> tuple[int, int]:
    return data[at], at + 1


def _read_u16(data: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(data[at : at + 2], "big"), at + 2


def _read_u32(data: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(data[at : at + 4], "big"), at + 4


def _read_u64(data: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(data[at : at + 8], "big"), at + 8


_READ: dict[str, _Read] = {
    "o": _read_octet,
    "h": _read_u16,
    "l": _read_u32,
    "q": _read_u64,
    "s": _read_short_string,
    "x": _read_long_string,
    "t": _read_table,
}
