"""The driver while it is connected: the file, the doorbell, the consumers, and who waits for what."""

import asyncio
import itertools
import logging
import os
import sqlite3
import weakref
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import msgspec

from que.driver import ConsumerSink, EventSink
from que.drivers.sqlite.consumer import Claim, SqliteConsumer
from que.drivers.sqlite.database import Database
from que.drivers.sqlite.doorbell import Doorbell
from que.drivers.sqlite.options import SqliteOptions
from que.drivers.sqlite.turn import Letter, Turn, begin, commit, enter, leave, sweep
from que.errors import ConnectionLost, JobCancelled, JobError, JobExpired, JobUnknown
from que.model import Failed

_log = logging.getLogger("que")

# Rings that are lost, as between containers that share a file and no sockets, are made good for this often.
_LOOK_SECONDS = 1.0
_SWEEP_SECONDS = 60.0

_decode_failure = msgspec.json.Decoder(Failed).decode
_decode_progress = msgspec.json.Decoder(tuple[int, int]).decode
_LOST: dict[str, type[JobError]] = {"expired": JobExpired, "cancelled": JobCancelled, "unknown": JobUnknown}


class Session:
    """One process's part in the file, under a name of its own: it is woken by others, and wakes them.

    `watched`: the ids whose end the EventSink waits for. It is the Frame of its database: around each transaction it
    reads its mail, lets happen what is due, and rings for those who have news.
    """

    def __init__(self, options: SqliteOptions, events: EventSink) -> None:
        self.events = events
        self.watched: set[str] = set()
        self.database: Database[Turn] = Database(options.path, options.settings, self)
        self._options = options
        self._peer = os.urandom(6).hex()
        self._loop = asyncio.get_running_loop()
        self._consumers: weakref.WeakSet[SqliteConsumer] = weakref.WeakSet()
        self._numbers = itertools.count(1)
        self._gone: list[str] = []
        self._swept = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._entered = False
        self._on_letter: dict[str, Callable[[str, bytes], None]] = {
            "completed": events.completed,
            "failed": lambda id, body: events.failed(id, _decode_failure(body)),
            "progress": lambda id, body: events.progress(id, *_decode_progress(body)),
            "chunk": events.chunk,
            "warned": lambda id, body: events.warned(id, body.decode()),
            "stop": self._stop,
        }

    async def open(self) -> None:
        """Open the file and be known in it; raises OSError, sqlite3.Error or NewerSchema, and leaves nothing open."""
        await self.database.open()
        try:
            self._bell = self._new_bell()
        except BaseException:
            await self.database.close()
            raise
        others = await self.database.run(lambda turn: enter(turn, os.getpid()))
        self._entered = True
        self._gone += [name for name in others if not self._bell.ring(name)]
        self._look()

    async def close(self) -> None:
        """Leave the file: what was not settled is lost to its handlers, and what is watched is reported lost."""
        for consumer in list(self._consumers):
            await consumer.close()
            consumer.lose_all()
        self._entered = False
        self._loop.remove_reader(self._bell.fileno())
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self.database.run(lambda turn: leave(turn, self._peer))
        except sqlite3.Error:
            _log.warning("%s: could not say good-bye, so the others will find out", self._options.path, exc_info=True)
        finally:
            await self.database.close()
            self._bell.close()
            self._lose_watched("the file was closed before the job's end")

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> SqliteConsumer:
        """Return a consumer that is woken for jobs of `functions`."""
        claim = Claim(next(self._numbers), tuple(functions), slots, self._options.lease_seconds)
        consumer = SqliteConsumer(self.database, claim, notices)
        await self.database.run(consumer.enter)
        self._consumers.add(consumer)
        return consumer

    def begin(self, connection: sqlite3.Connection) -> Turn:
        """Read the mail and let happen what is due; in the database's thread."""
        turn = Turn(connection, self._peer)
        begin(turn)
        while self._gone:
            name = self._gone.pop()
            leave(turn, name)
            self._bell.remove(name)
        if turn.now - self._swept > _SWEEP_SECONDS:
            self._swept = turn.now
            sweep(turn, self._options.dead_letter_ttl)
        return turn

    def commit(self, turn: Turn) -> None:
        """Post the mail; in the database's thread."""
        commit(turn)

    def durable(self, turn: Turn) -> None:
        """Wake those who have news; in the database's thread."""
        for name in turn.wake - {self._peer}:
            if not self._bell.ring(name):
                self._gone.append(name)

    def heard(self, turn: Turn) -> None:
        """Tell what the mail says, wake our own, and set the timer for what is due next; in the loop."""
        for letter in turn.letters:
            self.hear(letter)
        if turn.buried and self._entered:
            self._return_from_the_dead()
        if self._peer in turn.wake:
            self._wake_consumers()
        if self._gone:
            self._look()
        self._set_timer(turn)

    def hear(self, letter: Letter) -> None:
        """Tell the EventSink, or the worker whose job somebody has cancelled."""
        tell = self._on_letter.get(letter.kind)
        if tell is not None:
            tell(letter.watch_id, letter.body)
        else:
            self.events.lost(letter.watch_id, _LOST[letter.kind](letter.body.decode()))
        if letter.kind not in _CHAPTERS:
            self.watched.discard(letter.watch_id)

    def _stop(self, row: str, token: bytes) -> None:
        for consumer in list(self._consumers):
            consumer.stop(int(row), int(token))

    def _rung(self) -> None:
        self._bell.hush()
        self._look()

    def _look(self) -> None:
        """Read the mail, and let idle consumers look for jobs."""
        self.database.start(lambda turn: None).add_done_callback(_ignore)
        self._wake_consumers()

    def _wake_consumers(self) -> None:
        for consumer in list(self._consumers):
            consumer.wake()

    def _set_timer(self, turn: Turn) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._entered or not (self.watched or self._consumers):
            return
        wait_seconds = _LOOK_SECONDS if turn.next_at is None else max(0.0, turn.next_at - turn.now)
        self._timer = self._loop.call_later(min(wait_seconds, _LOOK_SECONDS), self._look)

    def _return_from_the_dead(self) -> None:
        """Others found our socket gone and gave our jobs away: what we watch may have ended without our hearing."""
        _log.error("%s: the socket beside it was removed, so others took this process for dead", self._options.path)
        self._lose_watched("the other users of the file took this process for dead")
        self._loop.remove_reader(self._bell.fileno())
        self._bell.close()
        self._bell = self._new_bell()
        consumers = list(self._consumers)
        self.database.start(lambda turn: self._enter_again(turn, consumers)).add_done_callback(_ignore)

    def _enter_again(self, turn: Turn, consumers: Sequence[SqliteConsumer]) -> None:
        enter(turn, os.getpid())
        for consumer in consumers:
            consumer.enter(turn)

    def _new_bell(self) -> Doorbell:
        bell = Doorbell(Path(f"{self._options.path}-peers"), self._peer)
        self._loop.add_reader(bell.fileno(), self._rung)
        return bell

    def _lose_watched(self, why: str) -> None:
        watched, self.watched = list(self.watched), set()
        for watch_id in watched:
            self.events.lost(watch_id, ConnectionLost(why))


def _ignore(done: "asyncio.Future[None]") -> None:
    # Whoever needs an answer will meet the same error.
    done.exception()


_CHAPTERS = frozenset({"progress", "chunk", "warned", "stop"})
