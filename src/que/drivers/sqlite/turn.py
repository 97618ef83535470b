"""One transaction: what goes around its operations, and who else shares the file."""

import sqlite3
import time
from collections.abc import Collection, Iterable
from typing import NamedTuple

READY, DELAYED, RUNNING = range(3)
_MOST_AT_ONCE = 1000


class Letter(NamedTuple):
    """News for one who waits. `kind`: completed, failed, expired, cancelled, unknown, progress, chunk or warned.

    For a worker: stop, with the token of the delivery in `watch_id`.
    """

    watch_id: str
    kind: str
    body: bytes


class Lease(NamedTuple):
    """What holds a delivery: the row, the token of this run, and who is told of its end."""

    row: int
    token: int
    submitter: str | None
    job_id: str
    result_ttl: float | None


class Turn:
    """One transaction: `now` is its time, `peer` whose it is.

    `letters` came for `peer`, from others or from itself. `mail` is for others, and `wake` are those to ring for.
    `next_at`: when something is due by itself, or None. `buried`: others took this process for dead.
    `reclaims`: some leases have run out.
    """

    __slots__ = ("buried", "connection", "letters", "mail", "next_at", "now", "peer", "reclaims", "wake")

    def __init__(self, connection: sqlite3.Connection, peer: str) -> None:
        self.connection: sqlite3.Connection = connection
        self.peer: str = peer
        self.now: float = time.time()
        self.letters: list[Letter] = []
        self.mail: list[tuple[str, Letter]] = []
        self.wake: set[str] = set()
        self.next_at: float | None = None
        self.buried: bool = False
        self.reclaims: bool = False

    def tell(self, peer: str | None, letter: Letter) -> None:
        """Let `peer` know, once this transaction is durable."""
        if peer == self.peer:
            self.letters.append(letter)
        elif peer is not None:
            self.mail.append((peer, letter))

    def move(self, due: str) -> None:
        """Let what is `due` be ready, a thousand jobs at most, and those who serve it look."""
        moved = self.connection.execute(due, (self.now, _MOST_AT_ONCE)).fetchall()
        self.wake_workers({function for (function,) in moved})

    def wake_workers(self, functions: Iterable[str]) -> None:
        """Let those who serve `functions` look for jobs."""
        for function in functions:
            self.wake.update(
                name
                for (name,) in self.connection.execute("SELECT peer FROM que_consumers WHERE function = ?", (function,))
            )


def begin(turn: Turn) -> None:
    """Read the mail, and let what is due happen: delays end, jobs expire."""
    execute = turn.connection.execute
    known, due, expires, lease_until, mail = execute(_LOOK, {"peer": turn.peer}).fetchone()
    turn.buried = not known
    if mail:
        rows = execute(
            "DELETE FROM que_mail WHERE peer = ? RETURNING id, watch_id, kind, body", (turn.peer,)
        ).fetchall()
        turn.letters += [Letter(*row[1:]) for row in sorted(rows)]
    now = turn.now
    if expires is not None and expires <= now:
        _expire(turn)
    if due is not None and due <= now:
        turn.move(_RIPEN)
    turn.reclaims = lease_until is not None and lease_until <= now
    # What is due already has been seen to, a thousand at a time: look again soon.
    turn.next_at = min((max(moment, now) for moment in (due, expires, lease_until) if moment is not None), default=None)


_LOOK = """
    SELECT
        EXISTS (SELECT 1 FROM que_peers WHERE name = :peer),
        (SELECT min(due) FROM que_jobs WHERE state = 1),
        (SELECT min(expires) FROM que_jobs WHERE expires IS NOT NULL AND state < 2 AND attempts = 0),
        (SELECT min(lease_until) FROM que_jobs WHERE state = 2),
        EXISTS (SELECT 1 FROM que_mail WHERE peer = :peer)
"""
_EXPIRE = """
    DELETE FROM que_jobs WHERE id IN (
        SELECT id FROM que_jobs WHERE expires <= ? AND state < 2 AND attempts = 0 LIMIT ?
    ) RETURNING id, submitter, job_id, result_ttl
"""
_RIPEN = """
    UPDATE que_jobs SET state = 0, due = NULL
    WHERE id IN (SELECT id FROM que_jobs WHERE state = 1 AND due <= ? ORDER BY due LIMIT ?) RETURNING function
"""
_RECLAIM = """
    UPDATE que_jobs SET state = 0, token = NULL, worker = NULL, lease_until = NULL
    WHERE id IN (SELECT id FROM que_jobs WHERE state = 2 AND lease_until <= ? ORDER BY lease_until LIMIT ?)
    RETURNING function
"""


