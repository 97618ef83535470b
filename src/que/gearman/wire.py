"""The codec that this process uses: the compiled twin where it was built, else the pure one.

`$QUE_WIRE` forces one: "py", or "c", which fails on import where it was not built. The checkers see the pure one.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from que.errors import ConfigurationError
from que.gearman.packets import DEFAULT_MAX_PAYLOAD, LARGE_PAYLOAD_BYTES

__all__ = [
    "DEFAULT_MAX_PAYLOAD",
    "IMPLEMENTATION",
    "LARGE_PAYLOAD_BYTES",
    "SLICE_BYTES",
    "Packet",
    "Parser",
    "pack",
    "pack_header",
    "payload_slices",
]

SLICE_BYTES: Final = 256 * 1024
_FORCED: Final = os.environ.get("QUE_WIRE", "")
if _FORCED not in ("", "c", "py"):
    raise ConfigurationError(f"QUE_WIRE={_FORCED!r} names no codec: use c or py, or leave it unset")

if TYPE_CHECKING or _FORCED == "py":
    from que.gearman._wire_py import Parser, pack, pack_header
else:
    try:
        from que.gearman._wire_c import Parser, pack, pack_header
    except ImportError:
        if _FORCED == "c":
            raise
        from que.gearman._wire_py import Parser, pack, pack_header

IMPLEMENTATION: Final[Literal["c", "py"]] = "py" if Parser.__module__.endswith("_wire_py") else "c"
Packet: TypeAlias = tuple[int, tuple[bytes, ...]]


def payload_slices(data: bytes, slice_bytes: int = SLICE_BYTES) -> Iterator[memoryview]:
    """Yield views of at most `slice_bytes` that are `data` together, without a copy; none for empty data."""
    view = memoryview(data)
    for start in range(0, len(view), slice_bytes):
        yield view[start : start + slice_bytes]
