"""How far is each codec from the least that its language must do: make the objects, and not one check?

The floors know where everything is: in C (codec_floor.c, built here with the compiler on the machine) they make the
same bytes, tuples and list; in Python they are struct, join and split. Nanoseconds are medians of interleaved rounds;
they and the instructions (callgrind's, less those of the start) hold the loop that calls, about 8 ns and 200
instructions for a pack. Without a compiler the floor in C is skipped, without valgrind the instructions.
"""

import importlib.util
import math
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from itertools import repeat
from pathlib import Path
from struct import Struct
from typing import Final, Protocol, cast

from benchmarks.answer import Answer
from benchmarks.measure import QUICK, Rates, Scale, note
from benchmarks.report import Cell, skipped_lines, table
from benchmarks.stage import ROOT, Missing, program, python
from que.gearman import _wire_py
from que.gearman.packets import HEADER_BYTES, Magic, PacketType

TITLE = "The codec and its floor"
# Turns are short, so that a slow spell of the machine meets all runs: hence so many to a round of the other questions.
ROUNDS: Final = 12
PACKETS_A_TURN: Final = 10_000
PACKETS_COUNTED: Final = 65_536
RES: Final = Magic.RESPONSE
KIND: Final = int(PacketType.JOB_ASSIGN_UNIQ)
NAMES: Final = (b"H:vm:12345", b"echoReverse", b"0123456789abcdef")
# Four arguments in a body of 64 bytes.
ARGS: Final = (*NAMES, b"x" * (63 - len(b"\0".join(NAMES))))
PACKET: Final = _wire_py.pack(RES, KIND, ARGS)
STREAM: Final = PACKET * 64

# Runs so many times over: one packet is packed, or the 64 of the stream are parsed.
Run = Callable[[int], object]
Packets = list[tuple[int, tuple[bytes, ...]]]


class Twin(Protocol):
    Parser: type[_wire_py.Parser]

    def pack(self, magic: bytes, kind: int, args: tuple[bytes, ...], /) -> bytes: ...


class Floor(Protocol):
    def make_packet(self, header: bytes, size: int, args: tuple[bytes, ...], /) -> bytes: ...
    def make_packets(self, stream: bytes, packet_bytes: int, kind: int, cuts: tuple[int, ...], /) -> Packets: ...


def built(directory: Path) -> Path:
    """Build the floor in C; raises Missing."""
    compiler = shlex.split(os.environ.get("CC") or str(sysconfig.get_config_var("CC") or "cc"))
    source, target = Path(__file__).with_suffix(".c"), directory / "codec_floor.so"
    flags = ["-O3", "-DNDEBUG", "-fPIC", "-shared", "-I", sysconfig.get_paths()["include"]]
    subprocess.run([program(compiler[0]), *compiler[1:], *flags, source, "-o", target], check=True)
    return target


