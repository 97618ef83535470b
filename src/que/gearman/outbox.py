"""Packets that wait to leave, sans I/O: small ones are joined, a large payload leaves as views after its header."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from que.gearman.packets import Magic
from que.gearman.wire import LARGE_PAYLOAD_BYTES, pack, pack_header, payload_slices

TAKE_BYTES: Final = 256 * 1024
_Piece = bytes | memoryview
_NOTHING: Final[Iterator[memoryview]] = iter(())


class Outbox:
    """A queue of request packets; `len` is how many have not begun to leave.

    Whoever empties it calls `take` until that gives nothing, or until it may write no more for now: a packet that has
    not been taken has not left, not one byte of it.
    """

    __slots__ = ("_bytes", "_large", "_max_payload", "_packets", "_slices")

    def __init__(self, max_payload: int) -> None:
        self._max_payload = max_payload
        self._packets: deque[bytes | tuple[bytes, bytes]] = deque()
        self._bytes = 0
        self._large = 0
        self._slices = _NOTHING

    def __len__(self) -> int:
        return len(self._packets)

    def add(self, kind: int, leading: Sequence[bytes], data: bytes) -> None:
        """One packet with a data argument waits to leave. Raises PacketError as pack() does."""
        if len(data) < LARGE_PAYLOAD_BYTES:
            packet = pack(Magic.REQUEST, kind, (*leading, data), self._max_payload)
            self._bytes += len(packet)
            self._packets.append(packet)
        else:
            header = pack_header(Magic.REQUEST, kind, leading, len(data), self._max_payload)
            self._large += 1
            self._packets.append((header, data))

    def add_plain(self, kind: int, args: Sequence[bytes]) -> None:
        """One packet whose arguments are all short waits to leave. Raises PacketError as pack() does."""
        self.add_packed(pack(Magic.REQUEST, kind, args, self._max_payload))

    def add_packed(self, packet: bytes) -> None:
        """One packet that was packed before waits to leave."""
        self._bytes += len(packet)
        self._packets.append(packet)

    def take(self) -> _Piece:
        """Return what to write next, at most about TAKE_BYTES at once; b"" if there is nothing."""
        for piece in self._slices:
            return piece
        if self._large or self._bytes > TAKE_BYTES:
            return self._take_some()
        if not self._packets:
            return b""
        data = b"".join(self._packets)  # type: ignore[arg-type]  # without large ones all are bytes
        self._packets.clear()
        self._bytes = 0
        return data

    def _take_some(self) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while self._packets and size < TAKE_BYTES:
            packet = self._packets.popleft()
            if isinstance(packet, tuple):
                self._large -= 1
                header, data = packet
                pieces.append(header)
                if self._packets or size + len(data) > TAKE_BYTES:
                    self._slices = payload_slices(data)
                else:
                    # The last one: up to 256 KiB, a copy costs less than a write of its own (1.24 times at 32 KiB).
                    pieces.append(data)
                break
            size += len(packet)
            self._bytes -= len(packet)
            pieces.append(packet)
        return b"".join(pieces)
