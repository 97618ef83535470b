"""Draw what `python -m benchmarks --json FILE` wrote: `python -m benchmarks.chart FILE benchmarks/chart.svg`."""

import json
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import cast

from benchmarks.contenders import LIBGEARMAN
from benchmarks.measure import Rates

# The questions that are drawn, each with its title and whom its bars are compared with.
PANELS = {
    "throughput": ("1,000 in flight, jobs/s", LIBGEARMAN),
    "one_at_a_time": ("One at a time, jobs/s", LIBGEARMAN),
    "sending": ("send, accepted jobs/s", LIBGEARMAN),
    "memory_driver": ("memory://, jobs/s", "taskiq InMemoryBroker, asyncio"),
}
WIDTH, NAMES, FIGURES = 900, 330, 150
LINE, BAR, TITLE, GAP = 20, 13, 30, 16
STYLE = (
    "text { font: 12px system-ui, sans-serif; fill: #333 } .title { font-weight: 600; font-size: 14px }"
    " .que { fill: #2a7f62 } .limit { fill: #c9d6d0 } .rival { fill: #b0b4ba } .figure { fill: #555 }"
)


def chart(questions: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Return an SVG with one panel of bars for each question that has figures."""
    pieces: list[str] = []
    top = GAP
    for question, (title, base) in PANELS.items():
        if rounds := questions.get(question):
            pieces += _panel(title, base, Rates(rounds, {}), top)
            top += TITLE + LINE * len(rounds) + GAP
    size = f'width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}"'
    body = "\n".join(['<rect width="100%" height="100%" fill="#fff"/>', *pieces])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<style>{STYLE}</style>\n{body}\n</svg>\n'


def _panel(title: str, base: str, rates: Rates, top: int) -> list[str]:
    pieces = [f'<text class="title" x="{GAP}" y="{top + LINE}">{escape(title)}</text>']
    longest = max(map(rates.median, rates.of))
    for number, name in enumerate(rates.of):
        median = rates.median(name)
        y = top + TITLE + LINE * number
        length = max(1.0, (WIDTH - NAMES - FIGURES) * median / longest)
        text = f"{median:,.0f}" + (f" ({rates.ratio(name, base):.2g}x)" if base in rates.of else "")
        pieces += [
            f'<text x="{NAMES - 8}" y="{y + BAR}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{_kind(name)}" x="{NAMES}" y="{y + 2}" width="{length:.1f}" height="{BAR}"/>',
            f'<text class="figure" x="{NAMES + length + 6:.1f}" y="{y + BAR}">{text}</text>',
        ]
    return pieces


def _kind(name: str) -> str:
    if name.startswith("que"):
        return "que"
    return "limit" if name.startswith(("the untyped", "a bare loop")) else "rival"


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(chart(cast(Mapping[str, Mapping[str, Sequence[float]]], json.loads(source.read_text()))))
