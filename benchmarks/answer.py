"""What a question gives back: text for people, figures for the chart."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Answer:
    """`text` is Markdown; `figures` are medians by contender, in whatever unit the question has."""

    text: str
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
