"""What is kept under keys: each function is one operation, run inside a transaction."""

from collections.abc import Collection, Sequence

import msgspec

from que.drivers.sqlite.turn import Letter, Turn
from que.model import Completed, Ending, Failed, Kept

_decode_failure = msgspec.json.Decoder(Failed).decode

# What has run out is free again, swept or not.
_KEEP = """
    INSERT INTO que_kept VALUES (?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET kind = excluded.kind, body = excluded.body, expires = excluded.expires
    WHERE expires <= ?
"""
_LOOK = "SELECT kind, body FROM que_kept WHERE key = ? AND expires > ?"


def keep(turn: Turn, entries: Sequence[Kept], keys: Sequence[str]) -> list[Ending | None]:
    """Write each entry whose key is free, tell who attends to it, and return what `keys` then hold."""
    execute = turn.connection.execute
    for entry in entries:
        kind, body = _written(entry.ending)
        if execute(_KEEP, (entry.key, kind, body, turn.now + entry.ttl, turn.now)).rowcount:
            attending = execute("DELETE FROM que_attending WHERE key = ? RETURNING watch_id, peer", (entry.key,))
            for watch_id, peer in attending.fetchall():
                turn.tell(peer, Letter(watch_id, kind, body))
    return [_ending(turn, key) for key in keys]


def _written(ending: Ending) -> tuple[str, bytes]:
    match ending:
        case Completed(payload):
            return "completed", payload
        case Failed():
            return "failed", msgspec.json.encode(ending)


def _ending(turn: Turn, key: str) -> Ending | None:
    found = turn.connection.execute(_LOOK, (key, turn.now)).fetchone()
    if found is None:
        return None
    kind, body = found
    return Completed(body) if kind == "completed" else _decode_failure(body)


def forget(turn: Turn, keys: Collection[str]) -> None:
    """Free `keys`."""
    turn.connection.executemany("DELETE FROM que_kept WHERE key = ?", [(key,) for key in keys])


def attend(turn: Turn, watches: Sequence[tuple[str, str]]) -> None:
    """Tell this process under each watch's id what is kept under its key, now or once it is."""
    for watch_id, key in watches:
        found = turn.connection.execute(_LOOK, (key, turn.now)).fetchone()
        if found is not None:
            turn.tell(turn.peer, Letter(watch_id, *found))
        else:
            turn.connection.execute("INSERT INTO que_attending VALUES (?, ?, ?)", (key, watch_id, turn.peer))
