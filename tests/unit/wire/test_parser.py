"""What the parser takes, what it refuses, and what it holds meanwhile."""

import os
import tracemalloc
from pathlib import Path

import pytest

from que.errors import ProtocolError
from que.gearman.packets import (
    DEFAULT_MAX_PAYLOAD,
    HEADER_BYTES,
    KEPT_BUFFER_BYTES,
    LAYOUTS,
    MAX_LEADING_BYTES,
    RECEIVE_BUFFER_BYTES,
    Magic,
    PacketType,
)
from tests.unit.wire.twins import TWINS, Twin, head, receive, twin

RES = Magic.RESPONSE
BARE = [kind for kind in PacketType if not LAYOUTS[kind]]
SEVERAL = [kind for kind in PacketType if len(LAYOUTS[kind]) > 1]
WITH_DATA = [kind for kind in PacketType if LAYOUTS[kind] and LAYOUTS[kind][-1].data]
NAMES_ONLY = [kind for kind in PacketType if LAYOUTS[kind] and not LAYOUTS[kind][-1].data]
NOOP = head(RES, PacketType.NOOP, 0)


def name_of(value: object) -> str:
    return value.name if isinstance(value, PacketType) else str(value)


def complete(data: bytes) -> bytes:
    return head(RES, PacketType.WORK_COMPLETE, 8 + len(data)) + b"H:lap:1\0" + data


@pytest.mark.parametrize(
    "magic",
    [b"GET ", b"\0REQ", b"\0\0\0\0", b"OK 1", b"\0RES"[::-1]],
    ids=["http", "request", "zeros", "text", "turned"],
)
def test_a_bad_magic_is_refused(codec: Twin, magic: bytes) -> None:
    with pytest.raises(ProtocolError, match="bad magic"):
        codec.Parser(RES).feed(head(magic, PacketType.NOOP, 0))


@pytest.mark.parametrize("kind", [0, 5, 43, 255, 256 + 6, 2**31, 2**32 - 1], ids=str)
def test_an_unknown_type_is_refused_by_its_header(codec: Twin, kind: int) -> None:
    with pytest.raises(ProtocolError, match=f"unknown packet type {kind}"):
        codec.Parser(RES).feed(head(RES, kind, 1000))


@pytest.mark.parametrize("kind", SEVERAL, ids=name_of)
def test_too_few_arguments_are_refused(codec: Twin, kind: PacketType) -> None:
    args = [argument.name.encode() for argument in LAYOUTS[kind]]
    for found in range(1, len(args)):
        body = b"\0".join(args[:found])
        with pytest.raises(ProtocolError, match=f"{kind.name} holds {found} of its {len(args)} arguments"):
            codec.Parser(RES).feed(head(RES, kind, len(body)) + body + NOOP)


@pytest.mark.parametrize("kind", BARE, ids=name_of)
def test_a_body_that_its_type_has_no_place_for_is_refused_by_its_header(codec: Twin, kind: PacketType) -> None:
    with pytest.raises(ProtocolError, match=f"{kind.name} announces 1 bytes and takes no arguments"):
        codec.Parser(RES).feed(head(RES, kind, 1))


@pytest.mark.parametrize("kind", NAMES_ONLY, ids=name_of)
def test_names_over_the_limit_are_refused_by_their_header(codec: Twin, kind: PacketType) -> None:
    assert codec.Parser(RES, 0).feed(head(RES, kind, MAX_LEADING_BYTES)) == []
    with pytest.raises(ProtocolError, match=f"{kind.name} announces {MAX_LEADING_BYTES + 1} bytes, over the"):
        codec.Parser(RES).feed(head(RES, kind, MAX_LEADING_BYTES + 1))


@pytest.mark.parametrize("kind", WITH_DATA, ids=name_of)
def test_a_size_over_the_limit_is_refused_by_its_header(codec: Twin, kind: PacketType) -> None:
    assert codec.Parser(RES, 1000).feed(head(RES, kind, 1000 + MAX_LEADING_BYTES)) == []
    with pytest.raises(ProtocolError, match=f"{kind.name} announces .* over max_payload"):
        codec.Parser(RES, 1000).feed(head(RES, kind, 1000 + MAX_LEADING_BYTES + 1))


