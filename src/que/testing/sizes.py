"""How much a run of the suite asks of an engine."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Counts of jobs, and times in seconds.

    `deadline`: for one scenario; it bounds a hang, so it is generous. `patience`: of many jobs, how long none may end
    before those that are left count as lost. `longest_lease`: a timed lease that takes longer
    is not waited for. `pause`: between two faults. `most_bytes`: of a payload, where the engine would carry more.
    `most_queued`: bytes that wait at once.
    """

    round_trips: int
    most_bytes: int
    most_queued: int
    crowd: int
    through_kills: int
    through_stops: int
    beside_poison: int
    pause: float
    longest_lease: float
    patience: float
    deadline: float


QUICK = Sizes(
    round_trips=300,
    most_bytes=2**20,
    most_queued=32 * 2**20,
    crowd=1_000,
    through_kills=600,
    through_stops=600,
    beside_poison=100,
    pause=0.3,
    longest_lease=3.0,
    patience=20.0,
    deadline=60.0,
)

FULL = Sizes(
    round_trips=1_000,
    most_bytes=64 * 2**20,
    most_queued=256 * 2**20,
    crowd=5_000,
    through_kills=10_000,
    through_stops=10_000,
    beside_poison=500,
    pause=0.5,
    longest_lease=60.0,
    patience=120.0,
    deadline=600.0,
)
