"""Rounds in which every contender plays once, and what they say: medians, and ratios within a round."""

import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.stage import Command, Missing, Process, Stage

# A round that takes so much longer than it should is stuck.
PATIENCE_SECONDS = 60.0
FIRST_COUNT = 8
LONE_AT_A_TIME = 20

Play = Callable[[int], float]
"""Do so many jobs and return the seconds that they took."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything: `rounds` rounds, in which each contender is busy for about `seconds`.

    `jobs`: how many make a long run. `least`: how many jobs a round has, however long it takes.
    """

    rounds: int
    seconds: float
    jobs: int
    least: int = 1


DEFAULT = Scale(rounds=5, seconds=0.5, jobs=100_000)
QUICK = Scale(rounds=1, seconds=0.02, jobs=1_000)


@dataclass(frozen=True, slots=True)
class Contender:
    """A name, how to start its client, and how to start each of its workers."""

    name: str
    client: Command
    workers: Sequence[Command] = ()


@dataclass(frozen=True, slots=True)
class Rates:
    """A figure per round for each contender, and who could not take part.

    `costs`: microseconds on a core for a job, of the client and, where there are any, of all workers.
    """

    of: Mapping[str, Sequence[float]]
    skipped: Mapping[str, str]
    costs: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])

    def median(self, name: str) -> float:
        return statistics.median(self.of[name])

    def ratio(self, name: str, base: str) -> float:
        """The median of the ratios within a round: a machine that slows down slows both. NaN without the base."""
        if base not in self.of:
            return math.nan
        return statistics.median(mine / theirs for mine, theirs in zip(self.of[name], self.of[base], strict=True))


class Lineup:
    """Contenders that stay on stage for all rounds; those that miss something are skipped by name."""

    def __init__(self, stage: Stage) -> None:
        self.clients: dict[str, Process] = {}
        self.workers: dict[str, Sequence[Process]] = {}
        self.skipped: dict[str, str] = {}
        self._stage = stage
        self._began: dict[str, list[float]] = {}
        self._jobs: dict[str, int] = {}

    def add(self, name: str, contender: Callable[[], Contender]) -> None:
        """Start what `contender` describes; calling it raises Missing if it cannot be."""
        note(f"starting {name}")
        try:
            described = contender()
            self.workers[name] = [self._stage.player(command) for command in described.workers]
            self.clients[name] = self._stage.player(described.client)
            self._began[name] = self._cpu_seconds(name)
            self._jobs[name] = 0
        except Missing as why:
            self.skipped[name] = str(why)

    def play(self, scale: Scale, first: int = FIRST_COUNT) -> Rates:
        """Return jobs a second of each, in as many jobs a round as fill it; `first`: how many begin the warming up."""
        rates = play({name: partial(self._turn, name) for name in self.clients}, scale, first)
        return Rates(rates, self.skipped, {name: self._costs(name) for name in self.clients})

    def lone(self, count: int) -> dict[str, list[float]]:
        """Return how many seconds each of `count` jobs took that was alone, a few of each contender in turn."""
        delays: dict[str, list[float]] = {name: [] for name in self.clients}
        while any(len(seconds) < count for seconds in delays.values()):
            for name, seconds in delays.items():
                note(f"lone jobs: {name}")
                seconds += [self._turn(name, 1) for _ in range(min(LONE_AT_A_TIME, count - len(seconds)))]
        note("")
        return delays

    def _turn(self, name: str, count: int) -> float:
        self._jobs[name] += count
        return float(self.clients[name].ask(str(count), PATIENCE_SECONDS))

    def _cpu_seconds(self, name: str) -> list[float]:
        workers = [worker.cpu_seconds() for worker in self.workers[name]]
        return [self.clients[name].cpu_seconds(), *([sum(workers)] if workers else [])]

    def _costs(self, name: str) -> list[float]:
        spent = zip(self._cpu_seconds(name), self._began[name], strict=True)
        return [(now - began) / self._jobs[name] * 1e6 for now, began in spent]


def play(players: Mapping[str, Play], scale: Scale, first: int = FIRST_COUNT) -> dict[str, list[float]]:
    """Return jobs a second of each player, round by round."""
    counts = {name: _calibrated(player, scale, first) for name, player in players.items()}
    rates: dict[str, list[float]] = {name: [] for name in players}
    for number in range(scale.rounds):
        for name, player in players.items():
            note(f"round {number + 1} of {scale.rounds}: {name}")
            rates[name].append(counts[name] / player(counts[name]))
    note("")
    return rates


def _calibrated(player: Play, scale: Scale, first: int) -> int:
    """Return how many jobs it does in `scale.seconds`; the first ones warm it up."""
    count = first
    while True:
        wanted = max(scale.least, int(count / player(count) * scale.seconds))
        # A few jobs say little about many: approach the figure in steps.
        if wanted <= count * 10:
            return wanted
        count *= 10


def note(text: str) -> None:
    """Show what goes on, where somebody looks."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
