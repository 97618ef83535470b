"""News on their way to one who waits: what PostgreSQL's notifications carry, and what they mean."""

import enum
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from que.driver import EventSink
from que.errors import JobCancelled, JobError, JobExpired, JobUnknown
from que.model import Failed


class Kind(enum.IntEnum):
    """What a letter tells; STOP is for the worker of the job whose row is the watch_id, the token in the body."""

    COMPLETED = 0
    FAILED = 1
    EXPIRED = 2
    CANCELLED = 3
    UNKNOWN = 4
    PROGRESS = 5
    CHUNK = 6
    WARNED = 7
    STOP = 8


class Letter(NamedTuple):
    """`body` is the number of the mail in which it waits where it is too long for a notification."""

    watch_id: str
    kind: int
    body: bytes | int


decode_frame: Callable[[bytes | str], list[Letter]] = msgspec.json.Decoder(list[Letter]).decode
decode_wake: Callable[[bytes | str], tuple[str, int, int]] = msgspec.json.Decoder(tuple[str, int, int]).decode
_decode_failure = msgspec.json.Decoder(Failed).decode
_decode_progress = msgspec.json.Decoder(tuple[int, int]).decode
_LOST: dict[int, type[JobError]] = {
    Kind.EXPIRED: JobExpired,
    Kind.CANCELLED: JobCancelled,
    Kind.UNKNOWN: JobUnknown,
}
ENDS = frozenset({Kind.COMPLETED, Kind.FAILED, *_LOST})


def tell(events: EventSink, watch_id: str, kind: int, body: bytes) -> None:
    """Let the EventSink know what a letter says."""
    if kind == Kind.COMPLETED:
        events.completed(watch_id, body)
    elif kind in _LOST:
        events.lost(watch_id, _LOST[kind](body.decode()))
    elif kind == Kind.FAILED:
        events.failed(watch_id, _decode_failure(body))
    elif kind == Kind.PROGRESS:
        events.progress(watch_id, *_decode_progress(body))
    elif kind == Kind.CHUNK:
        events.chunk(watch_id, body)
    elif kind == Kind.WARNED:
        events.warned(watch_id, body.decode())
