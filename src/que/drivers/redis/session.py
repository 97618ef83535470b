"""The driver while it is connected: the line, the consumers, and who waits for what."""

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from typing import cast

from que.address import Address
from que.driver import ConsumerSink, EventSink
from que.drivers.redis.consumer import Claim, RedisConsumer
from que.drivers.redis.line import Fields, Line, Unsuitable
from que.drivers.redis.link import Link
from que.drivers.redis.options import RedisOptions
from que.drivers.redis.records import decode_failure, encode
from que.drivers.redis.scripts import Script
from que.drivers.redis.wire import Lost, Refused
from que.errors import ConnectError, ConnectionLost, JobCancelled, JobError, JobExpired, JobUnknown

_log = logging.getLogger("que")

LAYOUT: bytes = b"1"
# A tick that fails is tried again after this long; one that succeeds says when the next is due.
_TICK_SECONDS = 1.0

_ENDS: dict[str, type[JobError]] = {"X": JobExpired, "K": JobCancelled, "U": JobUnknown}
_CHAPTERS = frozenset("PDW")


class Session:
    """One process's part in a namespace, under a name of its own, by which others write to it.

    `watched`: the ids whose end the EventSink waits for. `asked`: those of which the server has not said yet that it
    knows them; a server that has forgotten the others has not forgotten these.
    """

    def __init__(self, address: Address, options: RedisOptions, events: EventSink) -> None:
        self.name: str = os.urandom(8).hex()
        self.events = events
        self.watched: set[str] = set()
        self.asked: set[str] = set()
        self.line: Line = Line(address, options, self.name, self._greet, self._hear, events.reconnected)
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._consumers: dict[str, RedisConsumer] = {}
        self._was_known = False
        self._timer: asyncio.TimerHandle | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._tick_again = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_letter: dict[str, Callable[[str, bytes], None]] = {
            "C": events.completed,
            "F": lambda id, body: events.failed(id, decode_failure(body)),
            "P": lambda id, body: events.progress(id, *progress_of(body)),
            "D": events.chunk,
            "W": lambda id, body: events.warned(id, body.decode()),
            "S": self._stop,
            "N": self._wake,
            "T": lambda id, body: self._tick(),
            "H": lambda id, body: None,
        }

    async def open(self) -> None:
        """Reach the server and be known there; raises Lost, Refused or Unsuitable."""
        await self.line.open()

    async def close(self) -> None:
        """Say good-bye: what was not settled is lost to its handlers, and what is watched is reported lost."""
        self.line.part()
        for consumer in list(self._consumers.values()):
            with suppress(ConnectError):
                await consumer.close()
            await consumer.lose_all()
        self._end_ticks()
        with suppress(Lost, Refused):
            await self.line.call(Script.LEAVE, (self.name, list(self._consumers), True))
        await self.line.close()
        self._end_ticks()
        self.known(list(self.asked))
        self.lose_watched("the connection was closed before the job's end")

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> RedisConsumer:
        """Return a consumer that is woken for jobs of `functions`."""
        number = str(next(self._numbers))
        options = self._options
        claim = Claim(f"{self.name}/{number}", tuple(functions), slots, options.lease, options.dead_letter_ttl)
        consumer = RedisConsumer(self.line, claim, notices, self._closed)
        self._consumers[number] = consumer
        try:
            await self.line.call(Script.ENTER, self._entry())
        except BaseException:
            del self._consumers[number]
            raise
        return consumer

    async def _closed(self, consumer: RedisConsumer) -> None:
        number = consumer.claim.name.partition("/")[2]
        self._consumers.pop(number, None)
        await self._leave(number)

    async def _leave(self, number: str) -> None:
        with suppress(Lost, Refused):
            await self.line.call(Script.LEAVE, (self.name, [number], False))

    def _entry(self) -> object:
        consumers = {number: consumer.claim.functions for number, consumer in self._consumers.items()}
        return self.name, self._options.linger, consumers

    async def _greet(self, link: Link) -> None:
        """Be known to the server behind `link`: the first one, or one that may have lost everything since."""
        reply = await self.line.evaluate(link, Script.ENTER, encode(self._entry()))
        self._entered(cast(Sequence[bytes | int], reply))
        for consumer in self._consumers.values():
            consumer.wake()
        self._loop.call_soon(self._tick)

    def _entered(self, reply: Sequence[bytes | int]) -> None:
        version, known = reply
        if version != LAYOUT:
            raise Unsuitable(f"a que whose keys have version {version!r} uses this namespace, and ours have {LAYOUT!r}")
        if self._was_known and not known:
            _log.error(
                "%s: it has forgotten this process: its keys were lost, or we were silent for long", self.line.name
            )
            self.lose_watched("the server has forgotten who waits for the job")
        self._was_known = True

    def _hear(self, fields: Fields) -> None:
        """Tell what a letter says to the EventSink, or to a consumer."""
        for name, body in zip(fields[::2], fields[1::2], strict=True):
            try:
                self.hear(chr(name[0]), name[1:].decode(), body)
            except Exception:
                # Another program may write into these keys; the other letters are not to suffer.
                _log.exception("%s: a letter that nobody can read: %r", self.line.name, name)

    def hear(self, kind: str, id: str, body: bytes) -> None:
        """Tell one piece of news."""
        tell = self._on_letter.get(kind)
        if tell is not None:
            tell(id, body)
        else:
            self.events.lost(id, _ENDS[kind](body.decode()))
        if kind not in _CHAPTERS:
            self.watched.discard(id)
            self.asked.discard(id)

    def _stop(self, id: str, held: bytes) -> None:
        for consumer in self._consumers.values():
            consumer.stop(id, held.decode())

    def _wake(self, number: str, body: bytes) -> None:
        consumer = self._consumers.get(number)
        if consumer is not None:
            consumer.wake()
        else:
            # It has gone, unnoticed: have another one woken in its place.
            self._spawn(self._leave(number))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tick(self) -> None:
        """Let the server see to what is due, and learn when that is so again."""
        self._end_timer()
        if self._ticking is not None:
            self._tick_again = True
        else:
            self._tick_again = False
            self._ticking = self._loop.create_task(self._ask_tick())
            self._ticking.add_done_callback(self._ticked)

    async def _ask_tick(self) -> None:
        wait_seconds = _TICK_SECONDS
        try:
            known, wait_ms = cast(Sequence[int], await self.line.call(Script.TICK, (self.name, self._options.linger)))
            if not known:
                reply = await self.line.call(Script.ENTER, self._entry())
                self._entered(cast(Sequence[bytes | int], reply))
            wait_seconds = wait_ms / 1000
        except (Lost, Refused, Unsuitable) as error:
            _log.debug("%s: no tick: %s", self.line.name, error)
        self._timer = self._loop.call_later(wait_seconds, self._tick)

    def _ticked(self, ticking: asyncio.Task[None]) -> None:
        self._ticking = None
        # Whoever was woken and died before it looked has left its jobs to those who look without being woken.
        for consumer in self._consumers.values():
            consumer.wake()
        if self._tick_again and not ticking.cancelled():
            self._tick()

    def _end_ticks(self) -> None:
        self._end_timer()
        if self._ticking is not None:
            self._ticking.cancel()

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def known(self, ids: Collection[str]) -> None:
        """The server knows the jobs that were asked for: from now on they are watched, unless they have ended."""
        self.watched.update(self.asked.intersection(ids))
        self.asked.difference_update(ids)

    def lose_watched(self, why: str) -> None:
        """Tell the EventSink that it will hear no more of what is watched."""
        watched, self.watched = list(self.watched), set[str]()
        for watch_id in watched:
            self.events.lost(watch_id, ConnectionLost(why))


def progress_of(body: bytes) -> tuple[int, int]:
    """Return how far a job is: done, and total."""
    done, total = body.split() if body else (0, 0)
    return int(done), int(total)