def test_the_limit_is_64_mib_unless_another_is_given(codec: Twin) -> None:
    most = DEFAULT_MAX_PAYLOAD + MAX_LEADING_BYTES
    assert codec.Parser(magic=RES).feed(head(RES, 13, most)) == []
    assert codec.Parser(RES, max_payload=DEFAULT_MAX_PAYLOAD + 1).feed(head(RES, 13, most + 1)) == []
    with pytest.raises(ProtocolError, match=rf"over max_payload \({DEFAULT_MAX_PAYLOAD}\)"):
        codec.Parser(magic=RES).feed(head(RES, 13, most + 1))


@pytest.mark.parametrize("limit", [2**32 - 1, 2**40, 2**70], ids=str)
def test_a_limit_beyond_what_a_packet_can_hold_is_none(codec: Twin, limit: int) -> None:
    assert codec.Parser(RES, limit).feed(head(RES, 13, 1_000)) == []


@pytest.mark.parametrize("kind", WITH_DATA, ids=name_of)
@pytest.mark.parametrize("limit", [100, 50_000, 100_000, 300_000], ids=str)
def test_max_payload_counts_the_data_alone(codec: Twin, kind: PacketType, limit: int) -> None:
    leading = [b"x" * 100 if argument.max_bytes > 100 else b"k" * 63 for argument in LAYOUTS[kind][:-1]]
    for size in (limit, limit + 1):
        args = (*leading, b"d" * size)
        packet = codec.pack(RES, kind, args)
        if size == limit:
            assert codec.Parser(RES, limit).feed(packet) == [(int(kind), args)]
        else:
            with pytest.raises(ProtocolError, match=f"{kind.name}: data has {size} bytes, over max_payload"):
                codec.Parser(RES, limit).feed(packet)


@pytest.mark.parametrize("kind", [kind for kind in WITH_DATA if len(LAYOUTS[kind]) > 1], ids=name_of)
@pytest.mark.parametrize("data_bytes", [1, 100_000, 300_000], ids=str)
def test_what_precedes_the_data_is_bounded(codec: Twin, kind: PacketType, data_bytes: int) -> None:
    others = b"\0" * (len(LAYOUTS[kind]) - 1)
    for name_bytes in (MAX_LEADING_BYTES - len(others), MAX_LEADING_BYTES - len(others) + 1):
        body = b"n" * name_bytes + others + b"d" * data_bytes
        packet = head(RES, kind, len(body)) + body
        if name_bytes + len(others) == MAX_LEADING_BYTES:
            assert codec.Parser(RES).feed(packet)[0][1][-1] == b"d" * data_bytes
        else:
            with pytest.raises(ProtocolError, match="a NUL is missing, or comes after"):
                codec.Parser(RES).feed(packet)


def test_the_trailing_nul_of_a_work_fail_is_kept(codec: Twin) -> None:
    # gearmand sends it to clients without the exceptions option.
    assert codec.Parser(RES).feed(head(RES, 14, 8) + b"H:lap:1\0") == [(14, (b"H:lap:1\0",))]


@pytest.mark.parametrize("way", ["feed", "buffer"])
def test_the_packets_before_a_bad_one_are_salvaged_and_the_parser_stays_failed(codec: Twin, way: str) -> None:
    parser = codec.Parser(RES)
    earlier = parser.feed(NOOP)
    assert earlier == [(6, ())]
    chunk = complete(b"1") + NOOP + head(RES, 5, 0) + complete(b"2")
    with pytest.raises(ProtocolError, match="unknown packet type 5"):
        parser.feed(chunk) if way == "feed" else receive(parser, chunk)
    assert parser.salvaged == [(13, (b"H:lap:1", b"1")), (6, ())]
    for _ in range(2):
        with pytest.raises(ProtocolError, match="unknown packet type 5"):
            parser.feed(NOOP) if way == "feed" else receive(parser, NOOP)
    assert parser.salvaged == [(13, (b"H:lap:1", b"1")), (6, ())]
    assert parser.buffered == 0


def test_nothing_is_salvaged_while_nothing_has_failed(codec: Twin) -> None:
    parser = codec.Parser(RES)
    parser.feed(NOOP + complete(b""))
    assert parser.salvaged == []


def test_what_one_feed_completed_in_several_bufferfuls_is_salvaged_whole(codec: Twin) -> None:
    packets = 3 * RECEIVE_BUFFER_BYTES // len(complete(b"x" * 100))
    parser = codec.Parser(RES)
    with pytest.raises(ProtocolError):
        parser.feed(complete(b"x" * 100) * packets + head(RES, 0, 0))
    assert parser.salvaged == [(13, (b"H:lap:1", b"x" * 100))] * packets


