"""The parser's work is linear in the bytes: counted, not timed."""

import pytest

from que.gearman import _wire_py
from que.gearman.packets import Magic, PacketType
from tests.unit.wire.twins import Twin, head

_Buffer = _wire_py._Buffer  # pyright: ignore[reportPrivateUsage] - its moves are counted


class Counts:
    """How often the parser looked into its buffer, and at how many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks = 0
        self.seen_bytes = 0
        self.moved_bytes = 0
        parse, keep = _wire_py._parse, _Buffer.keep  # pyright: ignore[reportPrivateUsage] - what is counted

        def counted(
            view: memoryview, end: int, magic: bytes, max_payload: int, packets: list[tuple[int, tuple[bytes, ...]]]
        ) -> tuple[int, int]:
            self.looks += 1
            self.seen_bytes += end
            return parse(view, end, magic, max_payload, packets)

        def kept(buffer: _Buffer, consumed: int, needed: int) -> None:
            self.moved_bytes += buffer.filled - consumed
            keep(buffer, consumed, needed)

        monkeypatch.setattr(_wire_py, "_parse", counted)
        monkeypatch.setattr(_Buffer, "keep", kept)


@pytest.mark.parametrize("data_bytes", [100, 20_000, 300_000], ids=str)
def test_a_packet_that_trickles_in_is_looked_at_twice(monkeypatch: pytest.MonkeyPatch, data_bytes: int) -> None:
    counts = Counts(monkeypatch)
    parser = _wire_py.Parser(Magic.RESPONSE)
    packet = head(Magic.RESPONSE, PacketType.ECHO_RES, data_bytes) + bytes(data_bytes)
    packets = [found for at in range(len(packet)) for found in parser.feed(packet[at : at + 1])]
    assert packets == [(17, (bytes(data_bytes),))]
    assert counts.looks == 2
    assert counts.seen_bytes == 12 + len(packet)


@pytest.mark.parametrize("chunk_bytes", [1, 7, 100, 1_000, 65_536, 262_144], ids=str)
@pytest.mark.parametrize("data_bytes", [0, 10, 9_000, 100_000], ids=str)
def test_no_byte_is_looked_at_or_moved_more_than_a_few_times(
    monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, data_bytes: int
) -> None:
    counts = Counts(monkeypatch)
    parser = _wire_py.Parser(Magic.RESPONSE)
    packet = head(Magic.RESPONSE, PacketType.ECHO_RES, data_bytes) + bytes(data_bytes)
    stream = packet * (1 + 600_000 // len(packet) if chunk_bytes > 1 else 2)
    packets = [
        found for at in range(0, len(stream), chunk_bytes) for found in parser.feed(stream[at : at + chunk_bytes])
    ]
    assert len(packets) == len(stream) // len(packet)
    assert counts.seen_bytes <= 3 * len(stream)
    assert counts.moved_bytes <= 2 * len(stream)


def test_two_mib_byte_by_byte_are_done_within_the_time_limit(codec: Twin) -> None:
    # The compiled twin has no seams to count at; were its work quadratic, this would be a million times a mebibyte.
    data_bytes = 2 * 1024 * 1024
    parser = codec.Parser(Magic.RESPONSE)
    parser.feed(head(Magic.RESPONSE, PacketType.ECHO_RES, data_bytes))
    parser.get_buffer(-1)[:] = bytes(data_bytes)
    for _ in range(data_bytes - 1):
        assert parser.buffer_updated(1) == []
    assert parser.buffer_updated(1) == [(17, (bytes(data_bytes),))]
