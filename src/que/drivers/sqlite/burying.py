"""Dead letters: background jobs that failed for good, kept to be looked into."""

from collections.abc import Collection, Sequence

import msgspec

from que.drivers.sqlite.turn import Turn
from que.model import DeadLetter, Failed

_decode_failure = msgspec.json.Decoder(Failed).decode


def dead_letters(turn: Turn, function: str, limit: int) -> Sequence[DeadLetter]:
    """Return the oldest `limit` of a function's dead letters."""
    rows = turn.connection.execute(
        """
        SELECT id, payload, failure, attempts, buried_at FROM que_dead_letters WHERE function = ? ORDER BY id LIMIT ?
        """,
        (function, limit),
    )
    return [
        DeadLetter(str(row), function, payload, _decode_failure(failure), attempts, buried_at)
        for row, payload, failure, attempts, buried_at in rows
    ]


def replay(turn: Turn, rows: Collection[int]) -> int:
    """Queue these letters again under their old receipts; one whose unique key is taken coalesces with its holder."""
    execute = turn.connection.execute
    functions: set[str] = set()
    for row in rows:
        execute(
            """
            INSERT OR IGNORE INTO que_jobs
                (id, state, function, priority, job_id, unique_key, run_timeout, result_ttl, payload)
            SELECT id, 0, function, priority, job_id, unique_key, run_timeout, result_ttl, payload
            FROM que_dead_letters WHERE id = ?
            """,
            (row,),
        )
        functions.update(name for (name,) in execute("SELECT function FROM que_dead_letters WHERE id = ?", (row,)))
    turn.wake_workers(functions)
    return drop(turn, rows)


def drop(turn: Turn, rows: Collection[int]) -> int:
    """Forget these letters; return how many there were."""
    execute = turn.connection.execute
    return sum(execute("DELETE FROM que_dead_letters WHERE id = ?", (row,)).rowcount for row in rows)
