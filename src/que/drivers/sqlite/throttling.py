"""Rates that hold among all workers of a file.

que_begun has a row for each take of a function: `until` when it counts, how many had been taken `earlier`, and how many
`so_far`. What is taken and counts is so the last one's `so_far` less the first one's `earlier`, however many rows there
are.
"""

from que.drivers.sqlite.turn import Turn
from que.drivers.sqlite.working import take
from que.limits import Rate
from que.model import Delivery

# A clock that was put back has made rows that would count for too long.
_FORGET = "DELETE FROM que_begun WHERE function = :function AND (until <= :now OR until > :now + :seconds)"
_COUNT = """
    SELECT first.until, first.earlier, last.so_far
    FROM (SELECT until, earlier FROM que_begun WHERE function = :function ORDER BY until, so_far LIMIT 1) AS first,
        (SELECT so_far FROM que_begun WHERE function = :function ORDER BY until DESC, so_far DESC LIMIT 1) AS last
"""


def take_throttled(
    turn: Turn, function: str, limit: int, lease_seconds: float, rate: Rate
) -> tuple[list[Delivery], float | None]:
    """Return at most `limit` deliveries, as many as the rate allows, and in how many seconds there may be more.

    None where the queue is empty.
    """
    execute = turn.connection.execute
    end = turn.now + rate.seconds
    execute(_FORGET, {"function": function, "now": turn.now, "seconds": rate.seconds})
    first_until, earlier, so_far = execute(_COUNT, {"function": function}).fetchone() or (end, 0, 0)
    free = rate.runs - (so_far - earlier)
    if free <= 0:
        return [], first_until - turn.now
    limit = min(limit, free)
    taken = take(turn, [function], limit, lease_seconds)
    if taken:
        execute("INSERT INTO que_begun VALUES (?, ?, ?, ?)", (function, end, so_far, so_far + len(taken)))
    if len(taken) < limit:
        return taken, None
    return taken, first_until - turn.now if limit == free else 0.0
