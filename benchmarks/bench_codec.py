"""How long does a packet take to pack, and to parse: compiled, pure, and in gearman3?

    pytest benchmarks/bench_codec.py

A parse begins with received bytes: ours are copied into the parser's own buffer, as asyncio does it, and that copy is
counted. `64 small` is 64 packets in one buffer; its time is for all of them. gearman3 takes one packet a call, off the
front of an array, as its connection does.
"""

import array
from collections.abc import Callable
from importlib import import_module
from typing import Protocol, cast

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from que.gearman import _wire_py
from que.gearman.packets import Magic, PacketType

RES = Magic.RESPONSE
NAMES = (b"H:vm:12345", b"echoReverse", b"0123456789abcdef")


def job(data_bytes: int) -> tuple[PacketType, tuple[bytes, ...]]:
    return PacketType.JOB_ASSIGN_UNIQ, (*NAMES, b"x" * data_bytes)


PACKETS = {
    "header only": (PacketType.NOOP, ()),
    # Four arguments in a body of 64 bytes.
    "small": job(64 - len(b"\0".join(NAMES)) - 1),
    "1 KiB": job(1024),
    "64 KiB": job(64 * 1024),
    "1 MiB": job(1024 * 1024),
}
STREAMS = {name: _wire_py.pack(RES, kind, args) for name, (kind, args) in PACKETS.items()}
STREAMS["64 small"] = STREAMS["small"] * 64

Run = Callable[[], object]


class Twin(Protocol):
    Parser: type[_wire_py.Parser]

    def pack(self, magic: bytes, kind: int, args: tuple[bytes, ...], /) -> bytes: ...


class Gearman3(Protocol):
    GEARMAN_PARAMS_FOR_COMMAND: dict[int, tuple[str, ...]]

    def pack_binary_command(self, kind: int, args: dict[str, bytes], is_response: bool, /) -> bytes: ...
    def parse_binary_command(
        self, stream: "array.array[int]", is_response: bool, /
    ) -> tuple[int | None, object, int]: ...


def twin(name: str) -> Twin:
    return cast("Twin", import_module(f"que.gearman._wire_{name}"))


def gearman3() -> Gearman3:
    module: Gearman3 = pytest.importorskip("gearman.protocol", reason="gearman3 is not installed")
    return module


def pack_with_twin(name: str, kind: PacketType, args: tuple[bytes, ...]) -> Run:
    pack = twin(name).pack
    return lambda: pack(RES, kind, args)


def pack_with_gearman3(_: str, kind: PacketType, args: tuple[bytes, ...]) -> Run:
    protocol = gearman3()
    named = dict(zip(protocol.GEARMAN_PARAMS_FOR_COMMAND[int(kind)], args, strict=True))
    return lambda: protocol.pack_binary_command(int(kind), named, True)


def parse_with_twin(name: str, stream: bytes) -> Run:
    parser = twin(name).Parser(RES)

    def run() -> object:
        got, rest = 0, memoryview(stream)
        while rest:
            room = parser.get_buffer(-1)
            step = min(len(room), len(rest))
            room[:step] = rest[:step]
            got += len(parser.buffer_updated(step))
            rest = rest[step:]
        return got

    return run


def parse_with_gearman3(_: str, stream: bytes) -> Run:
    protocol = gearman3()

    def run() -> object:
        got, rest = 0, array.array("B", stream)
        while rest:
            _, _, taken = protocol.parse_binary_command(rest, True)
            rest = rest[taken:]
            got += 1
        return got

    return run


PACKERS = {"c": pack_with_twin, "py": pack_with_twin, "gearman3": pack_with_gearman3}
PARSERS = {"c": parse_with_twin, "py": parse_with_twin, "gearman3": parse_with_gearman3}


@pytest.mark.parametrize("packet", PACKETS)
@pytest.mark.parametrize("codec", PACKERS)
def test_pack(benchmark: BenchmarkFixture, codec: str, packet: str) -> None:
    benchmark.group = f"pack {packet}"
    kind, args = PACKETS[packet]
    run = PACKERS[codec](codec, kind, args)
    assert run() == STREAMS[packet]
    benchmark(run)


@pytest.mark.parametrize("packet", STREAMS)
@pytest.mark.parametrize("codec", PARSERS)
def test_parse(benchmark: BenchmarkFixture, codec: str, packet: str) -> None:
    benchmark.group = f"parse {packet}"
    run = PARSERS[codec](codec, STREAMS[packet])
    assert run() == (64 if packet == "64 small" else 1)
    benchmark(run)
