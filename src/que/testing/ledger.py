"""What really happened, written down where no worker's death can undo it, and the sums of it."""

import os
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """A line of the ledger: what happened to the job `key`, in which process, and when (Unix seconds)."""

    event: str
    key: str
    pid: int
    at: float


class Ledger:
    """An append-only file that any number of processes write to.

    One line is one write() to a file opened with O_APPEND: lines of several processes never mix, and what a process has
    written stays when it is killed. Keys hold no blanks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, event: str, key: str) -> None:
        """The ledger holds one more line, even if this process dies at once."""
        os.write(self._file, f"{event} {key} {os.getpid()} {time.time():.6f}\n".encode())

    def entries(self) -> list[Entry]:
        """Return every line, in the order of the writes."""
        lines = self.path.read_text().splitlines()
        return [Entry(event, key, int(pid), float(at)) for event, key, pid, at in map(str.split, lines)]

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)


@dataclass(frozen=True, slots=True)
class Tally:
    """The sums: of `accepted` jobs, how often they began, which never ended, which ended again, and which nobody sent.

    `twice`: each job that ended more than once, with the number of its ends beyond the first.
    """

    accepted: int
    runs: int
    done: int
    lost: Sequence[str]
    twice: Mapping[str, int]
    phantoms: Sequence[str]
    faults: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def duplicates(self) -> int:
        """The ends beyond each job's first."""
        return sum(self.twice.values())

    def __str__(self) -> str:
        sums = f"{self.accepted} accepted, {self.runs} runs, {self.done} done"
        wrongs = f"{len(self.lost)} lost, {self.duplicates} twice, {len(self.phantoms)} phantom"
        faults = "".join(f"; {count} {name}" for name, count in self.faults.items())
        return f"{sums}: {wrongs}{faults}"


def tally(
    entries: Sequence[Entry],
    accepted: Collection[str],
    *,
    doubtful: Collection[str] = (),
    faults: Mapping[str, int] | None = None,
) -> Tally:
    """Return what `entries` say of the jobs that the engine has accepted.

    `doubtful` are others that may run, and need not end well: sent and never answered, or out of attempts.
    """
    ends = Counter(entry.key for entry in entries if entry.event == "done")
    known = set(accepted)
    return Tally(
        accepted=len(known),
        runs=sum(entry.event == "began" for entry in entries),
        done=sum(ends.values()),
        lost=sorted(known - ends.keys()),
        twice={key: count - 1 for key, count in ends.items() if count > 1},
        phantoms=sorted({entry.key for entry in entries} - known - set(doubtful)),
        faults=dict(faults or {}),
    )
