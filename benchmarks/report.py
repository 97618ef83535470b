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


def rates_table(rates: Rates, bases: Sequence[str]) -> str:
    """Return one row a contender: its ratio to each base, its median, what a job costs, slowest and fastest round."""
    roles = ("client", "workers")[: max(map(len, rates.costs.values()), default=0)]
    costs = [f"µs of CPU a job, {role}" for role in roles]
    head = ["contender", *(f"x {base}" for base in bases), "jobs/s, median", *costs, "slowest", "fastest"]
    rows: list[list[Cell]] = []
    for name, figures in rates.of.items():
        ratios = [rates.ratio(name, base) for base in bases]
        rows.append([name, *ratios, rates.median(name), *rates.costs.get(name, ()), min(figures), max(figures)])
    return "\n".join([table(head, rows), *skipped_lines(rates.skipped)])


def skipped_lines(skipped: Mapping[str, str]) -> list[str]:
    return ["", *(f"- skipped: {name}: {why}" for name, why in skipped.items())] if skipped else []
