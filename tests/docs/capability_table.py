"""The README's table of capabilities, made from the drivers themselves; `--write` puts it there."""

import dataclasses
import enum
import sys
from pathlib import Path

from que.address import Address
from que.driver import open_driver
from que.model import Support

README = Path(__file__).parents[2] / "README.md"
BEGIN = "<!-- capabilities: python -m tests.docs.capability_table --write -->\n"
END = "<!-- end of capabilities -->"
SCHEMES = {"memory": "memory://", "sqlite": "sqlite:///jobs.db", "gearman": "gearman://"}


def table() -> str:
    """Return the table: a row for each capability, a column for each driver."""
    drivers = [open_driver(Address.parse(url)).capabilities for url in SCHEMES.values()]
    lines = ["| | " + " | ".join(SCHEMES) + " |", "|---" * (len(SCHEMES) + 1) + "|"]
    for field in dataclasses.fields(drivers[0]):
        cells = " | ".join(_shown(field.name, getattr(capabilities, field.name)) for capabilities in drivers)
        lines.append(f"| {field.name} | {cells} |")
    return "\n".join(lines) + "\n"


def _shown(name: str, value: object) -> str:
    if name == "max_payload" and value is None:
        return "no limit"
    if value is None or value is Support.NONE:
        return "–"
    return str(value.value) if isinstance(value, enum.Enum) else f"{value:,}" if isinstance(value, int) else str(value)


def written(text: str) -> str:
    """Return `text` with the present table between its marks."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return head + BEGIN + table() + END + tail


if __name__ == "__main__" and "--write" in sys.argv:
    README.write_text(written(README.read_text()))
