"""How far the schedules have come, and which scheduler sees to one of them now."""

from que.drivers.sqlite.turn import Turn
from que.model import TickClaim


def begin(turn: Turn, schedule: str, until: float, owner: str, seconds: float) -> TickClaim:
    """Grant `owner` the schedule for `seconds`, unless its ticks are done up to `until` or another owner has it."""
    execute = turn.connection.execute
    execute("INSERT OR IGNORE INTO que_ticks (schedule) VALUES (?)", (schedule,))
    granted = execute(
        """
        UPDATE que_ticks SET owner = :owner, held_until = :now + :seconds
        WHERE schedule = :schedule AND (done IS NULL OR done < :until)
        AND (owner IS NULL OR owner = :owner OR held_until <= :now)
        """,
        {"schedule": schedule, "until": until, "owner": owner, "now": turn.now, "seconds": seconds},
    ).rowcount
    (done,) = execute("SELECT done FROM que_ticks WHERE schedule = ?", (schedule,)).fetchone()
    return TickClaim(granted=bool(granted), done=done)


def end(turn: Turn, schedule: str, until: float, owner: str) -> None:
    """Remember that the ticks are done up to `until`, and let go of what `owner` had."""
    turn.connection.execute(
        """
        INSERT INTO que_ticks (schedule, done) VALUES (:schedule, :until) ON CONFLICT DO UPDATE SET
            done = max(coalesce(done, :until), :until), owner = CASE WHEN owner = :owner THEN NULL ELSE owner END
        """,
        {"schedule": schedule, "until": until, "owner": owner},
    )