def test_a_packet_never_takes_bytes_of_the_next(codec: Twin) -> None:
    # The NUL that the first one lacks is there in the second.
    unterminated = head(RES, 13, 7) + b"H:lap:1"
    parser = codec.Parser(RES)
    with pytest.raises(ProtocolError, match="holds 1 of its 2"):
        parser.feed(unterminated + complete(b"data"))
    assert parser.salvaged == []


def test_only_an_incomplete_packet_is_held(codec: Twin) -> None:
    parser = codec.Parser(RES)
    whole = complete(b"x" * 50)
    assert len(parser.feed(whole * 3 + whole[:30])) == 3
    assert parser.buffered == 30
    assert len(parser.feed(whole[30:])) == 1
    assert parser.buffered == 0


@pytest.mark.parametrize("held", [0, 1, 11, 12, 30], ids=str)
def test_the_buffer_has_room_whatever_is_held(codec: Twin, held: int) -> None:
    parser = codec.Parser(RES)
    parser.feed(complete(b"x" * 50)[:held])
    room = parser.get_buffer(-1)
    assert isinstance(room, memoryview)
    assert len(room) == RECEIVE_BUFFER_BYTES - held
    assert not room.readonly


@pytest.mark.parametrize("data_bytes", [RECEIVE_BUFFER_BYTES, 1_000_000], ids=str)
def test_the_buffer_grows_to_exactly_a_large_packet_and_shrinks_after_it(codec: Twin, data_bytes: int) -> None:
    parser = codec.Parser(RES)
    packet = complete(b"x" * data_bytes)
    assert parser.feed(packet[:HEADER_BYTES]) == []
    assert len(parser.get_buffer(-1)) == len(packet) - HEADER_BYTES
    assert parser.feed(packet[HEADER_BYTES:-1]) == []
    assert len(parser.get_buffer(-1)) == 1
    assert parser.feed(packet[-1:] + NOOP) == [(13, (b"H:lap:1", b"x" * data_bytes)), (6, ())]
    assert len(parser.get_buffer(-1)) == RECEIVE_BUFFER_BYTES


@pytest.mark.parametrize(
    ("first", "second", "is_kept"),
    [(KEPT_BUFFER_BYTES - 20, 1_000_000, True), (1_000_000, 1_000_001, False), (KEPT_BUFFER_BYTES, 1_000_000, False)],
    ids=["a smaller one", "a larger one", "after one over the limit"],
)
def test_a_buffer_of_a_large_packet_is_used_again_up_to_a_limit(
    codec: Twin, first: int, second: int, is_kept: bool
) -> None:
    parser = codec.Parser(RES)
    used: list[object] = []
    for data_bytes in (first, second):
        data = b"x" * (data_bytes - 1) + b"y"
        packet = complete(data)
        # The compiled twin takes a buffer where what precedes the data did not come with the header.
        assert parser.feed(packet[:HEADER_BYTES]) == []
        room = parser.get_buffer(-1)
        assert len(room) == len(packet) - HEADER_BYTES
        used.append(room.obj)
        assert parser.feed(packet[HEADER_BYTES:] + NOOP) == [(13, (b"H:lap:1", data)), (6, ())]
    assert (used[0] is used[1]) is is_kept


@pytest.mark.parametrize("kind", [kind for kind in WITH_DATA if len(LAYOUTS[kind]) > 1], ids=name_of)
def test_a_large_packet_may_be_cut_anywhere_before_its_data(codec: Twin, kind: PacketType) -> None:
    args = (*(b"n" * 10 for _ in LAYOUTS[kind][:-1]), b"\0data\0" * 60_000)
    packet = codec.pack(RES, kind, args)
    for cut in range(len(packet) - len(args[-1]) + 2):
        parser = codec.Parser(RES)
        assert parser.feed(NOOP + packet[:cut]) == [(6, ())]
        assert parser.buffered == cut
        assert parser.feed(packet[cut:-1]) == []
        assert (parser.buffered, len(parser.get_buffer(-1))) == (len(packet) - 1, 1)
        assert parser.feed(packet[-1:] + NOOP[:-1]) == [(int(kind), args)]
        assert parser.buffered == len(NOOP) - 1
        assert parser.feed(NOOP[-1:]) == [(6, ())]


def test_a_large_payload_is_not_touched_by_the_next(codec: Twin) -> None:
    parser = codec.Parser(RES)
    payloads = [bytes([number]) * 400_000 for number in b"abc"]
    packets = [packet for payload in payloads for packet in receive(parser, complete(payload))]
    assert packets == [(13, (b"H:lap:1", payload)) for payload in payloads]


