"""Laws that hold for any packet, any chunks and any bytes, and that both twins keep alike."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from que.errors import ProtocolError
from que.gearman.packets import RECEIVE_BUFFER_BYTES, Magic, PacketType
from tests.unit.wire.twins import (
    MAGICS,
    TWINS,
    Packets,
    Parses,
    Twin,
    head,
    outcome,
    receive,
    twin,
    valid_args,
    valid_packets,
)

RES = Magic.RESPONSE


@pytest.fixture(scope="session")
def both() -> tuple[Twin, Twin]:
    """The compiled twin and the reference; the reference twice where a run says that it wants no other."""
    return twin(TWINS[0]), twin("py")


@pytest.mark.parametrize("kind", PacketType, ids=lambda kind: kind.name)
@given(data=st.data(), magic=st.sampled_from(MAGICS))
def test_what_was_packed_is_parsed(codec: Twin, kind: PacketType, magic: bytes, data: st.DataObject) -> None:
    args = data.draw(valid_args(kind))
    assert codec.Parser(magic).feed(codec.pack(magic, kind, args)) == [(int(kind), args)]


def chunked(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:stop] for start, stop in pairwise(edges)]


CUTS = st.lists(st.integers(0, 10_000), max_size=30)


@given(packets=st.lists(valid_packets(), max_size=8), cuts=CUTS)
def test_any_chunks_give_the_same_packets(
    codec: Twin, packets: list[tuple[PacketType, tuple[bytes, ...]]], cuts: list[int]
) -> None:
    stream = b"".join(codec.pack(RES, kind, args) for kind, args in packets)
    fed, received = codec.Parser(RES), codec.Parser(RES)
    chunks = chunked(stream, cuts)
    assert [packet for chunk in chunks for packet in fed.feed(chunk)] == packets
    assert [packet for chunk in chunks for packet in receive(received, chunk)] == packets
    assert fed.buffered == received.buffered == 0


@given(packets=st.lists(valid_packets(), max_size=4))
def test_byte_by_byte_gives_the_same_packets(codec: Twin, packets: list[tuple[PacketType, tuple[bytes, ...]]]) -> None:
    parser = codec.Parser(RES)
    stream = b"".join(codec.pack(RES, kind, args) for kind, args in packets)
    assert [packet for byte in stream for packet in receive(parser, bytes([byte]))] == packets


@given(sizes=st.lists(st.sampled_from([0, 9_000, 70_000, RECEIVE_BUFFER_BYTES, 400_000]), max_size=5), cuts=CUTS)
def test_large_packets_among_small_ones_survive_any_chunks(codec: Twin, sizes: list[int], cuts: list[int]) -> None:
    packets: Packets = [(13, (b"H:lap:%d" % size, b"\0x" * (size // 2))) for size in sizes]
    stream = b"".join(codec.pack(RES, kind, args) for kind, args in packets)
    parser = codec.Parser(RES)
    chunks = chunked(stream, [cut * 97 for cut in cuts])
    assert [packet for chunk in chunks for packet in receive(parser, chunk)] == packets


def heard(parser: Parses, chunks: Sequence[bytes]) -> tuple[Packets, str | None]:
    """All packets that `chunks` gave, and the error that ended them."""
    packets: Packets = []
    for chunk in chunks:
        try:
            packets += parser.feed(chunk)
        except ProtocolError as error:
            return packets + parser.salvaged, str(error)
    return packets, None


KINDS = st.integers(0, 45) | st.sampled_from([2**31, 2**32 - 1])
# Headers that are nearly right, so that what is behind them is reached.
HEADERS = st.builds(head, st.sampled_from([RES, RES, RES, Magic.REQUEST]), KINDS, st.integers(0, 40))
BODIES = st.binary(max_size=40) | st.lists(st.sampled_from([b"a", b"\0"]), max_size=12).map(b"".join)
JUNK = st.lists(HEADERS | BODIES, max_size=8).map(b"".join) | st.binary(max_size=60)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid stream in which some bytes were replaced, dropped or doubled."""
    packets = draw(st.lists(valid_packets(), min_size=1, max_size=4))
    reference = twin("py")
    stream = bytearray(b"".join(reference.pack(RES, kind, args) for kind, args in packets))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(stream) - 1))
        stream[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
        if not stream:
            break
    return bytes(stream)


@given(stream=JUNK | mutated(), cuts=CUTS, max_payload=st.sampled_from([0, 1, 20, 100, 2**26]))
@example(stream=head(RES, 13, 3) + b"H\0d" + head(RES, 0, 0), cuts=[5, 20], max_payload=2**26)
def test_both_twins_hear_the_same_in_any_bytes_and_any_chunks(
    both: tuple[Twin, Twin], stream: bytes, cuts: list[int], max_payload: int
) -> None:
    compiled, reference = both
    at_once = heard(reference.Parser(RES, max_payload), [stream])
    chunks = chunked(stream, cuts)
    assert heard(compiled.Parser(RES, max_payload), [stream]) == at_once
    assert heard(reference.Parser(RES, max_payload), chunks) == at_once
    assert heard(compiled.Parser(RES, max_payload), chunks) == at_once


@given(data=st.data(), stream=JUNK | mutated(), cuts=CUTS)
def test_both_twins_hold_as_much(both: tuple[Twin, Twin], data: st.DataObject, stream: bytes, cuts: list[int]) -> None:
    parsers = [one.Parser(RES, 100) for one in both]
    for chunk in chunked(stream, cuts):
        results = [outcome(parser.feed, chunk) for parser in parsers]
        assert results[0] == results[1]
        assert parsers[0].buffered == parsers[1].buffered
        assert parsers[0].salvaged == parsers[1].salvaged
        assert len(parsers[0].get_buffer(-1)) == len(parsers[1].get_buffer(-1))


ANY_MAGIC = st.sampled_from([*MAGICS, *MAGICS, b"\0RE", b"bad!"])
ANY_KIND = st.sampled_from(PacketType) | st.integers(-2, 45) | st.integers()
ANY_VALUE = st.binary(max_size=8) | st.sampled_from([b"k" * 63, b"k" * 64, b"f" * 512, b"f" * 513, b"n" * 8190])
ANY_ARGS = st.lists(ANY_VALUE, max_size=9)
ANY_LIMIT = st.sampled_from([2**26, 2**26, 2**40, 2**70, 64, 8, 0, -1, -(2**70)])


@given(magic=ANY_MAGIC, kind=ANY_KIND, args=ANY_ARGS, max_payload=ANY_LIMIT)
def test_both_twins_pack_the_same_or_refuse_it_alike(
    both: tuple[Twin, Twin], magic: bytes, kind: int, args: list[bytes], max_payload: int
) -> None:
    results = [outcome(one.pack, magic, kind, args, max_payload) for one in both]
    assert results[0] == results[1]
    results = [outcome(one.pack, magic, kind, tuple(args), max_payload) for one in both]
    assert results[0] == results[1]


@given(packet=valid_packets(), at=st.integers(0, 7), value=ANY_VALUE, max_payload=ANY_LIMIT)
def test_both_twins_refuse_alike_what_is_nearly_right(
    both: tuple[Twin, Twin], packet: tuple[PacketType, tuple[bytes, ...]], at: int, value: bytes, max_payload: int
) -> None:
    kind, args = packet
    nearly = (*args[:at], value, *args[at + 1 :])
    results = [outcome(one.pack, RES, kind, nearly, max_payload) for one in both]
    assert results[0] == results[1]


@given(
    magic=ANY_MAGIC,
    kind=ANY_KIND,
    leading=ANY_ARGS,
    data_bytes=st.integers(-2, 100) | st.sampled_from([2**26, 2**32 - 1, 2**32, 2**70]),
    max_payload=ANY_LIMIT,
)
def test_both_twins_pack_the_same_header_or_refuse_it_alike(
    both: tuple[Twin, Twin], magic: bytes, kind: int, leading: list[bytes], data_bytes: int, max_payload: int
) -> None:
    results = [outcome(one.pack_header, magic, kind, leading, data_bytes, max_payload) for one in both]
    assert results[0] == results[1]