def _expire(turn: Turn) -> None:
    rows = turn.connection.execute(_EXPIRE, (turn.now, _MOST_AT_ONCE)).fetchall()
    for row, submitter, job_id, result_ttl in rows:
        ended(turn, Lease(row, 0, submitter, job_id, result_ttl), "expired", b"nobody took the job in time")


def commit(turn: Turn) -> None:
    """Take back the leases that ran out, and put the mail for others where they will find it.

    Leases last, so that a renewal that waited for this transaction is not too late. Those who are gone get no mail.
    """
    if turn.reclaims:
        turn.move(_RECLAIM)
    if not turn.mail:
        return
    turn.connection.executemany(
        """
        INSERT INTO que_mail (peer, watch_id, kind, body)
        SELECT ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM que_peers WHERE name = ?)
        """,
        [(peer, *letter, peer) for peer, letter in turn.mail],
    )
    turn.wake.update(peer for peer, _ in turn.mail)


def enter(turn: Turn, pid: int) -> list[str]:
    """Make this process known, and return the names of the others."""
    turn.connection.execute("INSERT OR IGNORE INTO que_peers VALUES (?, ?)", (turn.peer, pid))
    return [name for (name,) in turn.connection.execute("SELECT name FROM que_peers WHERE name != ?", (turn.peer,))]


def leave(turn: Turn, peer: str) -> None:
    """Forget a process that has ended: its mail and what it watched; what it ran goes to others, and counts as run."""
    execute = turn.connection.execute
    for table in ("que_mail", "que_watchers", "que_attending", "que_consumers"):
        execute(f"DELETE FROM {table} WHERE peer = ?", (peer,))
    execute("DELETE FROM que_peers WHERE name = ?", (peer,))
    rows = execute(
        """
        UPDATE que_jobs SET state = 0, token = NULL, worker = NULL, lease_until = NULL
        WHERE state = 2 AND worker = ? RETURNING function
        """,
        (peer,),
    ).fetchall()
    turn.wake_workers({function for (function,) in rows})


def sweep(turn: Turn, dead_letter_ttl: float) -> None:
    """Forget what nobody asked for in time, and takes that count in no rate any more."""
    for table, end in (("que_results", "expires"), ("que_kept", "expires"), ("que_begun", "until")):
        turn.connection.execute(f"DELETE FROM {table} WHERE {end} <= ?", (turn.now,))
    turn.connection.execute("DELETE FROM que_dead_letters WHERE buried_at <= ?", (turn.now - dead_letter_ttl,))


def serve(turn: Turn, functions: Collection[str], consumer: int) -> None:
    """Have this process woken for jobs of `functions`."""
    turn.connection.executemany(
        "INSERT OR IGNORE INTO que_consumers VALUES (?, ?, ?)", [(name, turn.peer, consumer) for name in functions]
    )


def serve_no_more(turn: Turn, consumer: int) -> None:
    """Have this process woken no more for that consumer."""
    turn.connection.execute("DELETE FROM que_consumers WHERE peer = ? AND consumer = ?", (turn.peer, consumer))


def ended(turn: Turn, lease: Lease, kind: str, body: bytes, *, watched: bool = True) -> None:
    """Tell those who wait for a job that has left the table, and keep its end if that was asked for."""
    turn.tell(lease.submitter, Letter(lease.job_id, kind, body))
    if lease.result_ttl:
        turn.connection.execute(
            "INSERT OR REPLACE INTO que_results VALUES (?, ?, ?, ?)",
            (lease.row, kind, body, turn.now + lease.result_ttl),
        )
    if watched:
        tell_watchers(turn, lease.row, kind, body)
        turn.connection.execute("DELETE FROM que_watchers WHERE job = ?", (lease.row,))


def tell_watchers(turn: Turn, row: int, kind: str, body: bytes) -> None:
    """Tell those who asked for a job that others had submitted."""
    for watch_id, peer in turn.connection.execute("SELECT watch_id, peer FROM que_watchers WHERE job = ?", (row,)):
        turn.tell(peer, Letter(watch_id, kind, body))