def test_more_bytes_than_a_large_packet_is_short_of_are_refused(codec: Twin) -> None:
    parser = codec.Parser(RES)
    packet = complete(b"x" * 400_000)
    parser.feed(packet[:1_000])
    for nbytes in (-1, len(packet) - 999, 2**62):
        with pytest.raises(ValueError, match=f"buffer of {len(packet) - 1_000}$"):
            parser.buffer_updated(nbytes)
    assert parser.feed(packet[1_000:]) == [(13, (b"H:lap:1", b"x" * 400_000))]


def test_a_packet_that_just_fits_fills_the_buffer_and_no_more(codec: Twin) -> None:
    parser = codec.Parser(RES)
    packet = complete(b"x" * (RECEIVE_BUFFER_BYTES - HEADER_BYTES - 8))
    assert len(packet) == RECEIVE_BUFFER_BYTES
    assert parser.feed(NOOP + packet[:-1]) == [(6, ())]
    assert len(parser.get_buffer(-1)) == 1
    assert len(parser.feed(packet[-1:])) == 1


@pytest.mark.parametrize("nbytes", [-1, RECEIVE_BUFFER_BYTES - 11, 2**62], ids=str)
def test_more_bytes_than_the_buffer_has_room_for_are_refused(codec: Twin, nbytes: int) -> None:
    parser = codec.Parser(RES)
    parser.feed(NOOP[:-1] + b"")
    if nbytes == RECEIVE_BUFFER_BYTES - 11:
        nbytes += 1
    with pytest.raises(ValueError, match="cannot have been written"):
        parser.buffer_updated(nbytes)
    assert parser.feed(NOOP[-1:]) == [(6, ())]


def test_no_bytes_change_nothing(codec: Twin) -> None:
    parser = codec.Parser(RES)
    assert parser.feed(NOOP[:5]) == parser.buffer_updated(0) == parser.feed(b"") == []
    assert parser.buffered == 5


def test_the_arguments_outlive_what_arrives_later(codec: Twin) -> None:
    parser = codec.Parser(RES)
    first = receive(parser, complete(b"first") + complete(b"second")[:-1])
    receive(parser, b"d" + complete(b"XXXXX") * 10)
    assert first == [(13, (b"H:lap:1", b"first"))]
    assert all(type(arg) is bytes for _, args in first for arg in args)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview], ids=["bytes", "bytearray", "memoryview"])
def test_any_kind_of_bytes_can_be_fed(codec: Twin, kind: type[bytes | bytearray | memoryview]) -> None:
    assert codec.Parser(RES).feed(kind(complete(b"data"))) == [(13, (b"H:lap:1", b"data"))]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_while(codec: Twin, packet: bytes, chunk_bytes: int) -> int:
    """The most memory that receiving `packet` in chunks took, in bytes."""
    view = memoryview(packet)
    parser = codec.Parser(RES)
    tracemalloc.start()
    try:
        count = 0
        for start in range(0, len(view), chunk_bytes):
            chunk = view[start : start + chunk_bytes]
            parser.get_buffer(-1)[: len(chunk)] = chunk
            count += len(parser.buffer_updated(len(chunk)))
        assert count == 1
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("chunk_bytes", [4_096, 65_536], ids=str)
def test_a_packet_of_64_mib_takes_its_payload_and_where_it_is_copied_its_buffer(codec: Twin, chunk_bytes: int) -> None:
    packet = complete(bytes(DEFAULT_MAX_PAYLOAD))
    copies = 1 if codec.name == "c" else 2
    assert peak_while(codec, packet, chunk_bytes) < copies * len(packet) + 2**20


@pytest.mark.skipif(TWINS == ("py",), reason="needs the compiled codec, and QUE_EXTENSION=0 leaves it out")
def test_a_header_that_lies_about_its_size_takes_no_memory_before_the_bytes_arrive() -> None:
    # The pure twin's buffer is zeroed when it is made, so that there it does.
    limit = 4 * DEFAULT_MAX_PAYLOAD
    parser = twin("c").Parser(RES, limit)
    before = resident_bytes()
    assert parser.feed(head(RES, PacketType.WORK_COMPLETE, limit) + b"H:lap:1\0data") == []
    assert resident_bytes() - before < limit // 4


def test_a_header_that_lies_about_its_size_takes_no_memory_before_it_is_refused(codec: Twin) -> None:
    parser = codec.Parser(RES)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="over max_payload"):
            parser.feed(head(RES, PacketType.WORK_COMPLETE, 2**32 - 1))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