def loaded(path: Path) -> Floor:
    spec = importlib.util.spec_from_file_location("codec_floor", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast("Floor", module)


def packs(pack: Callable[[bytes, int, tuple[bytes, ...]], bytes]) -> Run:
    assert pack(RES, KIND, ARGS) == PACKET

    def run(calls: int) -> object:
        for _ in repeat(None, calls):
            pack(RES, KIND, ARGS)
        return None

    return run


def parses(make: type[_wire_py.Parser]) -> Run:
    parser, size = make(RES), len(STREAM)
    # What was parsed stays in the buffer, and is parsed again.
    parser.get_buffer(-1)[:size] = STREAM
    parse = parser.buffer_updated
    assert parse(size) == [(KIND, ARGS)] * 64

    def run(calls: int) -> object:
        for _ in repeat(None, calls):
            parse(size)
        return None

    return run


def packs_at_the_floor(floor: Floor) -> Run:
    make, header, size = floor.make_packet, PACKET[:HEADER_BYTES], len(PACKET) - HEADER_BYTES
    assert make(header, size, ARGS) == PACKET

    def run(calls: int) -> object:
        for _ in repeat(None, calls):
            make(header, size, ARGS)
        return None

    return run


def parses_at_the_floor(floor: Floor) -> Run:
    make, size = floor.make_packets, len(PACKET)
    cuts = tuple(edge for arg in ARGS for edge in (PACKET.index(arg), PACKET.index(arg) + len(arg)))
    assert make(STREAM, size, KIND, cuts) == [(KIND, ARGS)] * 64

    def run(calls: int) -> object:
        for _ in repeat(None, calls):
            make(STREAM, size, KIND, cuts)
        return None

    return run


_pack_header: Final = Struct(">4sII").pack


def pack_unchecked(magic: bytes, kind: int, args: tuple[bytes, ...], /) -> bytes:
    body = b"\0".join(args)
    return _pack_header(magic, kind, len(body)) + body


def parses_unchecked() -> Run:
    header, cuts, end = Struct(">4sII").unpack_from, len(ARGS) - 1, len(STREAM)

    def run(calls: int) -> object:
        packets: Packets = []
        for _ in repeat(None, calls):
            at, packets = 0, []
            while at < end:
                _, kind, size = header(STREAM, at)
                body = at + HEADER_BYTES
                at = body + size
                packets.append((kind, tuple(STREAM[body:at].split(b"\0", cuts))))
        return packets

    assert run(1) == [(KIND, ARGS)] * 64
    return run


def twin(name: str) -> Twin:
    return cast("Twin", import_module(f"que.gearman._wire_{name}"))


def runs(floor: Path | None) -> dict[str, Run]:
    """Every run by its name; the first word says whether one packet is packed or 64 are parsed."""
    in_c = loaded(floor) if floor else None
    return {
        **({"pack floor in C": packs_at_the_floor(in_c)} if in_c else {}),
        "pack c": packs(twin("c").pack),
        "pack floor in Python": packs(pack_unchecked),
        "pack py": packs(twin("py").pack),
        **({"parse floor in C": parses_at_the_floor(in_c)} if in_c else {}),
        "parse c": parses(twin("c").Parser),
        "parse floor in Python": parses_unchecked(),
        "parse py": parses(twin("py").Parser),
    }


def packets_per_call(name: str) -> int:
    return 64 if name.startswith("parse") else 1


# Which is held against which.
RATIOS: Final = tuple(
    (f"{verb} {one}", f"{verb} {other}")
    for verb in ("pack", "parse")
    for one, other in (("c", "floor in C"), ("py", "floor in Python"), ("py", "c"))
)


def run(scale: Scale) -> Answer:
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as directory:
        floor: Path | None = None
        try:
            floor = built(Path(directory))
        except Missing as why:
            skipped["the floor in C"] = str(why)
        known = runs(floor)
        times = Rates(nanoseconds(known, scale.rounds * ROUNDS), skipped)
        counts: dict[str, float] = {}
        try:
            counts = instructions(known, floor, scale)
        except Missing as why:
            skipped["the instructions"] = str(why)
    absolute: list[list[Cell]] = [[name, times.median(name), counts.get(name, math.nan)] for name in known]
    ratios: list[list[Cell]] = [
        [f"{one} / {other}", times.ratio(one, other), counts[one] / counts[other] if counts else math.nan]
        for one, other in RATIOS
        if other in known
    ]
    tables = table(["ratio", "of ns", "of instructions"], ratios), table(["a packet", "ns", "instructions"], absolute)
    return Answer("\n\n".join(tables) + "\n".join(["", *skipped_lines(skipped)]), times.of)


def nanoseconds(known: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Return the time of a packet in each round; a round holds a turn of each run, some 2 ms long."""
    found: dict[str, list[float]] = {name: [] for name in known}
    for _ in range(rounds):
        for name, play in known.items():
            calls = PACKETS_A_TURN // packets_per_call(name)
            begun = time.perf_counter_ns()
            play(calls)
            found[name].append((time.perf_counter_ns() - begun) / calls / packets_per_call(name))
    return found


def instructions(names: Iterable[str], floor: Path | None, scale: Scale) -> dict[str, float]:
    """Return how many instructions a packet takes; raises Missing."""
    if scale == QUICK:
        raise Missing("counting takes a minute, which --quick has not")
    start = collected("pack c", floor, 0)
    found: dict[str, float] = {}
    for name in names:
        note(f"counting: {name}")
        found[name] = (collected(name, floor, PACKETS_COUNTED // packets_per_call(name)) - start) / PACKETS_COUNTED
    return found


def collected(name: str, floor: Path | None, calls: int) -> int:
    command = python("benchmarks.codec_floor", name, calls, *([floor] if floor else []))
    counted = subprocess.run(
        [program("valgrind"), "--tool=callgrind", "--callgrind-out-file=/dev/null", *command.argv],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Collected : (\d+)", counted.stderr)
    assert found, counted.stderr
    return int(found[1])


if __name__ == "__main__":
    # What is counted: one run, so many calls of it, and the floor that was built for it.
    runs(Path(sys.argv[3]) if sys.argv[3:] else None)[sys.argv[1]](int(sys.argv[2]))
