"""Tables in Markdown, the ratio first."""

import math
from collections.abc import Mapping, Sequence

from benchmarks.measure import Rates

Cell = str | float


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table whose first column is text and whose others are figures."""
    lines = [_row(head), _row(["---", *["---:"] * (len(head) - 1)])]
    return "\n".join([*lines, *(_row([figure(cell) for cell in row]) for row in rows)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def figure(cell: Cell) -> str:
    """Return text as it is, and a number with three significant digits or more."""
    if isinstance(cell, str):
        return cell
    if math.isnan(cell):
        return "–"
    if cell >= 100:
        return f"{cell:,.0f}"
    return f"{cell:#.3g}".rstrip(".")


def rates_table(rates: Rates, bases: Sequence[str], unit: str = "jobs/s") -> str:
    """Return one row a contender: its ratio to each base, its median, and the slowest and fastest round."""
    head = ["contender", *(f"x {base}" for base in bases), f"{unit}, median", "slowest", "fastest"]
    rows: list[list[Cell]] = [
        [name, *(rates.ratio(name, base) for base in bases), rates.median(name), min(figures), max(figures)]
        for name, figures in rates.of.items()
    ]
    return "\n".join([table(head, rows), *skipped_lines(rates.skipped)])


def skipped_lines(skipped: Mapping[str, str]) -> list[str]:
    return ["", *(f"- skipped: {name}: {why}" for name, why in skipped.items())] if skipped else []
