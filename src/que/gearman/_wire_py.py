"""The reference codec: packs arguments into packets and parses received bytes into packets.

The law of the parser: whatever the chunks, the packets are the same, each once, in order; bytes of a packet that is
not whole are kept, and nothing else is; after an error it stays failed. `_wire_c` is the same, compiled.
"""

from collections.abc import Sequence
from struct import Struct
from struct import error as StructError
from typing import Final, final

from que.errors import ProtocolError
from que.gearman.packets import (
    DEFAULT_MAX_PAYLOAD,
    HEADER_BYTES,
    KEPT_BUFFER_BYTES,
    LAYOUTS,
    MAX_BODY_BYTES,
    MAX_LEADING_BYTES,
    RECEIVE_BUFFER_BYTES,
    Magic,
    arrival_fault,
    header_fault,
    refusal,
)

__all__ = ["Parser", "pack", "pack_header"]

_pack_header: Final = Struct(">4sII").pack
_unpack_header: Final = Struct(">4sII").unpack_from
# The first 8 bytes, magic and type, as one value: as a number they are looked up faster than as bytes.
_pack_plain: Final = Struct(">8sI").pack
_unpack_plain: Final = Struct(">QI").unpack_from
_MAGICS: Final = (Magic.REQUEST, Magic.RESPONSE)
_COUNTS: Final = {int(kind): len(layout) for kind, layout in LAYOUTS.items()}
_WITH_DATA: Final = frozenset(int(kind) for kind, layout in LAYOUTS.items() if layout and layout[-1].data)
_LIMITS: Final = {
    int(kind): tuple(argument.max_bytes for argument in layout if not argument.data) for kind, layout in LAYOUTS.items()
}
# This much is looked at as bytes at a time: slices of bytes cost half of what slices of a memoryview do.
_WINDOW_BYTES: Final = 2 * MAX_LEADING_BYTES


def _head(magic: bytes, kind: int) -> bytes:
    return magic + kind.to_bytes(4, "big")


def _pack_rule(magic: bytes, kind: int) -> tuple[bytes, int, int]:
    """Return the first 8 bytes, the shape, and the shortest limit of a name.

    A shape is how many names precede the data, 0 where there are no arguments at all, and -1 for what is rarely packed.
    """
    names = len(_LIMITS[kind])
    shape = names if _COUNTS[kind] == 0 or (names and kind in _WITH_DATA) else -1
    return _head(magic, kind), shape, min(_LIMITS[kind], default=0)


def _parse_rule(kind: int) -> tuple[int, int, int]:
    """Return the type, its argument count, and how often to split."""
    return kind, _COUNTS[kind], _COUNTS[kind] - 1


_PACK: Final = {magic: {kind: _pack_rule(magic, kind) for kind in _COUNTS} for magic in _MAGICS}
_PARSE: Final = {
    magic: {int.from_bytes(_head(magic, kind), "big"): _parse_rule(kind) for kind in _COUNTS} for magic in _MAGICS
}


def pack(magic: bytes, kind: int, args: Sequence[bytes], max_payload: int = DEFAULT_MAX_PAYLOAD) -> bytes:
    """Return one packet: 4-byte magic, u32 type, u32 size (both big-endian), then the arguments joined by NUL.

    Raises PacketError if the magic or the type is unknown, if the count is not the one that the type asks for, if an
    argument other than a data argument holds a NUL, or if one is over its limit (`max_payload` is the data's).
    Source: gearmand PROTOCOL, "Binary Packet".
    """
    try:
        head, shape, surely_short = _PACK[magic][kind]
        body = b"\0".join(args)
        size = len(body)
        # Nearly all packets have one of these shapes; a loop over the names would cost twice as much.
        if shape == 2:
            first, second, data = args
            plain = 0 not in first and 0 not in second
        elif shape == 1:
            first, data = args
            plain = 0 not in first
        elif shape == 3:
            first, second, third, data = args
            plain = 0 not in first and 0 not in second and 0 not in third
        else:
            plain, data = shape == 0 and not args, b""
        if plain and size <= max_payload:
            leading_bytes = size - len(data)
            if leading_bytes <= surely_short or not _breaks(kind, args, leading_bytes):
                return _pack_plain(head, size) + body
    except (KeyError, TypeError, ValueError, StructError):
        pass
    return _pack_checked(magic, kind, args, max_payload)


def _pack_checked(magic: bytes, kind: int, args: Sequence[bytes], max_payload: int) -> bytes:
    """Return what pack() does, argument by argument: of any type and size, and with the error where there is one."""
    try:
        head, _, _ = _PACK[magic][kind]
        whole = len(args) == _COUNTS[kind]
        body = b"\0".join(args)
    except (KeyError, TypeError):
        raise refusal(magic, kind, args, None, max_payload) from None
    size = len(body)
    data_bytes = len(args[-1]) if args and kind in _WITH_DATA else 0
    broken = not whole or _breaks(kind, args, size - data_bytes)
    if broken or data_bytes > max(max_payload, 0) or size > MAX_BODY_BYTES:
        raise refusal(magic, kind, args, None, max_payload)
    return b"".join((head, size.to_bytes(4, "big"), body))


