"""The compiled codec is typed as the reference is. Assignments, not imports: stubtest checks these against the module."""

from que.gearman import _wire_py

__all__ = ["Parser", "pack", "pack_header"]

Parser = _wire_py.Parser
pack = _wire_py.pack
pack_header = _wire_py.pack_header
