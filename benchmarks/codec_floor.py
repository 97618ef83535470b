"""How far is each codec from the least that its language must do: make the objects, and not one check?

    python benchmarks/codec_floor.py [--rounds 60] [--no-instructions]

The floors know where everything is: in C (codec_floor.c, built here with the compiler on the machine) they make the
same bytes, tuples and list; in Python they are struct, join and split. Nanoseconds are medians of interleaved rounds, a
ratio is the median of each round's; both hold the loop that calls, about 10 ns. Instructions are callgrind's: of many
calls, less those of few. Without a compiler the C floor is left out, without valgrind the instructions, by name.
"""

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from itertools import repeat
from pathlib import Path
from struct import Struct
from typing import Final, Protocol, cast

from que.gearman import _wire_py
from que.gearman.packets import HEADER_BYTES, Magic, PacketType

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


def built(directory: Path) -> Path | None:
    """Build the C floor; None, and a word why, where there is no compiler."""
    compiler = shlex.split(os.environ.get("CC") or str(sysconfig.get_config_var("CC") or "cc"))
    if shutil.which(compiler[0]) is None:
        print(f"skipped: the C floor, for there is no {compiler[0]}", file=sys.stderr)
        return None
    source, target = Path(__file__).with_suffix(".c"), directory / "codec_floor.so"
    include = sysconfig.get_paths()["include"]
    subprocess.run([*compiler, "-O3", "-DNDEBUG", "-fPIC", "-shared", "-I", include, source, "-o", target], check=True)
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

    def run(rounds: int) -> object:
        for _ in repeat(None, rounds):
            pack(RES, KIND, ARGS)
        return None

    return run


def parses(make: type[_wire_py.Parser]) -> Run:
    parser, size = make(RES), len(STREAM)
    # What was parsed stays in the buffer, and is parsed again.
    parser.get_buffer(-1)[:size] = STREAM
    parse = parser.buffer_updated
    assert parse(size) == [(KIND, ARGS)] * 64

    def run(rounds: int) -> object:
        for _ in repeat(None, rounds):
            parse(size)
        return None

    return run


def packs_at_the_floor(floor: Floor) -> Run:
    make, header, size = floor.make_packet, PACKET[:HEADER_BYTES], len(PACKET) - HEADER_BYTES
    assert make(header, size, ARGS) == PACKET

    def run(rounds: int) -> object:
        for _ in repeat(None, rounds):
            make(header, size, ARGS)
        return None

    return run


def parses_at_the_floor(floor: Floor) -> Run:
    make, size = floor.make_packets, len(PACKET)
    cuts = tuple(edge for arg in ARGS for edge in (PACKET.index(arg), PACKET.index(arg) + len(arg)))
    assert make(STREAM, size, KIND, cuts) == [(KIND, ARGS)] * 64

    def run(rounds: int) -> object:
        for _ in repeat(None, rounds):
            make(STREAM, size, KIND, cuts)
        return None

    return run


_pack_header: Final = Struct(">4sII").pack


def pack_unchecked(magic: bytes, kind: int, args: tuple[bytes, ...], /) -> bytes:
    body = b"\0".join(args)
    return _pack_header(magic, kind, len(body)) + body


def parses_unchecked() -> Run:
    header, cuts, end = Struct(">4sII").unpack_from, len(ARGS) - 1, len(STREAM)

    def run(rounds: int) -> object:
        packets: Packets = []
        for _ in repeat(None, rounds):
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
    """Every run by its name; a name's first word says what is done, and what is packed or parsed 64 times at once."""
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


def nanoseconds(known: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Return the time of a packet in each round; a round holds a turn of each run, some 2 ms long."""
    found: dict[str, list[float]] = {name: [] for name in known}
    for _ in range(rounds):
        for name, run in known.items():
            calls = 10_000 // packets_per_call(name)
            begun = time.perf_counter_ns()
            run(calls)
            found[name].append((time.perf_counter_ns() - begun) / calls / packets_per_call(name))
    return found


def instructions(name: str, floor: Path | None) -> float:
    """Return how many instructions a packet takes."""
    few, many = (collected(name, floor, packets // packets_per_call(name)) for packets in (1_024, 65_536))
    return (many - few) / (65_536 - 1_024)


def collected(name: str, floor: Path | None, calls: int) -> int:
    program = [sys.executable, __file__, "--only", name, "--calls", str(calls)]
    counted = subprocess.run(
        [
            "valgrind",
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            *program,
            *(["--floor", str(floor)] * bool(floor)),
        ],
        env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Collected : (\d+)", counted.stderr)
    assert found, counted.stderr
    return int(found[1])


def report(rounds: int, count: bool) -> None:
    if count and shutil.which("valgrind") is None:
        print("skipped: the instructions, for there is no valgrind", file=sys.stderr)
        count = False
    with tempfile.TemporaryDirectory() as directory:
        floor = built(Path(directory))
        known = runs(floor)
        times = nanoseconds(known, rounds)
        counts = {name: instructions(name, floor) for name in known} if count else {}
    print("| a packet | ns | instructions |\n|---|---:|---:|")
    for name in known:
        print(f"| {name} | {statistics.median(times[name]):.0f} | {f'{counts[name]:.0f}' if count else '-'} |")
    print("\n| ratio | of ns | of instructions |\n|---|---:|---:|")
    for one, other in RATIOS:
        if other in known:
            ratio = statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))
            print(f"| {one} / {other} | {ratio:.2f} | {f'{counts[one] / counts[other]:.2f}' if count else '-'} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--no-instructions", action="store_true", help="measure time only")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--calls", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--floor", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        runs(options.floor)[options.only](options.calls)
    else:
        report(options.rounds, not options.no_instructions)


if __name__ == "__main__":
    main()