def _breaks(kind: int, leading: Sequence[bytes], leading_bytes: int) -> bool:
    """Return whether a name in `leading` holds a NUL or is too long; the data may follow, and is not looked at."""
    for value, most in zip(leading, _LIMITS[kind], strict=False):
        if 0 in value or len(value) > most:
            return True
    return leading_bytes > MAX_LEADING_BYTES


def pack_header(
    magic: bytes, kind: int, leading: Sequence[bytes], data_bytes: int, max_payload: int = DEFAULT_MAX_PAYLOAD
) -> bytes:
    """Return all of a packet but its data argument: what is left to write are the `data_bytes` bytes of the data.

    `leading` are the arguments before the data. Raises PacketError as pack() does, and for a type without data.
    """
    try:
        whole = kind in _WITH_DATA and len(leading) == _COUNTS[kind] - 1 and magic in _MAGICS
        body = b"\0".join((*leading, b""))
    except TypeError:
        raise refusal(magic, kind, leading, data_bytes, max_payload) from None
    size = len(body) + data_bytes
    broken = not whole or _breaks(kind, leading, len(body))
    if broken or not 0 <= data_bytes <= max(max_payload, 0) or size > MAX_BODY_BYTES:
        raise refusal(magic, kind, leading, data_bytes, max_payload)
    return _pack_header(magic, kind, size) + body


