"""What a driver states, in words."""

import enum
from collections.abc import Iterator

from que.model import Capabilities, Support


def rows(capabilities: Capabilities) -> Iterator[tuple[str, str]]:
    """Yield the name of each capability, and what is stated of it; a dash where it is absent."""
    for name in capabilities.__struct_fields__:
        value: object = getattr(capabilities, name)
        yield name, _unlimited(name, value) or _shown(value)


def _unlimited(name: str, value: object) -> str:
    return "no limit" if name == "max_payload" and value is None else ""


def _shown(value: object) -> str:
    if value is None or value is Support.NONE:
        return "–"
    if isinstance(value, enum.Enum):
        return str(value.value)
    return f"{value:,}" if isinstance(value, int) else str(value)
