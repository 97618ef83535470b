"""What a question gives back: text for people, figures for the chart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Answer:
    """`text` is Markdown; `rounds` has each contender's figure in each round, in whatever unit the question has."""

    text: str
    rounds: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])