@final
class Parser:
    """Received bytes in, whole packets out, as `(type, arguments)`; fit for asyncio.BufferedProtocol.

    `magic` is what the peer's packets begin with; `max_payload` bounds a data argument. The one receive buffer grows
    to exactly what a large packet needs once its header is known, and shrinks when the packet is whole; what it grew to
    is kept for the next one, up to 4 MiB.

    Raises ProtocolError for a bad magic, an unknown type, a size over the limit (all three decided by the header,
    before a byte of the body is awaited) and for too few arguments. The call that meets the bad packet raises;
    the packets that this call completed before it are in `salvaged`. Every later call raises the same again.
    """

    __slots__ = ("_buffer", "_failure", "_magic", "_max_payload", "_salvaged")

    def __init__(self, magic: bytes, max_payload: int = DEFAULT_MAX_PAYLOAD) -> None:
        if magic not in _MAGICS:
            raise ValueError(f"unknown magic {magic!r}: use Magic.REQUEST or Magic.RESPONSE")
        self._magic = magic
        self._max_payload = max(0, min(max_payload, MAX_BODY_BYTES - MAX_LEADING_BYTES))
        self._buffer = _Buffer()
        self._failure: str | None = None
        self._salvaged: list[tuple[int, tuple[bytes, ...]]] = []

    @property
    def buffered(self) -> int:
        """How many bytes of an incomplete packet are held."""
        return self._buffer.filled

    @property
    def salvaged(self) -> list[tuple[int, tuple[bytes, ...]]]:
        """The packets that were whole before the bad one, in the call that raised; empty while nothing has failed."""
        return self._salvaged

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to write what arrives next, never empty; buffer_updated() then says how much was written."""
        buffer = self._buffer
        return buffer.view[buffer.filled :] if buffer.filled else buffer.view

    def buffer_updated(self, nbytes: int) -> list[tuple[int, tuple[bytes, ...]]]:
        """Return the packets that `nbytes` more bytes in the buffer made whole. Raises ProtocolError, see the class."""
        packets: list[tuple[int, tuple[bytes, ...]]] = []
        buffer = self._buffer
        room = len(buffer.view) - buffer.filled
        if not 0 <= nbytes <= room:
            raise ValueError(f"{nbytes} bytes cannot have been written to a buffer of {room}")
        if self._failure is not None:
            raise ProtocolError(self._failure)
        buffer.filled += nbytes
        if buffer.filled < buffer.needed:
            return packets
        try:
            consumed, needed = _parse(buffer.view, buffer.filled, self._magic, self._max_payload, packets)
        except ProtocolError as error:
            self._failure, self._salvaged, self._buffer = str(error), packets, _Buffer()
            raise
        buffer.keep(consumed, needed)
        return packets

    def feed(self, data: bytes | bytearray | memoryview) -> list[tuple[int, tuple[bytes, ...]]]:
        """Return the packets that `data` made whole, through the buffer. Raises ProtocolError, see the class."""
        packets: list[tuple[int, tuple[bytes, ...]]] = []
        rest = memoryview(data).cast("B")
        while True:
            room = self.get_buffer(-1)
            step = min(len(rest), len(room))
            room[:step] = rest[:step]
            try:
                packets += self.buffer_updated(step)
            except ProtocolError:
                self._salvaged[:0] = packets
                raise
            rest = rest[step:]
            if not rest:
                return packets


class _Buffer:
    """One incomplete packet at most, from the start of `view`; fewer than `needed` bytes decide nothing.

    Because of `needed` a packet that trickles in byte by byte is looked at when its header is whole and when it is
    itself, and what is kept moves once: the work is linear in the bytes, whatever the chunks.
    """

    __slots__ = ("_base", "_spare", "filled", "needed", "view")

    def __init__(self) -> None:
        self._base: memoryview = memoryview(bytearray(RECEIVE_BUFFER_BYTES))
        self._spare: memoryview = memoryview(bytearray())
        self.view: memoryview = self._base
        self.filled = 0
        self.needed = HEADER_BYTES

    def keep(self, consumed: int, needed: int) -> None:
        rest = self.filled - consumed
        if rest == 0 and self.view is self._base:
            self.filled, self.needed = 0, needed
            return
        room: memoryview = self._base
        if needed > RECEIVE_BUFFER_BYTES:
            spare = self._spare if needed <= len(self._spare) else memoryview(bytearray(needed))
            self._spare = spare if len(spare) <= KEPT_BUFFER_BYTES else memoryview(bytearray())
            room = spare[:needed]
        if rest and (consumed or room is not self.view):
            room[:rest] = self.view[consumed : self.filled]
        self.view, self.filled, self.needed = room, rest, needed


def _parse(
    view: memoryview, end: int, magic: bytes, max_payload: int, packets: list[tuple[int, tuple[bytes, ...]]]
) -> tuple[int, int]:
    """Return how many of the first `end` bytes the new `packets` took, and how many from there on decide something."""
    start = 0
    plain_bytes = min(max_payload, MAX_LEADING_BYTES)
    while end - start >= HEADER_BYTES:
        # A buffer that was made for one packet holds nothing plain.
        if end <= RECEIVE_BUFFER_BYTES:
            start += _parse_plain(view[start : min(end, start + _WINDOW_BYTES)].tobytes(), magic, plain_bytes, packets)
            if end - start < HEADER_BYTES:
                break
        size = _checked_size(view, start, magic, max_payload)
        stop = start + HEADER_BYTES + size
        if stop > end:
            return start, HEADER_BYTES + size
        packets.append(_parse_one(view[start:stop], max_payload))
        start = stop
    return start, HEADER_BYTES


def _checked_size(view: memoryview, start: int, expected: bytes, max_payload: int) -> int:
    magic, kind, size = _header_at(view, start)
    most = MAX_LEADING_BYTES if _COUNTS.get(kind) else 0
    if kind in _WITH_DATA:
        most += max_payload
    if magic != expected or kind not in _COUNTS or size > most:
        raise header_fault(expected, magic, kind, size, max_payload)
    return size


def _parse_one(packet: memoryview, max_payload: int) -> tuple[int, tuple[bytes, ...]]:
    _, kind, _ = _header_at(packet, 0)
    args = _split(packet[HEADER_BYTES:], _COUNTS[kind])
    if len(args) != _COUNTS[kind] or (kind in _WITH_DATA and len(args[-1]) > max_payload):
        raise arrival_fault(kind, args, max_payload)
    return kind, args


def _parse_plain(window: bytes, magic: bytes, most: int, packets: list[tuple[int, tuple[bytes, ...]]]) -> int:
    """Return where the first packet starts that is not whole, or not plain; those before it are in `packets`.

    Plain is a right packet of at most `most` bytes. This loop is the cost of a small packet, hence its shape.
    """
    at, last, end, append, rules = 0, len(window) - HEADER_BYTES, len(window), packets.append, _PARSE[magic]
    try:
        while at <= last:
            head, size = _unpack_plain(window, at)
            kind, count, cuts = rules[head]
            body = at + HEADER_BYTES
            stop = body + size
            if stop > end or size > most:
                break
            args = window[body:stop].split(b"\0", cuts)
            if len(args) == count:
                append((kind, tuple(args)))
            elif size or count:
                break
            else:
                append((kind, ()))
            at = stop
    except KeyError:
        pass
    return at


def _header_at(view: memoryview, start: int) -> tuple[bytes, int, int]:
    magic, kind, size = _unpack_header(view, start)
    return magic, kind, size


def _split(body: memoryview, count: int) -> tuple[bytes, ...]:
    if count == 0:
        return ()
    # The NULs are looked for in what may precede the data, so that a payload is copied once and never searched.
    *args, tail = body[:MAX_LEADING_BYTES].tobytes().split(b"\0", count - 1)
    data_at = min(len(body), MAX_LEADING_BYTES) - len(tail)
    return (*args, body[data_at:].tobytes())
