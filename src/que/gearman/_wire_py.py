"""The reference codec: packs arguments into packets and parses received bytes into packets.

The law of the parser: whatever the chunks, the packets are the same, each once, in order; bytes of a packet that is
not whole are kept, and nothing else is; after an error it stays failed. `_wire_c` is the same, compiled.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Final

from que.errors import ProtocolError
from que.gearman.packets import (
    DEFAULT_MAX_PAYLOAD,
    HEADER_BYTES,
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

_HEADER: Final = Struct(">4sII")
_pack_head: Final = _HEADER.pack
_unpack_head: Final = _HEADER.unpack_from
_MAGICS: Final = (Magic.REQUEST, Magic.RESPONSE)
_COUNTS: Final = {int(kind): len(layout) for kind, layout in LAYOUTS.items()}
_WITH_DATA: Final = frozenset(int(kind) for kind, layout in LAYOUTS.items() if layout and layout[-1].data)
# No argument can be over its own limit where all but the data are within this together.
_SURELY_SHORT: Final = {
    int(kind): min((argument.max_bytes for argument in layout if not argument.data), default=MAX_LEADING_BYTES)
    for kind, layout in LAYOUTS.items()
}


def pack(magic: bytes, kind: int, args: Sequence[bytes], max_payload: int = DEFAULT_MAX_PAYLOAD) -> bytes:
    """Return one packet: 4-byte magic, u32 type, u32 size (both big-endian), then the arguments joined by NUL.

    Raises PacketError if the magic or the type is unknown, if the count is not the one that the type asks for, if an
    argument other than a data argument holds a NUL, or if one is over its limit (`max_payload` is the data's).
    Source: gearmand PROTOCOL, "Binary Packet".
    """
    try:
        count = _COUNTS[kind]
        body = b"\0".join(args)
    except (KeyError, TypeError):
        raise refusal(magic, kind, args, None, max_payload) from None
    size = len(body)
    if len(args) != count or magic not in _MAGICS:
        raise refusal(magic, kind, args, None, max_payload)
    if count:
        data_bytes = len(args[-1]) if kind in _WITH_DATA else 0
        leading_bytes = size - data_bytes
        if (
            body.count(0, 0, leading_bytes) != count - 1
            or (leading_bytes > _SURELY_SHORT[kind] and _over_limits(kind, args, leading_bytes))
            or data_bytes > max_payload
            or size > MAX_BODY_BYTES
        ):
            raise refusal(magic, kind, args, None, max_payload)
    return _pack_head(magic, kind, size) + body


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
    if (
        not whole
        or body.count(0) != len(leading)
        or _over_limits(kind, leading, len(body))
        or not 0 <= data_bytes <= max_payload
        or size > MAX_BODY_BYTES
    ):
        raise refusal(magic, kind, leading, data_bytes, max_payload)
    return _pack_head(magic, kind, size) + body


def _over_limits(kind: int, args: Sequence[bytes], leading_bytes: int) -> bool:
    return leading_bytes > MAX_LEADING_BYTES or any(
        len(value) > argument.max_bytes
        for argument, value in zip(LAYOUTS[kind], args, strict=False)  # type: ignore[index]  # an int finds its IntEnum
        if not argument.data
    )


class Parser:
    """Received bytes in, whole packets out, as `(type, arguments)`; fit for asyncio.BufferedProtocol.

    `magic` is what the peer's packets begin with; `max_payload` bounds a data argument. The one receive buffer grows
    to exactly what a large packet needs once its header is known, and shrinks when the packet is whole.

    Raises ProtocolError for a bad magic, an unknown type, a size over the limit (all three decided by the header,
    before a byte of the body is awaited) and for too few arguments. The call that meets the bad packet raises;
    the packets that this call completed before it are in `salvaged`. Every later call raises the same again.
    """

    __slots__ = ("_base", "_failure", "_filled", "_magic", "_max_payload", "_needed", "_salvaged", "_view")

    def __init__(self, magic: bytes, max_payload: int = DEFAULT_MAX_PAYLOAD) -> None:
        self._magic = magic
        self._max_payload = max(0, min(max_payload, MAX_BODY_BYTES - MAX_LEADING_BYTES))
        self._base = memoryview(bytearray(RECEIVE_BUFFER_BYTES))
        self._view = self._base
        self._filled = 0
        # Fewer bytes than this decide nothing, so they are not looked at: this keeps tiny chunks linear.
        self._needed = HEADER_BYTES
        self._failure: str | None = None
        self._salvaged: list[tuple[int, tuple[bytes, ...]]] = []

    @property
    def buffered(self) -> int:
        """How many bytes of an incomplete packet are held."""
        return self._filled

    @property
    def salvaged(self) -> list[tuple[int, tuple[bytes, ...]]]:
        """The packets that were whole before the bad one, in the call that raised; empty while nothing has failed."""
        return self._salvaged

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to write what arrives next, never empty; buffer_updated() then says how much was written."""
        return self._view[self._filled :]

    def buffer_updated(self, nbytes: int) -> list[tuple[int, tuple[bytes, ...]]]:
        """Return the packets that `nbytes` more bytes in the buffer made whole. Raises ProtocolError, see the class."""
        packets: list[tuple[int, tuple[bytes, ...]]] = []
        self._advance(nbytes, packets)
        return packets

    def feed(self, data: bytes | bytearray | memoryview) -> list[tuple[int, tuple[bytes, ...]]]:
        """Return the packets that `data` made whole, through the buffer. Raises ProtocolError, see the class."""
        packets: list[tuple[int, tuple[bytes, ...]]] = []
        rest = memoryview(data).cast("B")
        while True:
            step = min(len(rest), len(self._view) - self._filled)
            self._view[self._filled : self._filled + step] = rest[:step]
            self._advance(step, packets)
            rest = rest[step:]
            if not rest:
                return packets

    def _advance(self, nbytes: int, packets: list[tuple[int, tuple[bytes, ...]]]) -> None:
        if not 0 <= nbytes <= len(self._view) - self._filled:
            raise ValueError(f"{nbytes} bytes cannot have been written to a buffer of {len(self._view) - self._filled}")
        if self._failure is not None:
            raise ProtocolError(self._failure)
        self._filled += nbytes
        if self._filled < self._needed:
            return
        try:
            consumed = self._parse(packets)
        except ProtocolError as error:
            self._failure = str(error)
            self._salvaged = packets
            self._view, self._filled = self._base, 0
            raise
        self._keep(consumed)

    def _parse(self, packets: list[tuple[int, tuple[bytes, ...]]]) -> int:
        view, end, expected = self._view, self._filled, self._magic
        args: tuple[bytes, ...]
        start = 0
        self._needed = HEADER_BYTES
        while end - start >= HEADER_BYTES:
            magic, kind, size = _unpack_head(view, start)
            count = _COUNTS.get(kind, -1)
            if magic != expected or count < 0 or (size and size > self._most(kind)):
                raise header_fault(expected, magic, kind, size, self._max_payload)
            body = start + HEADER_BYTES
            stop = body + size
            if stop > end:
                self._needed = HEADER_BYTES + size
                break
            if size > MAX_LEADING_BYTES:
                args = _split_large(view[body:stop], count)
            else:
                args = tuple(view[body:stop].tobytes().split(b"\0", count - 1)) if count else ()
            if len(args) != count or (size > self._max_payload and self._is_over(kind, args)):
                raise arrival_fault(kind, args, self._max_payload)
            packets.append((kind, args))
            start = stop
        return start

    def _most(self, kind: int) -> int:
        if kind in _WITH_DATA:
            return self._max_payload + MAX_LEADING_BYTES
        return MAX_LEADING_BYTES if _COUNTS[kind] else 0

    def _is_over(self, kind: int, args: tuple[bytes, ...]) -> bool:
        return kind in _WITH_DATA and len(args[-1]) > self._max_payload

    def _keep(self, consumed: int) -> None:
        rest = self._filled - consumed
        room = self._base if self._needed <= RECEIVE_BUFFER_BYTES else memoryview(bytearray(self._needed))
        if rest and (consumed or room is not self._view):
            room[:rest] = self._view[consumed : self._filled]
        self._view, self._filled = room, rest


def _split_large(body: memoryview, count: int) -> tuple[bytes, ...]:
    # The NULs are looked for in what may precede the data, so that a payload is copied once and never searched.
    *args, tail = body[:MAX_LEADING_BYTES].tobytes().split(b"\0", count - 1)
    data_at = min(len(body), MAX_LEADING_BYTES) - len(tail)
    return (*args, body[data_at:].tobytes())
