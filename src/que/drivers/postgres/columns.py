"""How a batch becomes the arguments of one call: an array for each column."""

import hashlib
import time
from collections.abc import Sequence
from typing import assert_never

import msgspec

from que.errors import Rejected
from que.model import Completed, Envelope, Failed, Kept, Redeliver, Released, Verdict

SUBMIT = "text text[] text[] bytea[] boolean[] smallint[] float8[] text[] float8[] float8[] float8[]"
SEND_IN = (
    ("function", "text"),
    ("params", "bytea"),
    ("priority", "integer"),
    ("delay", "float8"),
    ("unique_key", "text"),
    ("expires", "float8"),
    ("run_timeout", "float8"),
    ("result_ttl", "float8"),
    ("job_id", "text"),
)
KEEP = "text[] smallint[] bytea[] float8[] text[]"
SETTLE = "bigint[] bigint[] smallint[] bytea[] float8[]"
_COMPLETED, _FAILED, _CANCELLED, _REDELIVER, _RELEASED = range(5)


def of_envelopes(envelopes: Sequence[Envelope]) -> tuple[object, ...]:
    """Return the arguments of submit() after the first; an option that no envelope has is an empty array."""
    now = time.time()
    return (
        [envelope.function for envelope in envelopes],
        [envelope.id for envelope in envelopes],
        [envelope.payload for envelope in envelopes],
        [envelope.background for envelope in envelopes],
        _some([int(envelope.priority) or None for envelope in envelopes]),
        _some([None if envelope.due is None else envelope.due - now for envelope in envelopes]),
        _some([key_of(envelope) for envelope in envelopes]),
        _some([_seconds(envelope.expires) for envelope in envelopes]),
        _some([_seconds(envelope.run_timeout) for envelope in envelopes]),
        _some([_seconds(envelope.result_ttl) for envelope in envelopes]),
    )


def of_envelope(envelope: Envelope) -> tuple[object, ...]:
    """Return the arguments of que_send_bytes(), as SEND_IN names them."""
    return (
        envelope.function,
        envelope.payload,
        int(envelope.priority),
        None if envelope.due is None else envelope.due - time.time(),
        key_of(envelope),
        envelope.expires,
        envelope.run_timeout,
        envelope.result_ttl,
        envelope.id,
    )


def _seconds(seconds: float | None) -> float | None:
    # An int among floats, which Python's types let through, makes no array.
    return None if seconds is None else float(seconds)


def _some(column: list[float | None] | list[int | None] | list[str | None]) -> Sequence[object]:
    return [] if column.count(None) == len(column) else column


def key_of(envelope: Envelope) -> str | None:
    """Return the unique key as PostgreSQL can hold it."""
    return None if envelope.unique is None else held_as(envelope.unique)


def held_as(key: str) -> str:
    """Return a key as PostgreSQL can hold it: a text of its has no NUL."""
    return key if "\0" not in key else "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def refusal_of(envelope: Envelope) -> Rejected | None:
    """Return why PostgreSQL cannot hold this one; None if it can."""
    for text in (envelope.function, envelope.unique or ""):
        try:
            text.encode()
        except UnicodeEncodeError:
            return Rejected(f"job {envelope.function!r}: {text!r} is not valid Unicode")
    if "\0" in envelope.function:
        return Rejected(f"job {envelope.function!r}: PostgreSQL holds no NUL in a name")
    return None


def of_entries(entries: Sequence[Kept]) -> tuple[object, ...]:
    """Return the arguments of keep() before the last."""
    endings = [entry.ending for entry in entries]
    return (
        [held_as(entry.key) for entry in entries],
        [_COMPLETED if isinstance(ending, Completed) else _FAILED for ending in endings],
        [ending.payload if isinstance(ending, Completed) else msgspec.json.encode(ending) for ending in endings],
        [float(entry.ttl) for entry in entries],
    )


def of_verdicts(verdicts: Sequence[Verdict]) -> tuple[object, ...]:
    """Return the arguments of settle() after the leases."""
    rows = [_row(verdict) for verdict in verdicts]
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def _row(verdict: Verdict) -> tuple[int, bytes | None, float]:
    match verdict:
        case Completed(payload):
            return _COMPLETED, payload, 0.0
        case Failed(kind):
            return _CANCELLED if kind == "cancelled" else _FAILED, msgspec.json.encode(verdict), 0.0
        case Redeliver(after):
            return _REDELIVER, None, float(after)
        case Released():
            return _RELEASED, None, 0.0
        case _:
            assert_never(verdict)
