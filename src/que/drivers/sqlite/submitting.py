"""What submitters do to the tables: each function is one operation, run inside a transaction."""

from collections.abc import Sequence

from que.drivers.sqlite.turn import DELAYED, READY, RUNNING, Lease, Letter, Turn, ended
from que.model import Envelope, JobStatus, QueueDepth

_INSERT = """
    INSERT {or_ignore} INTO que_jobs
        (id, state, function, priority, due, expires, job_id, submitter, unique_key, run_timeout, result_ttl, payload)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_SAME = "SELECT id FROM que_jobs WHERE function = ? AND unique_key = ?"
_INSERT_NEW = _INSERT.format(or_ignore="")
_INSERT_UNIQUE = _INSERT.format(or_ignore="OR IGNORE")


def insert(turn: Turn, envelopes: Sequence[Envelope]) -> list[int]:
    """Queue the batch and return each one's row: its own, or that of the job that has its unique key already."""
    first = _new_ids(turn, len(envelopes))
    rows = [_row(turn, id, envelope) for id, envelope in enumerate(envelopes, first)]
    ids = list(range(first, first + len(envelopes)))
    unique = [index for index, envelope in enumerate(envelopes) if envelope.unique is not None]
    if not unique:
        turn.connection.executemany(_INSERT_NEW, rows)
    else:
        for index, row in enumerate(rows):
            if not turn.connection.execute(_INSERT_UNIQUE, row).rowcount:
                ids[index] = _coalesce(turn, envelopes[index])
    turn.wake_workers({envelope.function for envelope in envelopes})
    return ids


def _new_ids(turn: Turn, count: int) -> int:
    """Return the first of `count` ids that no job of this file has had."""
    ((last,),) = turn.connection.execute("UPDATE que_counter SET last = last + ? RETURNING last", (count,)).fetchall()
    return int(last) - count + 1


def _row(turn: Turn, id: int, envelope: Envelope) -> tuple[object, ...]:
    due = envelope.due
    delayed = due is not None and due > turn.now
    return (
        id,
        DELAYED if delayed else READY,
        envelope.function,
        int(envelope.priority),
        due if delayed else None,
        None if envelope.expires is None else turn.now + envelope.expires,
        envelope.id,
        None if envelope.background else turn.peer,
        envelope.unique,
        envelope.run_timeout,
        envelope.result_ttl,
        envelope.payload,
    )


def _coalesce(turn: Turn, envelope: Envelope) -> int:
    ((id,),) = turn.connection.execute(_SAME, (envelope.function, envelope.unique)).fetchall()
    if not envelope.background:
        turn.connection.execute("INSERT INTO que_watchers VALUES (?, ?, ?)", (id, envelope.id, turn.peer))
    return int(id)


def watch(turn: Turn, watches: Sequence[tuple[str, int]]) -> None:
    """Tell this process under each watch's id what becomes, or has become, of the job in that row."""
    execute = turn.connection.execute
    for watch_id, row in watches:
        kept = execute("SELECT kind, body FROM que_results WHERE id = ? AND expires > ?", (row, turn.now)).fetchone()
        if kept is not None:
            turn.tell(turn.peer, Letter(watch_id, *kept))
        elif execute("SELECT 1 FROM que_jobs WHERE id = ?", (row,)).fetchone() is not None:
            execute("INSERT INTO que_watchers VALUES (?, ?, ?)", (row, watch_id, turn.peer))
        else:
            turn.tell(turn.peer, Letter(watch_id, "unknown", b"no such job, or its result was not kept, or no longer"))


def cancel(turn: Turn, row: int) -> bool:
    """End a job that waits, or tell the worker of one that runs; False if there is no such job."""
    execute = turn.connection.execute
    waiting = execute(
        "DELETE FROM que_jobs WHERE id = ? AND state < 2 RETURNING submitter, job_id, result_ttl", (row,)
    ).fetchall()
    for submitter, job_id, result_ttl in waiting:
        ended(turn, Lease(row, 0, submitter, job_id, result_ttl), "cancelled", b"the job was cancelled before it ran")
        return True
    running = execute("SELECT worker, token FROM que_jobs WHERE id = ?", (row,)).fetchone()
    if running is None:
        return False
    turn.tell(running[0], Letter(str(row), "stop", str(running[1]).encode()))
    return True


def status(turn: Turn, row: int) -> JobStatus:
    """Return what is known of a job; one that has ended is not known."""
    found = turn.connection.execute(
        """
        SELECT state, done, total, (submitter IS NOT NULL) + (SELECT count(*) FROM que_watchers WHERE job = que_jobs.id)
        FROM que_jobs WHERE id = ?
        """,
        (row,),
    ).fetchone()
    if found is None:
        return JobStatus(known=False, running=False)
    state, done, total, waiting = found
    return JobStatus(known=True, running=state == RUNNING, done=done, total=total, waiting=waiting)


def depths(turn: Turn) -> list[QueueDepth]:
    """Return each function's jobs (delayed ones count as queued) and consumers."""
    execute = turn.connection.execute
    counts: dict[str, list[int]] = {}
    for function, running, count in execute("SELECT function, state = 2, count(*) FROM que_jobs GROUP BY 1, 2"):
        counts.setdefault(function, [0, 0, 0])[running] = count
    for function, count in execute("SELECT function, count(*) FROM que_consumers GROUP BY 1"):
        counts.setdefault(function, [0, 0, 0])[2] = count
    return [QueueDepth(function, *counts[function]) for function in sorted(counts)]
