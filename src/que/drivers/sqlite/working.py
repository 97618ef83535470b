"""What workers do to the tables: each function is one operation, run inside a transaction."""

import random
import time
from collections.abc import Sequence
from typing import assert_never

import msgspec

from que.drivers.sqlite.turn import DELAYED, READY, Lease, Letter, Turn, ended, tell_watchers
from que.model import Completed, Delivery, Failed, Redeliver, Released, Settled, Settlement, Verdict

_TAKE = """
    UPDATE que_jobs SET state = 2, attempts = attempts + 1, token = :token, worker = :peer, lease_until = :until
    WHERE id IN (
        SELECT id FROM que_jobs WHERE state = 0 AND function = :function ORDER BY priority DESC, id LIMIT :limit
    )
    RETURNING -priority, id, payload, job_id, attempts, run_timeout, submitter, result_ttl
"""


def take(turn: Turn, functions: Sequence[str], limit: int, lease_seconds: float) -> list[Delivery]:
    """Return at most `limit` deliveries, from each function its share, and of what one leaves the others take."""
    taken: list[Delivery] = []
    for share in (-(-limit // len(functions)), limit):
        for function in functions:
            if len(taken) < limit:
                taken += _take(turn, function, min(share, limit - len(taken)), lease_seconds)
        if len(taken) == limit or len(functions) == 1:
            break
    return taken


def _take(turn: Turn, function: str, limit: int, lease_seconds: float) -> list[Delivery]:
    token = random.getrandbits(62)
    rows = turn.connection.execute(
        _TAKE,
        {"token": token, "peer": turn.peer, "until": time.time() + lease_seconds, "function": function, "limit": limit},
    ).fetchall()
    rows.sort()
    return [
        Delivery(function, payload, job_id, attempts, run_timeout, Lease(row, token, submitter, job_id, result_ttl))
        for _, row, payload, job_id, attempts, run_timeout, submitter, result_ttl in rows
    ]


def settle(turn: Turn, settlements: Sequence[Settlement]) -> list[Settled]:
    """Write each verdict whose delivery still holds its job; the others are LOST."""
    watched = turn.connection.execute("SELECT 1 FROM que_watchers LIMIT 1").fetchone() is not None
    return [_settle(turn, delivery, verdict, watched) for delivery, verdict in settlements]


_HELD = "WHERE id = ? AND token = ? AND state = 2"
_END = f"DELETE FROM que_jobs {_HELD}"
_BURY = """
    INSERT OR REPLACE INTO que_dead_letters
    SELECT id, function, priority, job_id, unique_key, run_timeout, result_ttl, attempts, ?, ?, payload
    FROM que_jobs WHERE id = ? AND token = ? AND state = 2
"""
_REDELIVER = f"""
    UPDATE que_jobs SET state = ?, due = ?, token = NULL, worker = NULL, lease_until = NULL {_HELD}
"""
_RELEASE = f"""
    UPDATE que_jobs SET state = 0, token = NULL, worker = NULL, lease_until = NULL, attempts = attempts - 1 {_HELD}
"""


def _settle(turn: Turn, delivery: Delivery, verdict: Verdict, watched: bool) -> Settled:
    execute = turn.connection.execute
    lease = lease_of(delivery)
    held = (lease.row, lease.token)
    match verdict:
        case Completed(payload):
            if not execute(_END, held).rowcount:
                return Settled.LOST
            ended(turn, lease, "completed", payload, watched=watched)
        case Failed():
            body = msgspec.json.encode(verdict)
            if lease.submitter is None and verdict.kind != "cancelled":
                execute(_BURY, (body, turn.now, *held))
            if not execute(_END, held).rowcount:
                return Settled.LOST
            ended(turn, lease, "failed", body, watched=watched)
        case Redeliver(after):
            place = (DELAYED, turn.now + after) if after > 0 else (READY, None)
            if not execute(_REDELIVER, (*place, *held)).rowcount:
                return Settled.LOST
            turn.wake_workers([delivery.function])
        case Released():
            if not execute(_RELEASE, held).rowcount:
                return Settled.LOST
            turn.wake_workers([delivery.function])
        case _:
            assert_never(verdict)
    return Settled.CONFIRMED


def lease_of(delivery: Delivery) -> Lease:
    """Return what this driver wrote into a delivery."""
    assert isinstance(delivery.lease, Lease), "a delivery of another driver"
    return delivery.lease


def extend(turn: Turn, deliveries: Sequence[Delivery], lease_seconds: float) -> list[Delivery]:
    """Let the leases begin anew, and return the deliveries whose lease is gone."""
    until = time.time() + lease_seconds
    return [
        delivery
        for delivery in deliveries
        if not turn.connection.execute(
            f"UPDATE que_jobs SET lease_until = ? {_HELD}", (until, *lease_of(delivery)[:2])
        ).rowcount
    ]


def report(turn: Turn, delivery: Delivery, kind: str, body: bytes) -> None:
    """Tell those who wait for a running job what its handler says."""
    lease = lease_of(delivery)
    if turn.connection.execute(f"SELECT 1 FROM que_jobs {_HELD}", (lease.row, lease.token)).fetchone() is not None:
        turn.tell(lease.submitter, Letter(lease.job_id, kind, body))
        tell_watchers(turn, lease.row, kind, body)


def progress(turn: Turn, delivery: Delivery, done: int, total: int) -> None:
    """Tell those who wait, and those who ask, how far a running job is."""
    lease = lease_of(delivery)
    turn.connection.execute(f"UPDATE que_jobs SET done = ?, total = ? {_HELD}", (done, total, lease.row, lease.token))
    report(turn, delivery, "progress", msgspec.json.encode((done, total)))
