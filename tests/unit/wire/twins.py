"""The two codecs under one type, and the values that the wire tests draw."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import ParamSpec, Protocol

from hypothesis import strategies as st

from que.gearman.packets import LAYOUTS, Magic, PacketType

P = ParamSpec("P")
Packets = list[tuple[int, tuple[bytes, ...]]]

# Only a run that says that it wants none may go without the compiled twin.
TWINS = ("py",) if os.environ.get("QUE_EXTENSION") == "0" else ("c", "py")
MAGICS = (Magic.REQUEST, Magic.RESPONSE)


class Parses(Protocol):
    @property
    def buffered(self) -> int: ...
    @property
    def salvaged(self) -> Packets: ...
    def get_buffer(self, sizehint: int) -> memoryview: ...
    def buffer_updated(self, nbytes: int) -> Packets: ...
    def feed(self, data: bytes | bytearray | memoryview) -> Packets: ...


class MakesParser(Protocol):
    def __call__(self, magic: bytes, max_payload: int = ...) -> Parses: ...


class Packs(Protocol):
    def __call__(self, magic: bytes, kind: int, args: Sequence[bytes], max_payload: int = ...) -> bytes: ...


class PacksHeader(Protocol):
    def __call__(
        self, magic: bytes, kind: int, leading: Sequence[bytes], data_bytes: int, max_payload: int = ...
    ) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Twin:
    name: str
    pack: Packs
    pack_header: PacksHeader
    Parser: MakesParser


def twin(name: str) -> Twin:
    """Return one codec; raises ImportError where the compiled one was not built."""
    module = import_module(f"que.gearman._wire_{name}")
    return Twin(name, module.pack, module.pack_header, module.Parser)


def outcome(call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> object:
    """Return what `call` returns, or the type and the text of what it raises."""
    try:
        return call(*args, **kwargs)
    except Exception as error:
        return type(error), str(error)


def head(magic: bytes, kind: int, size: int) -> bytes:
    return magic + kind.to_bytes(4, "big") + size.to_bytes(4, "big")


def sample_args(kind: PacketType) -> tuple[bytes, ...]:
    """Arguments that name themselves, with NULs in the data."""
    return tuple(b"\0da\0ta\0" if argument.data else argument.name.encode() for argument in LAYOUTS[kind])


def valid_args(kind: PacketType) -> st.SearchStrategy[tuple[bytes, ...]]:
    """Arguments that the type may have, short and up to its limits."""

    def sizes(limit: int) -> st.SearchStrategy[bytes]:
        text = st.binary(max_size=40).map(lambda value: value.replace(b"\0", b"-"))
        return text.map(lambda value: value[:limit]) | st.just(b"n" * min(limit, 600))

    return st.tuples(
        *(st.binary(max_size=100) if argument.data else sizes(argument.max_bytes) for argument in LAYOUTS[kind])
    )


def valid_packets() -> st.SearchStrategy[tuple[PacketType, tuple[bytes, ...]]]:
    return st.sampled_from(PacketType).flatmap(lambda kind: st.tuples(st.just(kind), valid_args(kind)))


def receive(parser: Parses, chunk: bytes) -> Packets:
    """Hand `chunk` over as asyncio does: through get_buffer() and buffer_updated()."""
    packets: Packets = []
    while chunk:
        room = parser.get_buffer(-1)
        step = min(len(room), len(chunk))
        assert step > 0
        room[:step] = chunk[:step]
        packets += parser.buffer_updated(step)
        chunk = chunk[step:]
    return packets
